//! What was decoded.

mod map;

pub use self::map::CodeMap;
pub(crate) use self::map::{Note, word};
use crate::op::Op;

/// What a CPU has decoded.
///
/// Blocks are known by the host page they are in, so that all addresses of a page share them. The
/// room grows to a limit; when that is used up, everything goes.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) ops: Vec<Op>,
    blocks: Vec<Block>,
    /// By a hash of the key, the newest block.
    buckets: Box<[u32]>,
    /// By a hash of the word of its page's marks, the number of the newest block and 1; 0 if there is none.
    words: Box<[u32]>,
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
    /// What `words` would say without this one.
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
const WORDS: usize = 1 << 13;
const NOBODY: u32 = u32::MAX;

impl Code {
    pub(crate) fn new() -> Self {
        Self {
            // Not of their full size: of large blocks that come and go, an allocator keeps more and
            // more pages that were written once.
            ops: Vec::new(),
            blocks: Vec::new(),
            buckets: vec![NOBODY; BUCKETS].into(),
            words: vec![0; WORDS].into(),
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

    /// Keeps a block: `len` bytes at the host address `start`, which are to be marked.
    pub(crate) fn insert(&mut self, start: u64, len: u64, mode: u32, ops: &[Op]) {
        let run = Run {
            first: self.ops.len() as u32,
            count: ops.len() as u16,
            instructions: ops.last().map_or(0, |op| u16::from(op.ordinal) + 1),
        };
        self.ops.extend_from_slice(ops);
        let number = self.blocks.len() as u32;
        let next = std::mem::replace(&mut self.buckets[bucket(start)], number);
        let sibling = std::mem::replace(&mut self.words[word(start) % WORDS], number + 1);
        self.blocks.push(Block { start, len, mode, run, next, sibling });
    }

    /// Forgets the blocks that `len` bytes at this host address are part of. True if there were any.
    pub(crate) fn overwrite(&mut self, host: u64, len: u64) -> bool {
        self.forget(word(host), |block| block.start < host + len && host < block.start + block.len)
    }

    /// Forgets all blocks in pages that share this word. True if there were any.
    pub(crate) fn give_up(&mut self, word: usize) -> bool {
        self.forget(word, |block| self::word(block.start) == word)
    }

    /// Forgets these blocks; they are in pages with this word.
    fn forget(&mut self, word: usize, which: impl Fn(&Block) -> bool) -> bool {
        let mut found = false;
        let mut alive = 0;
        let mut number = std::mem::take(&mut self.words[word % WORDS]);
        while let Some(block) = self.blocks.get_mut((number as usize).wrapping_sub(1)) {
            let Block { start, sibling, .. } = *block;
            if which(block) {
                self.unlink(start, number - 1);
                found = true;
            } else {
                block.sibling = std::mem::replace(&mut alive, number);
            }
            number = sibling;
        }
        self.words[word % WORDS] = alive;
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

    /// Whether there is any block in the pages that share this word.
    pub(crate) fn holds(&self, word: usize) -> bool {
        let mut number = self.words[word % WORDS];
        while let Some(block) = self.blocks.get((number as usize).wrapping_sub(1)) {
            if self::word(block.start) == word {
                return true;
            }
            number = block.sibling;
        }
        false
    }

    /// Forgets everything. Marks stay: they go when something is written there.
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.buckets.fill(NOBODY);
        self.words.fill(0);
    }
}

fn bucket(start: u64) -> usize {
    (start ^ start >> 14) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pages whose marks are not in one word, but whose words hash alike.
    #[test]
    fn code_is_given_up_by_the_words_of_its_pages() {
        let (near, far) = (0x1000, 0x1000 + (WORDS << 12) as u64);
        let mut code = Code::new();
        for start in [near, far] {
            code.insert(start, 4, 0, &[Op::bare(crate::op::exec!(crate::isa::go_on))]);
        }
        assert!(code.give_up(word(near)) && !code.give_up(word(near)));
        assert_eq!([near, far].map(|start| code.holds(word(start))), [false, true]);
        assert_eq!([near, far].map(|start| code.find(start, 0).is_some()), [false, true]);
        assert!(code.overwrite(far, 1) && !code.holds(word(far)));
    }

    /// The first, the last and the middle one of a bucket, so that nobody looks at what is no more.
    #[test]
    fn blocks_that_were_overwritten_leave_their_bucket() {
        // The same bucket, another page each.
        let place = |n: u64| (n << 28) + 0x1000;
        let all = || (1..=4).filter(|n| bucket(place(*n)) == bucket(place(1)));
        assert_eq!(all().count(), 4);
        for gone in 1..=4 {
            let mut code = Code::new();
            for n in all() {
                code.insert(place(n), 4, 0, &[Op::bare(crate::op::exec!(crate::isa::go_on))]);
            }
            assert!(code.overwrite(place(gone), 1));
            assert!(!code.overwrite(place(gone), 1));
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
