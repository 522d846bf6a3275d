//! A static Linux program as a file: what of it goes where.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use object::{
    LittleEndian, Object, ObjectSymbol,
    elf::{EM_X86_64, ET_DYN, ET_EXEC, NoteType, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR},
    read::elf::{ElfFile64, FileHeader, ProgramHeader},
};
use vmm_core::{Error, Result};

use crate::{
    call::ABI,
    space::{PAGE, Protection, USER},
};

/// Where a position-independent program goes; where Linux puts it without randomization.
const PIE_BASE: u64 = 0x5555_5555_4000;

/// The type of the note that has the version of `vmm_guest.h`.
const ABI_NOTE: NoteType = NoteType(1);

type File<'a> = ElfFile64<'a, LittleEndian>;

/// A program, checked; copies share the file.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    image: Arc<Cow<'static, [u8]>>,
    /// What is added to the file's addresses.
    pub(super) base: u64,
    pub(crate) entry: u64,
    pub(super) segments: Vec<Segment>,
    pub(super) headers: Headers,
    /// Addresses that were looked up.
    symbols: BTreeMap<String, u64>,
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
    pub(super) file: Range<usize>,
    pub(super) protection: Protection,
    /// Where the segment itself ends; the rest of the last page is zeros too.
    pub(super) end: u64,
}

impl Program {
    /// Takes a program apart.
    ///
    /// # Errors
    /// `BadImage` with the reason if it is not a static x86-64 program.
    pub(crate) fn parse(image: Cow<'static, [u8]>) -> Result<Self> {
        let bad = |why: String| Error::bad_image(format!("program: {why}"));
        let file = File::parse(&*image);
        let file = file.map_err(|error| bad(format!("not a 64-bit ELF file ({error})")))?;
        let (header, headers) = (file.elf_header(), file.elf_program_headers());
        let machine = header.e_machine(LittleEndian);
        if machine != EM_X86_64 {
            return Err(bad(format!("e_machine is {machine:?}, not x86-64")));
        }
        check_abi(headers, &image).map_err(bad)?;
        let base = match header.e_type(LittleEndian) {
            ET_EXEC => 0,
            ET_DYN => PIE_BASE,
            kind => return Err(bad(format!("e_type {kind:?} is not a program"))),
        };
        let types = |kind| {
            move |h: &&object::elf::ProgramHeader64<LittleEndian>| h.p_type(LittleEndian) == kind
        };
        if headers.iter().any(|header| types(PT_INTERP)(&header)) {
            let advice = "dynamically linked; link it with -static or -static-pie \
                          (Rust: -C target-feature=+crt-static)";
            return Err(bad(advice.into()));
        }
        let loads = headers.iter().filter(types(PT_LOAD));
        let segments: Vec<_> = loads
            .filter(|header| header.p_memsz(LittleEndian) > 0)
            .map(|header| segment(header, base, image.len()).map_err(bad))
            .collect::<Result<_>>()?;
        let entry = header.e_entry(LittleEndian).wrapping_add(base);
        if !segments.iter().any(|s| s.protection.execute && s.pages.contains(&entry)) {
            return Err(bad(format!("e_entry {entry:#x} is in no segment that can be executed")));
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
        drop(file);
        let image = Arc::new(image);
        Ok(Self { image, base, entry, segments, headers, symbols: BTreeMap::new() })
    }

    /// The bytes of the file that a segment has.
    pub(super) fn content(&self, segment: &Segment) -> &[u8] {
        self.image.get(segment.file.clone()).unwrap_or(&[])
    }

    /// The address of a global function or variable.
    pub(crate) fn symbol(&mut self, name: &str) -> Option<u64> {
        if let Some(known) = self.symbols.get(name) {
            return Some(*known);
        }
        let file = File::parse(&**self.image).ok()?;
        let mut symbols = file.symbols().chain(file.dynamic_symbols());
        let found = symbols.find(|symbol| {
            symbol.is_definition() && symbol.is_global() && symbol.name() == Ok(name)
        })?;
        let address = found.address().wrapping_add(self.base);
        self.symbols.insert(name.to_owned(), address);
        Some(address)
    }
}

impl Segment {
    /// Where a place of the file is in memory, if the segment has it.
    fn address_of(&self, in_file: u64) -> Option<u64> {
        let in_file = usize::try_from(in_file).ok()?;
        let inside = self.file.contains(&in_file);
        inside.then(|| self.pages.start + (in_file - self.file.start) as u64)
    }
}

/// Looks for the note of `vmm_guest.h`.
fn check_abi(
    headers: &[object::elf::ProgramHeader64<LittleEndian>],
    image: &[u8],
) -> Result<(), String> {
    for header in headers {
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
    header: &object::elf::ProgramHeader64<LittleEndian>,
    base: u64,
    image_len: usize,
) -> Result<Segment, String> {
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
    let file_end = offset.checked_add(in_file).and_then(|end| usize::try_from(end).ok());
    let Some(file_end) = file_end.filter(|end| *end <= image_len) else {
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
        file: (offset - offset % PAGE) as usize..file_end,
        protection,
        end,
    })
}
