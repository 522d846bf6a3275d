//! The modes a loader starts a vCPU in, and the tables they need in low memory.

use crate::{
    arch::{DescriptorTable, Segment, SystemRegs, cr0, cr4, efer, paging},
    error::{Context, Result},
    memory::{GuestAddress, GuestMemory},
};

/// Where the tables of a long-mode guest lie: a GDT, then page tables that map 4 GiB one to one.
const GDT: u64 = 0x1000;
const PAGE_TABLES: u64 = 0x2000;
/// The first address behind the tables.
pub(super) const TABLES_END: u64 = PAGE_TABLES + paging::IDENTITY_SIZE;
/// The same without page tables.
pub(super) const PROTECTED_TABLES_END: u64 = PAGE_TABLES;
/// How much long mode maps one to one.
pub(super) const MAPPED: u64 = paging::IDENTITY_GIB << 30;

/// The selectors Linux asks for (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"); no other
/// guest minds.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Writes GDT and page tables and gives the registers that use them: ring 0, the first 4 GiB mapped
/// one to one and writable.
pub(super) fn long(memory: &GuestMemory) -> Result<SystemRegs> {
    let code = Segment::code64(CODE, 0);
    let tables = paging::identity_map(PAGE_TABLES, paging::WRITABLE);
    write_words(memory, PAGE_TABLES, &tables)?;
    Ok(SystemRegs {
        cs: code,
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
        cr3: PAGE_TABLES,
        cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT,
        efer: efer::LME | efer::LMA,
        ..flat_segments(memory, code)?
    })
}

/// Writes a GDT and gives the registers of 32-bit protected mode without paging, as the PVH and
/// multiboot protocols have it.
pub(super) fn protected(memory: &GuestMemory) -> Result<SystemRegs> {
    let code = Segment::code32(CODE, 0);
    Ok(SystemRegs { cs: code, cr0: cr0::PE | cr0::ET, ..flat_segments(memory, code)? })
}

fn flat_segments(memory: &GuestMemory, code: Segment) -> Result<SystemRegs> {
    let data = Segment::data(DATA, 0);
    let task = Segment::task(TASK, 0, 0x67);
    // The descriptor of a 64-bit TSS takes two entries; the upper half of its base is 0.
    let gdt = [0, 0, code.descriptor(), data.descriptor(), task.descriptor(), 0];
    write_words(memory, GDT, &gdt)?;
    Ok(SystemRegs {
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        gdt: DescriptorTable { base: GDT, limit: size_of_val(&gdt) as u16 - 1 },
        ..SystemRegs::real_mode()
    })
}

fn write_words(memory: &GuestMemory, at: u64, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(GuestAddress(at), &bytes).context(|| "tables for the entry mode")
}
