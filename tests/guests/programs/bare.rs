//! A program without `std` that the host calls; the C library starts it.

#![no_std]
#![no_main]

use vmm_guest::{call, export, identity, ready};

export! {
    fn twice(n: i64) -> i64 {
        call("double", (n,)).unwrap_or(-1)
    }

    fn longest(text: &str) -> usize {
        text.split(' ').map(str::len).max().unwrap_or(0)
    }

    fn who(bytes: &mut [u8]) {
        bytes.copy_from_slice(&identity());
    }

    /// What the C library calls.
    fn main() -> i32 {
        let _ = ready();
        1
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
