//! Addition, subtraction, logic: what takes one or two operands and leaves a result and flags.

use iced_x86::Mnemonic;

use super::{Done, sized, sized_in_memory};
use crate::{
    access::{loads, updates},
    core::{Core, World},
    decode::{Form, Lowering},
    flags::Flags,
    op::{Exec, Op},
    word::Word,
};

/// One of the operations.
trait Binary: 'static {
    /// Whether the result is kept.
    const KEEPS: bool = true;

    /// Whether CF is part of it.
    const CARRIES: bool = false;

    /// The result; `FLAGS`: also sets the flags.
    fn apply<W: Word, const FLAGS: bool>(a: W, b: W, flags: &mut Flags) -> W;
}

struct Adc;
struct Add;
struct And;
struct Cmp;
struct Dec;
struct Inc;
struct Neg;
struct Not;
struct Or;
struct Sbb;
struct Sub;
struct Test;
struct Xor;

fn add<W: Word, const FLAGS: bool>(a: W, b: W, carry: bool, flags: &mut Flags) -> W {
    let result = W::of(a.zext().wrapping_add(b.zext()).wrapping_add(carry.into()));
    if FLAGS {
        flags.add(a, b, result);
    }
    result
}

fn sub<W: Word, const FLAGS: bool>(a: W, b: W, borrow: bool, flags: &mut Flags) -> W {
    let result = W::of(a.zext().wrapping_sub(b.zext()).wrapping_sub(borrow.into()));
    if FLAGS {
        flags.sub(a, b, result);
    }
    result
}

fn logic<W: Word, const FLAGS: bool>(result: u64, flags: &mut Flags) -> W {
    let result = W::of(result);
    if FLAGS {
        flags.logic(result);
    }
    result
}

macro_rules! binary {
    ($name:ident, $keeps:expr, $carries:expr, |$a:ident, $b:ident, $flags:ident| $result:expr) => {
        impl Binary for $name {
            const CARRIES: bool = $carries;
            const KEEPS: bool = $keeps;

            #[inline(always)]
            fn apply<W: Word, const FLAGS: bool>($a: W, $b: W, $flags: &mut Flags) -> W {
                $result
            }
        }
    };
}

binary!(Adc, true, true, |a, b, flags| add::<W, FLAGS>(a, b, flags.cf(), flags));
binary!(Add, true, false, |a, b, flags| add::<W, FLAGS>(a, b, false, flags));
binary!(And, true, false, |a, b, flags| logic::<W, FLAGS>(a.zext() & b.zext(), flags));
binary!(Cmp, false, false, |a, b, flags| sub::<W, FLAGS>(a, b, false, flags));
binary!(Dec, true, false, |a, b, flags| {
    let result = W::of(a.zext().wrapping_sub(b.zext()));
    if FLAGS {
        flags.decrement(result);
    }
    result
});
binary!(Inc, true, false, |a, b, flags| {
    let result = W::of(a.zext().wrapping_add(b.zext()));
    if FLAGS {
        flags.increment(result);
    }
    result
});
binary!(Neg, true, false, |a, _b, flags| sub::<W, FLAGS>(W::of(0), a, false, flags));
binary!(Not, true, false, |a, _b, _flags| W::of(!a.zext()));
binary!(Or, true, false, |a, b, flags| logic::<W, FLAGS>(a.zext() | b.zext(), flags));
binary!(Sbb, true, true, |a, b, flags| sub::<W, FLAGS>(a, b, flags.cf(), flags));
binary!(Sub, true, false, |a, b, flags| sub::<W, FLAGS>(a, b, false, flags));
binary!(Test, false, false, |a, b, flags| logic::<W, FLAGS>(a.zext() & b.zext(), flags));
binary!(Xor, true, false, |a, b, flags| logic::<W, FLAGS>(a.zext() ^ b.zext(), flags));

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Adc => choose::<Adc>(l),
        Mnemonic::Add => choose::<Add>(l),
        Mnemonic::And => choose::<And>(l),
        Mnemonic::Cmp => choose::<Cmp>(l),
        Mnemonic::Dec => choose::<Dec>(l),
        Mnemonic::Inc => choose::<Inc>(l),
        Mnemonic::Neg => choose::<Neg>(l),
        Mnemonic::Not => choose::<Not>(l),
        Mnemonic::Or => choose::<Or>(l),
        Mnemonic::Sbb => choose::<Sbb>(l),
        Mnemonic::Sub => choose::<Sub>(l),
        Mnemonic::Test => choose::<Test>(l),
        Mnemonic::Xor => choose::<Xor>(l),
        _ => None,
    }
}

fn choose<B: Binary>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let locked = l.instruction.has_lock_prefix();
    let (mut op, form) = l.operands();
    // A single operand has a companion: what INC and DEC add or subtract.
    let form = match form {
        Form::Reg => Form::RegImm,
        Form::Mem => Form::MemImm,
        form => form,
    };
    if l.instruction.op_count() == 1 {
        op.imm = 1;
    }
    op.exec = exec::<B, true>(form, size, locked);
    let lean = exec::<B, false>(form, size, locked);
    match form {
        Form::RegReg | Form::RegImm => l.push_pure(op, lean),
        _ => l.push_or_lean(op, lean),
    }
    Some(())
}

fn exec<B: Binary, const FLAGS: bool>(form: Form, size: usize, locked: bool) -> Exec {
    match form {
        Form::RegReg => sized!(size, reg_reg, B, FLAGS),
        Form::RegImm => sized!(size, reg_imm, B, FLAGS),
        Form::RegMem => sized_in_memory!(size, loads, reg_mem, B, FLAGS),
        Form::MemReg if locked => sized!(size, locked_reg, B, FLAGS),
        Form::MemReg if B::KEEPS => sized_in_memory!(size, updates, mem_reg, B, FLAGS),
        Form::MemReg => sized_in_memory!(size, loads, look_reg, B, FLAGS),
        _ if locked => sized!(size, locked_imm, B, FLAGS),
        _ if B::KEEPS => sized_in_memory!(size, updates, mem_imm, B, FLAGS),
        _ => sized_in_memory!(size, loads, look_imm, B, FLAGS),
    }
}

fn reg_reg<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let b = core.reg::<W>(op.src);
    into_reg::<W, B, FLAGS>(core, op, b)
}

fn reg_imm<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    into_reg::<W, B, FLAGS>(core, op, W::of(op.imm))
}

#[inline(always)]
fn reg_mem<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    let b = core.load(core.address(op), w)?;
    into_reg::<W, B, FLAGS>(core, op, b)
}

#[inline(always)]
fn into_reg<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, b: W) -> Done {
    let result = B::apply::<W, FLAGS>(core.reg(op.dst), b, &mut core.flags);
    if B::KEEPS {
        core.set_reg(op.dst, result);
    }
    Ok(())
}

#[inline(always)]
fn mem_reg<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    into_mem::<W, B, FLAGS>(core, op, core.reg(op.src), w)
}

#[inline(always)]
fn mem_imm<W: Word, B: Binary, const FLAGS: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    into_mem::<W, B, FLAGS>(core, op, W::of(op.imm), w)
}

#[inline(always)]
fn into_mem<W: Word, B: Binary, const FLAGS: bool>(
    core: &mut Core,
    op: &Op,
    b: W,
    world: &World<'_>,
) -> Done {
    let carry = B::CARRIES && core.flags.cf();
    let change = |a| B::apply::<W, false>(a, b, &mut Flags::with_carry(carry));
    let (old, _) = core.update(core.address(op), world, change)?;
    B::apply::<W, FLAGS>(old, b, &mut core.flags);
    Ok(())
}

/// The operand in memory is only looked at.
#[inline(always)]
fn look_reg<W: Word, B: Binary, const FLAGS: bool>(
    core: &mut Core,
    op: &Op,
    w: &World<'_>,
) -> Done {
    look::<W, B, FLAGS>(core, op, core.reg(op.src), w)
}

#[inline(always)]
fn look_imm<W: Word, B: Binary, const FLAGS: bool>(
    core: &mut Core,
    op: &Op,
    w: &World<'_>,
) -> Done {
    look::<W, B, FLAGS>(core, op, W::of(op.imm), w)
}

#[inline(always)]
fn look<W: Word, B: Binary, const FLAGS: bool>(
    core: &mut Core,
    op: &Op,
    b: W,
    world: &World<'_>,
) -> Done {
    let a = core.load(core.address(op), world)?;
    B::apply::<W, FLAGS>(a, b, &mut core.flags);
    Ok(())
}

fn locked_reg<W: Word, B: Binary, const F: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    locked::<W, B, F>(core, op, core.reg(op.src), w)
}

fn locked_imm<W: Word, B: Binary, const F: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    locked::<W, B, F>(core, op, W::of(op.imm), w)
}

#[inline(always)]
fn locked<W: Word, B: Binary, const FLAGS: bool>(
    core: &mut Core,
    op: &Op,
    b: W,
    world: &World<'_>,
) -> Done {
    let carry = B::CARRIES && core.flags.cf();
    let change = |a| B::apply::<W, false>(a, b, &mut Flags::with_carry(carry));
    let (old, _) = core.update_locked(core.address(op), world, change)?;
    B::apply::<W, FLAGS>(old, b, &mut core.flags);
    Ok(())
}
