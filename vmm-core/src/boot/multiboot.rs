//! Multiboot 1 (Multiboot specification 0.6.96): 32-bit protected mode, EBX points to what the
//! boot loader says.
//!
//! The header may be anywhere in the first 8192 bytes. It says where the image goes, or leaves
//! that to its ELF headers. What the kernel is told lies in low memory, where the image leaves
//! room; modules follow the kernel.

use std::ops::Range;

use super::{
    BoardInfo, Entry, Loader, acpi, c_string,
    elf::Elf,
    image::{Image, Opened},
    map, mode,
};
use crate::{
    arch::{Regs, rflags},
    error::{Context, Result},
    memory::{ByteValued, GuestAddress, GuestMemory},
};

/// The header lies in this many bytes at the image's start (3.1).
const SEARCHED: u64 = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX has at the entry (3.2).
const ENTRY_MAGIC: u32 = 0x2bad_b002;
const NAME: &str = "vmm";

/// `flags` of the header: a loader must do what bits 0 to 15 ask for, or refuse.
mod wants {
    pub(super) const ALIGNED_MODULES: u32 = 1;
    pub(super) const MEMORY_INFO: u32 = 1 << 1;
    pub(super) const REQUIRED: u32 = 0xffff;
    pub(super) const ADDRESS_FIELDS: u32 = 1 << 16;
}

/// `flags` of the information: what there is (3.3).
mod has {
    pub(super) const MEMORY: u32 = 1;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    pub(super) const MEMORY_MAP: u32 = 1 << 6;
    pub(super) const LOADER_NAME: u32 = 1 << 9;
}

/// The information's size with all fields up to those of the framebuffer; what `flags` does not
/// announce is zero.
const INFO_SIZE: usize = 116;
const MODULE_SIZE: usize = size_of::<[u32; 4]>();
const RANGE_SIZE: usize = size_of::<[u32; 6]>();

/// A Multiboot 1 kernel to boot.
///
/// It is told the size of memory and a memory map, its command line, its modules, and the name of
/// the boot loader. Not done: video modes (an image that requires one is refused), symbols of the
/// kernel, drives, APM. The ACPI tables can be found in the BIOS area; there is no BIOS to call.
///
/// ```no_run
/// # use vmm_core::boot::Multiboot;
/// let kernel = Multiboot::kernel("kernel.elf").cmdline("console=com0").module("disk.img", "disk");
/// ```
#[derive(Clone, Debug)]
pub struct Multiboot {
    kernel: Image,
    cmdline: String,
    modules: Vec<(Image, String)>,
}

impl Multiboot {
    /// A kernel: an ELF of either class, or of any format if its header has address fields.
    pub fn kernel(kernel: impl Into<Image>) -> Self {
        Self { kernel: kernel.into(), cmdline: String::new(), modules: Vec::new() }
    }

    /// The command line, passed as it is; some boot loaders put the image's name first.
    #[must_use]
    pub fn cmdline(self, cmdline: impl Into<String>) -> Self {
        Self { cmdline: cmdline.into(), ..self }
    }

    /// One more module, a file for the kernel, with a command line of its own. They keep their
    /// order.
    #[must_use]
    pub fn module(mut self, module: impl Into<Image>, cmdline: impl Into<String>) -> Self {
        self.modules.push((module.into(), cmdline.into()));
        self
    }

    /// Puts the modules behind `end`; gives their places.
    fn load_modules(&self, memory: &GuestMemory, end: u64) -> Result<Vec<Range<u32>>> {
        let mut next = end.max(map::HIGH_START);
        let mut places = Vec::new();
        for (n, (module, _)) in self.modules.iter().enumerate() {
            let mut image = module.open()?;
            let (size, what) = (image.len(), format!("module {n}"));
            let start = next.saturating_add(0xfff) & !0xfff;
            let end = start.saturating_add(size);
            let (Ok(from), Ok(to)) = (start.try_into(), end.try_into()) else {
                let why = format!("{what}: {size:#x} bytes at {start:#x} pass 4 GiB");
                return Err(image.bad(why));
            };
            image.copy(0, size, memory, GuestAddress(start), &what)?;
            places.push(from..to);
            next = end;
        }
        Ok(places)
    }

    /// Writes what the kernel is told; gives its address.
    fn write_info(
        &self,
        memory: &GuestMemory,
        modules: &[Range<u32>],
        taken: &[Range<u64>],
    ) -> Result<u32> {
        let cmdline = c_string("command line", &self.cmdline)?;
        let named = self.modules.iter().enumerate();
        let names =
            named.map(|(n, (_, text))| c_string(&format!("module {n}'s command line"), text));
        let names = names.collect::<Result<Vec<_>>>()?;
        let (name, ranges) = (c_string("name", NAME)?, map::ranges(memory));

        let strings = cmdline.len() + name.len() + names.iter().map(Vec::len).sum::<usize>();
        let tables = modules.len() * MODULE_SIZE + ranges.len() * RANGE_SIZE;
        let size = (INFO_SIZE + tables + strings) as u64;
        let what = "the Multiboot information";
        let floor = mode::PROTECTED_TABLES_END;
        let at = map::lowest_place(memory, what, size, floor, taken)?;
        let mut block = Block { at: at.0 as u32, bytes: vec![0; INFO_SIZE] };

        let cmdline = block.put(&cmdline);
        let name = block.put(&name);
        let names: Vec<_> = names.iter().map(|name| block.put(name)).collect();
        let list = block.next();
        for (place, name) in modules.iter().zip(&names) {
            block.put([place.start, place.end, *name, 0].as_slice());
        }
        let map_at = block.next();
        for map::Range { start, len, kind } in &ranges {
            // `size` does not count itself.
            block.put(&(RANGE_SIZE as u32 - 4).to_le_bytes());
            block.put([*start, *len].as_slice());
            block.put(&(*kind as u32).to_le_bytes());
        }
        let map_len = block.next() - map_at;
        let kib = |start| ((map::ram_end(memory, start) - start) >> 10) as u32;
        let fields = [
            has::MEMORY | has::COMMAND_LINE | has::MODULES | has::MEMORY_MAP | has::LOADER_NAME,
            kib(0),
            kib(map::HIGH_START),
            0, // boot_device
            cmdline,
            modules.len() as u32,
            list,
            0, // syms
            0,
            0,
            0,
            map_len,
            map_at,
            0, // drives
            0,
            0, // config_table
            name,
        ];
        memory.write(at, &block.bytes).context(|| what)?;
        memory.write_obj(at, fields).context(|| what)?;
        Ok(block.at)
    }
}

impl Loader for Multiboot {
    fn load(&self, memory: &GuestMemory, board: &BoardInfo) -> Result<Entry> {
        let mut image = self.kernel.open()?;
        let kernel = Kernel::parse(&mut image)?;
        kernel.load(&mut image, memory)?;
        let modules = self.load_modules(memory, kernel.end())?;
        let info = self.write_info(memory, &modules, &kernel.taken())?;
        map::write_bios_data(memory)?;
        acpi::write_tables(memory, board)?;
        let (rip, rax, rbx) = (kernel.entry.into(), ENTRY_MAGIC.into(), info.into());
        let regs = Regs { rip, rax, rbx, rflags: rflags::FIXED, ..Regs::default() };
        Ok(Entry { regs, system: mode::protected(memory)? })
    }
}

/// Bytes to be written to one place, of which parts point to others.
struct Block {
    at: u32,
    bytes: Vec<u8>,
}

impl Block {
    /// The address of what is put next. All of it is below 1 MiB.
    fn next(&self) -> u32 {
        self.at + self.bytes.len() as u32
    }

    fn put<T: ByteValued>(&mut self, values: &[T]) -> u32 {
        let at = self.next();
        self.bytes.extend(values.iter().flat_map(|value| value.as_slice()));
        at
    }
}

/// A checked image, not yet loaded.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Where its header is.
    pub(super) header_at: u64,
    /// `flags` of the header.
    pub(super) flags: u32,
    pub(super) entry: u32,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// By the header's address fields: bytes of the file, and all that they and the uninitialized
    /// data take.
    Flat {
        offset: u64,
        size: u64,
        place: Range<u64>,
    },
    Elf(Elf),
}

impl Kernel {
    /// Finds and checks the headers.
    pub(super) fn parse(image: &mut Opened) -> Result<Self> {
        let (header_at, flags) = find_header(image)?;
        check_flags(image, flags)?;
        let (entry, body) = if flags & wants::ADDRESS_FIELDS == 0 {
            // The specification has 32-bit ELF only; 64-bit kernels that enter long mode themselves
            // are made for GRUB, which loads them too.
            let elf = Elf::parse(image)?;
            let entry = u32::try_from(elf.entry).map_err(|_| {
                let entry = elf.entry;
                image.bad(format!("multiboot: e_entry {entry:#x} cannot be entered in 32-bit mode"))
            })?;
            (entry, Body::Elf(elf))
        } else {
            parse_address_fields(image, header_at)?
        };
        let kernel = Self { header_at, flags, entry, body };
        map::check_places(image, &kernel.taken(), mode::PROTECTED_TABLES_END)?;
        Ok(kernel)
    }

    /// Whether the header says itself where the image goes.
    pub(super) fn has_address_fields(&self) -> bool {
        matches!(self.body, Body::Flat { .. })
    }

    fn taken(&self) -> Vec<Range<u64>> {
        match &self.body {
            Body::Flat { place, .. } => vec![place.clone()],
            Body::Elf(elf) => elf.ranges(),
        }
    }

    fn end(&self) -> u64 {
        self.taken().iter().map(|range| range.end).max().unwrap_or(0)
    }

    fn load(&self, image: &mut Opened, memory: &GuestMemory) -> Result<()> {
        match &self.body {
            Body::Elf(elf) => elf.load(image, memory),
            Body::Flat { offset, size, place } => {
                let what = "the image (load_addr to load_end_addr)";
                image.copy(*offset, *size, memory, GuestAddress(place.start), what)?;
                let rest = place.start + size;
                memory.zero(GuestAddress(rest), place.end - rest).map_err(|error| {
                    image.bad(format!("multiboot: uninitialized data (bss_end_addr): {error}"))
                })
            }
        }
    }
}

/// The place of the first header whose checksum is right, and its flags.
fn find_header(image: &mut Opened) -> Result<(u64, u32)> {
    let mut start = vec![0; image.len().min(SEARCHED) as usize];
    image.fill(0, &mut start, "the start of the image")?;
    let (words, _) = start.as_chunks();
    let words: Vec<_> = words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let mut wrong = None;
    for (n, header) in words.windows(3).enumerate() {
        let &[HEADER_MAGIC, flags, checksum] = header else { continue };
        let at = n as u64 * 4;
        let right = HEADER_MAGIC.wrapping_add(flags).wrapping_neg();
        if checksum == right {
            return Ok((at, flags));
        }
        wrong.get_or_insert_with(|| {
            format!("checksum of the header at {at:#x} is {checksum:#x}, not {right:#x}")
        });
    }
    let none = || format!("no magic {HEADER_MAGIC:#x} in the first {SEARCHED} bytes");
    Err(image.bad(format!("multiboot: {}", wrong.unwrap_or_else(none))))
}

fn check_flags(image: &Opened, flags: u32) -> Result<()> {
    let done = wants::ALIGNED_MODULES | wants::MEMORY_INFO;
    let refused = flags & wants::REQUIRED & !done;
    if refused == 0 {
        return Ok(());
    }
    let bit = refused.trailing_zeros();
    let name = if bit == 2 { "a video mode" } else { "not defined by the specification" };
    Err(image.bad(format!("multiboot: flags {flags:#x} require bit {bit} ({name})")))
}

/// The "a.out kludge": the entry, and where the file's bytes go (3.1.3).
fn parse_address_fields(image: &mut Opened, header_at: u64) -> Result<(u32, Body)> {
    let fields: [u32; 5] = image.read(header_at + 12, "the address fields of the header")?;
    let [header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr] = fields;
    let bad = |why: String| Err(image.bad(format!("multiboot: {why}")));
    let before = header_addr.checked_sub(load_addr).map(u64::from);
    let Some(offset) = before.and_then(|before| header_at.checked_sub(before)) else {
        return bad(format!(
            "load_addr {load_addr:#x} does not fit header_addr {header_addr:#x}, as the header is \
             at {header_at:#x} of the file"
        ));
    };
    let start = u64::from(load_addr);
    let end = match load_end_addr {
        0 => start + (image.len() - offset),
        end => end.into(),
    };
    if end <= start {
        return bad(format!("load_end_addr {load_end_addr:#x} is not above load_addr {start:#x}"));
    }
    let last = if bss_end_addr == 0 { end } else { bss_end_addr.into() };
    if last < end {
        return bad(format!("bss_end_addr {bss_end_addr:#x} is below the loaded end {end:#x}"));
    }
    if !(start..last).contains(&entry_addr.into()) {
        return bad(format!("entry_addr {entry_addr:#x} is outside {start:#x}..{last:#x}"));
    }
    Ok((entry_addr, Body::Flat { offset, size: end - start, place: start..last }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    const HEADER_AT: usize = 0x40;
    const LOADED_AT: u32 = 0x10_0000;

    fn put(image: &mut [u8], at: usize, words: &[u32]) {
        for (n, word) in words.iter().enumerate() {
            image[at + n * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn header(flags: u32) -> [u32; 3] {
        [HEADER_MAGIC, flags, HEADER_MAGIC.wrapping_add(flags).wrapping_neg()]
    }

    /// Code by address fields: the file's bytes from 0x20 on go to 1 MiB, then 0x800 bytes are
    /// zero.
    fn flat() -> Vec<u8> {
        let mut image = vec![0x90; 0x420];
        put(&mut image, HEADER_AT, &header(1 << 16 | 3));
        let start = LOADED_AT;
        let fields = [start + 0x20, start, start + 0x400, start + 0xc00, start + 0x50];
        put(&mut image, HEADER_AT + 12, &fields);
        image
    }

    /// The same by ELF headers, behind which the header is.
    fn elf32() -> Vec<u8> {
        let mut image = vec![0x90; 0x500];
        let (magic, ident) = (u32::from_le_bytes(*b"\x7fELF"), 0x0001_0101);
        let kind = 3 << 16 | 2;
        let start = LOADED_AT;
        put(&mut image, 0, &[magic, ident, 0, 0, kind, 1, start + 0x50, 52, 0, 0, 32 << 16, 1, 0]);
        put(&mut image, 52, &[1, 0x100, start, start, 0x400, 0xc00, 7, 0x1000]);
        put(&mut image, 0x100, &header(0));
        image
    }

    /// The same by 64-bit ELF headers, entered at `entry`, linked to the upper half.
    fn elf64(entry: u64) -> Vec<u8> {
        let mut image = elf32();
        let ([low, high], start) = ([entry as u32, (entry >> 32) as u32], LOADED_AT);
        put(&mut image, 4, &[0x0001_0102, 0, 0, 62 << 16 | 2, 1, low, high, 64, 0, 0, 0]);
        put(&mut image, 52, &[56 << 16, 1, 0]);
        put(&mut image, 64, &[1, 7, 0x100, 0, start, 0x8000_0000, start, 0]);
        put(&mut image, 96, &[0x400, 0, 0xc00, 0]);
        image
    }

    fn load(kernel: &Multiboot) -> Result<(Entry, GuestMemory)> {
        let memory = GuestMemory::anonymous(4 << 20)?;
        // What was there before shows what is zeroed.
        memory.write(GuestAddress(LOADED_AT.into()), &[1; 0x1001])?;
        kernel.load(&memory, &BoardInfo::new(1)).map(|entry| (entry, memory))
    }

    fn kernel(image: Vec<u8>) -> Multiboot {
        Multiboot::kernel(Image::bytes(image))
    }

    fn refusal(kernel: &Multiboot) -> String {
        load(kernel).map(|_| ()).expect_err("it is refused").to_string()
    }

    fn string(memory: &GuestMemory, at: u32) -> String {
        let bytes: Vec<u8> = (u64::from(at)..)
            .map(|at| memory.read_obj(GuestAddress(at)).unwrap())
            .take_while(|byte| *byte != 0)
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_form_is_loaded_zeroed_and_entered() {
        for image in [flat(), elf32(), elf64(0x10_0050)] {
            let (entry, memory) = load(&kernel(image)).unwrap();
            let Regs { rip, rax, rbx, .. } = entry.regs;
            assert_eq!((rip, rax), ((LOADED_AT + 0x50).into(), ENTRY_MAGIC.into()));
            assert!(rbx < 0x9_fc00 && rbx % 4 == 0);
            assert!(!entry.system.cs.long && entry.system.cr0 & 1 == 1);
            let byte = |at: u32| memory.read_obj::<u8>(GuestAddress((LOADED_AT + at).into()));
            let bytes = [0x3ff, 0x400, 0xbff, 0xc00].map(|at| byte(at).unwrap());
            assert_eq!(bytes, [0x90, 0, 0, 1]);
        }
    }

    #[test]
    fn the_kernel_is_told_of_memory_arguments_and_modules() {
        let modules = [(vec![7; 5000], "first"), (vec![], ""), (vec![9; 3], "third one")];
        let mut multiboot = kernel(flat()).cmdline("quiet");
        for (bytes, cmdline) in modules.clone() {
            multiboot = multiboot.module(Image::bytes(bytes), cmdline);
        }
        let (entry, memory) = load(&multiboot).unwrap();
        let word = |at: u32| memory.read_obj::<u32>(GuestAddress(at.into())).unwrap();
        let info = entry.regs.rbx as u32;
        // flags, mem_lower, mem_upper, cmdline, mods_count, boot_loader_name.
        assert_eq!(word(info), 0x24d);
        assert_eq!((word(info + 4), word(info + 8)), (639, 3 << 10));
        assert_eq!(string(&memory, word(info + 16)), "quiet");
        assert_eq!(word(info + 20), 3);
        assert_eq!(string(&memory, word(info + 64)), NAME);

        let mut free = LOADED_AT + 0xc00;
        for (n, (bytes, cmdline)) in modules.iter().enumerate() {
            let at = word(info + 24) + n as u32 * 16;
            let (start, end) = (word(at), word(at + 4));
            assert!(start % 0x1000 == 0 && start >= free, "{start:#x}");
            let mut found = vec![0; (end - start) as usize];
            memory.read(GuestAddress(start.into()), &mut found).unwrap();
            assert_eq!(found, *bytes);
            assert_eq!(string(&memory, word(at + 8)), *cmdline);
            free = end;
        }

        let (mut at, mut map) = (word(info + 48), Vec::new());
        let end = at + word(info + 44);
        while at < end {
            map.push((word(at + 4), word(at + 8), word(at + 12), word(at + 20)));
            at += word(at) + 4;
        }
        let bios = (0x9_fc00, 0, 0x6_0400, 2);
        let half = |at| memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        assert_eq!((half(0x40e), half(0x413)), (0x9fc0, 639));
        assert_eq!(map, [(0, 0, 0x9_fc00, 1), bios, (0x10_0000, 0, 3 << 20, 1)]);
    }

    #[test]
    fn the_information_stays_out_of_an_image_in_low_memory() {
        let mut image = flat();
        let fields = [0x2020, 0x2000, 0x2400, 0x2c00, 0x2050];
        put(&mut image, HEADER_AT + 12, &fields);
        let (entry, memory) = load(&kernel(image).module(Image::bytes([5]), "")).unwrap();
        assert_eq!(entry.regs.rbx, 0x3000);
        let module = memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap();
        assert_eq!((module, memory.read_obj::<u8>(GuestAddress(0x23ff)).unwrap()), (5, 0x90));
    }

    #[test]
    fn each_refusal_names_the_field_and_the_value() {
        let with = |at: usize, words: &[u32]| {
            let mut image = flat();
            put(&mut image, at, words);
            kernel(image)
        };
        let fields = |fields: [u32; 5]| with(HEADER_AT + 12, &fields);
        let module = |bytes: usize| kernel(flat()).module(Image::bytes(vec![0; bytes]), "");
        let mut above = elf64(1 << 32);
        put(&mut above, 84, &[1, 0, 1]);
        let (start, high) = (LOADED_AT, 0xffff_fff0);
        let cases = [
            (with(HEADER_AT, &[0]), "no magic 0x1badb002 in the first 8192 bytes"),
            (with(HEADER_AT + 8, &[5]), "checksum of the header at 0x40 is 0x5, not 0xe4514ffb"),
            (with(HEADER_AT, &header(1 << 16 | 4)), "0x10004 require bit 2 (a video mode)"),
            (with(HEADER_AT, &header(1 << 16 | 1 << 5)), "0x10020 require bit 5 (not defined"),
            (with(HEADER_AT, &header(3)), "e_ident starts with [90, 90, 90, 90]"),
            (kernel(elf64(1)), "e_entry 0x1 is in no segment"),
            (kernel(above), "e_entry 0x100000000 cannot be entered in 32-bit mode"),
            (
                fields([start, start + 4, 0, 0, start]),
                "load_addr 0x100004 does not fit header_addr",
            ),
            (fields([start + 0x41, start, 0, 0, start]), "load_addr 0x100000 does not fit"),
            (fields([start, start, start, 0, start]), "load_end_addr 0x100000 is not above"),
            (fields([start, start, start + 1, 1, start]), "bss_end_addr 0x1 is below"),
            (fields([start, start, 0, 0, 1]), "entry_addr 0x1 is outside 0x100000..0x1003e0"),
            (fields([start, start, start + 0x401, 0, start]), "but the image ends at 0x420"),
            (fields([start, start, 0, high, start]), "bss_end_addr): "),
            (fields([high, high, 0, 0, high]), "to guest address 0xfffffff0"),
            (fields([0x1000, 0x1000, 0, 0, 0x1000]), "0x1000..0x13e0: tables for the entry"),
            (fields([0x9_fc00, 0x9_fc00, 0, 0, 0x9_fc00]), "0x9fc00..0x100000 is the BIOS's"),
            (kernel(vec![]), "no magic"),
            (Multiboot::kernel("no/such/kernel"), "no/such/kernel: No such file"),
            (kernel(flat()).module("no/such/module", ""), "no/such/module: No such file"),
            (module(3 << 20), "module 0: 0x300000 bytes to guest address 0x101000"),
            (kernel(flat()).cmdline("a\0b"), "command line: NUL at byte 1"),
            (module(1).module(Image::bytes([]), "\0"), "module 1's command line: NUL at byte 0"),
            (kernel(flat()).cmdline("x".repeat(1 << 20)), "no room for the Multiboot information"),
        ];
        for (kernel, says) in cases {
            let refusal = refusal(&kernel);
            assert!(refusal.contains(says), "'{refusal}' does not say '{says}'");
        }
        let kind = load(&with(HEADER_AT, &[0])).map(|_| ()).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::BadImage);
    }

    #[test]
    fn a_header_is_found_behind_one_with_a_wrong_checksum() {
        let mut image = vec![0; 0x1000];
        put(&mut image, 0, &[HEADER_MAGIC, 1, 1]);
        put(&mut image, 0x800, &header(1));
        let find = |image: &[u8]| find_header(&mut Image::bytes(image).open().unwrap());
        assert_eq!(find(&image).unwrap(), (0x800, 1));
        // At the very end of what is searched, and one word further.
        let mut image = vec![0; 0x3000];
        put(&mut image, SEARCHED as usize - 12, &header(2));
        assert_eq!(find(&image).unwrap(), (SEARCHED - 12, 2));
        assert!(find(&[&[0; 4], image.as_slice()].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            changes in prop::collection::vec((0usize..0x140, any::<u8>()), 1..6),
            fields in any::<[u32; 5]>(),
            len in 0usize..0x500,
        ) {
            let mut random = flat();
            put(&mut random, HEADER_AT + 12, &fields);
            for mut image in [flat(), elf32(), elf64(0x10_0050), random] {
                let _ = load(&kernel(image.clone()));
                for (at, to) in &changes {
                    image[*at] = *to;
                }
                let _ = load(&kernel(image.clone()));
                image.truncate(len);
                let _ = load(&kernel(image));
            }
        }
    }
}
