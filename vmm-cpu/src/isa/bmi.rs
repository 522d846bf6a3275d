//! BMI1, BMI2 and ADX: bit fields, shifts without flags, additions with a carry of their own.

use iced_x86::{Mnemonic, OpKind};

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    flags::Flags,
    op::{Exec, Op},
    regs::RDX,
    word::Word,
};

/// An operation of two operands, with a third for the result.
trait Field: 'static {
    fn apply<W: Word>(a: W, b: W, flags: &mut Flags) -> u64;
}

struct Adcx;
struct Adox;
struct Andn;
struct Bextr;
struct Blsi;
struct Blsmsk;
struct Blsr;
struct Bzhi;
struct Pdep;
struct Pext;
struct Rorx;
struct Sarx;
struct Shlx;
struct Shrx;

macro_rules! field {
    ($name:ident, |$a:ident, $b:ident, $flags:ident| $result:expr) => {
        impl Field for $name {
            #[inline(always)]
            fn apply<W: Word>($a: W, $b: W, $flags: &mut Flags) -> u64 {
                $result
            }
        }
    };
}

field!(Adcx, |a, b, flags| {
    let (sum, carry) = carrying(a, b, flags.cf());
    flags.set_cf(carry);
    sum
});
field!(Adox, |a, b, flags| {
    let (sum, carry) = carrying(a, b, flags.of());
    flags.set_of(carry);
    sum
});
field!(Andn, |a, b, flags| with_flags::<W>(!a.zext() & b.zext(), false, flags));
field!(Bextr, |a, b, flags| {
    let (start, len) = (b.zext() as u32 & 0xff, b.zext() as u32 >> 8 & 0xff);
    let field = low(a.zext().checked_shr(start).unwrap_or(0), len);
    with_flags::<W>(field, false, flags)
});
field!(Blsi, |a, _b, flags| {
    let a = a.zext();
    with_flags::<W>(a & a.wrapping_neg(), a != 0, flags)
});
field!(Blsmsk, |a, _b, flags| {
    let a = a.zext();
    with_flags::<W>(a ^ a.wrapping_sub(1), a == 0, flags)
});
field!(Blsr, |a, _b, flags| {
    let a = a.zext();
    with_flags::<W>(a & a.wrapping_sub(1), a == 0, flags)
});
field!(Bzhi, |a, b, flags| {
    let len = b.zext() as u32 & 0xff;
    with_flags::<W>(low(a.zext(), len), len >= W::BITS, flags)
});
field!(Pdep, |a, b, _flags| {
    let (mut from, mut mask, mut result) = (a.zext(), b.zext(), 0);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        result |= if from & 1 != 0 { bit } else { 0 };
        from >>= 1;
        mask ^= bit;
    }
    result
});
field!(Pext, |a, b, _flags| {
    let (mut mask, mut result, mut to) = (b.zext(), 0, 1);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        result |= if a.zext() & bit != 0 { to } else { 0 };
        to <<= 1;
        mask ^= bit;
    }
    result
});
field!(Rorx, |a, b, _flags| {
    let count = b.zext() as u32 & (W::BITS - 1);
    a.zext() >> count | a.zext() << ((W::BITS - count) & (W::BITS - 1))
});
field!(Sarx, |a, b, _flags| {
    let count = b.zext() as u32 & (W::BITS - 1);
    (a.sext().cast_signed() >> count).cast_unsigned()
});
field!(Shlx, |a, b, _flags| a.zext() << (b.zext() as u32 & (W::BITS - 1)));
field!(Shrx, |a, b, _flags| a.zext() >> (b.zext() as u32 & (W::BITS - 1)));

fn carrying<W: Word>(a: W, b: W, carry: bool) -> (u64, bool) {
    let sum = u128::from(a.zext()) + u128::from(b.zext()) + u128::from(carry);
    (sum as u64, sum >> W::BITS != 0)
}

/// The low bits, so many of them.
fn low(value: u64, len: u32) -> u64 {
    if len < 64 { value & ((1 << len) - 1) } else { value }
}

fn with_flags<W: Word>(result: u64, cf: bool, flags: &mut Flags) -> u64 {
    flags.result(W::of(result), cf, false);
    result
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Adcx => two::<Adcx>(l),
        Mnemonic::Adox => two::<Adox>(l),
        Mnemonic::Andn => three::<Andn>(l),
        Mnemonic::Bextr => three::<Bextr>(l),
        Mnemonic::Blsi => three::<Blsi>(l),
        Mnemonic::Blsmsk => three::<Blsmsk>(l),
        Mnemonic::Blsr => three::<Blsr>(l),
        Mnemonic::Bzhi => three::<Bzhi>(l),
        Mnemonic::Mulx => multiply(l),
        Mnemonic::Pdep => three::<Pdep>(l),
        Mnemonic::Pext => three::<Pext>(l),
        Mnemonic::Rorx => three::<Rorx>(l),
        Mnemonic::Sarx => three::<Sarx>(l),
        Mnemonic::Shlx => three::<Shlx>(l),
        Mnemonic::Shrx => three::<Shrx>(l),
        _ => None,
    }
}

/// The first operand is also the result.
fn two<F: Field>(l: &mut Lowering<'_>) -> Option<()> {
    let (mut op, form) = l.operands();
    let mem = form == Form::RegMem;
    (op.third, op.src) = (op.src, op.dst);
    choose::<F>(l, op, false, mem)
}

/// The result, and two operands, or one: any of these may be in memory.
fn three<F: Field>(l: &mut Lowering<'_>) -> Option<()> {
    let (op, form) = l.operands();
    let (first, second) = (form == Form::RegMem, l.instruction.op2_kind() == OpKind::Memory);
    choose::<F>(l, op, first, second)
}

fn choose<F: Field>(l: &mut Lowering<'_>, mut op: Op, first: bool, second: bool) -> Option<()> {
    let size = l.size(0);
    op.exec = match (first, second) {
        (true, _) => sized!(size, field_of_mem, F),
        (_, true) => sized!(size, field_with_mem, F),
        _ => sized!(size, field_of_reg, F) as Exec,
    };
    if first || second {
        l.push(op);
    } else {
        l.push_pure(op, op.exec);
    }
    Some(())
}

/// The second operand: a register or an immediate.
#[inline(always)]
fn second<W: Word>(core: &Core, op: &Op) -> W {
    W::of(core.regs[op.third] | op.imm)
}

fn field_of_reg<W: Word, F: Field>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.reg::<W>(op.src), second::<W>(core, op));
    let result = F::apply(a, b, &mut core.flags);
    core.set_reg(op.dst, W::of(result));
    Ok(())
}

fn field_of_mem<W: Word, F: Field>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let a = core.load::<W>(core.address(op), world)?;
    let b = second::<W>(core, op);
    let result = F::apply(a, b, &mut core.flags);
    core.set_reg(op.dst, W::of(result));
    Ok(())
}

fn field_with_mem<W: Word, F: Field>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.load::<W>(core.address(op), world)?;
    let result = F::apply(core.reg::<W>(op.src), b, &mut core.flags);
    core.set_reg(op.dst, W::of(result));
    Ok(())
}

/// MULX: the upper half of the product in the first operand, the lower in the second.
fn multiply(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, _) = l.operands();
    if l.instruction.op2_kind() == OpKind::Memory {
        op.exec = sized!(size, multiply_mem);
        l.push(op);
    } else {
        op.exec = sized!(size, multiply_reg);
        l.push_pure(op, op.exec);
    }
    Some(())
}

/// If both halves go to one register it is the upper that stays there.
fn multiply_by<W: Word>(core: &mut Core, op: &Op, b: W) -> Done {
    let product = u128::from(core.reg::<W>(RDX).zext()) * u128::from(b.zext());
    core.set_reg(op.src, W::of(product as u64));
    core.set_reg(op.dst, W::of((product >> W::BITS) as u64));
    Ok(())
}

fn multiply_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    multiply_by::<W>(core, op, core.reg(op.third))
}

fn multiply_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.load::<W>(core.address(op), world)?;
    multiply_by(core, op, b)
}
