//! The software CPU's side: the same arena at the same addresses, one instruction at a time.

use iced_x86::Instruction;
use vmm_cpu::{Cpu, Exit, Nobody, State};

use crate::{
    arena::{CODE, CODE_SIZE, DATA, PAGE, PAGES, Rights, blank_data},
    case::{Case, Fault, Outcome, Registers, Window},
    space::Space,
};

/// How the software CPU is made to execute one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As code that is kept and run, a HLT behind it.
    Run,
    /// By a step.
    Step,
}

impl Way {
    /// The ways that a case can go: it must come back, and a step is one iteration of a REP.
    pub fn of(case: &Case, i: &Instruction) -> &'static [Self] {
        let end = case.before.rip + case.code.len() as u64;
        let repeats = i.has_rep_prefix() || i.has_repne_prefix();
        if case.jumps || end >= CODE + CODE_SIZE {
            &[Self::Step]
        } else if repeats && i.is_string_instruction() {
            &[Self::Run]
        } else {
            &[Self::Step, Self::Run]
        }
    }
}

const HLT: u8 = 0xf4;
/// What a HLT is to user code.
const PRIVILEGED: Fault = Fault { vector: 13, code: 0, address: 0 };

/// The software CPU in the arena.
#[derive(Debug)]
pub struct Ours {
    cpu: Cpu,
    space: Space,
    state: State,
    code: u64,
    data: u64,
    blank: Vec<u8>,
}

impl Ours {
    /// A CPU in an arena that is blank.
    pub fn new() -> Self {
        let mut space = Space::new(64);
        let code = space.take(CODE_SIZE / PAGE);
        let data = space.take(PAGES.len() as u64);
        for at in (0..CODE_SIZE).step_by(PAGE as usize) {
            space.map(CODE + at, code + at, Rights::Read, true);
        }
        for (at, rights) in (0..).step_by(PAGE as usize).zip(PAGES) {
            space.map(DATA + at, data + at, rights, false);
        }
        space.forbid_last_page();
        let blank = blank_data();
        space.ram.write(data, &blank);
        let (cpu, state) = space.cpu();
        Self { cpu, space, state, code, data, blank }
    }

    /// Executes a case. `None`: the instruction is not built.
    pub fn execute(&mut self, case: &Case, way: Way) -> Option<Outcome> {
        let at = case.before.rip.wrapping_sub(CODE);
        let mut code = case.code.clone();
        code.push(HLT);
        let room = CODE_SIZE.saturating_sub(at).min(code.len() as u64) as usize;
        let map = self.cpu.code_map().clone();
        self.space.host_writes(self.code + at, &code[..room], &map);
        for window in &case.windows {
            self.space.ram.write(self.data + window.offset as u64, &window.bytes);
        }
        self.load(&case.before);
        let unknown = self.unknown();
        let (exit, expected) = match way {
            Way::Run => (self.cpu.run(&self.space.ram, &Nobody), Exit::Halted),
            Way::Step => (self.cpu.step(&self.space.ram, &Nobody), Exit::Step),
        };
        let windows = case.windows.iter().map(|window| self.take(window)).collect();
        let built = self.unknown() == unknown;
        let mut outcome = self.outcome();
        outcome.windows = windows;
        if way == Way::Run
            && outcome.after.rip == case.before.rip + case.code.len() as u64
            && outcome.fault == Some(PRIVILEGED)
        {
            outcome.fault = None;
        }
        if exit != expected {
            outcome.fault = Some(Fault { vector: 0xff, code: 0, address: 0 });
        }
        built.then_some(outcome)
    }

    fn unknown(&self) -> u64 {
        self.cpu.unknown().map(|(_, times)| times).sum()
    }

    fn load(&mut self, before: &Registers) {
        let state = &mut self.state;
        state.registers.general = before.general;
        state.registers.rip = before.rip;
        state.registers.rflags = before.rflags;
        state.segments[4].base = before.fs;
        state.segments[5].base = before.gs;
        state.cr2 = 0;
        state.xsave.fill(0);
        state.xsave[..512].copy_from_slice(&before.fx);
        // x87 and SSE are there.
        state.xsave[512] = 3;
        let refused = self.cpu.set_state(state).err();
        assert!(refused.is_none(), "{refused:?}");
    }

    fn outcome(&mut self) -> Outcome {
        let mut state = self.cpu.state();
        let fault = self.space.caught(&mut state);
        let mut after = Registers {
            general: state.registers.general,
            rip: state.registers.rip,
            rflags: state.registers.rflags,
            fs: state.segments[4].base,
            gs: state.segments[5].base,
            ..Registers::default()
        };
        after.fx.copy_from_slice(&state.xsave[..512]);
        Outcome { after, fault, windows: Vec::new() }
    }

    /// What is in a window now; leaves it blank.
    fn take(&self, window: &Window) -> Window {
        let mut bytes = vec![0; window.bytes.len()];
        let at = self.data + window.offset as u64;
        self.space.ram.read(at, &mut bytes);
        self.space.ram.write(at, &self.blank[window.offset..][..bytes.len()]);
        Window { offset: window.offset, bytes }
    }
}

impl Default for Ours {
    fn default() -> Self {
        Self::new()
    }
}
