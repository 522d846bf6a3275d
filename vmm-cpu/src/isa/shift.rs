//! Shifts and rotations: SHL, SHR, SAR, ROL, ROR, RCL, RCR.
//!
//! A count of 0 leaves the flags, but is a write otherwise. Where the manuals leave OF undefined,
//! it is what the last of so many shifts by one gives.

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

/// One of the operations.
trait Shift: 'static {
    /// The result of a count that is not 0 and less than 32, or 64 for 64 bits; `FLAGS`: also sets
    /// the flags.
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W;
}

struct Rcl;
struct Rcr;
struct Rol;
struct Ror;
struct Sar;
struct Shl;
struct Shr;

/// The top bit.
#[inline(always)]
fn top<W: Word>(a: u64) -> bool {
    a >> (W::BITS - 1) & 1 != 0
}

impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let result = a.zext() << count;
        if FLAGS {
            let cf = count <= W::BITS && a.zext() >> (W::BITS - count) & 1 != 0;
            flags.result(W::of(result), cf, top::<W>(result) != cf);
        }
        W::of(result)
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let result = a.zext() >> count;
        if FLAGS {
            let cf = a.zext() >> (count - 1) & 1 != 0;
            flags.result(W::of(result), cf, top::<W>(result << 1));
        }
        W::of(result)
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let a = a.sext().cast_signed();
        let result = W::of((a >> count).cast_unsigned());
        if FLAGS {
            flags.result(result, a >> (count - 1) & 1 != 0, false);
        }
        result
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let result = rotated(a, count);
        if FLAGS {
            let cf = result.zext() & 1 != 0;
            flags.set_cf_of(cf, top::<W>(result.zext()) != cf);
        }
        result
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let result = rotated(a, W::BITS - count % W::BITS);
        if FLAGS {
            let cf = top::<W>(result.zext());
            flags.set_cf_of(cf, top::<W>(result.zext() << 1) != cf);
        }
        result
    }
}

/// Rotated to the left.
#[inline(always)]
fn rotated<W: Word>(a: W, count: u32) -> W {
    let count = count % W::BITS;
    W::of(a.zext() << count | a.zext() >> ((W::BITS - count) % W::BITS))
}

impl Shift for Rcl {
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        through_carry(a, count % (W::BITS + 1), flags, |result, cf| top::<W>(result) != cf)
    }
}

impl Shift for Rcr {
    fn apply<W: Word, const FLAGS: bool>(a: W, count: u32, flags: &mut Flags) -> W {
        let left = (W::BITS + 1 - count % (W::BITS + 1)) % (W::BITS + 1);
        through_carry(a, left, flags, |result, _| top::<W>(result) != top::<W>(result << 1))
    }
}

/// Rotates CF and the bits to the left.
#[inline(always)]
fn through_carry<W: Word>(
    a: W,
    count: u32,
    flags: &mut Flags,
    of: impl FnOnce(u64, bool) -> bool,
) -> W {
    if count == 0 {
        return a;
    }
    let bits = W::BITS + 1;
    let whole = u128::from(flags.cf()) << W::BITS | u128::from(a.zext());
    let rotated = whole << count | whole >> (bits - count);
    let result = W::of(rotated as u64);
    let cf = rotated >> W::BITS & 1 != 0;
    flags.set_cf_of(cf, of(result.zext(), cf));
    result
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Rcl => choose::<Rcl>(l, true),
        Mnemonic::Rcr => choose::<Rcr>(l, true),
        Mnemonic::Rol => choose::<Rol>(l, false),
        Mnemonic::Ror => choose::<Ror>(l, false),
        Mnemonic::Sal | Mnemonic::Shl => choose::<Shl>(l, false),
        Mnemonic::Sar => choose::<Sar>(l, false),
        Mnemonic::Shr => choose::<Shr>(l, false),
        _ => None,
    }
}

fn choose<S: Shift>(l: &mut Lowering<'_>, through: bool) -> Option<()> {
    let size = l.size(0);
    let by_cl = l.instruction.op1_kind() == OpKind::Register;
    let (mut op, form) = l.operands();
    op.src = if by_cl { RCX } else { NONE };
    op.imm &= mask(size);
    let mem = matches!(form, Form::MemImm | Form::MemReg);
    op.exec = exec::<S, true>(mem, size);
    let lean = exec::<S, false>(mem, size);
    if mem {
        l.push_or_lean(op, lean);
    } else {
        l.push_pure(op, lean);
    }
    if by_cl || op.imm == 0 || through {
        l.may_keep_flags();
    }
    Some(())
}

/// What of a count is looked at (Intel SDM 2, "SAL/SAR/SHL/SHR").
#[inline(always)]
fn mask(bytes: usize) -> u64 {
    if bytes == 8 { 63 } else { 31 }
}

fn exec<S: Shift, const FLAGS: bool>(mem: bool, size: usize) -> Exec {
    match mem {
        false => sized!(size, shift_reg, S, FLAGS),
        true => sized!(size, shift_mem, S, FLAGS),
    }
}

/// The count: an immediate, or CL.
#[inline(always)]
fn count<W: Word>(core: &Core, op: &Op) -> u32 {
    ((core.regs[op.src] | op.imm) & mask(W::BYTES as usize)) as u32
}

fn shift_reg<W: Word, S: Shift, const F: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let count = count::<W>(core, op);
    let mut value = core.reg::<W>(op.dst);
    if count != 0 {
        value = S::apply::<W, F>(value, count, &mut core.flags);
    }
    core.set_reg(op.dst, value);
    Ok(())
}

fn shift_mem<W: Word, S: Shift, const F: bool>(core: &mut Core, op: &Op, w: &World<'_>) -> Done {
    let count = count::<W>(core, op);
    let mut flags = core.flags;
    core.update(core.address(op), w, |a: W| match count {
        0 => a,
        count => S::apply::<W, F>(a, count, &mut flags),
    })?;
    core.flags = flags;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shifts by one, so often.
    fn slowly<S: Shift>(mut a: u8, count: u32, flags: &mut Flags) -> u8 {
        for _ in 0..count {
            a = S::apply::<u8, true>(a, 1, flags);
        }
        a
    }

    fn agrees<S: Shift>(also_overflow: bool) {
        for (a, count, cf) in (0..=255u8)
            .flat_map(|a| (1..32).flat_map(move |count| [(a, count, false), (a, count, true)]))
        {
            let (mut fast, mut slow) = (Flags::default(), Flags::default());
            fast.set_cf(cf);
            slow.set_cf(cf);
            let result = S::apply::<u8, true>(a, count, &mut fast);
            assert_eq!(result, slowly::<S>(a, count, &mut slow), "{a:x} by {count}");
            if count <= 8 {
                assert_eq!(fast.cf(), slow.cf(), "CF of {a:x} by {count}");
            }
            if also_overflow && count < 8 {
                assert_eq!(fast.of(), slow.of(), "OF of {a:x} by {count}");
            }
        }
    }

    #[test]
    fn many_at_once_are_as_one_after_the_other() {
        agrees::<Shl>(true);
        agrees::<Shr>(true);
        agrees::<Sar>(true);
        agrees::<Rol>(true);
        agrees::<Ror>(true);
        agrees::<Rcl>(true);
        agrees::<Rcr>(true);
    }
}
