//! An embeddable virtual machine monitor: the mechanism.
//!
//! A [`Machine`] is guest memory, two buses, an interrupt controller and some vCPUs. A
//! [`Hypervisor`](hv::Hypervisor) makes vCPUs that run until something only the embedder can decide;
//! A [`Device`](machine::Device) is a passive state machine on a
//! bus, a [`Loader`](boot::Loader) turns an image into bytes in memory and an entry state.
//!
//! The library never ends the process, prints nothing, and starts no thread but one per further
//! vCPU inside [`Machine::run`]. Dropping a machine frees everything it had.
//!
//! ARCHITECTURE.md in the source tree has the layers, one line a module, and the laws.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("vmm-core runs on x86-64 Linux hosts only");

pub mod arch;
pub mod boot;
pub mod bus;
mod error;
pub mod exit;
pub mod hv;
pub mod irq;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod persist;
mod process;

pub use error::{Error, ErrorKind, Result};
pub use machine::Machine;
