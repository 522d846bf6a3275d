//! A small machine for unit tests: memory, page tables that map it at its own addresses, and
//! nobody who answers.

use std::{ops::ControlFlow, sync::Arc};

use crate::{CodeMap, Cpu, Flat, Io, ram::PAGE_SIZE};

/// Where code goes.
pub(crate) const CODE: u64 = 0x1_0000;
/// The end of the stack.
pub(crate) const STACK: u64 = 0x2_0000;
/// Free for data, up to the end of memory.
pub(crate) const DATA: u64 = 0x3_0000;
const PAGES: usize = 256;

/// Where nobody answers: loads are all ones.
pub(crate) struct Nobody;

impl Io for Nobody {
    fn read(&self, _: u64, data: &mut [u8]) -> ControlFlow<()> {
        data.fill(0xff);
        ControlFlow::Continue(())
    }

    fn write(&self, _: u64, _: &[u8]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn port_in(&self, _: u16, data: &mut [u8]) -> ControlFlow<()> {
        data.fill(0xff);
        ControlFlow::Continue(())
    }

    fn port_out(&self, _: u16, _: &[u8]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A CPU in 64-bit mode at CPL 0, about to execute `code` at [`CODE`].
pub(crate) fn machine(code: &[u8]) -> (Cpu, Flat) {
    let ram = Flat::new(PAGES);
    // One table of each level, at 0x1000, 0x2000, 0x3000 and 0x4000.
    for (at, entry) in [(0x1000u64, 0x2007u64), (0x2000, 0x3007), (0x3000, 0x4007)] {
        ram.write(at, &entry.to_le_bytes());
    }
    for page in 0..PAGES as u64 {
        ram.write(0x4000 + page * 8, &(page * PAGE_SIZE | 7).to_le_bytes());
    }
    ram.write(CODE, code);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    cpu.core.system.cr3 = 0x1000;
    cpu.core.rip = CODE;
    cpu.core.regs[crate::regs::RSP] = STACK;
    (cpu, ram)
}
