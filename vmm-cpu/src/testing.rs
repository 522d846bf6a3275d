//! A small machine for unit tests: memory, page tables that map it at its own addresses, and
//! nobody who answers.

use std::sync::Arc;

pub(crate) use crate::Nobody;
use crate::{CodeMap, Cpu, Flat, ram::PAGE_SIZE};

/// Where code goes.
pub(crate) const CODE: u64 = 0x1_0000;
/// The end of the stack.
pub(crate) const STACK: u64 = 0x2_0000;
/// Free for data, up to the end of memory.
pub(crate) const DATA: u64 = 0x3_0000;
const PAGES: usize = 256;

/// A CPU in 64-bit mode at CPL 0, about to execute `code` at [`CODE`].
pub(crate) fn machine(code: &[u8]) -> (Cpu, Flat) {
    let ram = Flat::new(PAGES);
    // One table of each level, at 0x1000, 0x2000, 0x3000 and 0x4000.
    for (at, entry) in [(0x1000u64, 0x2007u64), (0x2000, 0x3007), (0x3000, 0x4007)] {
        ram.write(at, &entry.to_le_bytes());
    }
    for page in 0..PAGES as u64 {
        ram.write(0x4000 + page * 8, &((page * PAGE_SIZE) | 7).to_le_bytes());
    }
    ram.write(CODE, code);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    cpu.core.system.cr3 = 0x1000;
    cpu.core.rip = CODE;
    cpu.core.regs[crate::regs::RSP] = STACK;
    (cpu, ram)
}

/// Where the handler of each vector is, 16 bytes apart: a HLT.
pub(crate) const HANDLERS: u64 = 0x8000;
/// The ends of the stacks for CPL 0 and for IST 1.
pub(crate) const SYSTEM_STACK: u64 = 0xe000;
pub(crate) const IST_STACK: u64 = 0xf000;
pub(crate) const GDT: u64 = 0x5000;
pub(crate) const IDT: u64 = 0x6000;
pub(crate) const TSS: u64 = 0x7000;
pub(crate) const CODE_0: u16 = 0x08;
pub(crate) const DATA_0: u16 = 0x10;
pub(crate) const DATA_3: u16 = 0x1b;
pub(crate) const CODE_3: u16 = 0x23;
pub(crate) const TASK: u16 = 0x28;

/// Gives a machine what a small kernel has: a GDT, a TSS, and a gate for each exception, those of
/// #BP and #OF open to programs, that of #DF with a stack of its own.
pub(crate) fn system(cpu: &mut Cpu, ram: &Flat) {
    let put = |at: u64, words: &[u64]| {
        for (word, n) in words.iter().zip(0..) {
            ram.write(at + n * 8, &word.to_le_bytes());
        }
    };
    let task = 0x0000_8900_0000_0067 | TSS << 16;
    let code = 0x00af_9b00_0000_ffff;
    let data = 0x00cf_9300_0000_ffff;
    put(GDT, &[0, code, data, data | 3 << 45, code | 3 << 45, task, 0]);
    put(TSS + 4, &[SYSTEM_STACK]);
    put(TSS + 36, &[IST_STACK]);
    for vector in 0..32 {
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let at = HANDLERS + vector * 16;
        let low = at & 0xffff | u64::from(CODE_0) << 16 | (0x8e00 | dpl << 13) << 32;
        put(IDT + vector * 16, &[low | u64::from(vector == 8) << 32, at >> 32 << 32]);
        ram.write(at, &[0xf4]);
    }
    let mut state = cpu.state();
    state.gdtr = crate::Table { base: GDT, limit: 55 };
    state.idtr = crate::Table { base: IDT, limit: 32 * 16 - 1 };
    state.tr = crate::Segment::task(TASK, TSS, 0x67);
    state.segments = [crate::Segment::data(DATA_0, 0); 6];
    state.segments[1] = crate::Segment::code64(CODE_0, 0);
    cpu.set_state(&state).unwrap();
}

/// Puts a machine with a [`system`] into a program's place, at CPL 3.
pub(crate) fn program(cpu: &mut Cpu) {
    let mut state = cpu.state();
    state.segments = [crate::Segment::data(DATA_3, 3); 6];
    state.segments[1] = crate::Segment::code64(CODE_3, 3);
    cpu.set_state(&state).unwrap();
}

/// The words on top of the stack.
pub(crate) fn stack<const N: usize>(cpu: &Cpu, ram: &Flat) -> [u64; N] {
    let top = cpu.registers().general[4];
    std::array::from_fn(|n| {
        let mut bytes = [0; 8];
        ram.read(top + 8 * n as u64, &mut bytes);
        u64::from_le_bytes(bytes)
    })
}
