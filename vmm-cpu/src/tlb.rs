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
    /// Where pieces of pages of 2 and 4 MiB may be: a bit for each 4 MiB, modulo the number of bits.
    large: [u64; 16],
    /// Where pieces of pages of 1 GiB may be: a bit for each, modulo their number.
    huge: u64,
    /// Which pages code may have been fetched from, modulo the number of bits.
    fetched: [u64; 64],
}

/// The bit of a filter of `N` words for a number.
fn bit<const N: usize>(number: u64) -> (usize, u64) {
    (number as usize / 64 % N, 1 << (number % 64))
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self {
            views: Box::new([[Entry::EMPTY; ENTRIES]; VIEWS]),
            view: View::SYSTEM,
            current: View::SYSTEM.number(),
            used: 0,
            large: [0; 16],
            huge: 0,
            fetched: [0; 64],
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

    /// A piece of a page of more than 4 KiB is about to be learned: of 2 or 4 MiB, or of 1 GiB.
    pub(crate) fn holds_large(&mut self, linear: u64, level: u32) {
        if level > 1 {
            self.huge |= 1 << (linear >> 30 & 63);
        } else {
            let (word, bit) = bit::<16>(linear >> 22);
            self.large[word] |= bit;
        }
    }

    /// Code is fetched from the page of `linear`.
    pub(crate) fn note_fetch(&mut self, linear: u64) {
        let (word, bit) = bit::<64>(linear / PAGE_SIZE);
        self.fetched[word] |= bit;
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        (self.large, self.huge, self.fetched) = ([0; 16], 0, [0; 64]);
        let used = std::mem::take(&mut self.used);
        for (view, number) in self.views.iter_mut().zip(0..) {
            if used >> number & 1 != 0 {
                view.fill(Entry::EMPTY);
            }
        }
    }

    /// Forgets the page of `linear`, all of it (Intel SDM 3-4.10.4.1: however it was cut). Whether
    /// code may have been fetched from it.
    pub(crate) fn flush_page(&mut self, linear: u64) -> bool {
        let (word, large) = bit::<16>(linear >> 22);
        if self.large[word] & large != 0 || self.huge >> (linear >> 30 & 63) & 1 != 0 {
            self.flush();
            return true;
        }
        for view in self.views.iter_mut() {
            let entry = &mut view[Self::index(linear)];
            if entry.holds(linear) {
                *entry = Entry::EMPTY;
            }
        }
        let (word, bit) = bit::<64>(linear / PAGE_SIZE);
        self.fetched[word] & bit != 0
    }

    /// Forgets that the pages whose code is marked in this word may be stored to, at all their
    /// addresses.
    pub(crate) fn forget_writes(&mut self, word: usize) {
        let used = self.used;
        let views = self.views.iter_mut().zip(0..).filter(|(_, number)| used >> number & 1 != 0);
        for (view, _) in views {
            view.iter_mut().for_each(|entry| entry.forget_writes(word));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::{Flat, Lent};

    /// A TLB that knows the page at these addresses.
    fn knows(ram: &Flat, pages: &[u64]) -> Tlb {
        let mut tlb = Tlb::new();
        for linear in pages {
            let page = Lent::from(ram, 0).unwrap();
            tlb.entry_mut(*linear).learn(*linear, page, true, false);
        }
        tlb
    }

    #[test]
    fn a_page_is_forgotten_alone_unless_it_is_a_piece_of_a_larger_one() {
        const MIB: u64 = 1 << 20;
        let ram = Flat::new(1);
        let (user, kernel) = (0x40_1000, 0xffff_8880_0040_0000 + 40 * MIB);
        let there = |tlb: &Tlb| [user, kernel].map(|linear| tlb.entry(linear).holds(linear));
        let mut tlb = knows(&ram, &[user, kernel]);
        tlb.holds_large(kernel, 1);
        assert!(!tlb.flush_page(user));
        assert_eq!(there(&tlb), [false, true]);
        // The rest of its 2 or 4 MiB, and of its 1 GiB.
        for (level, other) in [(1, kernel + 3 * MIB), (2, kernel + 900 * MIB)] {
            let mut tlb = knows(&ram, &[user, kernel]);
            tlb.holds_large(kernel, level);
            assert!(tlb.flush_page(other));
            assert_eq!(there(&tlb), [false; 2], "{level}");
        }
        let mut tlb = knows(&ram, &[user]);
        tlb.note_fetch(user);
        assert!(tlb.flush_page(user) && tlb.flush_page(user + 8));
        tlb.flush();
        assert!(!tlb.flush_page(user));
    }
}
