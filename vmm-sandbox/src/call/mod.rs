//! Calls in both directions: into functions of the program, and from it to functions of the host.

mod argument;
mod host;
mod place;
mod value;

pub use self::{
    argument::{Argument, Arguments, Passed, Return, Returning},
    host::HostFunction,
    value::{FromValue, IntoValue, Value},
};
pub(crate) use self::{
    host::{HostFunctions, Panicked},
    place::Scratch,
};

/// The version of what a program and this library agree on; `VMM_GUEST_ABI` of `vmm_guest.h`.
pub(crate) const ABI: u32 = 1;

/// System calls that no kernel has: Linux answers them `ENOSYS`, so a program knows where it runs.
/// The same in `vmm_guest.h`.
pub(crate) const READY: u64 = 0x766d_6d01;
/// RDI is the function's name, RSI its arguments, RDX how many, R10 the result.
pub(crate) const CALL_HOST: u64 = 0x766d_6d02;
