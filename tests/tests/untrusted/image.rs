//! Images of any kind, and what must hold of any: loaded as their headers say, or refused by an
//! error that names the image; never a panic.
//!
//! The targets in fuzz/ check the same: there, a fuzzer makes the input.
#![expect(clippy::expect_used, clippy::panic, reason = "a test")]

use vmm_core::{
    Error, ErrorKind,
    boot::{BoardInfo, Elf64, Entry, Image, Linux, Loader, Multiboot, Protocol, Way, inspect},
    memory::{GuestAddress, GuestMemory},
};

const PAGE: u64 = 0x1000;
/// Below this lie the tables of some loaders.
const MIB: u64 = 1 << 20;
const PT_LOAD: u32 = 1;

/// A parser of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parser {
    Elf64,
    Inspect,
    Linux,
    Multiboot,
    Pvh,
}

/// Checks what a parser does with the image that `input` describes; gives whether it took it.
pub(crate) fn check(parser: Parser, input: &[u8]) -> bool {
    let case = Case::new(&mut Input(input));
    if parser == Parser::Inspect {
        let found = inspect(case.image()).expect("bytes can be read");
        assert!(found.evidence.iter().all(|evidence| !evidence.why.is_empty()));
        return found.best().is_some();
    }
    let memory = GuestMemory::anonymous(case.ram).expect("the host has a few MiB");
    let loaded = case.load(parser, &memory);
    match &loaded {
        Ok(entry) => case.check_loaded(parser, &memory, entry),
        Err(error) => case.check_refused(error),
    }
    loaded.is_ok()
}

/// The start of a fuzzer's input, taken piece by piece; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn number(&mut self, bytes: usize) -> u64 {
        let (start, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        start.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// An image, and the machine it is loaded into.
struct Case {
    image: Vec<u8>,
    ram: u64,
    cmdline: String,
    /// Given to a kernel as its initrd or module.
    extra: Option<Vec<u8>>,
}

impl Case {
    /// A right image with some fields changed, or bytes as they are.
    fn new(input: &mut Input<'_>) -> Self {
        let kind = input.number(1);
        let ram = (1 + input.number(2) % 640) * PAGE;
        let cmdline = "x".repeat(input.number(2) as usize);
        let extra = match input.number(2) {
            0 => None,
            // Beyond any RAM of these cases.
            0xff00.. => Some(vec![0xa5; 3 << 20]),
            size => Some(vec![0xa5; size as usize]),
        };
        let mut image = match kind % 8 {
            0 | 1 => bzimage(),
            2 | 3 => elf64(),
            4 | 5 => elf32(),
            6 => multiboot(),
            _ => return Self { image: input.0.to_vec(), ram, cmdline, extra },
        };
        for _ in 0..input.number(1) % 8 {
            let (at, how) = (input.number(2) as usize % 0x400, input.number(1));
            // Of every magnitude, and near the ends of what fits.
            let value = input.number(8) >> (how % 8 * 8) ^ [0, u64::MAX][how as usize >> 7];
            let bytes = value.to_le_bytes();
            let width = 1 << (how >> 3 & 3);
            let end = image.len().min(at + width);
            image[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let len = image.len();
        match input.number(2) as usize {
            0 => {}
            cut => image.truncate(cut % len),
        }
        Self { image, ram, cmdline, extra }
    }

    fn image(&self) -> Image {
        Image::bytes(self.image.clone())
    }

    fn load(&self, parser: Parser, memory: &GuestMemory) -> Result<Entry, Error> {
        let (image, board, cmdline) = (self.image(), BoardInfo::new(2), self.cmdline.clone());
        let extra = self.extra.clone().map(Image::bytes);
        let linux = |protocol| {
            let linux = Linux::kernel(image.clone()).cmdline(&cmdline).protocol(protocol);
            extra.iter().cloned().fold(linux, Linux::initrd).load(memory, &board)
        };
        match parser {
            Parser::Linux => linux(Protocol::Linux64),
            Parser::Pvh => linux(Protocol::Pvh),
            Parser::Multiboot => {
                let kernel = Multiboot::kernel(image.clone()).cmdline(&cmdline);
                let kernel = extra.iter().cloned().fold(kernel, |kernel, m| kernel.module(m, "m"));
                kernel.load(memory, &board)
            }
            Parser::Elf64 | Parser::Inspect => {
                Elf64::program(image.clone()).cmdline(&cmdline).load(memory, &board)
            }
        }
    }

    fn check_refused(&self, error: &Error) {
        let (kind, text) = (error.kind(), error.to_string());
        match kind {
            // What the caller chose: the command line.
            ErrorKind::BadConfig => assert!(text.contains("command line"), "{text}"),
            // RAM that ends below what every guest finds there.
            ErrorKind::GuestMemory => assert!(self.ram <= MIB, "{} bytes: {text}", self.ram),
            ErrorKind::BadImage => {
                let named = |size: usize| text.contains(&format!("image of {size} bytes"));
                let extra = self.extra.as_ref().is_some_and(|extra| named(extra.len()));
                assert!(named(self.image.len()) || extra, "which image? {text}");
            }
            _ => panic!("{kind:?}: {text}"),
        }
    }

    fn check_loaded(&self, parser: Parser, memory: &GuestMemory, entry: &Entry) {
        let rip = entry.regs.rip;
        assert!(memory.has(GuestAddress(rip), 1), "the entry {rip:#x} is no RAM");
        let way = match parser {
            Parser::Elf64 | Parser::Inspect => Some(Way::Elf64),
            Parser::Linux => self.is_bzimage().then_some(Way::Linux),
            Parser::Multiboot => Some(Way::Multiboot),
            Parser::Pvh => Some(Way::Pvh),
        };
        let found = inspect(self.image()).expect("bytes can be read");
        let knows = |way| found.evidence.iter().any(|found| found.way == way && found.is_there);
        assert!(way.is_none_or(knows), "it loads by {way:?}, which inspect does not know");

        let initrd = self.initrd(parser, memory, entry);
        for (at, bytes, size) in self.segments(rip) {
            let mut found = vec![1; size];
            memory.read(GuestAddress(at), &mut found).expect("a segment is in RAM");
            let mut expected = bytes.to_vec();
            expected.resize(size, 0);
            assert!(found == expected, "what is at {at:#x} is not the image's");
            let end = at + size as u64;
            assert!(initrd.is_none_or(|(start, len)| start >= end || at >= start + len));
        }
    }

    /// Where the kernel is told that its initrd is, which is compared.
    fn initrd(&self, parser: Parser, memory: &GuestMemory, entry: &Entry) -> Option<(u64, u64)> {
        let extra = self.extra.as_ref().filter(|_| parser == Parser::Linux)?;
        let field = |at| memory.read_obj::<u32>(GuestAddress(entry.regs.rsi + at)).map(u64::from);
        let (at, size) = (field(0x218).expect("RAM"), field(0x21c).expect("RAM"));
        assert_eq!(size, extra.len() as u64);
        let mut found = vec![0; extra.len()];
        memory.read(GuestAddress(at), &mut found).expect("the initrd is in RAM");
        assert!(found == *extra, "what is at {at:#x} is not the initrd");
        Some((at, size))
    }

    fn is_bzimage(&self) -> bool {
        !self.image.starts_with(b"\x7fELF")
    }

    /// The places of what an image that is loaded has: address, bytes of the file, size. None if
    /// they overlap, and which comes last is the loader's choice.
    fn segments(&self, rip: u64) -> Vec<(u64, &[u8], usize)> {
        let image = &self.image;
        let number = |at: usize, size| Input(&image[at..]).number(size);
        let mut all: Vec<(u64, &[u8], usize)> = match image.get(..5) {
            Some(b"\x7fELF\x02") => (0..number(56, 2) as usize)
                .map(|n| number(32, 8) as usize + n * 56)
                .filter(|at| number(*at, 4) as u32 == PT_LOAD)
                .map(|at| {
                    let (offset, size) = (number(at + 8, 8) as usize, number(at + 32, 8) as usize);
                    let bytes = image.get(offset..offset + size).unwrap_or(&[]);
                    (number(at + 24, 8), bytes, number(at + 40, 8) as usize)
                })
                .filter(|(_, _, size)| *size > 0)
                .collect(),
            Some(b"\x7fELF\x01") => Vec::new(),
            _ if number(0x202.min(image.len()), 4) == u64::from(u32::from_le_bytes(*b"HdrS")) => {
                let setup = match image[0x1f1] {
                    0 => 5 * 512,
                    sectors => (usize::from(sectors) + 1) * 512,
                };
                let bytes = image.get(setup..).unwrap_or(&[]);
                vec![(rip - 0x200, bytes, bytes.len())]
            }
            _ => Vec::new(),
        };
        all.sort_by_key(|(at, ..)| *at);
        let overlap = all.windows(2).any(|two| two[0].0 + two[0].2 as u64 > two[1].0);
        if overlap { Vec::new() } else { all }
    }
}

/// Numbers of these sizes, one behind the other.
fn pack(image: &mut [u8], mut at: usize, fields: &[(usize, u64)]) {
    for (size, value) in fields {
        image[at..at + size].copy_from_slice(&value.to_le_bytes()[..*size]);
        at += size;
    }
}

/// A bzImage for Documentation/arch/x86/boot.rst.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image.extend([0x90; 0x1000]);
    image[0x1f1] = 1;
    let magic = u32::from_le_bytes(*b"HdrS").into();
    pack(&mut image, 0x202, &[(4, magic), (2, 0x20f)]);
    pack(&mut image, 0x211, &[(1, 1), (2, 0), (4, MIB)]);
    // initrd_addr_max, kernel_alignment, relocatable_kernel, min_alignment, xloadflags,
    // cmdline_size.
    let fields = [(4, 0x7fff_ffff), (4, 0x1000), (1, 1), (1, 12), (2, 1), (4, 2047)];
    pack(&mut image, 0x22c, &fields);
    // pref_address, init_size.
    pack(&mut image, 0x258, &[(8, 2 * MIB), (4, 0x8000)]);
    image
}

/// A kernel in 64-bit ELF with two segments and a PVH entry.
fn elf64() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let start = MIB + 0x100;
    let header =
        [(2, 2), (2, 62), (4, 1), (8, start), (8, 64), (8, 0), (4, 0), (2, 64), (2, 56), (2, 3)];
    pack(&mut image, 16, &header);
    let segment = |kind, offset, at, filesz, memsz| {
        [(4, kind), (4, 7), (8, offset), (8, at), (8, at), (8, filesz), (8, memsz), (8, PAGE)]
    };
    pack(&mut image, 64, &segment(1, 0x100, MIB + 0x100, 0x200, 0x2000));
    pack(&mut image, 120, &segment(1, 0x300, MIB + 0x4000, 0x100, 0x100));
    pack(&mut image, 176, &segment(4, 0x380, 0, 20, 20));
    image[0x100..0x380].fill(0x90);
    let owner = u32::from_le_bytes(*b"Xen\0").into();
    pack(&mut image, 0x380, &[(4, 4), (4, 4), (4, 18), (4, owner), (4, start)]);
    image
}

/// A Multiboot kernel in 32-bit ELF, with a PVH entry too.
fn elf32() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[..8].copy_from_slice(b"\x7fELF\x01\x01\x01\0");
    let start = MIB + 0x100;
    let header = [(2, 2), (2, 3), (4, 1), (4, start), (4, 52), (4, 0), (4, 0), (2, 52), (2, 32)];
    pack(&mut image, 16, &header);
    image[44] = 2;
    let segment = |kind, offset, at, filesz, memsz| {
        [(4, kind), (4, offset), (4, at), (4, at), (4, filesz), (4, memsz), (4, 7), (4, PAGE)]
    };
    pack(&mut image, 52, &segment(1, 0x100, start, 0x200, 0x2000));
    pack(&mut image, 84, &segment(4, 0x380, 0, 20, 20));
    image[0x100..0x300].fill(0x90);
    let owner = u32::from_le_bytes(*b"Xen\0").into();
    pack(&mut image, 0x380, &[(4, 4), (4, 4), (4, 18), (4, owner), (4, start)]);
    pack(&mut image, 0x120, &multiboot_header(0));
    image
}

/// A Multiboot kernel of no format, by its address fields.
fn multiboot() -> Vec<u8> {
    let mut image = vec![0x90; 0x400];
    pack(&mut image, 0x20, &multiboot_header(1 << 16));
    // header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
    let fields = [(4, MIB + 0x20), (4, MIB), (4, MIB + 0x400), (4, MIB + 0x2000), (4, MIB + 0x40)];
    pack(&mut image, 0x2c, &fields);
    image
}

fn multiboot_header(flags: u32) -> [(usize, u64); 3] {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = MAGIC.wrapping_add(flags).wrapping_neg();
    [(4, MAGIC.into()), (4, flags.into()), (4, checksum.into())]
}
