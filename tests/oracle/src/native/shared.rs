//! The memory by which cases and outcomes go between the two processes.
#![expect(unsafe_code, reason = "memory that two processes share")]

use std::{io, mem::size_of, ptr};

use crate::case::{Case, Registers};

/// The most cases of a batch.
pub(super) const CASES: usize = 256;
/// The most windows of a case.
pub(super) const WINDOWS: usize = 3;
/// Room for the bytes of all windows of a batch.
const POOL: usize = 10 << 20;

/// A case as it crosses.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Input {
    pub(super) before: Registers,
    pub(super) code: [u8; 16],
    pub(super) len: u8,
    pub(super) jumps: bool,
    pub(super) windows: [Place; WINDOWS],
}

/// Where a window's bytes are: in the data, and in the pool.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) at: u32,
}

/// An outcome as it crosses.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Output {
    pub(super) after: Registers,
    pub(super) trap: u32,
    pub(super) error: u32,
    pub(super) address: u64,
}

#[repr(C)]
struct Layout {
    inputs: [Input; CASES],
    outputs: [Output; CASES],
    pool: [u8; POOL],
}

/// A mapping of a [`Layout`] that a fork shares. Only one side uses it at a time: the other waits
/// for a pipe.
#[derive(Debug)]
pub(super) struct Shared(*mut Layout);

// SAFETY: the mapping is the process's, not a thread's.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a new mapping, anywhere.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Layout>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at.cast())) }
    }

    /// The caller's side: cases, as many as there is room for.
    pub(super) fn put(&mut self, cases: &[Case]) {
        let mut used = 0;
        for (n, case) in cases.iter().enumerate().take(CASES) {
            let mut code = [0; 16];
            code[..case.code.len()].copy_from_slice(&case.code);
            let mut places = [Place::default(); WINDOWS];
            for (place, window) in places.iter_mut().zip(&case.windows) {
                let len = window.bytes.len();
                assert!(used + len <= POOL, "the windows of a batch have room");
                *place = Place { offset: window.offset as u32, len: len as u32, at: used as u32 };
                // SAFETY: in the pool as just asserted; the other side waits.
                unsafe { ptr::copy_nonoverlapping(window.bytes.as_ptr(), self.pool(used), len) };
                used += len;
            }
            let (before, len) = (case.before, case.code.len() as u8);
            let input = Input { before, code, len, jumps: case.jumps, windows: places };
            // SAFETY: one of the array's; the other side waits.
            unsafe { (&raw mut (*self.0).inputs[n]).write(input) };
        }
    }

    /// The caller's side: an outcome.
    pub(super) fn output(&self, n: usize) -> Output {
        // SAFETY: one of the array's, which the other side wrote and reads no more.
        unsafe { (&raw const (*self.0).outputs[n]).read() }
    }

    /// The caller's side: what is in a window now.
    pub(super) fn window(&self, n: usize, window: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = self.input(n).windows[window].at as usize;
        // SAFETY: `put` has placed it in the pool with this length.
        unsafe { ptr::copy_nonoverlapping(self.pool(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// The executing side: a case.
    pub(super) fn input(&self, n: usize) -> Input {
        // SAFETY: one of the array's, which the other side has written.
        unsafe { (&raw const (*self.0).inputs[n]).read() }
    }

    /// The executing side: an outcome.
    pub(super) fn answer(&self, n: usize, output: &Output) {
        // SAFETY: one of the array's; the other side waits.
        unsafe { (&raw mut (*self.0).outputs[n]).write(*output) };
    }

    /// A byte of the pool, and those behind it.
    pub(super) fn pool(&self, at: usize) -> *mut u8 {
        // SAFETY: callers stay within the pool.
        unsafe { (&raw mut (*self.0).pool).cast::<u8>().add(at) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is our own and used by nobody else in this process.
        unsafe { libc::munmap(self.0.cast(), size_of::<Layout>()) };
    }
}
