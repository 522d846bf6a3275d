//! The stack: PUSH, POP, PUSHF, POPF, ENTER, LEAVE.

use iced_x86::{Mnemonic, Register};

use super::{Done, load_value};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF},
    op::{Exec, Op, Stop},
    regs::{NONE, PAGE, RBP, RSP, VALUE},
    word::Word,
};

impl Core {
    /// Pushes a word.
    #[inline(always)]
    pub(crate) fn push<W: Word>(&mut self, value: W, world: &World<'_>) -> Done {
        let top = self.regs[RSP].wrapping_sub(W::BYTES);
        self.store(top, value, world)?;
        self.regs[RSP] = top;
        Ok(())
    }

    /// Pops a word.
    #[inline(always)]
    pub(crate) fn pop<W: Word>(&mut self, world: &World<'_>) -> Result<W, Stop> {
        let top = self.regs[RSP];
        let value = self.load(top, world)?;
        self.regs[RSP] = top.wrapping_add(W::BYTES);
        Ok(value)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    // In 64-bit mode there are 8 bytes or 2.
    let short = l.instruction.stack_pointer_increment().unsigned_abs() == 2;
    match l.instruction.mnemonic() {
        Mnemonic::Enter if l.instruction.op_count() == 2 => enter(l),
        Mnemonic::Leave => simple(l, [leave::<u64>, leave::<u16>]),
        Mnemonic::Pop => pop(l, short),
        Mnemonic::Popf => pop_flags(l, true),
        Mnemonic::Popfq => pop_flags(l, false),
        Mnemonic::Push => push(l, short),
        Mnemonic::Pushf => simple(l, [push_flags::<u16>; 2]),
        Mnemonic::Pushfq => simple(l, [push_flags::<u64>; 2]),
        _ => None,
    }
}

/// An operation on the stack alone, of 8 bytes or of 2.
fn simple(l: &mut Lowering<'_>, exec: [Exec; 2]) -> Option<()> {
    let short = l.instruction.code() == iced_x86::Code::Leavew;
    l.push(Op { scale: Op::STACK, ..l.bare(exec[usize::from(short)]) });
    Some(())
}

fn push(l: &mut Lowering<'_>, short: bool) -> Option<()> {
    if l.instruction.op0_register().is_segment_register() {
        return None;
    }
    let (mut op, form) = l.operands();
    match form {
        Form::Mem => {
            op.exec = if short { load_value::<u16> } else { load_value::<u64> };
            l.push_load(op);
            op.dst = VALUE;
        }
        // An immediate is an operand in a register that is always 0, and what is added to it.
        Form::None => op.dst = NONE,
        _ => {}
    }
    op.exec = if short { push_sum::<u16> } else { push_sum::<u64> };
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn push_sum<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.push(W::of(core.regs[op.dst].wrapping_add(op.imm)), world)
}

fn pop(l: &mut Lowering<'_>, short: bool) -> Option<()> {
    let i = l.instruction;
    if i.op0_register().is_segment_register() {
        return None;
    }
    if i.op0_register() != Register::None {
        let mut op = l.operands().0;
        op.exec = if short { pop_reg::<u16> } else { pop_reg::<u64> };
        op.scale |= Op::STACK;
        l.push(op);
        return Some(());
    }
    let top = if short { peek::<u16> } else { peek::<u64> };
    l.push_load(Op { scale: Op::STACK, ..l.bare(top) });
    // The address is that after the pop.
    let own = i.memory_base().full_register() == Register::RSP;
    let popped = if short { 2 } else { 8 };
    let mut op = l.bare(if short { pop_mem::<u16> } else { pop_mem::<u64> });
    l.address_plus(&mut op, l.segment(), NONE, if own { popped } else { 0 });
    l.push(op);
    Some(())
}

fn pop_reg<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.pop::<W>(world)?;
    core.set_reg(op.dst, value);
    Ok(())
}

/// Loads what a pop would.
fn peek<W: Word>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.regs[VALUE] = core.load::<W>(core.regs[RSP], world)?.zext();
    Ok(())
}

fn pop_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), W::of(core.regs[VALUE]), world)?;
    core.regs[RSP] = core.regs[RSP].wrapping_add(W::BYTES);
    Ok(())
}

fn push_flags<W: Word>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.push(W::of(core.rflags() & !RF), world)
}

fn pop_flags(l: &mut Lowering<'_>, short: bool) -> Option<()> {
    let exec = if short { set_flags::<u16> } else { set_flags::<u64> };
    l.push(Op { scale: Op::STACK, ..l.bare(exec) });
    l.end_block();
    Some(())
}

/// POPF: IOPL is for CPL 0 to change, IF for whom IOPL allows (Intel SDM 2, "POPF", table 4-16).
fn set_flags<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let image = core.pop::<W>(world)?.zext();
    let cpl = u64::from(core.system.cpl);
    let before = core.rflags();
    let mut may = STATUS | TF | DF | NT | AC | ID;
    if cpl == 0 {
        may |= IOPL;
    }
    if cpl <= (before & IOPL) >> 12 {
        may |= IF;
    }
    // A word has no more than the low 16 flags.
    let may = W::of(may).zext();
    core.set_rflags(before & !may & !RF | image & may);
    core.refresh_mode();
    core.rip = core.regs[PAGE].wrapping_add(op.next());
    Err(Stop::Leave)
}

fn enter(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let exec = match i.code() {
        iced_x86::Code::Enterq_imm16_imm8 => build_frame::<u64>,
        iced_x86::Code::Enterw_imm16_imm8 => build_frame::<u16> as Exec,
        _ => return None,
    };
    let size = u64::from(i.immediate16());
    let depth = i.immediate8_2nd() & 31;
    l.push(Op { imm: size, third: depth, scale: Op::STACK, ..l.bare(exec) });
    Some(())
}

/// Pushes happen one after the other, as on processors: a fault leaves those before it in memory,
/// and the registers as they were.
fn build_frame<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (old_frame, depth) = (core.regs[RBP], u64::from(op.third));
    let slot = |base: u64, n: u64| base.wrapping_sub(n * W::BYTES);
    let frame = slot(core.regs[RSP], 1);
    core.store(frame, W::of(old_frame), world)?;
    for n in 1..depth {
        let outer = core.load::<W>(slot(old_frame, n), world)?;
        core.store(slot(frame, n), outer, world)?;
    }
    if depth > 0 {
        core.store(slot(frame, depth), W::of(frame), world)?;
    }
    let top = slot(frame, depth).wrapping_sub(op.imm);
    // The new top is written to in form only (Intel SDM 2, "ENTER").
    core.probe_write(top, W::BYTES as usize, world)?;
    core.set_reg(RBP, W::of(frame));
    core.regs[RSP] = top;
    Ok(())
}

fn leave<W: Word>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    let frame = core.regs[RBP];
    let value = core.load::<W>(frame, world)?;
    core.regs[RSP] = frame.wrapping_add(W::BYTES);
    core.set_reg(RBP, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::{Cpu, Exit},
        ram::Flat,
        regs::RAX,
        testing::{CODE, DATA, Nobody, STACK, machine},
    };

    fn word(ram: &Flat, at: u64) -> u64 {
        let mut bytes = [0; 8];
        ram.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn run(code: &[u8], prepare: impl FnOnce(&mut Cpu)) -> (Cpu, Flat) {
        let (mut cpu, ram) = machine(&[code, &[0xf4]].concat());
        prepare(&mut cpu);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.rip, CODE + code.len() as u64 + 1);
        (cpu, ram)
    }

    #[test]
    fn rsp_is_pushed_as_it_was_and_popped_as_it_becomes() {
        let (_, ram) = run(&[0x54], |_| {});
        assert_eq!(word(&ram, STACK - 8), STACK);
        // push 7; pop rsp
        let (cpu, _) = run(&[0x6a, 7, 0x5c], |_| {});
        assert_eq!(cpu.core.regs[RSP], 7);
        // push 7; pop qword [rsp-16]
        let (cpu, ram) = run(&[0x6a, 7, 0x8f, 0x44, 0x24, 0xf0], |_| {});
        assert_eq!((cpu.core.regs[RSP], word(&ram, STACK - 16)), (STACK, 7));
        // push 7; pop qword [esp-16]
        let (_, ram) = run(&[0x6a, 7, 0x67, 0x8f, 0x44, 0x24, 0xf0], |_| {});
        assert_eq!(word(&ram, STACK - 16), 7);
    }

    #[test]
    fn enter_copies_the_outer_frames() {
        // enter 32, 3; leave
        let outer = |cpu: &mut Cpu| cpu.core.regs[RBP] = DATA + 64;
        let (cpu, ram) = run(&[0xc8, 32, 0, 3], outer);
        assert_eq!(cpu.core.regs[RBP], STACK - 8);
        assert_eq!(cpu.core.regs[RSP], STACK - 32 - 32);
        assert_eq!(word(&ram, STACK - 8), DATA + 64);
        assert_eq!(word(&ram, STACK - 32), STACK - 8);
        let (cpu, _) = run(&[0xc8, 32, 0, 3, 0xc9], outer);
        assert_eq!((cpu.core.regs[RSP], cpu.core.regs[RBP]), (STACK, DATA + 64));
    }

    #[test]
    fn popf_changes_what_the_privilege_level_may() {
        // push rax; popfq
        let all = |cpl| {
            move |cpu: &mut Cpu| {
                cpu.core.system.cpl = cpl;
                cpu.core.regs[RAX] = !TF;
            }
        };
        let wide = STATUS | IF | DF | NT | AC | ID | 2;
        assert_eq!(run(&[0x50, 0x9d], all(0)).0.core.rflags(), wide | IOPL);
        // popf of 16 bits
        let (cpu, _) = run(&[0x50, 0x66, 0x9d], all(0));
        assert_eq!(cpu.core.rflags(), (wide | IOPL) & 0xffff);
        // At CPL 3, with IOPL 0, where HLT is a fault that has nowhere to go.
        let (mut cpu, ram) = machine(&[0x50, 0x9d, 0xf4]);
        all(3)(&mut cpu);
        cpu.step(&ram, &Nobody);
        cpu.step(&ram, &Nobody);
        assert_eq!((cpu.core.rip, cpu.core.rflags()), (CODE + 2, wide & !IF));
    }
}
