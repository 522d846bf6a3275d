//! What reaches a CPU from outside, between two instructions: interrupts, NMI, INIT, start-up.
//!
//! Whoever drives the CPU does so from the thread of [`Cpu::run`]; from another thread it first
//! calls for [`Attention`](crate::Attention). HLT is left to the driver as well: `run` goes on
//! behind it, which is to happen once [`Cpu::wakes`].

use crate::{
    core::{Core, World},
    cpu::Cpu,
    exception::Exception,
    flags::IF,
    state::State,
};

/// What waits, and what holds it off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// Somebody has an interrupt, or had one.
    pub(crate) interrupt: bool,
    /// An NMI waits.
    pub(crate) nmi: bool,
    /// NMIs wait for IRET.
    pub(crate) nmi_blocked: bool,
    /// What was accepted elsewhere and is to be delivered before anything else: then `interrupt` is
    /// set, so that it is seen.
    pub(crate) accepted: Option<Accepted>,
    /// The linear address of the instruction before which neither is taken: behind an STI that
    /// has set IF, and behind MOV or POP to SS.
    pub(crate) shadow: Option<u64>,
}

/// An event on its way to its handler, as [`State`] gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    Exception(Exception),
    Interrupt(u8),
}

/// The vector of NMIs.
const NMI: u8 = 2;

impl Cpu {
    /// Somebody has an interrupt: as soon as one may be taken,
    /// [`Io::acknowledge`](crate::Io::acknowledge) is asked for its vector, and again after it,
    /// until there is none.
    pub fn interrupt(&mut self) {
        self.core.signals.interrupt = true;
    }

    /// The non-maskable interrupt. One waits while another is handled; more are lost.
    pub fn nmi(&mut self) {
        self.core.signals.nmi = true;
    }

    /// Whether something waits that would be taken now: what a CPU in HLT goes on for.
    pub fn wakes(&self) -> bool {
        let Signals { interrupt, nmi, nmi_blocked, .. } = self.core.signals;
        nmi && !nmi_blocked || interrupt && self.core.other_flags & IF != 0
    }

    /// INIT: real mode at the reset vector (Intel SDM 3, table 9-1). The time-stamp counter, x87 and
    /// SSE state, and registers of the memory's types stay.
    pub fn init(&mut self) {
        let before = self.state();
        let state = State { xsave: before.xsave, xcr0: before.xcr0, ..State::reset() };
        self.core.signals = Signals::default();
        self.become_state(&state);
    }

    /// The start-up message that follows INIT: goes on in real mode at `vector` pages.
    pub fn startup(&mut self, vector: u8) {
        let mut state = self.state();
        let code = &mut state.segments[usize::from(crate::system::CS)];
        (code.selector, code.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        state.registers.rip = 0;
        self.become_state(&state);
    }
}

impl Core {
    /// Whether anything waits, so that a change of IF is to be looked at.
    #[inline(always)]
    pub(crate) fn is_signalled(&self) -> bool {
        self.signals.interrupt || self.signals.nmi
    }

    /// Whether the next instruction is to be executed before anything is taken.
    pub(crate) fn is_in_shadow(&self) -> bool {
        self.signals.shadow == Some(self.rip)
    }

    /// The next instruction is about to be executed, the only one that the shadow covers, even if it jumps
    /// to itself. Whether it was.
    pub(crate) fn leave_shadow(&mut self) -> bool {
        let covered = self.is_in_shadow();
        if covered {
            self.signals.shadow = None;
        }
        covered
    }

    /// Takes what waits and may be taken; false if that ends in a triple fault.
    pub(crate) fn take_signal(&mut self, world: &World<'_>) -> bool {
        match self.signals.accepted.take() {
            Some(Accepted::Exception(exception)) => {
                self.fault = Some(exception);
                self.fault_address = self.system.cr2;
                return self.deliver(false, world);
            }
            Some(Accepted::Interrupt(vector)) => return self.deliver_external(vector, world),
            None => {}
        }
        if self.is_in_shadow() {
            return true;
        }
        if self.signals.nmi && !self.signals.nmi_blocked {
            self.signals.nmi = false;
            self.signals.nmi_blocked = true;
            return self.deliver_external(NMI, world);
        }
        if self.signals.interrupt && self.other_flags & IF != 0 {
            match world.io.acknowledge() {
                Some(vector) => return self.deliver_external(vector, world),
                None => self.signals.interrupt = false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, ops::ControlFlow};

    use super::*;
    use crate::{
        Exit, Flat, Io,
        flags::RF,
        testing::{CODE, CODE_3, HANDLERS, Nobody, machine, program, stack, system},
    };

    /// An interrupt controller with these vectors.
    struct Pending(RefCell<Vec<u8>>);

    impl Io for Pending {
        fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()> {
            Nobody.read(at, data)
        }

        fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()> {
            Nobody.write(at, data)
        }

        fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()> {
            Nobody.port_in(port, data)
        }

        fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()> {
            Nobody.port_out(port, data)
        }

        fn acknowledge(&self) -> Option<u8> {
            self.0.borrow_mut().pop()
        }
    }

    fn pending(vectors: &[u8]) -> Pending {
        Pending(RefCell::new(vectors.to_vec()))
    }

    /// A machine with a system, about to execute `code`, with these flags.
    fn with_flags(code: &[u8], flags: u64) -> (Cpu, Flat) {
        let (mut cpu, ram) = machine(code);
        system(&mut cpu, &ram);
        let registers = cpu.registers();
        cpu.set_registers(&crate::Registers { rflags: flags, ..registers });
        (cpu, ram)
    }

    fn handler(vector: u64) -> u64 {
        HANDLERS + vector * 16 + 1
    }

    #[test]
    fn an_interrupt_is_taken_before_the_next_instruction() {
        let (mut cpu, ram) = with_flags(&[0x90, 0xf4], IF);
        program(&mut cpu);
        cpu.interrupt();
        assert_eq!(cpu.run(&ram, &pending(&[20])), Exit::Halted);
        assert_eq!(cpu.registers().rip, handler(20));
        assert_eq!(stack(&cpu, &ram), [CODE, u64::from(CODE_3), IF | 2]);
        assert_eq!(cpu.registers().rflags & (IF | RF), 0);
    }

    #[test]
    fn an_interrupt_waits_for_if_and_one_instruction_more() {
        // nop; sti; nop; nop
        let (mut cpu, ram) = with_flags(&[0x90, 0xfb, 0x90, 0x90, 0xf4], 0);
        cpu.interrupt();
        assert!(!cpu.wakes());
        assert_eq!(cpu.run(&ram, &pending(&[21])), Exit::Halted);
        assert_eq!((cpu.registers().rip, stack(&cpu, &ram)), (handler(21), [CODE + 3]));
        // POPF casts no shadow: push 0x200; popf; nop
        let (mut cpu, ram) = with_flags(&[0x68, 0, 2, 0, 0, 0x9d, 0x90, 0xf4], 0);
        cpu.interrupt();
        assert_eq!(cpu.run(&ram, &pending(&[21])), Exit::Halted);
        assert_eq!((cpu.registers().rip, stack(&cpu, &ram)), (handler(21), [CODE + 6]));
        // mov ss, ax; nop: but that does.
        let (mut cpu, ram) = with_flags(&[0x8e, 0xd0, 0x90, 0xf4], IF);
        cpu.core.regs[0] = u64::from(crate::testing::DATA_0);
        cpu.step(&ram, &Nobody);
        cpu.interrupt();
        assert_eq!(cpu.run(&ram, &pending(&[21])), Exit::Halted);
        assert_eq!((cpu.registers().rip, stack(&cpu, &ram)), (handler(21), [CODE + 3]));
    }

    /// sti; jmp $
    #[test]
    fn a_loop_of_one_instruction_behind_sti_is_interrupted() {
        let (mut cpu, ram) = with_flags(&[0xfb, 0xeb, 0xfe], 0);
        cpu.interrupt();
        assert_eq!(cpu.run_for(1000, &ram, &pending(&[21])), Exit::Halted);
        assert_eq!((cpu.registers().rip, stack(&cpu, &ram)), (handler(21), [CODE + 1]));
    }

    /// What every idle loop relies on.
    #[test]
    fn nothing_comes_between_sti_and_hlt() {
        let (mut cpu, ram) = with_flags(&[0xfb, 0xf4, 0xf4], 0);
        cpu.interrupt();
        let io = pending(&[22]);
        assert_eq!(cpu.run(&ram, &io), Exit::Halted);
        assert_eq!(cpu.registers().rip, CODE + 2);
        assert!(cpu.wakes());
        assert_eq!(cpu.run(&ram, &io), Exit::Halted);
        assert_eq!((cpu.registers().rip, stack(&cpu, &ram)), (handler(22), [CODE + 2]));
    }

    #[test]
    fn interrupts_are_asked_for_until_there_is_none() {
        // The handlers of 20 and 21 come back by IRETQ.
        let (mut cpu, ram) = with_flags(&[0x90, 0xf4], IF);
        ram.write(HANDLERS + 20 * 16, &[0x48, 0xcf]);
        ram.write(HANDLERS + 21 * 16, &[0x48, 0xcf]);
        cpu.interrupt();
        let io = pending(&[20, 21]);
        assert_eq!(cpu.run(&ram, &io), Exit::Halted);
        assert_eq!(cpu.registers().rip, CODE + 2);
        assert!(io.0.borrow().is_empty() && !cpu.core.is_signalled());
    }

    #[test]
    fn an_nmi_is_held_off_until_iret() {
        // The handler: mov eax, eax; iretq
        let (mut cpu, ram) = with_flags(&[0x90, 0xf4], 0);
        ram.write(HANDLERS + 2 * 16, &[0x89, 0xc0, 0x48, 0xcf]);
        cpu.nmi();
        cpu.step(&ram, &Nobody);
        assert_eq!(cpu.registers().rip, HANDLERS + 2 * 16 + 2);
        (0..3).for_each(|_| cpu.nmi());
        assert!(!cpu.wakes());
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, CODE + 2);
        // First NMI: 2; second one: 2; NOP and HLT.
        assert_eq!(cpu.instructions(), 6);
        assert!(!cpu.core.signals.nmi_blocked && !cpu.core.is_signalled());
    }

    /// What another hypervisor had begun to deliver, whatever IF says by now.
    #[test]
    fn what_was_accepted_elsewhere_is_delivered_first() {
        for (interrupt, exception, vector, top) in [
            (Some(20), None, 20, [CODE, u64::from(CODE_3), 2]),
            (None, Some((14, Some(6))), 14, [6, CODE, u64::from(CODE_3)]),
            (None, Some((6, None)), 6, [CODE, u64::from(CODE_3), RF | 2]),
        ] {
            let (mut cpu, ram) = with_flags(&[0x90, 0xf4], 0);
            program(&mut cpu);
            let state = State { interrupt, exception, cr2: 0x1234, ..cpu.state() };
            cpu.set_state(&state).unwrap();
            assert_eq!((cpu.state().interrupt, cpu.state().exception), (interrupt, exception));
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            assert_eq!((cpu.registers().rip, cpu.state().cr2), (handler(vector), 0x1234));
            assert_eq!(stack(&cpu, &ram), top);
            assert_eq!((cpu.state().interrupt, cpu.state().exception), (None, None));
        }
        let (mut cpu, _) = with_flags(&[], 0);
        let state = State { exception: Some((3, None)), ..cpu.state() };
        assert!(cpu.set_state(&state).unwrap_err().to_string().contains("exception"));
    }

    #[test]
    fn init_and_startup_lead_to_real_mode() {
        let (mut cpu, _) = with_flags(&[], IF);
        cpu.interrupt();
        cpu.init();
        let state = cpu.state();
        assert_eq!((state.cr0, state.cr4, state.efer), (0x6000_0010, 0, 0));
        assert_eq!((state.registers.rip, state.registers.rflags), (0xfff0, 2));
        assert_eq!(state.segments[1].base, 0xffff_0000);
        assert!(!cpu.core.is_signalled());
        cpu.startup(0x9a);
        let state = cpu.state();
        assert_eq!((state.segments[1].selector, state.segments[1].base), (0x9a00, 0x9_a000));
        assert_eq!(state.registers.rip, 0);
    }
}
