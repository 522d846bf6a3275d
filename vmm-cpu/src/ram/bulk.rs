//! Many bytes of one page at once.
#![expect(unsafe_code, reason = "moves runs of bytes in pages that are lent")]

use super::{Entry, OFFSET, PAGE_SIZE, Raw};

/// How many bytes move at once.
const STEP: usize = 8;

impl Entry {
    /// Copies `len` bytes from `source` here to `target` there, from the first byte on, or from the
    /// last one. Both must lie within their pages; false if either needs care, and nothing is done.
    pub(crate) fn copy(
        &self,
        source: u64,
        (there, target): (&Self, u64),
        len: usize,
        upward: bool,
    ) -> bool {
        let known = self.read == source & !OFFSET && there.write == target & !OFFSET;
        if !known || !within(source, len) || !within(target, len) {
            return false;
        }
        let (from, to) = (self.host(source), there.host(target));
        let whole = len - len % STEP;
        // SAFETY: the tags say that the page may be loaded from, the other stored to; both ranges
        // are within their pages as just checked; `Ram` promises that the pages are there.
        let copy = |at: usize| unsafe { u64::load(from.add(at)).store(to.add(at)) };
        // SAFETY: as above.
        let copy_byte = |at: usize| unsafe { u8::load(from.add(at)).store(to.add(at)) };
        if upward {
            (0..whole).step_by(STEP).for_each(copy);
            (whole..len).for_each(copy_byte);
        } else {
            (whole..len).rev().for_each(copy_byte);
            (0..whole).step_by(STEP).rev().for_each(copy);
        }
        true
    }

    /// How far the host's byte behind `target` there lies above that behind `source` here.
    pub(crate) fn distance(&self, source: u64, (there, target): (&Self, u64)) -> isize {
        (there.host(target) as isize).wrapping_sub(self.host(source) as isize)
    }

    /// Stores 8 bytes over and over into the `len` bytes from `target` on, which must lie within
    /// the page; false if that needs care, and nothing is done.
    pub(crate) fn fill(&self, target: u64, pattern: u64, len: usize) -> bool {
        if self.write != target & !OFFSET || !within(target, len) {
            return false;
        }
        let to = self.host(target);
        let whole = len - len % STEP;
        for at in (0..whole).step_by(STEP) {
            // SAFETY: the tag says that the page may be stored to; the range is within it as just
            // checked; `Ram` promises that the page is there.
            unsafe { pattern.store(to.add(at)) }
        }
        for (at, byte) in (whole..len).zip(pattern.to_le_bytes()) {
            // SAFETY: as above.
            unsafe { byte.store(to.add(at)) }
        }
        true
    }
}

/// Whether so many bytes are on the page of the first.
fn within(linear: u64, len: usize) -> bool {
    len <= (PAGE_SIZE - (linear & OFFSET)) as usize
}
