//! What was decoded, and where code is.

use std::{
    collections::HashMap,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        fence,
    },
};

use crate::{op::Op, ram::PAGE_SIZE};

/// In which host pages there is code that some CPU has decoded, to 128 bytes: shared by the CPUs of
/// a machine and by whoever else writes to its memory.
///
/// It may say yes where there is none, never no where there is some.
#[derive(Debug)]
pub struct CodeMap {
    /// A bit for each 128 bytes of a page; pages that hash alike share a word.
    marks: Box<[AtomicU32]>,
    /// How often somebody who is no CPU has overwritten code.
    epoch: AtomicU64,
}

const WORDS: usize = 1 << 13;
const GRANULE: u64 = PAGE_SIZE / 32;

impl CodeMap {
    /// Without any code.
    pub fn new() -> Self {
        Self { marks: (0..WORDS).map(|_| AtomicU32::new(0)).collect(), epoch: AtomicU64::new(0) }
    }

    /// To be called after `len` bytes of guest memory at `host` were written by other than a CPU:
    /// each CPU notices before its next block.
    pub fn written(&self, host: usize, len: usize) {
        // Either the marks of a CPU that decodes these bytes are seen here, or what was written is
        // seen there, where they are read once more after they are marked.
        fence(SeqCst);
        let (mut at, end) = (host as u64, host as u64 + len as u64);
        while at < end {
            let here = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            if self.is_code(at, here as usize) {
                self.epoch.fetch_add(1, AcqRel);
                return;
            }
            at += here;
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Whether there is code anywhere in the page of this identity.
    pub(crate) fn has_code(&self, page: u64) -> bool {
        self.word(page).load(Relaxed) != 0
    }

    /// Whether some of these bytes of one host page, near enough, are code.
    pub(crate) fn is_code(&self, host: u64, len: usize) -> bool {
        let marks = self.word(host).load(Relaxed);
        marks != 0 && len != 0 && marks & granules(host % PAGE_SIZE, len as u64) != 0
    }

    /// Marks bytes of one host page as code.
    fn mark(&self, host: u64, len: u64) {
        self.word(host).fetch_or(granules(host % PAGE_SIZE, len), SeqCst);
        fence(SeqCst);
    }

    /// There is no code any more in the pages that share the word of this one.
    fn clear(&self, page: u64) {
        self.word(page).store(0, Relaxed);
    }

    fn word(&self, host: u64) -> &AtomicU32 {
        &self.marks[(host / PAGE_SIZE) as usize % WORDS]
    }
}

impl Default for CodeMap {
    fn default() -> Self {
        Self::new()
    }
}

/// The bits of the granules in which `len` bytes, not 0, from `offset` on lie.
fn granules(offset: u64, len: u64) -> u32 {
    let (first, last) = (offset / GRANULE, (offset + len - 1).min(PAGE_SIZE - 1) / GRANULE);
    (u32::MAX >> (31 - last)) & (u32::MAX << first)
}

/// What a CPU has decoded.
///
/// Blocks are known by the host page they are in, so that all addresses of a page share them. The
/// room is fixed; when it is used up, everything goes.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) ops: Vec<Op>,
    blocks: Vec<Block>,
    /// By a hash of the key, the newest block.
    buckets: Box<[u32]>,
    /// By the identity of a page, the newest block in it.
    pages: HashMap<u64, u32>,
}

/// A row of operations that is entered at its first only.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// The host address of its first byte.
    start: u64,
    /// How many bytes it was decoded from.
    len: u64,
    mode: u32,
    run: Run,
    /// The next block in the same bucket.
    next: u32,
    /// The next block in the same page.
    sibling: u32,
}

/// Operations of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) count: u16,
    /// How many instructions they are.
    pub(crate) instructions: u16,
}

const OPS: usize = 1 << 18;
const BLOCKS: usize = 1 << 15;
const BUCKETS: usize = 1 << 14;
const NOBODY: u32 = u32::MAX;

impl Code {
    pub(crate) fn new() -> Self {
        Self {
            ops: Vec::with_capacity(OPS),
            blocks: Vec::with_capacity(BLOCKS),
            buckets: vec![NOBODY; BUCKETS].into(),
            pages: HashMap::new(),
        }
    }

    /// The block that begins at this host address, decoded for this mode.
    pub(crate) fn find(&self, start: u64, mode: u32) -> Option<Run> {
        let mut number = self.buckets[bucket(start)];
        while let Some(block) = self.blocks.get(number as usize) {
            if block.start == start && block.mode == mode {
                return Some(block.run);
            }
            number = block.next;
        }
        None
    }

    /// The operations from this one on, as far as it matters to whoever wants one instruction.
    pub(crate) fn rest(&self, first: usize) -> Run {
        let count = (self.ops.len() - first).min(64) as u16;
        Run { first: first as u32, count, instructions: 0 }
    }

    /// Whether there is room for another block of so many operations.
    pub(crate) fn has_room(&self, ops: usize) -> bool {
        self.ops.len() + ops <= OPS && self.blocks.len() < BLOCKS
    }

    /// Keeps a block: `len` bytes at the host address `start`. True if it is the first code in its
    /// page.
    pub(crate) fn insert(
        &mut self,
        start: u64,
        len: u64,
        mode: u32,
        ops: &[Op],
        map: &CodeMap,
    ) -> (Run, bool) {
        let run = Run {
            first: self.ops.len() as u32,
            count: ops.len() as u16,
            instructions: ops.last().map_or(0, |op| u16::from(op.ordinal) + 1),
        };
        self.ops.extend_from_slice(ops);
        let number = self.blocks.len() as u32;
        let next = std::mem::replace(&mut self.buckets[bucket(start)], number);
        let page = start & !(PAGE_SIZE - 1);
        let sibling = self.pages.insert(page, number);
        let first = sibling.is_none();
        let sibling = sibling.unwrap_or(NOBODY);
        self.blocks.push(Block { start, len, mode, run, next, sibling });
        map.mark(start, len);
        (run, first)
    }

    /// Forgets the blocks that `len` bytes at `offset` of this page are part of. True if there
    /// were any.
    pub(crate) fn overwrite(&mut self, page: u64, offset: u64, len: usize, map: &CodeMap) -> bool {
        let (from, to) = (page + offset, page + offset + len as u64);
        let mut found = false;
        let mut alive = NOBODY;
        let mut number = self.pages.remove(&page).unwrap_or(NOBODY);
        while let Some(block) = self.blocks.get_mut(number as usize) {
            let Block { start, len, sibling, .. } = *block;
            if start < to && from < start + len {
                self.unlink(start, number);
                found = true;
            } else {
                block.sibling = std::mem::replace(&mut alive, number);
            }
            number = sibling;
        }
        if alive != NOBODY {
            self.pages.insert(page, alive);
        } else if found {
            self.unmark(page, map);
        }
        found
    }

    /// Takes a block that begins at `start` out of its bucket.
    fn unlink(&mut self, start: u64, number: u32) {
        let next = self.blocks[number as usize].next;
        let head = &mut self.buckets[bucket(start)];
        if *head == number {
            *head = next;
            return;
        }
        let mut at = *head;
        while let Some(block) = self.blocks.get_mut(at as usize) {
            if block.next == number {
                block.next = next;
                return;
            }
            at = block.next;
        }
    }

    /// The page has no code left: stores to it need no care, unless it shares its word.
    fn unmark(&self, page: u64, map: &CodeMap) {
        let word = |page: u64| page / PAGE_SIZE % WORDS as u64;
        if !self.pages.keys().any(|other| word(*other) == word(page)) {
            map.clear(page);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, map: &CodeMap) {
        self.pages.drain().for_each(|(page, _)| map.clear(page));
        self.ops.clear();
        self.blocks.clear();
        self.buckets.fill(NOBODY);
    }
}

fn bucket(start: u64) -> usize {
    (start ^ start >> 14) as usize % BUCKETS
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

    /// The first, the last and the middle one of a bucket, so that nobody looks at what is no more.
    #[test]
    fn blocks_that_were_overwritten_leave_their_bucket() {
        let map = CodeMap::new();
        // The same bucket, another page each.
        let place = |n: u64| (n << 28) + 0x1000;
        let all = || (1..=4).filter(|n| bucket(place(*n)) == bucket(place(1)));
        assert_eq!(all().count(), 4);
        for gone in 1..=4 {
            let mut code = Code::new();
            for n in all() {
                code.insert(place(n), 4, 0, &[Op::bare(crate::op::exec!(crate::isa::go_on))], &map);
            }
            assert!(code.overwrite(place(gone), 0, 1, &map));
            assert!(!code.overwrite(place(gone), 0, 1, &map));
            for n in all() {
                assert_eq!(code.find(place(n), 0).is_some(), n != gone, "{n} without {gone}");
            }
            let mut chain = code.buckets[bucket(place(1))];
            let mut len = 0;
            while let Some(block) = code.blocks.get(chain as usize) {
                (chain, len) = (block.next, len + 1);
            }
            assert_eq!(len, 3);
        }
    }
}
