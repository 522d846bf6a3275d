//! Which version this is.

#![expect(unsafe_code, reason = "a function that C can call")]

use std::ffi::{CStr, c_char};

/// The version of the interface this header describes. It grows when something is added; the
/// soname changes when something is taken away.
pub const VMM_ABI: u32 = 3;

/// Set at compile time; with its NUL.
const VERSION: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();

/// The library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn vmm_version() -> *const c_char {
    CStr::from_bytes_with_nul(VERSION).unwrap_or_default().as_ptr()
}

/// Whether the library that is loaded has everything of the header a program was compiled with:
/// called as `vmm_abi_check(VMM_ABI)`.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_abi_check(abi: u32) -> bool {
    abi != 0 && abi <= VMM_ABI
}
