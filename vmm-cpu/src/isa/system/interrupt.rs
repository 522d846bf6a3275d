//! INT n, INT3, INT1, IRET.

use std::sync::atomic::{Ordering::SeqCst, fence};

use iced_x86::Mnemonic;

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{AC, DF, ID, IF, IOPL, NT, OF, RF, STATUS, TF, VIF, VIP, VM},
    isa::Done,
    op::{Op, Stop, exec},
    regs::PAGE,
    segment::Into,
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec = match l.instruction.mnemonic() {
        Mnemonic::Int => exec!(software),
        Mnemonic::Int1 => exec!(debug),
        Mnemonic::Int3 => exec!(breakpoint),
        Mnemonic::Into => exec!(overflow),
        Mnemonic::Iret => exec!(back::<u16>),
        Mnemonic::Iretd => exec!(back::<u32>),
        Mnemonic::Iretq => exec!(back::<u64>),
        _ => return None,
    };
    let mut op = Op { scale: Op::STACK, ..l.bare(exec) };
    op.imm = u64::from(l.instruction.immediate8());
    l.push(op);
    Some(())
}

fn software(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    enter(core, op, |core| core.interrupt(op.imm as u8, world))
}

fn breakpoint(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    enter(core, op, |core| core.interrupt(3, world))
}

fn overflow(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    if core.flags.image() & OF == 0 {
        core.rip = core.regs[PAGE].wrapping_add(op.next());
        return Err(Stop::Jump);
    }
    enter(core, op, |core| core.interrupt(4, world))
}

fn debug(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    enter(core, op, |core| core.debug_trap(world))
}

/// Transfers to a handler that comes back behind this instruction. Its tables and stack may be
/// anywhere.
fn enter(core: &mut Core, op: &Op, transfer: impl FnOnce(&mut Core) -> Done) -> Done {
    if !core.careful {
        return Err(Stop::Careful);
    }
    core.rip = core.regs[PAGE].wrapping_add(op.next());
    transfer(core)?;
    core.step_anew();
    Err(Stop::Jump)
}

/// IRET. In 64-bit code the stack pointer comes back too, whatever the privilege level.
fn back<W: Word>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    let (long, real) = (core.system.is_long(), core.system.is_real());
    if core.other_flags & NT != 0 && !real {
        return Err(match long {
            true => core.general_protection(0),
            false => core.refuse("task switch by hardware, by IRET"),
        });
    }
    let mut frame = [0; 3];
    for (word, n) in frame.iter_mut().zip(0..) {
        *word = core.stack_word::<W>(n * W::BYTES, world)?;
    }
    let [pointer, cs, flags] = frame;
    let popped = 3 * W::BYTES;
    let (code, cpl, stack) = if real {
        (core.real_code(cs as u16, pointer)?, 0, None)
    } else {
        if flags & VM != 0 && core.system.cpl == 0 && !long {
            return Err(core.refuse("virtual-8086 mode"));
        }
        let code = core.code_segment(cs as u16, Into::Back, world)?;
        let cpl = cs as u8 & 3;
        let mut stack = None;
        if core.system.is_64_bit() || cpl != core.system.cpl {
            let top = core.stack_word::<W>(popped, world)?;
            let selector = core.stack_word::<W>(popped + W::BYTES, world)? as u16;
            stack = Some((core.return_stack(selector, &code, cpl, world)?, top));
        }
        core.check_pointer(&code, pointer)?;
        (code, cpl, stack)
    };
    core.restore_flags(flags, W::of(u64::MAX).zext());
    core.return_to((code, pointer, cpl), stack, popped);
    core.signals.nmi_blocked = false;
    // Serializing (Intel SDM 3-9.3).
    fence(SeqCst);
    core.jumped()
}

impl Core {
    /// Sets those flags in `width` that IRET may set at this privilege level.
    pub(super) fn restore_flags(&mut self, image: u64, width: u64) {
        let mut mask = STATUS | TF | DF | NT | AC | ID;
        // It is for breakpoints alone.
        if self.is_debugged() {
            mask |= RF;
        }
        if self.has_io_privilege() {
            mask |= IF;
        }
        if self.system.cpl == 0 {
            mask |= IOPL | VIF | VIP;
        }
        let mask = mask & width;
        self.set_rflags(self.rflags() & !mask | image & mask);
    }

    /// What an operation returns that has set RIP, and perhaps TF and IF: a block that is known can
    /// be next unless there is something to be done before.
    pub(super) fn jumped(&self) -> Done {
        let leaves = self.other_flags & TF != 0 || self.is_signalled();
        Err(if leaves { Stop::Leave } else { Stop::Jump })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        flags::{IF, RF, TF},
        regs::RAX,
        testing::{
            CODE, CODE_0, CODE_3, DATA_3, HANDLERS, Nobody, machine, program, stack, system,
        },
    };

    #[test]
    fn int3_comes_back_behind_itself_and_int_n_needs_the_gates_leave() {
        for (code, vector, top) in [
            (&[0xcc][..], 3, [CODE + 1, u64::from(CODE_3), 2]),
            (&[0xcd, 0x04], 4, [CODE + 2, u64::from(CODE_3), 2]),
            (&[0xcd, 0x05], 13, [5 << 3 | 2, CODE, u64::from(CODE_3)]),
            (&[0xcd, 0x80], 13, [0x80 << 3 | 2, CODE, u64::from(CODE_3)]),
            (&[0xf1], 1, [CODE + 1, u64::from(CODE_3), 2]),
        ] {
            let (mut cpu, ram) = machine(code);
            system(&mut cpu, &ram);
            program(&mut cpu);
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            assert_eq!(cpu.registers().rip, HANDLERS + vector * 16 + 1, "{code:x?}");
            assert_eq!(stack(&cpu, &ram), top, "{code:x?}");
        }
    }

    /// Executes IRETQ at CPL 0 with this frame; whether it got through.
    fn iret(frame: [u64; 5]) -> (crate::Cpu, crate::Flat, u64) {
        let (mut cpu, ram) = machine(&[0x48, 0xcf]);
        system(&mut cpu, &ram);
        let mut registers = cpu.registers();
        registers.general[4] = 0x1_f000;
        cpu.set_registers(&registers);
        for (word, n) in frame.into_iter().zip(0..) {
            ram.write(0x1_f000 + n * 8, &word.to_le_bytes());
        }
        ram.write(CODE + 0x100, &[0xf4]);
        cpu.step(&ram, &Nobody);
        let rip = cpu.registers().rip;
        (cpu, ram, rip)
    }

    const OUT: [u64; 5] = [CODE + 0x100, CODE_3 as u64, 0x202, 0x1_8000, DATA_3 as u64];

    #[test]
    fn iret_goes_to_the_outer_level_and_hides_segments() {
        let (cpu, _, rip) = iret(OUT);
        assert_eq!((rip, cpu.registers().rflags), (CODE + 0x100, 2 | IF));
        assert_eq!(cpu.registers().general[4], 0x1_8000);
        let state = cpu.state();
        assert_eq!(state.segments.map(|s| s.selector), [0, CODE_3, DATA_3, 0, 0, 0]);
        assert_eq!(cpu.core.system.cpl, 3);
    }

    #[test]
    fn iret_to_what_cannot_be_is_gp_with_its_selector() {
        let with = |n: usize, value: u64| {
            let mut frame = OUT;
            frame[n] = value;
            frame
        };
        let bad = [
            (with(0, 1 << 47), 0),
            (with(1, 0), 0),
            (with(1, 0x1b), 0x18),
            (with(1, 0x43), 0x40),
            (with(1, u64::from(CODE_0 | 3)), u64::from(CODE_0)),
            (with(4, 3), 0),
            (with(4, 0x10), 0x10),
        ];
        for (frame, code) in bad {
            let (cpu, ram, rip) = iret(frame);
            assert_eq!(rip, HANDLERS + 13 * 16, "{frame:x?}");
            assert_eq!(stack(&cpu, &ram), [code, CODE], "{frame:x?}");
        }
    }

    #[test]
    fn a_flag_for_single_steps_traps_after_the_next_instruction() {
        let mut frame = OUT;
        frame[2] |= TF | RF;
        let (mut cpu, ram, _) = iret(frame);
        // mov eax, 5
        ram.write(CODE + 0x100, &[0xb8, 5, 0, 0, 0, 0x89, 0xc0]);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!((cpu.registers().rip, cpu.core.regs[RAX]), (HANDLERS + 17, 5));
        assert_eq!(stack::<1>(&cpu, &ram), [CODE + 0x105]);
        assert_eq!(cpu.state().dr6 & 0xf000, 1 << 14);
    }
}
