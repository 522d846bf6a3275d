//! Multiplication and division: MUL, IMUL, DIV, IDIV.

use iced_x86::Mnemonic;

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    exception::{Exception, Vector},
    op::{Exec, Op},
    regs::{RAX, RDX},
    word::{HIGH, Word},
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Div => wide::<Div>(l),
        Mnemonic::Idiv => wide::<Idiv>(l),
        Mnemonic::Imul if l.instruction.op_count() > 1 => product(l),
        Mnemonic::Imul => wide::<Imul>(l),
        Mnemonic::Mul => wide::<Mul>(l),
        _ => None,
    }
}

/// An operation of the accumulator, twice as wide as the operand.
trait Wide: 'static {
    /// False if it is #DE; nothing is changed then.
    fn apply<W: Word>(core: &mut Core, operand: W) -> bool;
}

struct Div;
struct Idiv;
struct Imul;
struct Mul;

impl Wide for Mul {
    #[inline(always)]
    fn apply<W: Word>(core: &mut Core, b: W) -> bool {
        let product = u128::from(core.reg::<W>(RAX).zext()) * u128::from(b.zext());
        let (low, high) = set_halves::<W>(core, product);
        core.flags.result(low, high.zext() != 0, high.zext() != 0);
        true
    }
}

impl Wide for Imul {
    #[inline(always)]
    fn apply<W: Word>(core: &mut Core, b: W) -> bool {
        let product = i128::from(signed(core.reg::<W>(RAX))) * i128::from(signed(b));
        let (low, _) = set_halves::<W>(core, product.cast_unsigned());
        let more = product != i128::from(signed(low));
        core.flags.result(low, more, more);
        true
    }
}

impl Wide for Div {
    #[inline(always)]
    fn apply<W: Word>(core: &mut Core, b: W) -> bool {
        let (low, high, b) = (core.reg::<W>(RAX).zext(), high::<W>(core).zext(), b.zext());
        // The quotient has room if this holds, and only then.
        if high >= b {
            return false;
        }
        let (quotient, rest) = if high == 0 {
            (low / b, low % b)
        } else {
            let (a, b) = (u128::from(high) << W::BITS | u128::from(low), u128::from(b));
            ((a / b) as u64, (a % b) as u64)
        };
        set_parts(core, W::of(quotient), W::of(rest));
        true
    }
}

impl Wide for Idiv {
    #[inline(always)]
    fn apply<W: Word>(core: &mut Core, b: W) -> bool {
        let (low, high, b) = (core.reg::<W>(RAX), high::<W>(core), signed(b));
        if b == 0 {
            return false;
        }
        let a = i128::from(signed(high)) << W::BITS | i128::from(low.zext());
        let (quotient, rest) = match i64::try_from(a) {
            Ok(a) if b != -1 => (i128::from(a / b), a % b),
            // The least number has no opposite: wrapped, it does not fit either.
            _ => (a.wrapping_div(b.into()), a.wrapping_rem(b.into()) as i64),
        };
        let kept = W::of(quotient as u64);
        if i128::from(signed(kept)) != quotient {
            return false;
        }
        set_parts(core, kept, W::of(rest.cast_unsigned()));
        true
    }
}

fn signed<W: Word>(value: W) -> i64 {
    value.sext().cast_signed()
}

/// The field of the upper half: AH, DX, EDX, RDX.
fn high_field<W: Word>() -> u8 {
    if W::BYTES == 1 { RAX | HIGH } else { RDX }
}

fn high<W: Word>(core: &Core) -> W {
    core.reg(high_field::<W>())
}

fn set_parts<W: Word>(core: &mut Core, low: W, high: W) {
    core.set_reg(RAX, low);
    core.set_reg(high_field::<W>(), high);
}

fn set_halves<W: Word>(core: &mut Core, whole: u128) -> (W, W) {
    let (low, high) = (W::of(whole as u64), W::of((whole >> W::BITS) as u64));
    set_parts(core, low, high);
    (low, high)
}

fn wide<O: Wide>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::Reg => sized!(size, wide_reg, O),
        _ => sized!(size, wide_mem, O) as Exec,
    };
    l.push(op);
    Some(())
}

fn wide_reg<W: Word, O: Wide>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    apply_wide::<W, O>(core, core.reg(op.dst))
}

fn wide_mem<W: Word, O: Wide>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let operand = core.load(core.address(op), world)?;
    apply_wide::<W, O>(core, operand)
}

#[inline(always)]
fn apply_wide<W: Word, O: Wide>(core: &mut Core, operand: W) -> Done {
    if O::apply(core, operand) {
        return Ok(());
    }
    Err(core.raise(Exception::new(Vector::Divide)))
}

/// IMUL of two operands, or of an operand and an immediate.
fn product(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let immediate = l.instruction.op_count() == 3;
    let (mut op, form) = l.operands();
    op.exec = exec::<true>(form, size, immediate);
    let lean = exec::<false>(form, size, immediate);
    if form == Form::RegReg {
        l.push_pure(op, lean);
    } else {
        l.push_or_lean(op, lean);
    }
    Some(())
}

fn exec<const FLAGS: bool>(form: Form, size: usize, immediate: bool) -> Exec {
    match (form, immediate) {
        (Form::RegReg, false) => sized!(size, reg_reg, FLAGS),
        (Form::RegReg, true) => sized!(size, reg_imm, FLAGS),
        (_, false) => sized!(size, reg_mem, FLAGS),
        (_, true) => sized!(size, mem_imm, FLAGS),
    }
}

#[inline(always)]
fn multiply<W: Word, const FLAGS: bool>(core: &mut Core, op: &Op, a: W, b: W) -> Done {
    let (a, b) = (signed(a), signed(b));
    let result = W::of(a.wrapping_mul(b).cast_unsigned());
    core.set_reg(op.dst, result);
    if FLAGS {
        let more = i128::from(a) * i128::from(b) != i128::from(signed(result));
        core.flags.result(result, more, more);
    }
    Ok(())
}

fn reg_reg<W: Word, const F: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.reg::<W>(op.dst), core.reg::<W>(op.src));
    multiply::<W, F>(core, op, a, b)
}

fn reg_imm<W: Word, const F: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    multiply::<W, F>(core, op, core.reg(op.src), W::of(op.imm))
}

fn reg_mem<W: Word, const F: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.load::<W>(core.address(op), world)?;
    multiply::<W, F>(core, op, core.reg(op.dst), b)
}

fn mem_imm<W: Word, const F: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let a = core.load::<W>(core.address(op), world)?;
    multiply::<W, F>(core, op, a, W::of(op.imm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::Exit,
        regs::{RBX, RCX},
        testing::{CODE, Nobody, machine, system},
    };

    /// The quotient and the rest; `None`: #DE.
    fn divide(code: [u8; 3], high: u64, low: u64, by: u64) -> Option<(u64, u64)> {
        let (mut cpu, ram) = machine(&[code[0], code[1], code[2], 0xf4]);
        system(&mut cpu, &ram);
        (cpu.core.regs[RDX], cpu.core.regs[RAX]) = (high, low);
        (cpu.core.regs[RBX], cpu.core.regs[RCX]) = (0, by);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        (cpu.core.rip == CODE + 4).then(|| (cpu.core.regs[RAX], cpu.core.regs[RDX]))
    }

    #[test]
    fn quotients_that_do_not_fit_are_divide_errors() {
        let (div, idiv, byte) = ([0x48, 0xf7, 0xf1], [0x48, 0xf7, 0xf9], [0x40, 0xf6, 0xf9]);
        assert_eq!(divide(div, 4, 3, 5), Some((0xcccc_cccc_cccc_cccd, 2)));
        assert_eq!(divide(div, 5, 0, 5), None);
        assert_eq!(divide(div, 0, 1, 0), None);
        let minus = |n: u64| n.wrapping_neg();
        assert_eq!(divide(idiv, u64::MAX, minus(7), 2), Some((minus(3), minus(1))));
        assert_eq!(divide(idiv, u64::MAX, 1 << 63, u64::MAX), None);
        assert_eq!(divide(idiv, u64::MAX, 1 << 63, 1), Some((1 << 63, 0)));
        assert_eq!(divide(idiv, 0, 1 << 63, 1), None);
        assert_eq!(divide(idiv, 1 << 63, 0, u64::MAX), None);
        // AX / CL: the rest goes to AH.
        assert_eq!(divide(byte, 9, 0xff80, 0xff), None);
        assert_eq!(divide(byte, 9, 0xff81, 0xff), Some((0x007f, 9)));
    }
}
