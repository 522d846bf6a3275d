//! Memory for a guest with nothing on either side: whoever leaves it is caught by the host.
#![expect(unsafe_code, reason = "maps memory, and lends it")]

use std::{
    cell::UnsafeCell,
    io, ptr,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use vmm_cpu::{Page, Ram};

use crate::arena::PAGE;

/// Pages from physical address 0 on, between two that nobody may touch.
#[derive(Debug)]
pub struct Guarded {
    start: NonNull<UnsafeCell<u8>>,
    pages: usize,
    /// This many at the end may not be written.
    read_only: usize,
}

impl Guarded {
    /// So many pages of zeros; the last of them is read-only to the guest.
    ///
    /// # Errors
    /// The host refused the mapping.
    pub fn new(pages: usize) -> io::Result<Self> {
        let size = (pages + 2) * PAGE as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, then rights within it.
        unsafe {
            let at = libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = at.cast::<u8>().add(PAGE as usize);
            let all = libc::PROT_READ | libc::PROT_WRITE;
            let opened = libc::mprotect(start.cast(), pages * PAGE as usize, all) == 0;
            let Some(start) = NonNull::new(start.cast()).filter(|_| opened) else {
                return Err(io::Error::last_os_error());
            };
            Ok(Self { start, pages, read_only: 1 })
        }
    }

    /// Copies bytes in, as many as there is room for.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let len = self.pages * PAGE as usize;
        // SAFETY: all of it is mapped as long as `self` is, and only accessed atomically.
        let all = unsafe { slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU8>(), len) };
        let room = all.get(at as usize..).unwrap_or_default();
        room.iter().zip(bytes).for_each(|(to, from)| to.store(*from, Relaxed));
    }
}

// SAFETY: the pages are mapped, aligned, as long as `self` is; Rust accesses them by atomics only.
unsafe impl Ram for Guarded {
    fn page(&self, number: u64) -> Option<Page> {
        let number = usize::try_from(number).ok().filter(|number| *number < self.pages)?;
        // SAFETY: within the mapping.
        let host = unsafe { self.start.cast::<u8>().add(number * PAGE as usize) };
        Some(Page { host, writable: number + self.read_only < self.pages })
    }

    fn dirty(&self, _: u64) {}

    fn generation(&self) -> u64 {
        0
    }
}

// SAFETY: it owns its mapping, and accesses it by atomics only.
unsafe impl Send for Guarded {}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole of what `new` has mapped.
        unsafe {
            let start = self.start.as_ptr().cast::<u8>().sub(PAGE as usize);
            libc::munmap(start.cast(), (self.pages + 2) * PAGE as usize);
        }
    }
}
