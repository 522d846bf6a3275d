//! The way to the host: system calls that no kernel has, and the note that says so.
#![expect(unsafe_code, reason = "makes system calls; puts a note into a section of its own")]

use core::arch::asm;

use crate::{ABI, host::Value};

/// The same as in `vmm_guest.h`.
const READY: u64 = 0x766d_6d01;
const CALL_HOST: u64 = 0x766d_6d02;

/// The longest name of a function with its NUL.
pub(crate) const NAME: usize = 256;

/// An ELF note: lengths of name and content, type, name, content.
#[repr(C, align(4))]
struct Note(u32, u32, u32, [u8; 4], u32);

#[used]
// SAFETY: a section of notes has notes; this is one.
#[unsafe(link_section = ".note.vmm")]
static NOTE: Note = Note(4, 4, 1, *b"vmm\0", ABI);

/// Says that the program is ready; gives RAX.
pub(crate) fn ready() -> i64 {
    // SAFETY: it passes no address, and what the host does then is call exported functions, on the
    // stack below.
    unsafe { call(READY, [0; 4]) }
}

/// Calls a function of the host; gives RAX. `result` comes with a buffer that may be written, or
/// none.
pub(crate) fn call_host(name: &[u8; NAME], arguments: &[Value<'_>], result: &mut Value<'_>) -> i64 {
    let (name, count) = (name.as_ptr() as u64, arguments.len() as u64);
    // SAFETY: the host reads a text up to its NUL or as long as a name can be, so many values and
    // the bytes they were made of; it writes one value, and the buffer that was in it.
    unsafe { call(CALL_HOST, [name, arguments.as_ptr() as u64, count, &raw mut *result as u64]) }
}

/// Makes a system call; gives RAX.
///
/// # Safety
/// Of addresses among the arguments the host reads and writes what the call says.
unsafe fn call(number: u64, [a, b, c, d]: [u64; 4]) -> i64 {
    let result: u64;
    // SAFETY: SYSCALL changes RAX, RCX and R11, and memory as the caller knows. The host leaves the
    // red zone alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result.cast_signed()
}
