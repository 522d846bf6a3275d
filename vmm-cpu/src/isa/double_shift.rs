//! SHLD and SHRD: shifts that take in the bits of another register.

use iced_x86::{Mnemonic, OpKind};

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    flags::Flags,
    op::{Exec, Op},
    regs::{NONE, RCX},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Shld => choose::<true>(l),
        Mnemonic::Shrd => choose::<false>(l),
        _ => None,
    }
}

fn choose<const LEFT: bool>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let by_cl = l.instruction.op2_kind() == OpKind::Register;
    let (mut op, form) = l.operands();
    op.third = if by_cl { RCX } else { NONE };
    let mask = if size == 8 { 63 } else { 31 };
    op.imm &= mask;
    op.exec = match form {
        Form::RegReg => sized!(size, shift_reg, LEFT),
        _ => sized!(size, shift_mem, LEFT) as Exec,
    };
    if form == Form::RegReg {
        l.push_pure(op, op.exec);
    } else {
        l.push(op);
    }
    if by_cl || op.imm == 0 {
        l.may_keep_flags();
    }
    Some(())
}

/// The result of a count that is not 0. Of words, counts above 16, for which it is undefined (Intel
/// SDM 2, "SHLD"), go on with the second operand's bits again, as processors have it.
fn apply<W: Word, const LEFT: bool>(a: W, b: W, count: u32, flags: &mut Flags) -> W {
    let (wide_a, wide_b, bits) = (u128::from(a.zext()), u128::from(b.zext()), W::BITS);
    // What comes in: twice the second operand's bits, of which more than one is words' alone.
    let (rest, twice) = if bits == 16 { (32, wide_b << 16 | wide_b) } else { (bits, wide_b) };
    let (result, cf) = if LEFT {
        let shifted = (wide_a << rest | twice) >> (rest - count);
        (shifted, shifted >> bits & 1)
    } else {
        let whole = twice << bits | wide_a;
        (whole >> count, whole >> (count - 1) & 1)
    };
    let (result, cf) = (W::of(result as u64), cf != 0 && count <= bits);
    let sign = |value: W| value.sext() >> 63 != 0;
    flags.result(result, cf, sign(result) != sign(a));
    result
}

#[inline(always)]
fn count<W: Word>(core: &Core, op: &Op) -> u32 {
    let mask = if W::BYTES == 8 { 63 } else { 31 };
    ((core.regs[op.third] | op.imm) & mask) as u32
}

fn shift_reg<W: Word, const LEFT: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (mut a, b) = (core.reg::<W>(op.dst), core.reg::<W>(op.src));
    let count = count::<W>(core, op);
    if count != 0 {
        a = apply::<W, LEFT>(a, b, count, &mut core.flags);
    }
    core.set_reg(op.dst, a);
    Ok(())
}

fn shift_mem<W: Word, const LEFT: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.reg::<W>(op.src);
    let count = count::<W>(core, op);
    let mut flags = core.flags;
    core.update(core.address(op), world, |a: W| match count {
        0 => a,
        count => apply::<W, LEFT>(a, b, count, &mut flags),
    })?;
    core.flags = flags;
    Ok(())
}
