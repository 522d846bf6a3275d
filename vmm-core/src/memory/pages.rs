//! Sets of pages: which were written, which hold something.

use std::ops::Range;

/// Pages by their numbers, as a bit for each.
///
/// It is as long as its highest page, so that a set of a sandbox with little memory is small,
/// whatever its limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
}

/// Pages of a word.
const BITS: u64 = u64::BITS as u64;

impl PageSet {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one page.
    pub fn insert(&mut self, page: u64) {
        if let Some(word) = self.word(page / BITS) {
            *word |= 1 << (page % BITS);
        }
    }

    /// Adds a range.
    pub fn insert_range(&mut self, pages: Range<u64>) {
        let (mut page, end) = (pages.start, pages.end);
        while page < end {
            let here = (BITS - page % BITS).min(end - page);
            if let Some(word) = self.word(page / BITS) {
                *word |= (u64::MAX >> (BITS - here)) << (page % BITS);
            }
            page += here;
        }
    }

    /// Adds the pages of bits as a dirty log has them: bit `n % 64` of word `n / 64` is page `first
    /// + n`.
    pub fn insert_bits(&mut self, first: u64, bits: &[u64]) {
        let used = bits.iter().rposition(|bits| *bits != 0).map_or(0, |last| last + 1);
        let (bits, at) = (bits.get(..used).unwrap_or(&[]), (first / BITS) as usize);
        if first.is_multiple_of(BITS) {
            self.words.resize(self.words.len().max(at + used), 0);
            let words = self.words.get_mut(at..).unwrap_or_default();
            words.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
            return;
        }
        (first..).step_by(BITS as usize).zip(bits).for_each(|(first, bits)| {
            self.insert_word(first, *bits);
        });
    }

    /// Adds the pages from `first` on whose bits are set.
    fn insert_word(&mut self, first: u64, bits: u64) {
        let (at, shift) = (first / BITS, first % BITS);
        for (at, bits) in [(at, bits << shift), (at + 1, bits.unbounded_shr((BITS - shift) as u32))]
        {
            if bits != 0
                && let Some(word) = self.word(at)
            {
                *word |= bits;
            }
        }
    }

    /// Adds all of another.
    pub fn insert_all(&mut self, other: &Self) {
        self.insert_bits(0, &other.words);
    }

    /// Takes one page out.
    pub fn remove(&mut self, page: u64) {
        let word = usize::try_from(page / BITS).ok().and_then(|at| self.words.get_mut(at));
        if let Some(word) = word {
            *word &= !(1 << (page % BITS));
        }
    }

    /// Whether a page is in it.
    pub fn contains(&self, page: u64) -> bool {
        let word = usize::try_from(page / BITS).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (page % BITS) & 1 == 1)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        let used = self.words.iter().filter(|word| **word != 0);
        used.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adjacent pages as ranges, in ascending order, each as long as it can be.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = self.words.len() as u64 * BITS;
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, |word| word)?;
            at = self.next(start, |word| !word).unwrap_or(end);
            Some(start..at)
        })
    }

    /// The first page from `at` on whose bit is set in what `of` makes of the words.
    fn next(&self, at: u64, of: impl Fn(u64) -> u64) -> Option<u64> {
        let mut words = self.words.get((at / BITS) as usize..)?.iter().map(|word| of(*word));
        let first = words.next()? >> (at % BITS);
        if first != 0 {
            return Some(at + u64::from(first.trailing_zeros()));
        }
        let mut place = at / BITS;
        let word = words.find(|word| {
            place += 1;
            *word != 0
        });
        word.map(|word| place * BITS + u64::from(word.trailing_zeros()))
    }

    fn word(&mut self, at: u64) -> Option<&mut u64> {
        let at = usize::try_from(at).ok()?;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words.get_mut(at)
    }
}

impl FromIterator<Range<u64>> for PageSet {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert_range(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let set: PageSet = [3..5, 60..70, 70..71, 128..129, 191..192].into_iter().collect();
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs, [3..5, 60..71, 128..129, 191..192]);
        assert_eq!(set.count(), 15);
        let whole: PageSet = std::iter::once(0..128).collect();
        assert!(whole.runs().eq(std::iter::once(0..128)));
        assert!(PageSet::new().is_empty() && PageSet::new().runs().next().is_none());
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            ranges in prop::collection::vec((0u64..300, 0u64..150), 0..8),
            bits in prop::collection::vec(any::<u64>(), 0..4),
            first in 0u64..200,
            removed in prop::collection::vec(0u64..400, 0..20),
        ) {
            let (mut set, mut model) = (PageSet::new(), BTreeSet::new());
            for (start, len) in ranges {
                set.insert_range(start..start + len);
                model.extend(start..start + len);
            }
            set.insert_bits(first, &bits);
            model.extend((0..bits.len() as u64 * 64)
                .filter(|n| bits[(n / 64) as usize] >> (n % 64) & 1 == 1)
                .map(|n| first + n));
            for page in removed {
                set.remove(page);
                model.remove(&page);
            }
            prop_assert_eq!(set.runs().flatten().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.count(), model.len() as u64);
            prop_assert!((0..600).all(|page| set.contains(page) == model.contains(&page)));
        }
    }
}
