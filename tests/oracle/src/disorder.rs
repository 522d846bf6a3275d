//! Any page tables, descriptors, gates, task states and model-specific registers, in any mode, under
//! code that makes use of them: the CPU may fault, halt, shut down or refuse what is not built, but it
//! comes back.

use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    sync::Arc,
};

use vmm_cpu::{CodeMap, Cpu, Exit, Io, Segment, State, Table};

use crate::{
    anything::{Patience, Source, timeless},
    native::Guarded,
};

const PAGES: usize = 24;
/// Four page tables, the root first.
const TABLES: u64 = 0x1000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const GDT: u64 = 0x7000;
const LDT: u64 = 0x7800;
const HANDLERS: u64 = 0x8000;
const CODE: u64 = 0xa000;
const STACK: u64 = 0x1_0000;

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
/// LME and LMA.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;

/// The modes there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Protected16,
    Protected32,
    Paged32,
    Pae,
    Compatibility,
    Long,
}

impl Mode {
    const ALL: [Self; 7] = [
        Self::Real,
        Self::Protected16,
        Self::Protected32,
        Self::Paged32,
        Self::Pae,
        Self::Compatibility,
        Self::Long,
    ];

    fn is_long(self) -> bool {
        matches!(self, Self::Compatibility | Self::Long)
    }

    /// How many levels its tables have, and the size of an entry.
    fn tables(self) -> Option<(u64, u64)> {
        match self {
            Self::Real | Self::Protected16 | Self::Protected32 => None,
            Self::Paged32 => Some((2, 4)),
            Self::Pae => Some((3, 8)),
            Self::Compatibility | Self::Long => Some((4, 8)),
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
    let mode = Mode::ALL[usize::from(source.byte()) % Mode::ALL.len()];
    tables(&ram, mode, &mut source);
    descriptors(&ram, mode, &mut source);
    gates(&ram, mode, &mut source);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    let state = state(&cpu.state(), mode, &mut source);
    ram.write(TSS, &std::array::from_fn::<u8, 0x68, _>(|_| source.byte()));
    ram.write(TSS + 4, &STACK.to_le_bytes());
    let mut events: Vec<u8> = (0..source.byte() % 8).map(|_| source.byte()).collect();
    let mut at = CODE;
    while !source.is_empty() && at < CODE + 0x1000 {
        let code = instruction(&mut source);
        ram.write(at, &code);
        at += code.len() as u64;
    }
    if cpu.set_state(&state).is_err() {
        return;
    }
    let io = Outside::new(&cpu);
    while runs(&mut cpu, &ram, &io)
        && let Some(event) = events.pop()
    {
        match event % 4 {
            0 => cpu.nmi(),
            1 if event >= 0xe0 => {
                cpu.init();
                cpu.startup(0xa);
            }
            _ => {
                io.vectors.borrow_mut().push(event);
                cpu.interrupt();
            }
        }
    }
    let after = timeless(&cpu);
    let refused = cpu.set_state(&after).err();
    assert!(refused.is_none(), "{refused:?}: {after:?}");
    assert_eq!(timeless(&cpu), after, "the state that was taken is another");
}

/// Runs for a while that no clock measures; whether it could go on.
fn runs(cpu: &mut Cpu, ram: &Guarded, io: &Outside) -> bool {
    let exit = cpu.run_for(500, ram, io);
    assert!(!matches!(exit, Exit::Step | Exit::Io), "{exit:?} was not asked for");
    matches!(exit, Exit::Halted | Exit::Count)
}

/// Who has no device, but interrupts.
struct Outside {
    patience: Patience,
    vectors: RefCell<Vec<u8>>,
    priority: Cell<u8>,
}

impl Outside {
    fn new(cpu: &Cpu) -> Self {
        let patience = Patience::new(cpu, 500);
        Self { patience, vectors: RefCell::default(), priority: Cell::default() }
    }
}

impl Io for Outside {
    fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()> {
        self.patience.read(at, data)
    }

    fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()> {
        self.patience.write(at, data)
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()> {
        self.patience.port_in(port, data)
    }

    fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()> {
        self.patience.port_out(port, data)
    }

    fn acknowledge(&self) -> Option<u8> {
        self.vectors.borrow_mut().pop()
    }

    fn task_priority(&self) -> Option<u8> {
        Some(self.priority.get())
    }

    fn set_task_priority(&self, priority: u8) {
        self.priority.set(priority);
    }
}

/// Tables that map memory at its own addresses, and entries that do not.
fn tables(ram: &Guarded, mode: Mode, source: &mut Source<'_>) {
    let Some((levels, size)) = mode.tables() else { return };
    let put = |at: u64, entry: u64| ram.write(at, &entry.to_le_bytes()[..size as usize]);
    for level in 0..levels - 1 {
        // Of PAE's four first ones, the bits of rights are reserved.
        let rights = if mode == Mode::Pae && level == 0 { 1 } else { 7 };
        put(TABLES + level * 4096, TABLES + (level + 1) * 4096 + rights);
    }
    let last = TABLES + (levels - 1) * 4096;
    (0..PAGES as u64).for_each(|page| put(last + page * size, page << 12 | 7));
    for _ in 0..source.byte() % 12 {
        let (level, index) = (u64::from(source.byte()) % levels, u64::from(source.byte()));
        // Mostly those that are used.
        let index = if index < 0xc0 { index % PAGES as u64 } else { index * 2 };
        let flags = source.word();
        let flags = if flags & 0x100 == 0 { flags & 0xfff } else { flags & !0xf_ffff_f000 };
        let page = u64::from(source.byte()) % (PAGES as u64 + 2);
        put(TABLES + level * 4096 + index * size, page << 12 | flags);
    }
}

/// Segments, gates and tasks of any type; the first are of use.
fn descriptors(ram: &Guarded, mode: Mode, source: &mut Source<'_>) {
    let put = |at: u64, word: u64| ram.write(at, &word.to_le_bytes());
    let code = if mode == Mode::Long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let (data, user) = (0x00cf_9300_0000_ffff, 3_u64 << 45);
    let task = 0x0000_8900_0000_0067 | TSS << 16;
    let gdt = [0, code, data, code | user, data | user, task, 0, 0x0000_8200_0000_00ff | LDT << 16];
    gdt.into_iter().zip(0..).for_each(|(word, n)| put(GDT + n * 8, word));
    for _ in 0..source.byte() % 16 {
        let at = if source.byte() & 1 == 0 { GDT } else { LDT };
        put(at + u64::from(source.byte() % 24) * 8, descriptor(source));
    }
}

/// A descriptor, or a gate, that is about right.
fn descriptor(source: &mut Source<'_>) -> u64 {
    let (rights, word) = (u64::from(source.byte()), source.word());
    let selector = u64::from(source.byte()) << 16;
    match source.byte() % 4 {
        // A gate to a handler.
        0 => (HANDLERS + 16 * (word & 31)) | selector | (word & 0x1f) << 32 | rights << 40,
        // A segment in memory.
        1 | 2 => word & 0xd0_0000_00ff_ffff | 0xffff | rights << 40,
        _ => word,
    }
}

/// A gate for each exception, some of which are no good.
fn gates(ram: &Guarded, mode: Mode, source: &mut Source<'_>) {
    for vector in 0..48 {
        let at = HANDLERS + vector % 32 * 16;
        // The handlers come back, or halt: the error codes are those of some only.
        ram.write(at, if vector % 3 == 0 { &[0xf4] } else { &[0x66, 0xcf] });
        let gate = at | 0x08 << 16 | 0xee << 40;
        match mode {
            Mode::Real => ram.write(vector * 4, &(at as u32).to_le_bytes()),
            _ if mode.is_long() => ram.write(IDT + vector * 16, &gate.to_le_bytes()),
            _ => ram.write(IDT + vector * 8, &gate.to_le_bytes()),
        }
    }
    for _ in 0..source.byte() % 12 {
        let vector = u64::from(source.byte() % 48);
        let size = if mode.is_long() { 16 } else { 8 };
        let at = if mode == Mode::Real { vector * 4 } else { IDT + vector * size };
        ram.write(at, &descriptor(source).to_le_bytes());
    }
}

fn state(default: &State, mode: Mode, source: &mut Source<'_>) -> State {
    let how = source.byte();
    let dpl = if how & 1 != 0 && mode != Mode::Real { 3 } else { 0 };
    let (code, data) = if dpl == 3 { (0x1b, 0x23) } else { (0x08, 0x10) };
    let mut state = State { cr3: TABLES, ..default.clone() };
    if mode == Mode::Real {
        let base = State::reset();
        state.segments = base.segments;
        (state.segments[1].selector, state.segments[1].base) = ((CODE >> 4) as u16, CODE);
        (state.cr0, state.cr4, state.efer) = (base.cr0, 0, 0);
    } else {
        state.segments = [Segment::data(data, dpl); 6];
        state.segments[1] = match mode {
            Mode::Long => Segment::code64(code, dpl),
            _ => Segment::code32(code, dpl),
        };
        if mode == Mode::Protected16 {
            // D is bit 14.
            state.segments[1].rights &= !(1 << 14);
        }
    }
    let long = mode.is_long();
    state.efer = state.efer & !EFER_LONG | if long { EFER_LONG } else { 0 } | u64::from(how >> 7);
    if mode != Mode::Real {
        let paging = if mode.tables().is_some() { CR0_PG } else { 0 };
        state.cr0 = state.cr0 & !CR0_PG | CR0_PE | paging;
    }
    let pae = if long || mode == Mode::Pae { CR4_PAE } else { 0 };
    // SMEP, SMAP, PGE, PSE, DE, TSD and others; what does not exist is refused.
    let more = source.word() & 0x31_069f & u64::from(source.byte()).wrapping_mul(0x0101_0101);
    state.cr4 = state.cr4 & !(CR4_PAE | CR4_PSE) | pae | more;
    // WP, AM, and those about x87.
    state.cr0 ^= u64::from(source.byte()) & 0x2e | u64::from(source.byte() & 5) << 16;
    state.efer |= u64::from(source.byte() & 8) << 8;
    let limit = if source.byte() & 7 == 0 { source.byte().into() } else { 0x3ff };
    state.gdtr = Table { base: GDT, limit };
    state.idtr = Table { base: if mode == Mode::Real { 0 } else { IDT }, limit: 0x2ff };
    state.tr = Segment::task(0x28, TSS, 0x67);
    state.ldtr = Segment { selector: 0x38, base: LDT, limit: 0xff, rights: 0x82 };
    // Flags without NT, VM and the like would be dull.
    state.registers.rflags = source.word() & 0x3f_7fd7 | 2;
    state.registers.rip = if mode == Mode::Real { 0 } else { CODE };
    state.registers.general.iter_mut().for_each(|register| *register = source.value(PAGES));
    state.registers.general[4] = STACK - 64;
    state.msrs.clear();
    for _ in 0..source.byte() % 6 {
        let index = *source.of(&MSRS);
        state.msrs.push((index, source.value(PAGES)));
    }
    state.msrs.retain(|msr| is_taken(default, *msr));
    state
}

/// Whether this register can hold this; the others would have everything refused.
fn is_taken(default: &State, msr: (u32, u64)) -> bool {
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    cpu.set_state(&State { msrs: vec![msr], ..default.clone() }).is_ok()
}

/// Registers that there are, and some that are not.
const MSRS: [u32; 20] = [
    0x10,
    0x1b,
    0x174,
    0x175,
    0x176,
    0x277,
    0x2ff,
    0x200,
    0x201,
    0x250,
    0x6e0,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0102,
    0xc000_0103,
    0xdead_beef,
];

/// Bytes of an instruction that makes use of all that.
fn instruction(source: &mut Source<'_>) -> Vec<u8> {
    /// Whole, whatever the mode.
    const PLAIN: [&[u8]; 30] = [
        &[0x0f, 0x30],
        &[0x0f, 0x32],
        &[0xcf],
        &[0x48, 0xcf],
        &[0xcc],
        &[0xf1],
        &[0xce],
        &[0x0f, 0x05],
        &[0x0f, 0x07],
        &[0x48, 0x0f, 0x07],
        &[0x0f, 0x34],
        &[0x0f, 0x35],
        &[0xcb],
        &[0x48, 0xcb],
        &[0x9c],
        &[0x9d],
        &[0xfa],
        &[0xfb],
        &[0xf4],
        &[0x0f, 0x01, 0xf8],
        &[0x0f, 0x01, 0xd1],
        &[0x0f, 0x01, 0xca],
        &[0x0f, 0x01, 0xcb],
        &[0x0f, 0x06],
        &[0x0f, 0xa2],
        &[0x1e],
        &[0x07],
        &[0x17],
        &[0x0f, 0xa9],
        &[0xf3, 0xa4],
    ];
    /// Those that a ModRM byte follows: segments, tables, control and debug registers, selectors,
    /// far pointers.
    const WITH_OPERAND: [&[u8]; 14] = [
        &[0x8e],
        &[0x0f, 0x00],
        &[0x0f, 0x01],
        &[0x0f, 0x02],
        &[0x0f, 0x03],
        &[0x0f, 0x20],
        &[0x0f, 0x21],
        &[0x0f, 0x22],
        &[0x0f, 0x23],
        &[0x0f, 0xb2],
        &[0x63],
        &[0xff],
        &[0x89],
        &[0x8b],
    ];
    match source.byte() % 8 {
        0 | 1 => source.of(&PLAIN).to_vec(),
        2..=4 => [*source.of(&WITH_OPERAND), &[source.byte()]].concat(),
        5 => vec![0xcd, source.byte() % 48],
        // A far jump or call, and a number into a register.
        6 => {
            let selector = source.byte();
            let to = (CODE as u16).to_le_bytes();
            vec![if selector & 1 == 0 { 0xea } else { 0x9a }, to[0], to[1], 0, 0, selector & !1, 0]
        }
        _ => {
            let msr = source.of(&MSRS).to_le_bytes();
            [&[0xb8 | source.byte() & 7], &msr[..]].concat()
        }
    }
}
