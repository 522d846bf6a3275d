//! A static Linux program as a file: what of it goes where.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use object::{
    LittleEndian,
    elf::{
        EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NoteType, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD,
        PT_PHDR, ProgramHeader64,
    },
    read::{
        ReadCache, ReadRef,
        elf::{FileHeader, ProgramHeader},
    },
};
use vmm_core::{Error, Result};

use super::{source::Source, symbol::Symbols};
use crate::{
    call::ABI,
    space::{PAGE, Protection, USER},
};

/// Where a position-independent program goes; where Linux puts it without randomization.
const PIE_BASE: u64 = 0x5555_5555_4000;

/// The type of the note that has the version of `vmm_guest.h`.
const ABI_NOTE: NoteType = NoteType(1);

/// The most program headers: as many as Linux takes (`load_elf_phdrs` in `fs/binfmt_elf.c`).
const MOST_HEADERS: usize = 0x1_0000 / size_of::<ProgramHeader64<LittleEndian>>();

/// Longer notes are not looked at. Those that linkers make are shorter.
const MOST_NOTES: u64 = 0x1_0000;

/// A program, checked; copies share what they can. Once it is loaded, its file is not needed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) entry: u64,
    pub(super) segments: Arc<[Segment]>,
    pub(super) headers: Headers,
    symbols: Arc<Symbols>,
    /// Addresses that were looked up.
    known: BTreeMap<String, u64>,
}

/// Where the program headers are in memory, for the program itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) count: u64,
}

/// Pages of memory, and what of the file goes to their start.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) pages: Range<u64>,
    pub(super) file: Range<u64>,
    pub(super) protection: Protection,
    /// Where the segment itself ends; the rest of the last page is zeros too.
    pub(super) end: u64,
}

impl Program {
    /// Takes a program apart.
    ///
    /// # Errors
    /// `BadImage` with the reason if it is not a static x86-64 program.
    pub(crate) fn parse(source: &Source) -> Result<Self> {
        let parsed = match source {
            Source::Bytes(image) => Self::of(&**image, source),
            Source::File(file, _) => Self::of(&ReadCache::new(file), source),
        };
        parsed.map_err(|why| Error::bad_image(format!("program: {why}")))
    }

    fn of<'a, R: ReadRef<'a>>(image: R, source: &Source) -> std::result::Result<Self, String> {
        let no_elf = |error| format!("not a 64-bit ELF file ({error})");
        let header = FileHeader64::<LittleEndian>::parse(image).map_err(no_elf)?;
        header.endian().map_err(no_elf)?;
        let headers = header.program_headers(LittleEndian, image).map_err(no_elf)?;
        if headers.len() > MOST_HEADERS {
            return Err(format!("{} program headers, at most {MOST_HEADERS}", headers.len()));
        }
        let machine = header.e_machine(LittleEndian);
        if machine != EM_X86_64 {
            return Err(format!("e_machine is {machine:?}, not x86-64"));
        }
        check_abi(headers, image)?;
        let base = match header.e_type(LittleEndian) {
            ET_EXEC => 0,
            ET_DYN => PIE_BASE,
            kind => return Err(format!("e_type {kind:?} is not a program")),
        };
        let types = |kind| move |h: &&ProgramHeader64<LittleEndian>| h.p_type(LittleEndian) == kind;
        if headers.iter().any(|header| types(PT_INTERP)(&header)) {
            let advice = "dynamically linked; link it with -static or -static-pie \
                          (Rust: -C target-feature=+crt-static)";
            return Err(advice.into());
        }
        let image_len = image.len().map_err(|()| "its length is not known")?;
        let loads = headers.iter().filter(types(PT_LOAD));
        let segments: Arc<[_]> = loads
            .filter(|header| header.p_memsz(LittleEndian) > 0)
            .map(|header| segment(header, base, image_len))
            .collect::<std::result::Result<_, _>>()?;
        let entry = header.e_entry(LittleEndian).wrapping_add(base);
        if !segments.iter().any(|s| s.protection.execute && s.pages.contains(&entry)) {
            return Err(format!("e_entry {entry:#x} is in no segment that can be executed"));
        }
        let in_file = header.e_phoff(LittleEndian);
        let own =
            headers.iter().find(types(PT_PHDR)).map(|h| h.p_vaddr(LittleEndian).wrapping_add(base));
        let loaded = segments.iter().find_map(|segment| segment.address_of(in_file));
        let headers = Headers {
            at: own.or(loaded).unwrap_or(0),
            size: u64::from(header.e_phentsize(LittleEndian)),
            count: headers.len() as u64,
        };
        let symbols = Symbols::read(header, image, source, base);
        let symbols = Arc::new(symbols.map_err(|error| format!("its symbols: {error}"))?);
        Ok(Self { entry, segments, headers, symbols, known: BTreeMap::new() })
    }

    /// A program that was loaded long ago: of the file it came from, only these symbols are left.
    pub(crate) fn of_symbols(symbols: BTreeMap<String, u64>) -> Self {
        let headers = Headers { at: 0, size: 0, count: 0 };
        let symbols = Arc::new(Symbols::listed(symbols));
        Self { entry: 0, segments: Arc::default(), headers, symbols, known: BTreeMap::new() }
    }

    /// The addresses of all global functions and variables.
    pub(crate) fn symbols(&self) -> &BTreeMap<String, u64> {
        self.symbols.all()
    }

    /// The address of a global function or variable.
    pub(crate) fn symbol(&mut self, name: &str) -> Option<u64> {
        if let Some(known) = self.known.get(name) {
            return Some(*known);
        }
        let address = *self.symbols.all().get(name)?;
        self.known.insert(name.to_owned(), address);
        Some(address)
    }
}

impl Segment {
    /// Where a place of the file is in memory, if the segment has it.
    fn address_of(&self, in_file: u64) -> Option<u64> {
        let inside = self.file.contains(&in_file);
        inside.then(|| self.pages.start + (in_file - self.file.start))
    }
}

/// Looks for the note of `vmm_guest.h`.
fn check_abi<'a, R: ReadRef<'a>>(
    headers: &[ProgramHeader64<LittleEndian>],
    image: R,
) -> std::result::Result<(), String> {
    let short = |header: &&ProgramHeader64<_>| header.p_filesz(LittleEndian) <= MOST_NOTES;
    for header in headers.iter().filter(short) {
        let notes = header.notes(LittleEndian, image);
        let Some(mut notes) = notes.map_err(|error| format!("its notes: {error}"))? else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            let ours = note.name() == b"vmm" && note.n_type(LittleEndian) == ABI_NOTE;
            let version = note.desc().first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            if ours && version != Some(ABI) {
                let version = version.unwrap_or(0);
                return Err(format!("made for version {version} of vmm_guest.h, not {ABI}"));
            }
        }
    }
    Ok(())
}

/// Checks one PT_LOAD. As Linux does, whole pages come from the file: what precedes the segment in
/// its first page too.
fn segment(
    header: &ProgramHeader64<LittleEndian>,
    base: u64,
    image_len: u64,
) -> std::result::Result<Segment, String> {
    let (vaddr, offset) = (header.p_vaddr(LittleEndian), header.p_offset(LittleEndian));
    let (in_file, in_memory) = (header.p_filesz(LittleEndian), header.p_memsz(LittleEndian));
    let what = format!("segment at {vaddr:#x}");
    if vaddr % PAGE != offset % PAGE {
        return Err(format!("{what}: p_offset {offset:#x} is at another place in its page"));
    }
    if in_file > in_memory {
        return Err(format!("{what}: p_filesz {in_file:#x} is more than p_memsz {in_memory:#x}"));
    }
    let start = vaddr.checked_add(base);
    let end = start.and_then(|start| start.checked_add(in_memory));
    let (Some(start), Some(end)) = (start, end.filter(|end| *end <= USER.end - PAGE)) else {
        return Err(format!("{what}: {in_memory:#x} bytes leave the address space"));
    };
    if start < USER.start {
        return Err(format!("{what}: programs start at {:#x} or above", USER.start));
    }
    let file_end = offset.checked_add(in_file).filter(|end| *end <= image_len);
    let Some(file_end) = file_end else {
        return Err(format!(
            "{what}: {in_file:#x} bytes from {offset:#x} pass the end of the file"
        ));
    };
    let flags = header.p_flags(LittleEndian);
    let has = |flag| flags & flag == flag;
    let protection = Protection { read: has(PF_R), write: has(PF_W), execute: has(PF_X) };
    if protection.write && protection.execute {
        return Err(format!("{what}: may be both written and executed"));
    }
    Ok(Segment {
        pages: start - start % PAGE..end.next_multiple_of(PAGE),
        file: offset - offset % PAGE..file_end,
        protection,
        end,
    })
}
