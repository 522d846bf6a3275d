//! Breakpoints on instructions, data and ports, and single steps (Intel SDM 3-17.2, 3-17.3).
//!
//! While a breakpoint is armed instructions are executed one at a time, and the TLB learns no page
//! on which data are watched: whoever is not debugged pays nothing.

use crate::{
    core::Core,
    exception::{Exception, Vector},
    flags::{RF, TF},
    paging::Access,
    ram::{OFFSET, PAGE_SIZE},
    system::{CR4_DE, DR6_BS, DR7_ENABLED},
};

/// What became of the current instruction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Debug {
    /// The bits of DR6 for the breakpoints that it has hit.
    hits: u64,
    /// A trap follows it, for it is stepped.
    stepped: bool,
    /// The linear address of the instruction before which no #DB is raised: behind MOV or POP to
    /// SS, so that a stack can be changed in two steps (Intel SDM 3-6.8.3).
    quiet: Option<u64>,
}

/// What is watched for: the R/W field of DR7.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute = 0,
    Write = 1,
    Port = 2,
    Access = 3,
}

/// A breakpoint that is armed.
struct Breakpoint {
    /// Its bit of DR6.
    bit: u64,
    kind: u64,
    /// An instruction's, or that of the first of the bytes that are watched.
    address: u64,
    len: u64,
}

impl Breakpoint {
    fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u64
    }

    /// Whether one of `len` bytes is watched.
    fn touches(&self, at: u64, len: u64) -> bool {
        // Differences, because addresses may begin anew at the end.
        at.wrapping_sub(self.address) < self.len || self.address.wrapping_sub(at) < len
    }
}

impl Core {
    /// Whether a breakpoint is armed.
    #[inline(always)]
    pub(crate) fn is_debugged(&self) -> bool {
        self.system.dr7 & DR7_ENABLED != 0
    }

    /// Those that are armed.
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> {
        let (dr, dr7) = (self.system.dr, self.system.dr7);
        let ports = self.system.cr4 & CR4_DE != 0;
        dr.into_iter().zip(0..).filter_map(move |(address, n): (u64, u32)| {
            let (kind, size) = (dr7 >> (16 + 4 * n) & 3, dr7 >> (18 + 4 * n) & 3);
            let len = [1, 2, 8, 4][size as usize];
            let armed = dr7 >> (2 * n) & 3 != 0 && (ports || kind != Kind::Port as u64);
            let execute = kind == Kind::Execute as u64;
            let address = if execute { address } else { address & !(len - 1) };
            armed.then_some(Breakpoint { bit: 1 << n, kind, address, len })
        })
    }

    /// Begins an instruction that is executed on its own. False, and #DB is put up for delivery, if
    /// there is a breakpoint on it.
    pub(crate) fn begins(&mut self) -> bool {
        let quiet = self.debug.quiet.take() == Some(self.rip);
        if !quiet {
            // What one that had loaded SS has hit is still to come.
            self.debug.hits = 0;
        }
        let resumed = self.other_flags & RF != 0;
        self.other_flags &= !RF;
        self.debug.stepped = self.other_flags & TF != 0;
        if quiet || resumed || !self.is_debugged() {
            return true;
        }
        let here = |point: &Breakpoint| point.is(Kind::Execute) && point.address == self.rip;
        let hits = self.breakpoints().filter(here).fold(0, |hits, point| hits | point.bit);
        if hits != 0 {
            self.system.dr6 |= hits;
            self.raise(Exception::new(Vector::Debug));
        }
        hits == 0
    }

    /// Ends an instruction that was executed on its own. True, and #DB is put up for delivery, if a
    /// trap follows it.
    pub(crate) fn traps(&mut self) -> bool {
        if self.debug.quiet == Some(self.rip) {
            return false;
        }
        let step = if self.debug.stepped { DR6_BS } else { 0 };
        let why = std::mem::take(&mut self.debug.hits) | step;
        self.system.dr6 |= why;
        if why != 0 {
            self.raise(Exception::new(Vector::Debug));
        }
        why != 0
    }

    /// The current instruction has changed TF in a way that is heard at once: by going to a handler,
    /// or with SYSCALL's mask.
    pub(crate) fn step_anew(&mut self) {
        self.debug.stepped &= self.other_flags & TF != 0;
    }

    /// The current instruction has loaded SS; the next one is there.
    pub(crate) fn be_quiet(&mut self, next: u64) {
        self.debug.quiet = Some(next);
    }

    /// A debug register was `changed`: what is watched may be something else.
    pub(crate) fn rearm(&mut self, before: u64) {
        self.debug.quiet = None;
        if (before | self.system.dr7) & DR7_ENABLED != 0 {
            self.flush_tlb();
        }
    }

    /// Whether the TLB must not know the page of `linear`.
    pub(crate) fn watches_page(&self, linear: u64) -> bool {
        let page = linear & !OFFSET;
        let data = |point: &Breakpoint| point.is(Kind::Write) || point.is(Kind::Access);
        self.is_debugged()
            && self.breakpoints().filter(data).any(|point| point.touches(page, PAGE_SIZE))
    }

    /// Notes what an access to data hits.
    #[inline(always)]
    pub(crate) fn watch(&mut self, linear: u64, len: usize, access: Access) {
        if self.is_debugged() {
            self.note(linear, len as u64, |point| {
                point.is(Kind::Access) || point.is(Kind::Write) && access == Access::Write
            });
        }
    }

    /// Notes what an access to a port hits.
    pub(crate) fn watch_port(&mut self, port: u16, len: u64) {
        if self.is_debugged() {
            self.note(port.into(), len, |point| point.is(Kind::Port));
        }
    }

    #[cold]
    fn note(&mut self, at: u64, len: u64, concerns: impl Fn(&Breakpoint) -> bool) {
        let hit = |point: &Breakpoint| concerns(point) && point.touches(at, len);
        let hits = self.breakpoints().filter(hit).fold(0, |hits, point| hits | point.bit);
        self.debug.hits |= hits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Cpu, Exit, Flat,
        regs::{RAX, RCX, RDI, RSI},
        testing::{
            CODE, CODE_0, DATA, DATA_0, HANDLERS, Nobody, STACK, machine, program, stack, system,
        },
    };

    const DB: u64 = HANDLERS + 16;
    const B0: u64 = 1;
    const B1: u64 = 2;
    /// What DR6 can show, without what is fixed.
    const SHOWN: u64 = 0xe00f;

    /// About to execute `code` with this DR7 and DR0, and DR1 beside it.
    fn debugged(code: &[u8], dr7: u64, dr: [u64; 2]) -> (Cpu, Flat) {
        let (mut cpu, ram) = machine(code);
        system(&mut cpu, &ram);
        let mut state = cpu.state();
        state.dr[..2].copy_from_slice(&dr);
        (state.dr7, state.cr4) = (dr7, state.cr4 | CR4_DE);
        cpu.set_state(&state).unwrap();
        cpu.core.regs[RSI] = DATA;
        cpu.core.regs[RDI] = DATA + 0x100;
        (cpu, ram)
    }

    /// Runs until a handler halts, or the code does; where, and what DR6 shows.
    fn run(cpu: &mut Cpu, ram: &Flat) -> (u64, u64) {
        assert_eq!(cpu.run(ram, &Nobody), Exit::Halted);
        (cpu.registers().rip - 1, cpu.state().dr6 & SHOWN)
    }

    /// DR7 with breakpoint 0 of a kind and a size, locally enabled.
    fn dr7(kind: Kind, size: u64) -> u64 {
        1 | (kind as u64) << 16 | size << 18
    }

    #[test]
    fn an_instruction_breakpoint_strikes_before_it_and_not_when_resumed() {
        // nop; nop; mov eax, 5; hlt
        let code = [0x90, 0x90, 0xb8, 5, 0, 0, 0, 0xf4];
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Execute, 0), [CODE + 2, 0]);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        assert_eq!(stack(&cpu, &ram), [CODE + 2, u64::from(CODE_0), 2]);
        assert_eq!(cpu.core.regs[RAX], 0);
        // The handler: or byte [rsp+18], 1 (RF); iretq
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Execute, 0), [CODE + 2, 0]);
        ram.write(DB, &[0x80, 0x4c, 0x24, 18, 1, 0x48, 0xcf]);
        assert_eq!(run(&mut cpu, &ram), (CODE + 7, B0));
        assert_eq!((cpu.core.regs[RAX], cpu.registers().rflags & RF), (5, 0));
        // Not armed, or at CPL 3 by a debugger at CPL 0.
        let (mut cpu, ram) = debugged(&code, 0, [CODE + 2, 0]);
        assert_eq!(run(&mut cpu, &ram), (CODE + 7, 0));
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Execute, 0) << 1 & 3, [CODE + 2, 0]);
        program(&mut cpu);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
    }

    #[test]
    fn data_breakpoints_trap_behind_what_touches_a_byte_of_theirs() {
        let (load, store) = ([0x48, 0x8b, 0x06], [0x48, 0x89, 0x06]);
        let cases = [
            (Kind::Write, 0, DATA + 7, &store, true),
            (Kind::Write, 0, DATA + 8, &store, false),
            (Kind::Write, 0, DATA + 7, &load, false),
            (Kind::Access, 0, DATA, &load, true),
            (Kind::Access, 3, DATA - 4, &load, false),
            // Its address counts from where as many bytes begin.
            (Kind::Access, 3, DATA - 1, &load, false),
            (Kind::Access, 3, DATA + 5, &load, true),
            (Kind::Access, 2, DATA + 5, &store, true),
            (Kind::Access, 1, DATA + 9, &store, false),
        ];
        for (kind, size, at, code, hit) in cases {
            let (mut cpu, ram) =
                debugged(&[&[0x90], &code[..], &[0xf4]].concat(), dr7(kind, size), [at, 0]);
            cpu.core.regs[RAX] = 77;
            let expected = if hit { (DB, B0) } else { (CODE + 4, 0) };
            assert_eq!(run(&mut cpu, &ram), expected, "{at:x} {code:x?}");
            if hit {
                assert_eq!(stack(&cpu, &ram), [CODE + 4, u64::from(CODE_0), 2]);
            }
        }
    }

    /// mov [rsi], eax; mov rcx, 0x...; mov dr7, rcx; mov [rsi], eax; hlt
    #[test]
    fn a_page_that_is_known_is_watched_from_the_moment_it_is_armed() {
        let arm = dr7(Kind::Write, 3) as u32;
        let [a, b, c, d] = arm.to_le_bytes();
        let code = [0x89, 0x06, 0xb9, a, b, c, d, 0x0f, 0x23, 0xf9, 0x89, 0x06, 0xf4];
        let (mut cpu, ram) = debugged(&code, 0, [DATA, 0]);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        assert_eq!(stack(&cpu, &ram), [CODE + 12]);
        // And no longer when it is not.
        let (mut cpu, ram) = debugged(&code, arm.into(), [DATA + 64, 0]);
        cpu.core.regs[RCX] = 0;
        ram.write(CODE + 2, &[0xb9, 0, 0, 0, 0]);
        cpu.core.regs[RSI] = DATA;
        assert_eq!(run(&mut cpu, &ram), (CODE + 12, 0));
    }

    #[test]
    fn a_repetition_traps_behind_each_element_that_is_watched() {
        // mov ecx, 8; rep movsb; hlt
        let code = [0xb9, 8, 0, 0, 0, 0xf3, 0xa4, 0xf4];
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Write, 0), [DATA + 0x103, 0]);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        assert_eq!((cpu.core.regs[RCX], cpu.core.regs[RDI]), (4, DATA + 0x104));
        assert_eq!(stack(&cpu, &ram), [CODE + 5]);
    }

    #[test]
    fn ports_are_watched_if_the_extension_is_on() {
        // in al, 0x61; hlt
        let code = [0xe4, 0x61, 0xf4];
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Port, 1), [0x60, 0]);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        let (mut cpu, ram) = debugged(&code, dr7(Kind::Port, 1), [0x60, 0]);
        cpu.core.system.cr4 &= !CR4_DE;
        assert_eq!(run(&mut cpu, &ram), (CODE + 2, 0));
    }

    #[test]
    fn a_step_and_two_breakpoints_are_one_exception() {
        // mov [rsi], eax, with DR0 and DR1 on it, globally enabled.
        let both = 2 | 2 << 2 | 1 << 16 | 3 << 20;
        let (mut cpu, ram) = debugged(&[0x89, 0x06], both, [DATA, DATA + 1]);
        cpu.core.other_flags |= TF;
        assert_eq!(run(&mut cpu, &ram), (DB, B0 | B1 | DR6_BS));
        assert_eq!(stack(&cpu, &ram), [CODE + 2, u64::from(CODE_0), 2 | TF]);
        // What is shown stays until it is cleared.
        let mut registers = cpu.registers();
        registers.rip = CODE;
        cpu.set_registers(&registers);
        assert_eq!(run(&mut cpu, &ram), (DB, B0 | B1 | DR6_BS));
    }

    /// A debugger's breakpoint on the stack is heard of one instruction later.
    #[test]
    fn what_loads_ss_holds_off_breakpoints_and_steps() {
        // mov ss, [rsi]; mov eax, 5; hlt
        let code = [0x8e, 0x16, 0xb8, 5, 0, 0, 0, 0xf4];
        for (dr7, dr0, flags, why) in [
            (dr7(Kind::Access, 1), DATA, 0, B0),
            (dr7(Kind::Execute, 0), CODE + 2, 0, 0),
            (0, 0, TF, DR6_BS),
        ] {
            let (mut cpu, ram) = debugged(&code, dr7, [dr0, 0]);
            ram.write(DATA, &DATA_0.to_le_bytes());
            cpu.core.other_flags |= flags;
            let end = if why == 0 { CODE + 7 } else { DB };
            assert_eq!(run(&mut cpu, &ram), (end, why));
            assert_eq!(cpu.core.regs[RAX], 5);
            if why != 0 {
                assert_eq!(stack(&cpu, &ram), [CODE + 7]);
            }
        }
    }

    /// lss eax, [rsi]; hlt
    #[test]
    fn lss_holds_off_nothing() {
        for (dr7, flags, why) in [(dr7(Kind::Access, 1), 0, B0), (0, TF, DR6_BS)] {
            let (mut cpu, ram) = debugged(&[0x0f, 0xb2, 0x06, 0xf4], dr7, [DATA, 0]);
            ram.write(DATA + 4, &DATA_0.to_le_bytes());
            cpu.core.other_flags |= flags;
            assert_eq!(run(&mut cpu, &ram), (DB, why));
            assert_eq!(stack(&cpu, &ram), [CODE + 3]);
        }
    }

    /// hlt; nop; hlt: a trap is among what ends HLT (Intel SDM 2, "HLT - Halt").
    #[test]
    fn a_step_over_hlt_goes_on() {
        let (mut cpu, ram) = debugged(&[0xf4, 0x90, 0xf4], 0, [0; 2]);
        cpu.core.other_flags |= TF;
        assert_eq!(run(&mut cpu, &ram), (DB, DR6_BS));
        assert_eq!(stack(&cpu, &ram), [CODE + 1, u64::from(CODE_0), 2 | TF]);
        // mov ss, [rsi]; hlt: what was held off comes behind it.
        let (mut cpu, ram) = debugged(&[0x8e, 0x16, 0xf4], dr7(Kind::Access, 1), [DATA, 0]);
        ram.write(DATA, &DATA_0.to_le_bytes());
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        assert_eq!(stack(&cpu, &ram), [CODE + 3]);
    }

    #[test]
    fn what_goes_to_a_handler_is_not_stepped() {
        // int3; int 4; int1
        for (code, vector, dr6) in [(&[0xcc][..], 3, 0), (&[0xcd, 4], 4, 0), (&[0xf1], 1, 0)] {
            let (mut cpu, ram) = debugged(code, 0, [0; 2]);
            cpu.core.other_flags |= TF;
            assert_eq!(run(&mut cpu, &ram), (HANDLERS + vector * 16, dr6), "{code:x?}");
            assert_eq!(cpu.registers().general[4], STACK - 40);
        }
    }

    #[test]
    fn the_guard_of_the_registers_goes_with_any_debug_exception() {
        let (mut cpu, ram) = debugged(&[0x90], 1 << 13 | dr7(Kind::Execute, 0), [CODE, 0]);
        assert_eq!(run(&mut cpu, &ram), (DB, B0));
        assert_eq!(cpu.state().dr7 & 1 << 13, 0);
    }

    #[test]
    fn words_at_the_end_of_addresses_are_watched() {
        let point = Breakpoint { bit: 1, kind: 3, address: u64::MAX - 7, len: 8 };
        assert!(point.touches(u64::MAX, 1) && point.touches(u64::MAX - 8, 2));
        assert!(!point.touches(0, 8) && !point.touches(u64::MAX - 8, 1));
        let first = Breakpoint { bit: 1, kind: 3, address: 0, len: 1 };
        assert!(first.touches(u64::MAX, 2));
    }
}
