//! Where code is, and what becomes of it: what the CPUs of a machine share.
//!
//! Each CPU keeps what it has decoded for itself. That is good as long as every store to those bytes
//! is noticed, and that is what the marks are for:
//!
//! - A store that the TLB lets through looks at no mark. So no CPU's TLB lets stores through to a page
//!   whose word has any: the first mark of a word is made while no other CPU executes, and each
//!   forgets such entries before it goes on ([`Note::First`]). New ones look at the word first.
//! - All other stores look at the marks after they are done; a CPU that decodes reads the bytes once
//!   more after they are marked. A fence between the two steps of each makes one of them see the
//!   other.
//! - Who has overwritten code leaves a note before the next instruction. Each CPU reads the notes
//!   before its next block: whoever learns of new code by a store that came after it also finds the
//!   note.
//!
//! Marks and notes change under one lock, so that none is made of a word that is just given up.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

use crate::ram::PAGE_SIZE;

/// In which host pages there is code that some CPU has decoded, to 128 bytes: shared by the CPUs of
/// a machine and by whoever else writes to its memory.
///
/// It may say yes where there is none, never no where there is some.
#[derive(Debug)]
pub struct CodeMap {
    /// A bit for each 128 bytes of a page, a word for each page; pages that are 1 GiB apart share one.
    /// In parts, which are there when there is code in them.
    marks: [OnceLock<Box<[AtomicU32]>>; WORDS / PART],
    /// How many notes there were.
    epoch: AtomicU64,
    /// The last ones, each where its number says.
    notes: Mutex<[Note; NOTES]>,
}

/// As many as 1 GiB has pages. Stores to a page that shares its word with code are slow: with few words
/// that is a good part of a kernel's.
const WORDS: usize = 1 << 18;
/// How many words are made at once.
const PART: usize = 1 << 10;
const GRANULE: u64 = PAGE_SIZE / 32;
/// A CPU that is further behind forgets everything.
const NOTES: usize = 256;

/// What all CPUs are to know of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// Pages that share this word have code from now on: stores to them need care.
    First(usize),
    /// No code in the pages that share this word is good any more, and none is marked.
    Gone(usize),
    /// These bytes of one host page were overwritten.
    Overwritten { host: u64, len: u64 },
}

impl CodeMap {
    /// Without any code.
    pub fn new() -> Self {
        Self {
            marks: [const { OnceLock::new() }; WORDS / PART],
            epoch: AtomicU64::new(0),
            notes: Mutex::new([Note::First(0); NOTES]),
        }
    }

    /// To be called after `len` bytes of guest memory at `host` were written by other than a CPU:
    /// each CPU notices before its next block.
    pub fn written(&self, host: usize, len: usize) {
        self.overwritten(host as u64, len as u64);
    }

    /// Tells all CPUs of what was written, if some of it was code; whether it was.
    pub(crate) fn overwritten(&self, host: u64, len: u64) -> bool {
        // Either the marks of a CPU that decodes these bytes are seen here, or what was written is
        // seen there, where they are read once more after they are marked.
        fence(SeqCst);
        let (mut at, end) = (host, host + len);
        let mut found = false;
        while at < end {
            let here = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            if self.is_code(at, here as usize) {
                self.note(&mut self.notes(), Note::Overwritten { host: at, len: here });
                found = true;
            }
            at += here;
        }
        found
    }

    /// How many notes there are; those from this one on come later.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// The note of this number, if it is still there.
    pub(crate) fn note_of(&self, number: u64) -> Option<Note> {
        let notes = self.notes();
        let behind = self.epoch.load(Relaxed).wrapping_sub(number);
        (1..=NOTES as u64).contains(&behind).then(|| notes[number as usize % NOTES])
    }

    /// Whether there is code anywhere in the page of this identity.
    pub(crate) fn has_code(&self, page: u64) -> bool {
        // Who finds that there is none any more has seen the note of it.
        self.marks(word(page)) != 0
    }

    /// Whether some of these bytes of one host page, near enough, are code.
    pub(crate) fn is_code(&self, host: u64, len: usize) -> bool {
        let marks = self.marks(word(host));
        marks != 0 && len != 0 && marks & granules(host % PAGE_SIZE, len as u64) != 0
    }

    /// Marks bytes of one host page as code. False, and nothing is done, if they would be the first
    /// of their word: see [`mark_first`](Self::mark_first).
    pub(crate) fn mark(&self, host: u64, len: u64) -> bool {
        let _notes = self.notes();
        if self.marks(word(host)) == 0 {
            return false;
        }
        self.word(word(host)).fetch_or(granules(host % PAGE_SIZE, len), SeqCst);
        fence(SeqCst);
        true
    }

    /// Marks bytes of one host page as code, while no other CPU executes anything.
    pub(crate) fn mark_first(&self, host: u64, len: u64) {
        let mut notes = self.notes();
        self.word(word(host)).fetch_or(granules(host % PAGE_SIZE, len), SeqCst);
        self.note(&mut notes, Note::First(word(host)));
        fence(SeqCst);
    }

    /// Gives up all code in the pages that share this word.
    pub(crate) fn give_up(&self, word: usize) {
        let mut notes = self.notes();
        // The note comes first: who finds no mark, and stores without care, must not be ahead of it.
        self.note(&mut notes, Note::Gone(word));
        self.word(word).store(0, Release);
    }

    /// What is marked in a word.
    fn marks(&self, word: usize) -> u32 {
        let part = self.marks.get(word / PART).and_then(OnceLock::get);
        part.and_then(|part| part.get(word % PART)).map_or(0, |word| word.load(Acquire))
    }

    /// A word to mark something in.
    fn word(&self, word: usize) -> &AtomicU32 {
        let part = self.marks[word / PART % (WORDS / PART)]
            .get_or_init(|| (0..PART).map(|_| AtomicU32::new(0)).collect());
        &part[word % PART]
    }

    fn note(&self, notes: &mut [Note; NOTES], note: Note) {
        let number = self.epoch.load(Relaxed);
        notes[number as usize % NOTES] = note;
        self.epoch.store(number.wrapping_add(1), Release);
    }

    fn notes(&self) -> MutexGuard<'_, [Note; NOTES]> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for CodeMap {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of the word that a host page's marks are in.
pub(crate) fn word(host: u64) -> usize {
    (host / PAGE_SIZE) as usize % WORDS
}

/// The bits of the granules in which `len` bytes, not 0, from `offset` on lie.
fn granules(offset: u64, len: u64) -> u32 {
    let (first, last) = (offset / GRANULE, (offset + len - 1).min(PAGE_SIZE - 1) / GRANULE);
    (u32::MAX >> (31 - last)) & (u32::MAX << first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_are_counted_to_the_last_byte() {
        assert_eq!(granules(0, 1), 1);
        assert_eq!(granules(127, 1), 1);
        assert_eq!(granules(127, 2), 3);
        assert_eq!(granules(0, 4096), u32::MAX);
        assert_eq!(granules(4095, 1), 1 << 31);
    }

    #[test]
    fn writes_are_noted_where_code_is_and_only_there() {
        let map = CodeMap::new();
        assert!(!map.mark(0x5080, 1));
        map.mark_first(0x5080, 1);
        assert!(map.mark(0x5f80, 128));
        for (host, len, noted) in
            [(0x5000, 128, 0), (0x5000, 129, 1), (0x5100, 0xe80, 0), (0x4fff, 0x1082, 1)]
        {
            let before = map.epoch();
            assert_eq!(map.overwritten(host, len), noted > 0);
            assert_eq!(map.epoch() - before, noted, "{len} bytes at {host:#x}");
        }
        // Two pages, the second of which shares no word.
        map.mark_first(0x6000, 1);
        let before = map.epoch();
        map.written(0x5ff0, 0x20);
        let noted: Vec<_> = (before..map.epoch()).map(|n| map.note_of(n)).collect();
        assert!(matches!(
            noted[..],
            [
                Some(Note::Overwritten { host: 0x5ff0, len: 0x10 }),
                Some(Note::Overwritten { host: 0x6000, len: 0x10 })
            ]
        ));
        map.give_up(word(0x6000));
        assert!(!map.has_code(0x6000) && map.has_code(0x5000) && !map.mark(0x6000, 1));
    }

    #[test]
    fn old_notes_are_gone() {
        let map = CodeMap::new();
        assert!(map.note_of(0).is_none());
        (0..NOTES as u64 + 1).for_each(|page| map.mark_first(page * PAGE_SIZE, 1));
        assert!(map.note_of(0).is_none());
        assert!(matches!(map.note_of(1), Some(Note::First(1))));
        assert!(matches!(map.note_of(NOTES as u64), Some(Note::First(NOTES_WORD))));
        assert!(map.note_of(NOTES as u64 + 1).is_none());
    }

    const NOTES_WORD: usize = NOTES;
}
