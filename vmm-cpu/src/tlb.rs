//! The TLB: which host page is behind a linear page, for whom, to do what.

use crate::ram::{Entry, OFFSET, PAGE_SIZE};

const ENTRIES: usize = 256;

/// Whose accesses they are; each has a table of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Of user code (CPL 3), not of the system.
    pub(crate) user: bool,
    /// With addresses of 32 bits. What a sum of registers has above them is cut off when the table,
    /// which knows no such address, does not find it.
    pub(crate) short: bool,
    /// The system's, to the pages of users too: under SMAP, where RFLAGS.AC allows it.
    pub(crate) reaches: bool,
}

/// A power of two, so that a masked number is always within.
const VIEWS: usize = 8;

impl View {
    /// The system's, with addresses of 64 bits.
    pub(crate) const SYSTEM: Self = Self { user: false, short: false, reaches: false };

    fn number(self) -> usize {
        usize::from(self.user) | usize::from(self.short) << 1 | usize::from(self.reaches) << 2
    }
}

/// Direct-mapped, one table for each view.
pub(crate) struct Tlb {
    views: Box<[[Entry; ENTRIES]; VIEWS]>,
    view: View,
    /// The number of `view`.
    current: usize,
    /// Which tables may hold anything, a bit each.
    used: u8,
    /// Pages of more than 4 KiB are here, in pieces.
    large: bool,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self {
            views: Box::new([[Entry::EMPTY; ENTRIES]; VIEWS]),
            view: View::SYSTEM,
            current: View::SYSTEM.number(),
            used: 0,
            large: false,
        }
    }

    /// From now on accesses are those of this view.
    pub(crate) fn set_view(&mut self, view: View) {
        self.view = view;
        self.current = view.number();
    }

    /// Whose accesses they are.
    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// Whether accesses are those of user code.
    pub(crate) fn is_user(&self) -> bool {
        self.view.user
    }

    /// The one entry in which the page of `linear` can be.
    #[inline(always)]
    pub(crate) fn entry(&self, linear: u64) -> &Entry {
        &self.views[self.current & (VIEWS - 1)][Self::index(linear)]
    }

    /// As [`entry`](Self::entry), to learn something.
    pub(crate) fn entry_mut(&mut self, linear: u64) -> &mut Entry {
        self.used |= 1 << self.current;
        &mut self.views[self.current & (VIEWS - 1)][Self::index(linear)]
    }

    /// A piece of a page of more than 4 KiB is about to be learned.
    pub(crate) fn holds_large(&mut self) {
        self.large = true;
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.large = false;
        let used = std::mem::take(&mut self.used);
        for (view, number) in self.views.iter_mut().zip(0..) {
            if used >> number & 1 != 0 {
                view.fill(Entry::EMPTY);
            }
        }
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
        let used = self.used;
        let views = self.views.iter_mut().zip(0..).filter(|(_, number)| used >> number & 1 != 0);
        for (view, _) in views {
            view.iter_mut().for_each(|entry| entry.forget_writes(identity));
        }
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
