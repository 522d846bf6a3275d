//! The page tables of a sandbox, written by its host.
//!
//! All entries of a mapping are written when it is made; the host's memory behind them comes when it
//! is touched. Entries that are absent are written directly. One that is present is changed by the
//! guest itself, on the host's word ([`Edit`]): a hypervisor with shadow page tables, as user-mode
//! KVM is, learns of a change only from a write by the guest. For the same reason a frame that
//! became a table stays one. The guest reaches its tables through an entry of the root that points
//! to the root itself.
//!
//! Where the tables are is remembered here and never read from the guest.

use std::collections::BTreeMap;

use vmm_core::arch::paging::{ENTRIES, PRESENT, USER, WRITABLE};

use super::{PAGE, Protection, frames::Frames, ram::Ram};

/// No instruction fetch.
const NO_EXECUTE: u64 = 1 << 63;
/// What the processor notes in an entry: accessed, and dirty.
pub(super) const NOTED: u64 = 1 << 5 | 1 << 6;
/// The entry of the root that points to the root. What programs may use lies below it.
const SELF_SLOT: u64 = 254;
/// Where the guest sees the entry of page 0.
const SELF_MAP: u64 = SELF_SLOT << 39;

/// How many entries are read and written at once.
const BATCH: usize = 64;

/// Entries, of neighbouring pages, that the guest is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Where the guest sees the first of them.
    pub(crate) at: u64,
    pub(crate) entries: Vec<u64>,
}

/// What pages are mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Frames from this physical address on.
    Frames(u64, Protection),
    /// Nothing.
    Nothing,
    /// Frames for ring 0 only.
    System(u64, Protection),
}

impl Target {
    /// The entry of page `number`.
    fn entry(self, number: u64) -> u64 {
        let (start, protection, user) = match self {
            Self::Frames(start, protection) if protection.any() => (start, protection, USER),
            Self::System(start, protection) => (start, protection, 0),
            Self::Frames(..) | Self::Nothing => return 0,
        };
        let writable = if protection.write { WRITABLE } else { 0 };
        let execute = if protection.execute { 0 } else { NO_EXECUTE };
        (start + number * PAGE) | PRESENT | user | writable | execute
    }
}

#[derive(Clone)]
pub(crate) struct Tables {
    root: u64,
    /// The frame of each table but the root, by its level (1 maps pages) and what it maps.
    places: BTreeMap<(u32, u64), u64>,
    edits: Vec<Edit>,
}

/// The RAM limit leaves no frame for a table.
pub(crate) struct NoFrame;

impl Tables {
    pub(crate) fn new(ram: &Ram, frames: &mut Frames) -> Result<Self, NoFrame> {
        let root = frames.take_one().ok_or(NoFrame)?;
        let itself = root | PRESENT | WRITABLE | NO_EXECUTE;
        ram.write_words(root + 8 * SELF_SLOT, &[itself]);
        Ok(Self { root, places: BTreeMap::new(), edits: Vec::new() })
    }

    /// The root's physical address, for CR3.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// The frames of all tables.
    pub(crate) fn frames(&self) -> impl Iterator<Item = u64> {
        self.places.values().copied().chain([self.root])
    }

    /// How many tables there are.
    pub(crate) fn count(&self) -> usize {
        self.places.len() + 1
    }

    /// Whether there is something for the guest to change.
    #[inline]
    pub(crate) fn has_edits(&self) -> bool {
        !self.edits.is_empty()
    }

    /// What the guest is to change before it goes on, in order.
    pub(crate) fn take_edits(&mut self) -> Vec<Edit> {
        std::mem::take(&mut self.edits)
    }

    /// Maps the pages from `at` on.
    ///
    /// # Errors
    /// Only if `target` is not [`Target::Nothing`]; then some of the pages may be mapped.
    pub(crate) fn set(
        &mut self,
        ram: &Ram,
        frames: &mut Frames,
        at: u64,
        pages: u64,
        target: Target,
    ) -> Result<(), NoFrame> {
        let mut done = 0;
        while done < pages {
            let page = at / PAGE + done;
            let first = page % ENTRIES as u64;
            let count = (pages - done).min(ENTRIES as u64 - first);
            let table = match target {
                Target::Nothing => match self.next_table(page) {
                    Some((start, table)) if start <= page => table,
                    // A reservation may be of terabytes: on to where there is something.
                    Some((start, _)) => {
                        done += start - page;
                        continue;
                    }
                    None => break,
                },
                _ => self.table(ram, frames, page)?,
            };
            let mut new = [0; BATCH];
            for part in (0..count).step_by(BATCH) {
                let len = (count - part).min(BATCH as u64) as usize;
                let new = new.get_mut(..len).unwrap_or_default();
                new.iter_mut().zip(done + part..).for_each(|(new, n)| *new = target.entry(n));
                self.put(ram, table + 8 * (first + part), page + part, new);
            }
            done += count;
        }
        Ok(())
    }

    /// The first table of those that map `page` or pages behind it: its first page, and where it is.
    fn next_table(&self, page: u64) -> Option<(u64, u64)> {
        let mut tables = self.places.range((1, page >> 9)..(2, 0));
        tables.next().map(|((_, number), table)| (number << 9, *table))
    }

    /// The table that maps `page`, made if need be.
    fn table(&mut self, ram: &Ram, frames: &mut Frames, page: u64) -> Result<u64, NoFrame> {
        let mut table = self.root;
        for level in (1..=3).rev() {
            let key = (level, page >> (9 * level));
            table = match self.places.get(&key) {
                Some(place) => *place,
                None => {
                    let place = frames.take_one().ok_or(NoFrame)?;
                    let entry = place | PRESENT | WRITABLE | USER;
                    ram.write_words(table + 8 * (key.1 % ENTRIES as u64), &[entry]);
                    self.places.insert(key, place);
                    place
                }
            };
        }
        Ok(table)
    }

    /// Puts `new` entries, those of `page` on, at physical address `place`: absent ones now, present
    /// ones by an edit.
    fn put(&mut self, ram: &Ram, place: u64, page: u64, new: &[u64]) {
        let mut old = [0; BATCH];
        let old = old.get_mut(..new.len()).unwrap_or_default();
        ram.read_words(place, old);
        let mut start = 0;
        for part in old.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            let new = new.get(start..start + part.len()).unwrap_or(&[]);
            if part.first() == Some(&0) {
                ram.write_words(place + 8 * start as u64, new);
            } else {
                self.edit(SELF_MAP + 8 * (page + start as u64), new);
            }
            start += part.len();
        }
    }

    /// Has the guest change these entries; as many at once as the stub takes.
    fn edit(&mut self, at: u64, entries: &[u64]) {
        match self.edits.last_mut() {
            Some(last)
                if last.at + 8 * last.entries.len() as u64 == at
                    && last.entries.len() + entries.len() <= ENTRIES =>
            {
                last.entries.extend_from_slice(entries);
            }
            _ => self.edits.push(Edit { at, entries: entries.to_vec() }),
        }
    }
}
