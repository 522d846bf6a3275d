//! The software CPU's surroundings: memory, page tables, and a kernel of one HLT a vector, which is
//! how an exception of user code is seen.

use std::sync::Arc;

use vmm_cpu::{CodeMap, Cpu, Flat, Ram, Segment, State, Table};

use crate::{
    arena::{LAST_USER_PAGE, PAGE, Rights},
    case::Fault,
};

/// Where all physical memory is seen by CPL 0.
const SYSTEM: u64 = 0xffff_8000_0000_0000;
const ROOT: u64 = 0x1000;
const SYSTEM_TABLE: u64 = 0x2000;
const GDT: u64 = 0x3000;
const TSS: u64 = 0x4000;
const STACK_END: u64 = 0x7000;
const IDT: u64 = 0x7000;
const HANDLERS: u64 = 0x8000;
/// Where SYSCALL leads: a HLT of CPL 0.
pub const SYSCALL_ENTRY: u64 = SYSTEM + HANDLERS + 0x800;
/// The first page that is free.
const FREE: u64 = 0x9000;
const VECTORS: u64 = 32;

/// Linux's selectors of user code, data, and the rest.
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x2b;
const SYSTEM_CODE: u16 = 0x10;
const SYSTEM_DATA: u16 = 0x18;
const TASK: u16 = 0x40;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;

/// Memory with page tables and a kernel that halts.
#[derive(Debug)]
pub struct Space {
    /// All of it.
    pub ram: Flat,
    free: u64,
}

impl Space {
    /// Of so many pages, the tables included.
    pub fn new(pages: usize) -> Self {
        let space = Self { ram: Flat::new(pages), free: FREE };
        // User code sees the kernel's half as present, and may not touch it.
        for n in 256..512 {
            space.put(ROOT + n * 8, SYSTEM_TABLE | PRESENT | WRITABLE);
        }
        for n in 0..512 {
            space.put(SYSTEM_TABLE + n * 8, n << 30 | PRESENT | WRITABLE | LARGE);
        }
        let task = SYSTEM + TSS;
        let low = 0x67 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        let (code, data) = (0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff);
        let user = 3 << 45;
        let gdt = [0, 0, code, data, 0, data | user, code | user, 0, low, task >> 32];
        gdt.into_iter().zip(0..).for_each(|(word, n)| space.put(GDT + n * 8, word));
        space.put(TSS + 4, SYSTEM + STACK_END);
        for vector in 0..VECTORS {
            let to = SYSTEM + HANDLERS + vector * 16;
            // Interrupt gates; INT3 and INTO may use theirs.
            let rights = if matches!(vector, 3 | 4) { 0xee00 } else { 0x8e00 };
            let low = to & 0xffff | u64::from(SYSTEM_CODE) << 16;
            space.put(IDT + vector * 16, low | (rights | to & 0xffff_0000) << 32);
            space.put(IDT + vector * 16 + 8, to >> 32);
            space.ram.write(HANDLERS + vector * 16, &[0xf4]);
        }
        space.ram.write(SYSCALL_ENTRY - SYSTEM, &[0xf4]);
        space
    }

    /// A CPU that is about to execute user code in this space.
    pub fn cpu(&self) -> (Cpu, State) {
        let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
        let mut state = self.user_state();
        // STAR, LSTAR, FMASK.
        let star = u64::from(USER_DATA - 8) << 48 | u64::from(SYSTEM_CODE) << 32;
        state.msrs = vec![(0xc000_0081, star), (0xc000_0082, SYSCALL_ENTRY), (0xc000_0084, 0x700)];
        // What a state may hold is the CPU's to say.
        let refused = cpu.set_state(&state).err();
        assert!(refused.is_none(), "{refused:?}");
        state.msrs.clear();
        (cpu, state)
    }

    /// User code's state, as Linux has it.
    pub fn user_state(&self) -> State {
        let mut state = State { cr3: ROOT, ..State::default() };
        // CR0: PE, MP, ET, NE, WP, AM, PG. CR4: PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
        state.cr0 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18 | 1 << 31;
        state.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18;
        // EFER: SCE, LME, LMA, NXE.
        state.efer = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;
        state.segments = [Segment::null(); 6];
        state.segments[1] = Segment::code64(USER_CODE, 3);
        state.segments[2] = Segment::data(USER_DATA, 3);
        state.gdtr = Table { base: SYSTEM + GDT, limit: 79 };
        state.idtr = Table { base: SYSTEM + IDT, limit: (VECTORS * 16 - 1) as u16 };
        state.tr = Segment::task(TASK, SYSTEM + TSS, 0x67);
        state.xcr0 = 3;
        debug_assert_eq!(SYSTEM_DATA, SYSTEM_CODE + 8);
        state
    }

    /// Takes `count` pages of memory; the physical address of the first.
    pub fn take(&mut self, count: u64) -> u64 {
        let at = self.free;
        self.free += count * PAGE;
        assert!(self.free <= self.ram.size() as u64, "the space has too few pages");
        at
    }

    /// Puts a page of user code at an address. `execute` adds to what may be done with it.
    pub fn map(&mut self, address: u64, physical: u64, rights: Rights, execute: bool) {
        let mut entry = physical | PRESENT | USER;
        match rights {
            Rights::Nothing => entry = 0,
            Rights::Read => {}
            Rights::Write => entry |= WRITABLE,
        }
        let entry = if execute || entry == 0 { entry } else { entry | 1 << 63 };
        let table = self.table(address);
        self.put(table + (address >> 12 & 511) * 8, entry);
    }

    /// The last page that user code could have is the kernel's.
    pub fn forbid_last_page(&mut self) {
        let table = self.table(LAST_USER_PAGE);
        self.put(table + 511 * 8, PRESENT);
    }

    /// The physical address behind a mapped one.
    pub fn physical(&self, address: u64) -> Option<u64> {
        let entry = self.word(self.entry(address)?);
        Some(entry & 0x000f_ffff_ffff_f000 | address & (PAGE - 1))
    }

    /// Where the lowest table's entry for a mapped address lies.
    pub fn entry(&self, address: u64) -> Option<u64> {
        let mut table = ROOT;
        for level in (0..4).rev() {
            let at = table + (address >> (12 + 9 * level) & 511) * 8;
            let entry = self.word(at);
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 {
                return Some(at);
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        None
    }

    /// The lowest table of an address.
    fn table(&mut self, address: u64) -> u64 {
        let mut table = ROOT;
        for level in (1..4).rev() {
            let at = table + (address >> (12 + 9 * level) & 511) * 8;
            let mut entry = self.word(at);
            if entry & PRESENT == 0 {
                entry = self.take(1) | PRESENT | WRITABLE | USER;
                self.put(at, entry);
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        table
    }

    /// The exception that the CPU has just entered the handler of, and sets `state` to the
    /// registers that the handler found.
    pub fn caught(&self, state: &mut State) -> Option<Fault> {
        let vector = state.registers.rip.checked_sub(SYSTEM + HANDLERS)? / 16;
        if vector >= VECTORS {
            return None;
        }
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let mut top = state.registers.general[4].wrapping_sub(SYSTEM);
        let code = if has_code { self.word(top) as u32 } else { 0 };
        top += if has_code { 8 } else { 0 };
        state.registers.rip = self.word(top);
        state.registers.rflags = self.word(top + 16);
        state.registers.general[4] = self.word(top + 24);
        let address = if vector == 14 { state.cr2 } else { 0 };
        Some(Fault { vector: vector as u8, code, address })
    }

    /// A word of physical memory.
    pub fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn put(&self, at: u64, word: u64) {
        self.ram.write(at, &word.to_le_bytes());
    }

    /// Writes as a host does: what the CPUs of `map` have decoded there is void.
    pub fn host_writes(&self, physical: u64, bytes: &[u8], map: &CodeMap) {
        self.ram.write(physical, bytes);
        if let Some(page) = self.ram.page(physical / PAGE) {
            map.written(page.host.as_ptr() as usize + (physical % PAGE) as usize, bytes.len());
        }
    }
}
