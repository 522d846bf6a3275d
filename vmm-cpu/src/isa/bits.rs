//! Single bits: BT, BTS, BTR, BTC, of a register or of a string of bits in memory.

use iced_x86::{Mnemonic, OpKind};

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Lowering, field_of},
    op::{Exec, Op},
    regs::VALUE,
    word::Word,
};

/// What becomes of the bit.
trait Change: 'static {
    /// Whether anything does.
    const WRITES: bool = true;

    /// The word in which `bit` is the only one set or not.
    fn apply(word: u64, bit: u64) -> u64;
}

struct Complement;
struct Reset;
struct Set;
struct Test;

impl Change for Complement {
    fn apply(word: u64, bit: u64) -> u64 {
        word ^ bit
    }
}

impl Change for Reset {
    fn apply(word: u64, bit: u64) -> u64 {
        word & !bit
    }
}

impl Change for Set {
    fn apply(word: u64, bit: u64) -> u64 {
        word | bit
    }
}

impl Change for Test {
    const WRITES: bool = false;

    fn apply(word: u64, _: u64) -> u64 {
        word
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Bt => choose::<Test>(l),
        Mnemonic::Btc => choose::<Complement>(l),
        Mnemonic::Btr => choose::<Reset>(l),
        Mnemonic::Bts => choose::<Set>(l),
        _ => None,
    }
}

fn choose<C: Change>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let i = l.instruction;
    if i.op0_kind() == OpKind::Register {
        let (mut op, _) = l.operands();
        op.exec = sized!(size, change_reg, C);
        l.push_pure(op, op.exec);
        return Some(());
    }
    let mut op = l.bare(exec::<C>(size, i.has_lock_prefix()));
    if i.op1_kind() == OpKind::Register {
        // The register numbers a bit of all memory from the address on, and before.
        op.src = field_of(i.op1_register());
        l.push_before(Op { exec: sized!(size, distance), ..op });
        l.address_plus(&mut op, l.segment(), VALUE, 0);
    } else {
        op.imm = i.immediate(1);
        l.address(&mut op);
    }
    l.push(op);
    Some(())
}

fn exec<C: Change>(size: usize, locked: bool) -> Exec {
    match (C::WRITES, locked) {
        (false, _) => sized!(size, test_mem),
        (true, false) => sized!(size, change_mem, C),
        (true, true) => sized!(size, change_locked, C),
    }
}

/// How far the word with the bit is from the address, in bytes.
fn distance<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let words = core.reg::<W>(op.src).sext().cast_signed() >> W::BITS.trailing_zeros();
    core.regs[VALUE] = words.cast_unsigned().wrapping_mul(W::BYTES);
    Ok(())
}

/// The bit's number in its word.
#[inline(always)]
fn number<W: Word>(core: &Core, op: &Op) -> u32 {
    (core.regs[op.src] | op.imm) as u32 & (W::BITS - 1)
}

fn change_reg<W: Word, C: Change>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let number = number::<W>(core, op);
    let word = core.reg::<W>(op.dst).zext();
    if C::WRITES {
        core.set_reg(op.dst, W::of(C::apply(word, 1 << number)));
    }
    core.flags.set_cf(word >> number & 1 != 0);
    Ok(())
}

fn test_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let number = number::<W>(core, op);
    let word = core.load::<W>(core.address(op), world)?;
    core.flags.set_cf(word.zext() >> number & 1 != 0);
    Ok(())
}

fn change_mem<W: Word, C: Change>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let number = number::<W>(core, op);
    let change = |word: W| W::of(C::apply(word.zext(), 1 << number));
    let (old, _) = core.update(core.address(op), world, change)?;
    core.flags.set_cf(old.zext() >> number & 1 != 0);
    Ok(())
}

fn change_locked<W: Word, C: Change>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let number = number::<W>(core, op);
    let change = |word: W| W::of(C::apply(word.zext(), 1 << number));
    let (old, _) = core.update_locked(core.address(op), world, change)?;
    core.flags.set_cf(old.zext() >> number & 1 != 0);
    Ok(())
}
