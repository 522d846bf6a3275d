//! The TLB: which host page is behind a linear page, for whom, to do what.

use crate::ram::{Entry, OFFSET, PAGE_SIZE};

const ENTRIES: usize = 256;

/// Direct-mapped, one table for user code and one for the system's.
pub(crate) struct Tlb {
    views: Box<[[Entry; ENTRIES]; 2]>,
    /// Which table accesses go by: 1 for user code (CPL 3).
    view: usize,
    /// Pages of more than 4 KiB are here, in pieces.
    large: bool,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self { views: Box::new([[Entry::EMPTY; ENTRIES]; 2]), view: 0, large: false }
    }

    /// From now on accesses are those of user code, or of the system.
    pub(crate) fn set_user(&mut self, user: bool) {
        self.view = usize::from(user);
    }

    /// Whether accesses are those of user code.
    pub(crate) fn is_user(&self) -> bool {
        self.view != 0
    }

    /// The one entry in which the page of `linear` can be.
    #[inline(always)]
    pub(crate) fn entry(&self, linear: u64) -> &Entry {
        &self.views[self.view & 1][Self::index(linear)]
    }

    #[inline(always)]
    pub(crate) fn entry_mut(&mut self, linear: u64) -> &mut Entry {
        &mut self.views[self.view & 1][Self::index(linear)]
    }

    /// A piece of a page of more than 4 KiB is about to be learned.
    pub(crate) fn holds_large(&mut self) {
        self.large = true;
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.large = false;
        self.views.as_flattened_mut().fill(Entry::EMPTY);
    }

    /// Forgets the page of `linear`, all of it (Intel SDM 3-4.10.4.1: however it was cut).
    pub(crate) fn flush_page(&mut self, linear: u64) {
        if self.large {
            return self.flush();
        }
        for view in self.views.iter_mut() {
            let entry = &mut view[Self::index(linear)];
            if entry.holds(linear) {
                *entry = Entry::EMPTY;
            }
        }
    }

    /// Forgets that the page of this identity may be stored to, at all its addresses.
    pub(crate) fn forget_writes(&mut self, identity: u64) {
        self.views.as_flattened_mut().iter_mut().for_each(|entry| entry.forget_writes(identity));
    }

    #[inline(always)]
    fn index(linear: u64) -> usize {
        ((linear & !OFFSET) / PAGE_SIZE) as usize & (ENTRIES - 1)
    }
}

impl std::fmt::Debug for Tlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tlb").field("view", &self.view).finish_non_exhaustive()
    }
}
