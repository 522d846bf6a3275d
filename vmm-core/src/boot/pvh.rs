//! Entry by PVH: 32-bit protected mode, RBX points to a description of the machine (Xen,
//! `public/arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};

use super::{
    Entry,
    linux::{COMMAND_LINE, PARAMETERS},
    map, mode,
};
use crate::{
    arch::{Regs, rflags},
    error::{Context, Result},
    memory::{ByteValued, GuestAddress, GuestMemory},
};

const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

const START_INFO: u64 = PARAMETERS;
const MODULES: u64 = START_INFO + size_of::<hvm_start_info>() as u64;
const MEMORY_MAP: u64 = MODULES + size_of::<hvm_modlist_entry>() as u64;

pub(super) fn enter(
    memory: &GuestMemory,
    entry: u32,
    module: Option<(u64, u64)>,
    rsdp: GuestAddress,
) -> Result<Entry> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: rsdp.0,
        memmap_paddr: MEMORY_MAP,
        ..Default::default()
    };
    if let Some((paddr, size)) = module {
        let module = hvm_modlist_entry { paddr, size, ..Default::default() };
        write(memory, MODULES, module.as_slice())?;
        (info.nr_modules, info.modlist_paddr) = (1, MODULES);
    }
    let mut at = MEMORY_MAP;
    for map::Range { start, len, kind } in map::ranges(memory) {
        let type_ = kind as u32;
        let entry = hvm_memmap_table_entry { addr: start, size: len, type_, reserved: 0 };
        write(memory, at, entry.as_slice())?;
        at += size_of_val(&entry) as u64;
        info.memmap_entries += 1;
    }
    write(memory, START_INFO, info.as_slice())?;
    let (rip, rbx) = (u64::from(entry), START_INFO);
    let regs = Regs { rip, rbx, rflags: rflags::FIXED, ..Regs::default() };
    Ok(Entry { regs, system: mode::protected(memory)? })
}

fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) -> Result<()> {
    memory.write(GuestAddress(at), bytes).context(|| "PVH start information")
}
