//! Any bytes as code, state and page tables: the CPU may fault, halt or shut down, but it comes
//! back, and never leaves its memory.

use std::{cell::Cell, ops::ControlFlow, sync::Arc};

use vmm_cpu::{Attention, CodeMap, Cpu, Exit, Io, Nobody, Segment, State, Table};

use crate::native::Guarded;

const PAGES: usize = 20;
const TABLES: u64 = 0x1000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const GDT: u64 = 0x7000;
const HANDLER: u64 = 0x8000;
const CODE: u64 = 0xa000;
const STACK: u64 = 0x1_0000;

/// Bytes, and zeros when they are used up.
pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of these.
    pub(crate) fn of<'t, T>(&mut self, these: &'t [T]) -> &'t T {
        &these[usize::from(self.byte()) % these.len()]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// An address in or near memory of so many pages, or any value.
    pub(crate) fn value(&mut self, pages: usize) -> u64 {
        let (how, offset) = (self.byte(), u64::from(self.byte()) << 8 | u64::from(self.byte()));
        match how % 8 {
            0 | 1 => CODE + offset % 0x2000,
            2 | 3 => offset % (pages as u64 * 4096 + 64),
            4 => (offset as i16) as u64,
            5 => 1 << (offset % 64),
            6 => 0x0000_8000_0000_0000_u64.wrapping_add_signed(i64::from(offset as i8)),
            _ => self.word(),
        }
    }
}

/// Executes what `input` says.
///
/// # Panics
/// If the CPU does what it must not: hang, panic, or come to a state that it does not take back.
pub fn survives(input: &[u8]) {
    let mut source = Source::new(input);
    let Ok(ram) = Guarded::new(PAGES) else { return };
    kernel(&ram);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    let state = state(&cpu.state(), &mut source);
    // What is overwritten: tables, descriptors, gates, code.
    for _ in 0..source.byte() % 12 {
        let at = u64::from(source.byte()) << 8 | u64::from(source.byte());
        ram.write(at, &source.value(PAGES).to_le_bytes());
    }
    ram.write(CODE, source.0);
    if cpu.set_state(&state).is_err() {
        return;
    }
    for _ in 0..8 {
        if cpu.step(&ram, &Nobody) != Exit::Step {
            break;
        }
    }
    runs(&mut cpu, &ram);
    let after = timeless(&cpu);
    let refused = cpu.set_state(&after).err();
    assert!(refused.is_none(), "{refused:?}: {after:?}");
    assert_eq!(timeless(&cpu), after, "the state that was taken is another");
}

/// The state without the time-stamp counter, which goes on.
pub(crate) fn timeless(cpu: &Cpu) -> State {
    const TSC: u32 = 0x10;
    let mut state = cpu.state();
    state.msrs.retain(|(index, _)| *index != TSC);
    state
}

/// Runs for a while that no clock measures, and no longer: what no byte says is zeros, an instruction
/// that overwrites itself, and each is decoded with those behind it.
fn runs(cpu: &mut Cpu, ram: &Guarded) {
    let io = Patience::new(cpu, 500);
    for _ in 0..4 {
        let exit = cpu.run_for(100, ram, &io);
        assert!(!matches!(exit, Exit::Step | Exit::Io), "{exit:?} was not asked for");
        if matches!(exit, Exit::Attention | Exit::TripleFault) {
            break;
        }
    }
}

/// As [`Nobody`], for so many accesses. A string instruction counts as one and can have billions of
/// them; it must come back in the middle when called.
pub(crate) struct Patience {
    attention: Attention,
    left: Cell<u32>,
}

impl Patience {
    pub(crate) fn new(cpu: &Cpu, accesses: u32) -> Self {
        Self { attention: cpu.attention(), left: Cell::new(accesses) }
    }

    fn wears(&self) -> ControlFlow<()> {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.attention.call();
        }
        ControlFlow::Continue(())
    }
}

impl Io for Patience {
    fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()> {
        let _ = Nobody.read(at, data);
        self.wears()
    }

    fn write(&self, _: u64, _: &[u8]) -> ControlFlow<()> {
        self.wears()
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()> {
        let _ = Nobody.port_in(port, data);
        self.wears()
    }

    fn port_out(&self, _: u16, _: &[u8]) -> ControlFlow<()> {
        self.wears()
    }
}

/// Tables that map memory at its own addresses, and gates that lead to an IRETQ.
fn kernel(ram: &Guarded) {
    let put = |at: u64, word: u64| ram.write(at, &word.to_le_bytes());
    for level in 0..3 {
        put(TABLES + level * 4096, TABLES + (level + 1) * 4096 + 7);
    }
    for page in 0..PAGES as u64 {
        put(TABLES + 3 * 4096 + page * 8, page << 12 | 7);
    }
    let (code, data, user) = (0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 3_u64 << 45);
    let task = 0x0000_8900_0000_0067 | TSS << 16;
    let gdt = [0, 0, code, data, 0, data | user, code | user, 0, task, 0];
    gdt.into_iter().zip(0..).for_each(|(word, n)| put(GDT + n * 8, word));
    put(TSS + 4, STACK);
    for vector in 0..256 {
        put(IDT + vector * 16, HANDLER & 0xffff | 0x10 << 16 | 0xee00 << 32);
    }
    // add rsp, 8; iretq: right for exceptions with an error code, wrong for the rest.
    ram.write(HANDLER, &[0x48, 0x83, 0xc4, 8, 0x48, 0xcf]);
}

fn state(default: &State, source: &mut Source<'_>) -> State {
    let mut state = State { cr3: TABLES, ..default.clone() };
    state.msrs.clear();
    let user = source.byte() & 1 != 0;
    let dpl = if user { 3 } else { 0 };
    let (code, data) = if user { (0x33, 0x2b) } else { (0x10, 0x18) };
    state.segments = [Segment::data(data, dpl); 6];
    state.segments[1] = Segment::code64(code, dpl);
    state.segments[4].base = source.value(PAGES);
    state.segments[5].base = source.value(PAGES);
    state.gdtr = Table { base: GDT, limit: 79 };
    state.idtr = Table { base: IDT, limit: 0xfff };
    state.tr = Segment::task(0x40, TSS, 0x67);
    // Any bits of the control registers; those that do not exist are refused.
    state.cr0 ^= u64::from(source.byte()) & 0x2e | u64::from(source.byte() & 5) << 16;
    state.cr4 ^= source.word() & 0x37_0fff & u64::from(source.byte()).wrapping_mul(0x0101_0101);
    state.efer ^= u64::from(source.byte() & 9) << 8 & 0x801;
    state.registers.rflags = source.word() & 0x3f_7fd7 | 2;
    state.registers.rip = if source.byte().is_multiple_of(8) { source.value(PAGES) } else { CODE };
    for register in &mut state.registers.general {
        *register = source.value(PAGES);
    }
    let fill = source.byte();
    for byte in state.xsave.iter_mut().skip(32).take(384) {
        *byte = if fill & 1 != 0 { source.byte() } else { fill };
    }
    state.xsave[24..26].copy_from_slice(&[0x80 | source.byte(), source.byte() | 0x1f]);
    state
}
