//! For programs that `vmm-sandbox` runs: functions that the host calls, and calls of the host's.
//!
//! The Rust twin of `vmm_guest.h`. A program in a sandbox needs neither to do ordinary things; with
//! them it stays, once it is [ready], and its functions are called from outside:
//!
//! ```no_run
//! use vmm_guest::{Error, call, export, ready};
//!
//! export! {
//!     /// Called by the host: `app.call("score", ("the quick brown fox",))`.
//!     fn score(text: &str) -> i64 {
//!         text.split(' ').map(|word| call("points", (word,)).unwrap_or(0)).sum()
//!     }
//! }
//!
//! fn main() -> Result<(), Error> {
//!     Err(ready()) // It returns only outside of a sandbox.
//! }
//! ```
//!
//! Link it statically and leave it its symbols, by which the host finds functions:
//! `-C target-feature=+crt-static`, and no `strip = true`. Without `std` take
//! `default-features = false`, which leaves out what needs an allocator.
//!
//! Outside of a sandbox everything here answers [`Error::NoSandbox`], by which a program knows
//! where it is. A program in a sandbox has one thread.

#![no_std]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("vmm-guest is for x86-64 Linux programs only");

#[cfg(feature = "alloc")]
extern crate alloc;

mod error;
mod export;
mod host;
mod identity;
mod system;
#[cfg(feature = "alloc")]
mod text;

pub use error::Error;
#[doc(hidden)]
pub use export::Kept;
pub use export::{Parameter, Return};
pub use host::{Answer, Argument, Arguments, Value, call, call_into};
pub use identity::identity;

/// The version of what a program and its host agree on. It is in a note of the program; a host that
/// does not know it refuses to load the program.
pub const ABI: u32 = 1;

/// Says that the program is ready: the host's `start` ends, and it may call the program's functions
/// from now on.
///
/// In a sandbox it does not return. What the caller has on its stack stays; calls use what is
/// below. A second one answers as if there were no sandbox.
#[must_use = "it returns only if something is wrong"]
pub fn ready() -> Error {
    Error::of(system::ready()).unwrap_or(Error::NoSandbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_sandbox_everything_says_so() {
        assert_eq!(ready(), Error::NoSandbox);
        assert_eq!(call::<i64>("points", ("word", 1_u8, 0.5, true)), Err(Error::NoSandbox));
        assert_eq!(call_into("points", (), &mut [0; 4]), Err(Error::NoSandbox));
        assert_eq!(identity(), [0; 16]);
    }
}
