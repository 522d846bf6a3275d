//! The stack: PUSH, POP, PUSHF, POPF, ENTER, LEAVE.

use iced_x86::{Code, Mnemonic, Register};

use super::{Done, load_value};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF},
    op::{Op, Stop},
    regs::{NONE, PAGE, RBP, RSP, VALUE},
    system::SS,
    word::Word,
};

/// How the stack is reached.
pub(crate) trait Stack: 'static {
    /// As much of a pointer as there is.
    fn wrap(core: &Core, pointer: u64) -> u64;

    /// The linear address of `len` bytes at a pointer that is wrapped, if they may be accessed.
    #[inline(always)]
    fn linear(_: &mut Core, pointer: u64, _len: u64, _write: bool) -> Result<u64, Stop> {
        Ok(pointer)
    }

    /// Sets the stack pointer to a pointer that is wrapped.
    #[inline(always)]
    fn set(core: &mut Core, pointer: u64) {
        core.regs[RSP] = pointer;
    }
}

/// In 64-bit code: by RSP.
pub(crate) struct Long;
/// In a flat segment, by ESP.
pub(crate) struct Flat;
/// In any segment, by ESP or SP.
pub(crate) struct Segmented;

impl Stack for Long {
    #[inline(always)]
    fn wrap(_: &Core, pointer: u64) -> u64 {
        pointer
    }
}

impl Stack for Flat {
    #[inline(always)]
    fn wrap(_: &Core, pointer: u64) -> u64 {
        pointer & u64::from(u32::MAX)
    }
}

impl Stack for Segmented {
    fn wrap(core: &Core, pointer: u64) -> u64 {
        pointer & core.stack_mask()
    }

    fn linear(core: &mut Core, pointer: u64, len: u64, write: bool) -> Result<u64, Stop> {
        core.segment_address(SS, pointer, len, write)
    }

    fn set(core: &mut Core, pointer: u64) {
        core.set_stack_pointer(pointer);
    }
}

/// Chooses the instance of a generic function for a size in bytes and for how the stack is reached.
macro_rules! by_stack {
    ($l:expr, $size:expr, $name:ident) => {{
        use $crate::{
            isa::stack::{Flat, Long, Segmented},
            op::exec,
        };
        match ($l.is_long(), $l.is_segmented(), $size) {
            (true, _, 2) => exec!($name::<u16, Long>),
            (true, ..) => exec!($name::<u64, Long>),
            (_, false, 2) => exec!($name::<u16, Flat>),
            (_, false, _) => exec!($name::<u32, Flat>),
            (_, true, 2) => exec!($name::<u16, Segmented>),
            (_, true, _) => exec!($name::<u32, Segmented>),
        }
    }};
}
pub(crate) use by_stack;

impl Core {
    /// The linear address of the word that a push would store, and the pointer then.
    #[inline(always)]
    fn below<W: Word, S: Stack>(&mut self) -> Result<(u64, u64), Stop> {
        let top = S::wrap(self, self.regs[RSP].wrapping_sub(W::BYTES));
        Ok((S::linear(self, top, W::BYTES, true)?, top))
    }

    /// Pushes a word.
    #[inline(always)]
    pub(crate) fn push<W: Word, S: Stack>(&mut self, value: W, world: &World<'_>) -> Done {
        let (at, top) = self.below::<W, S>()?;
        self.store(at, value, world)?;
        S::set(self, top);
        Ok(())
    }

    /// Makes sure that a word can be pushed.
    pub(crate) fn probe_push<W: Word, S: Stack>(&mut self, world: &World<'_>) -> Done {
        let (at, _) = self.below::<W, S>()?;
        self.probe_write(at, W::BYTES as usize, world)
    }

    /// The word on top of the stack.
    #[inline(always)]
    pub(crate) fn peek<W: Word, S: Stack>(&mut self, world: &World<'_>) -> Result<W, Stop> {
        let top = S::wrap(self, self.regs[RSP]);
        let at = S::linear(self, top, W::BYTES, false)?;
        self.load(at, world)
    }

    /// Takes bytes off the stack.
    #[inline(always)]
    pub(crate) fn drop_bytes<S: Stack>(&mut self, bytes: u64) {
        S::set(self, S::wrap(self, self.regs[RSP].wrapping_add(bytes)));
    }

    /// Pops a word.
    #[inline(always)]
    pub(crate) fn pop<W: Word, S: Stack>(&mut self, world: &World<'_>) -> Result<W, Stop> {
        let value = self.peek::<W, S>(world)?;
        self.drop_bytes::<S>(W::BYTES);
        Ok(value)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.instruction.stack_pointer_increment().unsigned_abs();
    let exec = match l.instruction.code() {
        Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8 => {
            return enter(l);
        }
        Code::Leavew => by_stack!(l, 2, leave),
        Code::Leaved | Code::Leaveq => by_stack!(l, 8, leave),
        Code::Popfw | Code::Popfd | Code::Popfq => {
            l.end_block();
            by_stack!(l, size, pop_flags)
        }
        Code::Pushfw | Code::Pushfd | Code::Pushfq => by_stack!(l, size, push_flags),
        _ => {
            return match l.instruction.mnemonic() {
                Mnemonic::Pop => pop(l, size),
                Mnemonic::Push => push(l, size),
                _ => None,
            };
        }
    };
    l.push(Op { scale: Op::STACK, ..l.bare(exec) });
    Some(())
}

fn push(l: &mut Lowering<'_>, size: u32) -> Option<()> {
    if l.instruction.op0_register().is_segment_register() {
        return None;
    }
    let (mut op, form) = l.operands();
    match form {
        Form::Mem => {
            op.exec = super::sized!(size, load_value);
            l.push_load(op);
            op.dst = VALUE;
        }
        // An immediate is an operand in a register that is always 0, and what is added to it.
        Form::None => op.dst = NONE,
        _ => {}
    }
    op.exec = by_stack!(l, size, push_sum);
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn push_sum<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.push::<W, S>(W::of(core.regs[op.dst].wrapping_add(op.imm)), world)
}

fn pop(l: &mut Lowering<'_>, size: u32) -> Option<()> {
    let i = l.instruction;
    if i.op0_register().is_segment_register() {
        return None;
    }
    if i.op0_register() != Register::None {
        let mut op = l.operands().0;
        op.exec = by_stack!(l, size, pop_reg);
        op.scale |= Op::STACK;
        l.push(op);
        return Some(());
    }
    l.push_load(Op { scale: Op::STACK, ..l.bare(by_stack!(l, size, peek)) });
    // The address is that after the pop.
    let own = i.memory_base().full_register() == Register::RSP;
    let mut op = l.bare(by_stack!(l, size, pop_mem));
    l.address_plus(&mut op, l.segment(), NONE, if own { size.into() } else { 0 });
    l.push(op);
    Some(())
}

fn pop_reg<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.pop::<W, S>(world)?;
    core.set_reg(op.dst, value);
    Ok(())
}

/// Loads what a pop would.
fn peek<W: Word, S: Stack>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.regs[VALUE] = core.peek::<W, S>(world)?.zext();
    Ok(())
}

fn pop_mem<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), W::of(core.regs[VALUE]), world)?;
    core.drop_bytes::<S>(W::BYTES);
    Ok(())
}

fn push_flags<W: Word, S: Stack>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.push::<W, S>(W::of(core.rflags() & !RF), world)
}

/// POPF: IOPL is for CPL 0 to change, IF for whom IOPL allows (Intel SDM 2, "POPF", table 4-16).
fn pop_flags<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let image = core.pop::<W, S>(world)?.zext();
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
    let width = if i.code() == Code::Enterw_imm16_imm8 { 2 } else { 8 };
    let exec = by_stack!(l, width, build_frame);
    let size = u64::from(i.immediate16());
    let depth = i.immediate8_2nd() & 31;
    l.push(Op { imm: size, third: depth, scale: Op::STACK, ..l.bare(exec) });
    Some(())
}

/// Pushes happen one after the other, as on processors: a fault leaves those before it in memory,
/// and the registers as they were.
fn build_frame<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (old_frame, depth) = (core.regs[RBP], u64::from(op.third));
    let slot = |core: &mut Core, base: u64, n: u64, write: bool| {
        let pointer = S::wrap(core, base.wrapping_sub(n * W::BYTES));
        S::linear(core, pointer, W::BYTES, write)
    };
    let frame = core.regs[RSP].wrapping_sub(W::BYTES);
    let at = slot(core, frame, 0, true)?;
    core.store(at, W::of(old_frame), world)?;
    for n in 1..depth {
        let from = slot(core, old_frame, n, false)?;
        let outer = core.load::<W>(from, world)?;
        let to = slot(core, frame, n, true)?;
        core.store(to, outer, world)?;
    }
    if depth > 0 {
        let to = slot(core, frame, depth, true)?;
        core.store(to, W::of(frame), world)?;
    }
    let top = frame.wrapping_sub(depth * W::BYTES).wrapping_sub(op.imm);
    // The new top is written to in form only (Intel SDM 2, "ENTER").
    let at = slot(core, top, 0, true)?;
    core.probe_write(at, W::BYTES as usize, world)?;
    core.set_reg(RBP, W::of(frame));
    S::set(core, S::wrap(core, top));
    Ok(())
}

fn leave<W: Word, S: Stack>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    let frame = S::wrap(core, core.regs[RBP]);
    let at = S::linear(core, frame, W::BYTES, false)?;
    let value = core.load::<W>(at, world)?;
    S::set(core, S::wrap(core, frame.wrapping_add(W::BYTES)));
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
