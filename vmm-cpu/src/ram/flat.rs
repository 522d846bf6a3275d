//! Plain memory from physical address 0 on: all that a program without a machine needs.
#![expect(unsafe_code, reason = "owns an allocation that guests write to")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use super::{PAGE_SIZE, Page, Ram};

/// Memory at physical addresses from 0 on, all of it writable, of its own.
pub struct Flat {
    start: NonNull<u8>,
    layout: Layout,
}

impl Flat {
    /// So many pages of zeros, at least one.
    pub fn new(pages: usize) -> Self {
        let size = pages.max(1).saturating_mul(PAGE_SIZE as usize);
        let Ok(layout) = Layout::from_size_align(size, PAGE_SIZE as usize) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.layout.size()
    }

    /// Copies bytes in, as many as there is room for from `at` on; returns how many.
    pub fn write(&self, at: u64, bytes: &[u8]) -> usize {
        let room = self.bytes(at, bytes.len());
        room.iter().zip(bytes).for_each(|(to, from)| to.store(*from, Relaxed));
        room.len()
    }

    /// Copies bytes out, as many as there are from `at` on; returns how many.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> usize {
        let there = self.bytes(at, bytes.len());
        there.iter().zip(bytes).for_each(|(from, to)| *to = from.load(Relaxed));
        there.len()
    }

    fn bytes(&self, at: u64, len: usize) -> &[AtomicU8] {
        // SAFETY: all of it is allocated as long as `self` is, and only accessed atomically.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.size()) };
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(all.len());
        &all[start..all.len().min(start.saturating_add(len))]
    }
}

// SAFETY: the pages are allocated, aligned, as long as `self` is; they never move; Rust accesses
// them by atomics only.
unsafe impl Ram for Flat {
    fn page(&self, number: u64) -> Option<Page> {
        let at = usize::try_from(number.checked_mul(PAGE_SIZE)?).ok()?;
        // SAFETY: within the allocation, as the filter says.
        let host = (at < self.size()).then(|| unsafe { self.start.add(at) })?;
        Some(Page { host, writable: true })
    }

    fn dirty(&self, _: u64) {}

    fn generation(&self) -> u64 {
        0
    }
}

// SAFETY: it owns its memory, and accesses it by atomics only.
unsafe impl Send for Flat {}
// SAFETY: as above.
unsafe impl Sync for Flat {}

impl Drop for Flat {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl fmt::Debug for Flat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flat({} bytes)", self.size())
    }
}
