//! ELF images of either class: what is loaded where, the entry, and the PVH entry if there is one.
//!
//! Headers are read once and checked (System V ABI, chapters 4 and 5); those of the 32-bit class
//! are widened, so that all else is the same. The PVH entry is in a note (Xen,
//! `docs/misc/pvh.pandoc`). `linux-loader` has the 64-bit structures; its own loader names neither
//! field nor value of what it refuses, and adds offsets unchecked.

use std::{fmt, ops::Range};

use linux_loader::elf::{Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE};

use super::image::Opened;
use crate::{
    error::Result,
    memory::{GuestAddress, GuestMemory},
};

/// The start of every ELF file.
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
/// More program headers than this is no kernel.
const MOST_HEADERS: u16 = 128;
/// Notes are searched up to this size in bytes.
const MOST_NOTES: u64 = 64 << 10;

/// The type of the note that has the PVH entry, and the name of its owner.
const NOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_OWNER: [u8; 4] = *b"Xen\0";

/// The width of an image's headers and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Bits32 = 1,
    Bits64 = 2,
}

/// A checked image, not yet loaded.
#[derive(Debug)]
pub(super) struct Elf {
    /// Which mode its entry is for.
    pub(super) class: Class,
    /// Where it starts, as a physical address.
    pub(super) entry: u64,
    /// Where it starts in 32-bit mode by the PVH protocol.
    pub(super) pvh_entry: Option<u32>,
    /// What is loaded: at least one, none of them empty.
    pub(super) segments: Vec<Elf64_Phdr>,
}

impl Elf {
    /// Reads and checks the headers.
    pub(super) fn parse(image: &mut Opened) -> Result<Self> {
        let class = Class::of(image)?;
        let header = class.read_header(image)?;
        check_header(image, class, &header)?;
        let mut segments = Vec::new();
        let mut pvh_entry = None;
        for n in 0..header.e_phnum {
            let offset = u64::from(n) * u64::from(class.segment_header_size());
            let Some(offset) = header.e_phoff.checked_add(offset) else {
                return Err(image.bad(format!("ELF: e_phoff {:#x} is too large", header.e_phoff)));
            };
            let segment = class.read_segment_header(image, offset)?;
            match segment.p_type {
                PT_LOAD if segment.p_memsz > 0 => {
                    check_segment(image, class, &segment)?;
                    segments.push(segment);
                }
                PT_NOTE if pvh_entry.is_none() => pvh_entry = find_pvh_entry(image, &segment)?,
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(image.bad("ELF: no segment to load"));
        }
        let entry = physical(&segments, header.e_entry);
        let entry = entry.ok_or_else(|| {
            image.bad(format!("ELF: e_entry {:#x} is in no segment", header.e_entry))
        })?;
        Ok(Self { class, entry, pvh_entry, segments })
    }

    /// The first address it takes.
    pub(super) fn start(&self) -> u64 {
        self.segments.iter().map(|segment| segment.p_paddr).min().unwrap_or(0)
    }

    /// The address behind the last byte it takes, uninitialized data included.
    pub(super) fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.p_paddr + segment.p_memsz).max().unwrap_or(0)
    }

    /// The addresses it takes, uninitialized data included, one range a segment.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        self.segments.iter().map(|s| s.p_paddr..s.p_paddr + s.p_memsz).collect()
    }

    /// Copies the segments into guest memory and zeroes what the file does not have of them.
    pub(super) fn load(&self, image: &mut Opened, memory: &GuestMemory) -> Result<()> {
        for segment in &self.segments {
            let (to, what) = (GuestAddress(segment.p_paddr), "an ELF segment (p_offset)");
            image.copy(segment.p_offset, segment.p_filesz, memory, to, what)?;
            let rest = GuestAddress(segment.p_paddr + segment.p_filesz);
            memory
                .zero(rest, segment.p_memsz - segment.p_filesz)
                .map_err(|error| image.bad(format!("ELF: uninitialized data: {error}")))?;
        }
        Ok(())
    }
}

impl Class {
    /// What `e_ident` says.
    fn of(image: &mut Opened) -> Result<Self> {
        let [m0, m1, m2, m3, class, data, ..]: [u8; 16] = image.read(0, "the ELF header")?;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(image.bad(format!("no ELF: e_ident starts with {magic:02x?}")));
        }
        if data != LITTLE_ENDIAN {
            let why = format!("ELF: EI_DATA is {data}, not {LITTLE_ENDIAN} (little-endian)");
            return Err(image.bad(why));
        }
        match class {
            1 => Ok(Self::Bits32),
            2 => Ok(Self::Bits64),
            _ => Err(image.bad(format!("ELF: EI_CLASS is {class}, not 1 (32-bit) or 2 (64-bit)"))),
        }
    }

    /// `e_machine` of what runs here.
    fn machine(self) -> (u16, &'static str) {
        match self {
            Self::Bits32 => (3, "80386"),
            Self::Bits64 => (62, "x86-64"),
        }
    }

    /// `e_phentsize`.
    fn segment_header_size(self) -> u16 {
        match self {
            Self::Bits32 => size_of::<[u32; 8]>() as u16,
            Self::Bits64 => size_of::<Elf64_Phdr>() as u16,
        }
    }

    /// The end of the addresses it can have.
    fn limit(self) -> u64 {
        match self {
            Self::Bits32 => 1 << 32,
            Self::Bits64 => u64::MAX,
        }
    }

    fn read_header(self, image: &mut Opened) -> Result<Elf64_Ehdr> {
        const WHAT: &str = "the ELF header";
        if self == Self::Bits64 {
            return image.read(0, WHAT);
        }
        let halves = |word: u32| (word as u16, (word >> 16) as u16);
        let words: [u32; 13] = image.read(0, WHAT)?;
        let [_, _, _, _, kind, _, entry, phoff, _, _, sizes, counts, _] = words;
        let ((e_type, e_machine), (_, e_phentsize)) = (halves(kind), halves(sizes));
        let ((e_phnum, _), e_entry, e_phoff) = (halves(counts), entry.into(), phoff.into());
        let wide = Elf64_Ehdr { e_type, e_machine, e_entry, e_phoff, ..Default::default() };
        Ok(Elf64_Ehdr { e_phentsize, e_phnum, ..wide })
    }

    fn read_segment_header(self, image: &mut Opened, offset: u64) -> Result<Elf64_Phdr> {
        const WHAT: &str = "an ELF program header (e_phoff)";
        if self == Self::Bits64 {
            return image.read(offset, WHAT);
        }
        let words: [u32; 8] = image.read(offset, WHAT)?;
        let [p_type, offset, vaddr, paddr, filesz, memsz, p_flags, _] = words;
        Ok(Elf64_Phdr {
            p_type,
            p_flags,
            p_offset: offset.into(),
            p_vaddr: vaddr.into(),
            p_paddr: paddr.into(),
            p_filesz: filesz.into(),
            p_memsz: memsz.into(),
            ..Default::default()
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bits32 => "32-bit",
            Self::Bits64 => "64-bit",
        })
    }
}

fn check_header(image: &Opened, class: Class, header: &Elf64_Ehdr) -> Result<()> {
    let Elf64_Ehdr { e_type, e_machine, e_phentsize, e_phnum, .. } = *header;
    let ((machine, name), size) = (class.machine(), class.segment_header_size());
    let wrong = if e_type != TYPE_EXECUTABLE {
        format!("e_type is {e_type}, not {TYPE_EXECUTABLE} (executable)")
    } else if e_machine != machine {
        format!("e_machine is {e_machine}, not {machine} ({name})")
    } else if e_phentsize != size {
        format!("e_phentsize is {e_phentsize}, not {size}")
    } else if e_phnum > MOST_HEADERS {
        format!("e_phnum is {e_phnum}, more than {MOST_HEADERS}")
    } else {
        return Ok(());
    };
    Err(image.bad(format!("ELF: {wrong}")))
}

fn check_segment(image: &Opened, class: Class, segment: &Elf64_Phdr) -> Result<()> {
    let Elf64_Phdr { p_paddr, p_filesz, p_memsz, .. } = *segment;
    if p_filesz > p_memsz {
        let why = format!("ELF: p_filesz {p_filesz:#x} is more than p_memsz {p_memsz:#x}");
        return Err(image.bad(why));
    }
    let limit = class.limit();
    if p_paddr.checked_add(p_memsz).is_none_or(|end| end > limit) {
        let why = format!("ELF: p_memsz {p_memsz:#x} at p_paddr {p_paddr:#x} passes {limit:#x}");
        return Err(image.bad(why));
    }
    Ok(())
}

/// The physical address of the entry: kernels give it as such, other programs as a virtual one.
fn physical(segments: &[Elf64_Phdr], entry: u64) -> Option<u64> {
    let within = |start: u64, segment: &Elf64_Phdr| {
        entry.checked_sub(start).filter(|offset| *offset < segment.p_memsz)
    };
    let by_paddr = segments.iter().find(|segment| within(segment.p_paddr, segment).is_some());
    if by_paddr.is_some() {
        return Some(entry);
    }
    segments.iter().find_map(|s| within(s.p_vaddr, s).map(|offset| s.p_paddr + offset))
}

fn find_pvh_entry(image: &mut Opened, segment: &Elf64_Phdr) -> Result<Option<u32>> {
    const HEADER: u64 = size_of::<Elf64_Nhdr>() as u64;
    let aligned = |size: u32| u64::from(size).next_multiple_of(4);

    let size = segment.p_filesz.min(MOST_NOTES);
    let mut notes = vec![0; size as usize];
    image.fill(segment.p_offset, &mut notes, "ELF notes (p_offset)")?;
    let word = |at: u64| {
        let bytes = usize::try_from(at).ok().and_then(|at| notes.get(at..)?.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes))
    };
    let mut at = 0;
    let header = |at| Some((word(at)?, word(at + 4)?, word(at + 8)?));
    while let Some((name_size, data_size, kind)) = header(at) {
        let name = at + HEADER;
        let data = name + aligned(name_size);
        let is_owner = name_size as usize == NOTE_OWNER.len()
            && word(name) == Some(u32::from_le_bytes(NOTE_OWNER));
        if kind == NOTE_PHYS32_ENTRY && is_owner && data_size >= 4 {
            return Ok(word(data));
        }
        at = data + aligned(data_size);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{boot::Image, memory::ByteValued};

    /// An ELF with one segment and one note, as a PVH kernel has them.
    fn kernel() -> Vec<u8> {
        let mut e_ident = [0; 16];
        e_ident[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, LITTLE_ENDIAN]);
        let header = Elf64_Ehdr {
            e_ident,
            e_type: TYPE_EXECUTABLE,
            e_machine: Class::Bits64.machine().0,
            e_entry: 0xffff_8000_0010,
            e_phoff: 64,
            e_phentsize: 56,
            e_phnum: 2,
            ..Default::default()
        };
        let segment = Elf64_Phdr {
            p_type: PT_LOAD,
            p_offset: 0x100,
            p_vaddr: 0xffff_8000_0000,
            p_paddr: 0x10_0000,
            p_filesz: 0x20,
            p_memsz: 0x1000,
            ..Default::default()
        };
        let note =
            Elf64_Phdr { p_type: PT_NOTE, p_offset: 0x120, p_filesz: 20, ..Default::default() };
        let mut image = [header.as_slice(), segment.as_slice(), note.as_slice()].concat();
        image.resize(0x100, 0);
        image.extend([0xab; 0x20]);
        for word in [4, 4, NOTE_PHYS32_ENTRY, u32::from_le_bytes(NOTE_OWNER), 0x10_0020] {
            image.extend(word.to_le_bytes());
        }
        image
    }

    /// The same of the 32-bit class, without a note.
    fn kernel32() -> Vec<u8> {
        let ident = u32::from_le_bytes([1, LITTLE_ENDIAN, 1, 0]);
        let kind = u32::from(Class::Bits32.machine().0) << 16 | u32::from(TYPE_EXECUTABLE);
        let magic = u32::from_le_bytes(MAGIC);
        let header = [magic, ident, 0, 0, kind, 1, 0xc000_0010, 52, 0, 0, 32 << 16 | 52, 1, 0];
        let segment = [PT_LOAD, 0x100, 0xc000_0000, 0x10_0000, 0x20, 0x1000, 7, 0x1000];
        let mut image = [ByteValued::as_slice(&header), ByteValued::as_slice(&segment)].concat();
        image.resize(0x100, 0);
        image.extend([0xab; 0x20]);
        image
    }

    fn parse(image: Vec<u8>) -> Result<(Elf, GuestMemory)> {
        let mut image = Image::bytes(image).open()?;
        let elf = Elf::parse(&mut image)?;
        let memory = GuestMemory::anonymous(2 << 20)?;
        // What was there before shows what is zeroed.
        memory.write(GuestAddress(0x10_0000), &[1; 0x1001])?;
        elf.load(&mut image, &memory)?;
        Ok((elf, memory))
    }

    #[test]
    fn a_kernel_is_loaded_zeroed_and_its_entries_are_found() {
        let (elf, memory) = parse(kernel()).unwrap();
        assert_eq!((elf.entry, elf.pvh_entry), (0x10_0010, Some(0x10_0020)));
        assert_eq!((elf.start(), elf.end()), (0x10_0000, 0x10_1000));
        let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!([byte(0x10_001f), byte(0x10_0020), byte(0x10_0fff)], [0xab, 0, 0]);
        assert_eq!(byte(0x10_1000), 1);
    }

    #[test]
    fn a_32_bit_image_is_loaded_by_the_same_rules() {
        let (elf, memory) = parse(kernel32()).unwrap();
        assert_eq!((elf.class, elf.entry, elf.pvh_entry), (Class::Bits32, 0x10_0010, None));
        assert_eq!((elf.start(), elf.end()), (0x10_0000, 0x10_1000));
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x10_001f)).unwrap(), 0xab);
    }

    fn refusal(mut image: Vec<u8>, at: usize, bytes: &[u8]) -> String {
        image[at..at + bytes.len()].copy_from_slice(bytes);
        parse(image).map(|_| ()).expect_err("it is refused").to_string()
    }

    #[test]
    fn each_refusal_names_the_field_and_the_value() {
        let with = |at, bytes: &[u8]| refusal(kernel(), at, bytes);
        let with32 = |at, bytes: &[u8]| refusal(kernel32(), at, bytes);
        let max = [0xff; 8];
        for (refusal, says) in [
            (with(0, &[1]), "e_ident starts with [01, 45, 4c, 46]"),
            (with(4, &[3]), "EI_CLASS is 3"),
            (with(5, &[2]), "EI_DATA is 2"),
            (with(16, &[3]), "e_type is 3"),
            (with(18, &[40]), "e_machine is 40"),
            (with(54, &[55]), "e_phentsize is 55"),
            (with(56, &[0xff, 0xff]), "e_phnum is 65535"),
            (with(32, &max), "(e_phoff) is 0x38 bytes at offset 0xffffffffffffffff"),
            (with(24, &[0; 8]), "e_entry 0x0 is in no segment"),
            (with(64 + 32, &max), "p_filesz 0xffffffffffffffff is more than p_memsz 0x1000"),
            (with(64 + 40, &max), "p_memsz 0xffffffffffffffff at p_paddr 0x100000"),
            (with(64 + 24, &[0, 0, 0, 0, 1]), "0x100000000"),
            (with(64 + 8, &max), "(p_offset) is 0x20 bytes at offset 0xffffffffffffffff"),
            (with(56, &[0]), "no segment"),
            (with32(18, &[62]), "e_machine is 62, not 3 (80386)"),
            (with32(42, &[56]), "e_phentsize is 56, not 32"),
            (with32(28, &max[4..]), "(e_phoff) is 0x20 bytes at offset 0xffffffff"),
            (with32(52 + 12, &max[4..]), "at p_paddr 0xffffffff passes 0x100000000"),
            (with32(24, &[0; 4]), "e_entry 0x0 is in no segment"),
        ] {
            assert!(refusal.contains(says), "'{refusal}' does not say '{says}'");
        }
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            changes in prop::collection::vec((0usize..0x134, any::<u8>()), 1..6),
            len in 0usize..0x134,
        ) {
            for mut image in [kernel(), kernel32()] {
                for (at, to) in &changes {
                    if let Some(byte) = image.get_mut(*at) {
                        *byte = *to;
                    }
                }
                let _ = parse(image.clone());
                image.truncate(len);
                let _ = parse(image);
            }
        }
    }
}
