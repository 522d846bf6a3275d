//! From bytes to system calls: arguments that are wrong in the ways that matter.

use super::SCRATCH;
use crate::{call, cpu::SystemCall, space::Space, syscall};

/// What is done next.
pub(super) enum Step {
    Call(SystemCall),
    /// Something is put where arguments point to.
    Poke(u64, Vec<u8>),
}

/// The bytes, and what the calls so far answered.
pub(super) struct Input<'a> {
    rest: &'a [u8],
    answers: [u64; 8],
    count: usize,
}

/// Numbers and addresses at which something changes.
const ODD: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    63,
    64,
    255,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    0x8000,
    0x1_0000,
    0xf_f000,
    0x10_0000,
    0x20_0000,
    0x40_0000,
    0x40_1000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7eff_ffff_f000,
    0x7f00_0000_0000,
    0x7fff_fffe_f000,
    0x7fff_ffff_0000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 100,
    u64::MAX - 99,
    u64::MAX - 7,
    u64::MAX,
];

/// Flags of `open`, `mmap`, `mremap`, of what ends in `at`, of `fcntl`.
const FLAGS: &[u64] = &[
    0x22, 0x32, 0x10_0022, 0x21, 0x02, 0x12, 1, 2, 3, 0x40, 0x42, 0xc2, 0x241, 0x442, 0x1_0000,
    0x2_0000, 0x20_0000, 0x41_0000, 0x8_0000, 0x800, 0x100, 0x200, 0x400, 0x1000, 0x406,
];

const TEXTS: &[&[u8]] = &[
    b"file\0",
    b"dir\0",
    b"dir/file\0",
    b"/tmp\0",
    b"/tmp/a\0",
    b"/tmp/a/b\0",
    b"/granted\0",
    b"/granted/a\0",
    b"/granted/../granted/a/b\0",
    b"/granted/out/secret\0",
    b"../../../etc/passwd\0",
    b".\0",
    b"..\0",
    b"/\0",
    b"\0",
    b"/proc/self/fd/3\0",
    b"/proc/self/fd\0",
    b"/proc/self/maps\0",
    b"/proc/self/exe\0",
    b"/dev/zero\0",
    b"/dev/full\0",
    b"/dev/stdin\0",
    b"bytes\0",
    b"text\0",
    b"no end",
];

/// What the arguments of some calls are, so that more of them mean something: an address or a length
/// of pages, a protection, a descriptor, a path, a buffer, a number of bytes, an offset, flags.
const SHAPES: &[(libc::c_long, &[u8])] = &[
    (libc::SYS_brk, b"a"),
    (libc::SYS_chdir, b"p"),
    (libc::SYS_dup2, b"ff"),
    (libc::SYS_fcntl, b"fnn"),
    (libc::SYS_ftruncate, b"fo"),
    (libc::SYS_getdents64, b"fbn"),
    (libc::SYS_link, b"pp"),
    (libc::SYS_lseek, b"fon"),
    (libc::SYS_madvise, b"aln"),
    (libc::SYS_mkdir, b"pn"),
    (libc::SYS_mmap, b"alrgfo"),
    (libc::SYS_mprotect, b"alr"),
    (libc::SYS_mremap, b"allga"),
    (libc::SYS_munmap, b"al"),
    (libc::SYS_newfstatat, b"fpbg"),
    (libc::SYS_open, b"pgn"),
    (libc::SYS_openat, b"fpgn"),
    (libc::SYS_pipe2, b"bg"),
    (libc::SYS_pread64, b"fbno"),
    (libc::SYS_preadv, b"fbno"),
    (libc::SYS_pwrite64, b"fbno"),
    (libc::SYS_pwritev, b"fbno"),
    (libc::SYS_read, b"fbn"),
    (libc::SYS_readv, b"fbn"),
    (libc::SYS_rename, b"pp"),
    (libc::SYS_rmdir, b"p"),
    (libc::SYS_symlink, b"pp"),
    (libc::SYS_truncate, b"po"),
    (libc::SYS_unlink, b"p"),
    (libc::SYS_write, b"fbn"),
    (libc::SYS_writev, b"fbn"),
];

/// Where texts are, and how many there may be.
const SLOT: u64 = 0x200;
const SLOTS: u64 = (SCRATCH.end - SCRATCH.start) / SLOT;

/// What arguments may point to from the beginning.
pub(super) fn texts() -> impl Iterator<Item = (u64, &'static [u8])> {
    (0..SLOTS).zip(TEXTS).map(|(slot, text)| (SCRATCH.start + slot * SLOT, *text))
}

impl<'a> Input<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, answers: [0; 8], count: 0 }
    }

    /// Keeps an answer for arguments to come.
    pub(super) fn answered(&mut self, rax: u64) {
        let count = self.answers.len();
        if let Some(place) = self.answers.get_mut(self.count % count) {
            *place = rax;
        }
        self.count += 1;
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte().unwrap_or(0)))
    }

    /// The next step; none at the end.
    pub(super) fn step(&mut self, space: &Space) -> Option<Step> {
        let kind = self.byte()?;
        if kind < 0x50 {
            let at = self.pointer();
            let bytes = match kind % 4 {
                0 => pick(TEXTS, self.byte()?).to_vec(),
                1 => {
                    let count = usize::from(self.byte()? % 32).min(self.rest.len());
                    let (bytes, rest) = self.rest.split_at(count);
                    self.rest = rest;
                    bytes.to_vec()
                }
                // Pieces of a vector, values, times.
                _ => {
                    let count = self.byte()? % 8;
                    (0..count).flat_map(|_| self.argument(space).to_le_bytes()).collect()
                }
            };
            return Some(Step::Poke(at, bytes));
        }
        let known: Vec<u64> = syscall::numbers().collect();
        let number = match kind {
            0xff => self.number(8),
            0xfe => self.number(2) % 600,
            0xfc | 0xfd => call::CALL_HOST,
            _ => *pick(&known, self.byte()?),
        };
        let shape = SHAPES.iter().find(|(known, _)| kind & 1 == 0 && *known as u64 == number);
        let mut shape = shape.map_or(b"".as_slice(), |(_, shape)| shape).iter();
        let args =
            std::array::from_fn(|_| self.shaped(shape.next().copied().unwrap_or(b'?'), space));
        Some(Step::Call(SystemCall { number, args }))
    }

    fn shaped(&mut self, shape: u8, space: &Space) -> u64 {
        let byte = self.number(1);
        match shape {
            _ if byte >= 0xe0 => self.argument(space),
            b'a' => 0x1000_0000 + byte % 64 * 0x1000,
            b'l' => byte % 32 * 0x1000,
            b'r' => byte % 8,
            b'f' => byte % 12,
            b'p' => SCRATCH.start + byte % SLOTS * SLOT,
            b'b' => self.pointer(),
            b'n' => byte * 16,
            b'g' => *pick(FLAGS, byte as u8),
            b'o' => byte % 64 * 0x800,
            _ => self.argument(space),
        }
    }

    fn argument(&mut self, space: &Space) -> u64 {
        match self.byte().unwrap_or(0) % 16 {
            0..4 => self.number(1) % 12,
            4..6 => *pick(ODD, self.byte().unwrap_or(0)),
            6..8 => *pick(FLAGS, self.byte().unwrap_or(0)),
            8..12 => self.pointer(),
            12 => {
                let which = self.byte().unwrap_or(0);
                *pick(&self.answers, which)
            }
            // Somewhere at or in what is mapped.
            13 => {
                let (number, offset) = (self.number(1), self.number(1));
                let areas = space.areas().count().max(1);
                let area = space.areas().nth(number as usize % areas);
                area.map_or(0, |(at, len, _)| at + offset * 4096 % len.max(1))
            }
            14 => self.number(1) << (self.number(1) % 64),
            _ => self.number(8),
        }
    }

    /// Where arguments are: a few places, and the last bytes that there are.
    fn pointer(&mut self) -> u64 {
        let byte = self.number(1);
        if byte < 0xc0 { SCRATCH.start + byte % SLOTS * SLOT } else { SCRATCH.end - byte % 32 }
    }
}

fn pick<T>(all: &[T], byte: u8) -> &T {
    #[expect(clippy::indexing_slicing, reason = "no list here is empty")]
    &all[usize::from(byte) % all.len()]
}
