//! A plain 64-bit ELF without an operating system's protocol: long mode, ring 0, entered like a C
//! function.

use super::{
    BoardInfo, Entry, Loader, acpi, c_string,
    elf::{Class, Elf},
    image::{Image, Opened},
    map, mode,
};
use crate::{
    arch::{Regs, rflags},
    error::{Context, Result},
    memory::{GuestAddress, GuestMemory},
};

const STACK_SIZE: u64 = 64 << 10;
/// Words of one entry of the memory map.
const RANGE_WORDS: u64 = 3;

/// A bare-metal program: an x86-64 ELF executable, linked to the addresses it is loaded at.
///
/// Its entry is a function that does not return:
///
/// ```c
/// struct range { uint64_t start, len, kind; };    /* kind 1 is RAM, 2 is reserved */
/// void entry(const char *cmdline, const struct range *map, uint64_t ranges);
/// ```
///
/// That is, RDI points to the command line (ending in NUL), RSI to the memory map in ascending
/// order, and RDX is the number of its entries; every other general register is zero but RSP, which
/// is as at the entry of a C function, with 64 KiB of stack below. Long mode, ring 0, interrupts
/// off, no IDT; the first 4 GiB are mapped one to one and writable.
///
/// All that is not the image lies below 1 MiB, where the image may too as far as it leaves room:
/// page tables and GDT below 0x8000, then stack and arguments, and ACPI tables in the BIOS area.
///
/// ```no_run
/// # use vmm_core::boot::Elf64;
/// let program = Elf64::program("program.elf").cmdline("1071 462");
/// ```
#[derive(Clone, Debug)]
pub struct Elf64 {
    program: Image,
    cmdline: String,
}

impl Elf64 {
    /// A program.
    pub fn program(program: impl Into<Image>) -> Self {
        Self { program: program.into(), cmdline: String::new() }
    }

    /// The command line.
    #[must_use]
    pub fn cmdline(self, cmdline: impl Into<String>) -> Self {
        Self { cmdline: cmdline.into(), ..self }
    }

    /// Places stack and arguments, writes the latter, and gives the registers.
    fn enter(&self, memory: &GuestMemory, elf: &Elf) -> Result<Regs> {
        let cmdline = c_string("command line", &self.cmdline)?;
        let ranges = map::ranges(memory);
        let map_size = ranges.len() as u64 * RANGE_WORDS * 8;
        let (mut taken, floor) = (elf.ranges(), mode::TABLES_END);
        let stack = map::lowest_place(memory, "a stack", STACK_SIZE, floor, &taken)?.0;
        taken.push(stack..stack + STACK_SIZE);
        let (what, size) = ("the arguments", map_size + cmdline.len() as u64);
        let map_at = map::lowest_place(memory, what, size, floor, &taken)?;

        let words = ranges.iter().flat_map(|range| [range.start, range.len, range.kind as u64]);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.extend(&cmdline);
        memory.write(map_at, &bytes).context(|| what)?;
        // A return address, for who walks the stack: there is no caller.
        let rsp = stack + STACK_SIZE - 8;
        memory.write_obj(GuestAddress(rsp), 0u64).context(|| "a stack")?;
        Ok(Regs {
            rip: elf.entry,
            rsp,
            rdi: map_at.0 + map_size,
            rsi: map_at.0,
            rdx: ranges.len() as u64,
            rflags: rflags::FIXED,
            ..Regs::default()
        })
    }
}

impl Loader for Elf64 {
    fn load(&self, memory: &GuestMemory, board: &BoardInfo) -> Result<Entry> {
        let mut image = self.program.open()?;
        let elf = parse(&mut image)?;
        elf.load(&mut image, memory)?;
        let regs = self.enter(memory, &elf)?;
        acpi::write_tables(memory, board)?;
        Ok(Entry { regs, system: mode::long(memory)? })
    }
}

/// The headers of a program that can be entered so.
pub(super) fn parse(image: &mut Opened) -> Result<Elf> {
    let elf = Elf::parse(image)?;
    if elf.class != Class::Bits64 {
        return Err(image.bad("EI_CLASS is 1 (32-bit), not 2 (64-bit)"));
    }
    for segment in &elf.segments {
        let (vaddr, paddr) = (segment.p_vaddr, segment.p_paddr);
        if vaddr != paddr {
            return Err(image.bad(format!(
                "p_vaddr {vaddr:#x} is not p_paddr {paddr:#x}: memory is mapped one to one"
            )));
        }
        let (end, mapped) = (paddr + segment.p_memsz, mode::MAPPED);
        if end > mapped {
            let why =
                format!("p_memsz at p_paddr {paddr:#x} ends at {end:#x}: mapped is {mapped:#x}");
            return Err(image.bad(why));
        }
    }
    map::check_places(image, &elf.ranges(), mode::TABLES_END)?;
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr};
    use proptest::prelude::*;

    use super::*;
    use crate::memory::ByteValued;

    /// A program of one segment at `at`.
    fn program(at: u64) -> Vec<u8> {
        let mut e_ident = [0; 16];
        e_ident[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let header = Elf64_Ehdr {
            e_ident,
            e_type: 2,
            e_machine: 62,
            e_entry: at + 8,
            e_phoff: 64,
            e_phentsize: 56,
            e_phnum: 1,
            ..Default::default()
        };
        let segment = Elf64_Phdr {
            p_type: 1,
            p_offset: 0x100,
            p_vaddr: at,
            p_paddr: at,
            p_filesz: 0x20,
            p_memsz: 0x2000,
            ..Default::default()
        };
        let mut image = [header.as_slice(), segment.as_slice()].concat();
        image.resize(0x120, 0x90);
        image
    }

    fn load(image: Vec<u8>, cmdline: &str) -> Result<(Entry, GuestMemory)> {
        let memory = GuestMemory::anonymous(2 << 20)?;
        let elf64 = Elf64::program(Image::bytes(image)).cmdline(cmdline);
        elf64.load(&memory, &BoardInfo::new(1)).map(|entry| (entry, memory))
    }

    #[test]
    fn a_program_is_entered_like_a_function() {
        // At 0x9000 it is in the way of the stack, which goes elsewhere; the arguments still fit.
        for (at, stack, map_at) in [(0x10_0000, 0x8000, 0x1_8000), (0x9000, 0xb000, 0x8000)] {
            let (entry, memory) = load(program(at), "1071 462").unwrap();
            let Regs { rip, rsp, rdi, rsi, rdx, .. } = entry.regs;
            assert_eq!((rip, rsp, rdx), (at + 8, stack + STACK_SIZE - 8, 3));
            assert!(rsi == map_at && rsp % 16 == 8 && entry.system.cs.long);
            let text: [u8; 9] = memory.read_obj(GuestAddress(rdi)).unwrap();
            assert_eq!(&text, b"1071 462\0");
            let map: [u64; 9] = memory.read_obj(GuestAddress(rsi)).unwrap();
            let bios = [0x9_fc00, 0x6_0400, 2];
            assert_eq!(map, [[0, 0x9_fc00, 1], bios, [1 << 20, 1 << 20, 1]].concat()[..]);
            assert_eq!(memory.read_obj::<u8>(GuestAddress(at + 0x1f)).unwrap(), 0x90);
        }
    }

    #[test]
    fn each_refusal_names_the_field_and_the_value() {
        let with = |at: usize, word: u64| {
            let mut image = program(0x10_0000);
            image[at..at + 8].copy_from_slice(&word.to_le_bytes());
            load(image, "").map(|_| ()).expect_err("it is refused").to_string()
        };
        let at = |at| load(program(at), "").map(|_| ()).expect_err("it is refused").to_string();
        let cmdline =
            |text: &str| load(program(0x10_0000), text).map(|_| ()).unwrap_err().to_string();
        for (refusal, says) in [
            (with(64 + 16, 0xffff_8000), "p_vaddr 0xffff8000 is not p_paddr 0x100000"),
            (with(64 + 40, 5 << 30), "p_paddr 0x100000 ends at 0x140100000: mapped is 0x100000000"),
            (with(64 + 40, 2 << 20), "uninitialized data"),
            (with(24, 7), "e_entry 0x7 is in no segment"),
            (at(0x7000), "0x7000..0x9000: tables for the entry lie below 0x8000"),
            (at(0x9_f000), "0x9fc00..0x100000 is the BIOS's"),
            (at(0x20_0000), "to guest address 0x200000"),
            (cmdline("x\0"), "command line: NUL at byte 1"),
            (cmdline(&"x".repeat(1 << 20)), "no room for the arguments, 0x100049 bytes"),
        ] {
            assert!(refusal.contains(says), "'{refusal}' does not say '{says}'");
        }
        let mut ia32 = program(0x10_0000);
        ia32[4] = 1;
        assert!(load(ia32, "").is_err());
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            changes in prop::collection::vec((0usize..0x120, any::<u8>()), 1..6),
            len in 0usize..0x120,
        ) {
            let mut image = program(0x10_0000);
            for (at, to) in changes {
                image[at] = to;
            }
            let _ = load(image.clone(), "");
            image.truncate(len);
            let _ = load(image, "");
        }
    }
}
