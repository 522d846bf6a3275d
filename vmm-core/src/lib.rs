//! An embeddable virtual machine monitor: the mechanism.
//!
//! A [`Machine`] is guest memory, two buses, an interrupt controller and some vCPUs. A
//! [`Hypervisor`](hv::Hypervisor) makes vCPUs that run until something only the embedder can
//! decide; [`host::best`] chooses one and can say why. A [`Device`](machine::Device) is a passive
//! state machine on a bus, a [`Loader`](boot::Loader) turns an image into bytes in memory and an
//! entry state.
//!
//! The library never ends the process, prints nothing, and starts no thread but one per further
//! vCPU inside [`Machine::run`]. Dropping a machine frees everything it had.
//!
//! ```no_run
//! use vmm_core::{Machine, boot::Flat, host::{self, Need}};
//!
//! # fn main() -> vmm_core::Result<()> {
//! let machine = Machine::builder()
//!     .hypervisor(host::best(Need::Kernel)?)
//!     .memory(64 << 20)
//!     .boot(Flat::long_mode(std::fs::read("guest.bin").unwrap_or_default()))
//!     .build()?;
//! println!("guest stopped: {}", machine.run()?);
//! # Ok(())
//! # }
//! ```
//!
//! ARCHITECTURE.md in the source tree has the layers, one line a module, and the laws.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("vmm-core runs on x86-64 Linux hosts only");

pub mod arch;
pub mod boot;
pub mod bus;
mod error;
pub mod exit;
pub mod host;
pub mod hv;
pub mod irq;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod persist;
mod process;
pub mod snapshot;
#[cfg(feature = "soft")]
pub mod soft;
#[cfg(not(feature = "soft"))]
#[path = "soft/absent.rs"]
pub mod soft;
pub mod virtio;

pub use error::{Error, ErrorKind, Result};
pub use machine::Machine;
