//! Runs one ordinary Linux program, or calls its functions, in a micro-VM with no guest kernel.
//!
//! A [`Sandbox`] is made of a static x86-64 executable in any language. Its instructions run on the
//! processor, isolated like a virtual machine; its system calls come here and are answered from
//! what the sandbox was given. By default that is nothing of the host: its standard streams are
//! buffers of the caller, and there is nothing else to open.
//!
//! ```no_run
//! use vmm_sandbox::{Outcome, Sandbox};
//!
//! # fn main() -> vmm_sandbox::Result<()> {
//! let mut sandbox = Sandbox::program("./hello").args(["hello", "world"]).memory(64 << 20).build()?;
//! let outcome = sandbox.start()?;
//! println!("{outcome}: {}", String::from_utf8_lossy(&sandbox.take_stdout()));
//! # Ok(())
//! # }
//! ```
//!
//! It needs a hypervisor that runs ring 3: any `/dev/kvm` will do, also one that emulates kernels
//! slowly. What the program does wrong is an [`Outcome`], never an error; errors are the host's.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("vmm-sandbox runs on x86-64 Linux hosts only");

mod builder;
mod call;
mod clock;
mod cpu;
mod files;
mod grant;
mod limits;
mod load;
mod outcome;
mod pool;
mod process;
mod sandbox;
mod saved;
mod snapshot;
mod space;
mod stream;
mod syscall;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod vm_cache;

pub use builder::Builder;
pub use call::{
    Argument, Arguments, FromValue, HostFunction, IntoValue, Passed, Return, Returning, Value,
};
pub use grant::Access;
pub use limits::Canceller;
pub use outcome::{Cause, Fault, Outcome, State};
pub use pool::{Lease, Pool, PoolStatistics};
pub use sandbox::{Sandbox, Statistics};
pub use saved::Obstacle;
pub use snapshot::{Identity, Snapshot};
pub use stream::{Input, Output};
pub use vm_cache::{VmCache, VmCacheStatistics};
pub use vmm_core::{Error, ErrorKind, Result};
