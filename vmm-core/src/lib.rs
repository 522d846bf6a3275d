//! An embeddable virtual machine monitor: the mechanism.

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
pub mod memory;
pub mod persist;
mod process;

pub use error::{Error, ErrorKind, Result};
