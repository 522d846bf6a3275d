//! Exchanges: XCHG, XADD, CMPXCHG and its wide forms.
//!
//! With an operand in memory they read and write it, and are faulted as writes are, whatever comes
//! of it.

use iced_x86::Mnemonic;

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    op::{Exec, Op, exec},
    regs::{RAX, RBX, RCX, RDX},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Cmpxchg => compare(l),
        Mnemonic::Cmpxchg8b => alone(l, exec!(compare_8)),
        Mnemonic::Cmpxchg16b => alone(l, exec!(compare_16)),
        Mnemonic::Xadd => add(l),
        Mnemonic::Xchg => exchange(l),
        _ => None,
    }
}

fn alone(l: &mut Lowering<'_>, exec: Exec) -> Option<()> {
    let mut op = l.operands().0;
    op.exec = exec;
    l.push(op);
    Some(())
}

fn exchange(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    match form {
        Form::RegReg => {
            op.exec = sized!(size, exchange_reg);
            l.push_pure(op, op.exec);
        }
        form => {
            if form == Form::RegMem {
                op.src = op.dst;
            }
            op.exec = sized!(size, exchange_mem);
            l.push(op);
        }
    }
    Some(())
}

fn exchange_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.reg::<W>(op.dst), core.reg::<W>(op.src));
    core.set_reg(op.dst, b);
    core.set_reg(op.src, a);
    Ok(())
}

/// With memory, XCHG is locked without being told (Intel SDM 2, "XCHG").
fn exchange_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let new = core.reg::<W>(op.src);
    let (old, _) = core.update_locked(core.address(op), world, |_| new)?;
    core.set_reg(op.src, old);
    Ok(())
}

fn add(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let locked = l.instruction.has_lock_prefix();
    let (mut op, form) = l.operands();
    if form == Form::RegReg {
        op.exec = sized!(size, add_reg);
        l.push_pure(op, op.exec);
    } else {
        op.exec = if locked { sized!(size, add_locked) } else { sized!(size, add_mem) };
        l.push(op);
    }
    Some(())
}

fn sum<W: Word>(a: W, b: W) -> W {
    W::of(a.zext().wrapping_add(b.zext()))
}

fn add_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.reg::<W>(op.dst), core.reg::<W>(op.src));
    core.flags.add(a, b, sum(a, b));
    core.set_reg(op.src, a);
    core.set_reg(op.dst, sum(a, b));
    Ok(())
}

fn add_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.reg::<W>(op.src);
    let (old, new) = core.update(core.address(op), world, |a| sum(a, b))?;
    core.flags.add(old, b, new);
    core.set_reg(op.src, old);
    Ok(())
}

fn add_locked<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let b = core.reg::<W>(op.src);
    let (old, new) = core.update_locked(core.address(op), world, |a| sum(a, b))?;
    core.flags.add(old, b, new);
    core.set_reg(op.src, old);
    Ok(())
}

fn compare(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let locked = l.instruction.has_lock_prefix();
    let (mut op, form) = l.operands();
    if form == Form::RegReg {
        op.exec = sized!(size, compare_reg);
        l.push_pure(op, op.exec);
    } else {
        op.exec = if locked { sized!(size, compare_locked) } else { sized!(size, compare_mem) };
        l.push(op);
    }
    Some(())
}

/// The accumulator is only written if the operands differ, the destination only if they do not: of
/// 32 bits, neither is zero-extended otherwise.
fn compare_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let found = core.reg::<W>(op.dst);
    let new = core.reg::<W>(op.src);
    if compared(core, found) {
        core.set_reg(op.dst, new);
    }
    Ok(())
}

fn compare_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (expected, new) = (core.reg::<W>(RAX), core.reg::<W>(op.src));
    let change = |found| if found == expected { new } else { found };
    let (found, _) = core.update(core.address(op), world, change)?;
    compared(core, found);
    Ok(())
}

fn compare_locked<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (expected, new) = (core.reg::<W>(RAX), core.reg::<W>(op.src));
    let change = |found| if found == expected { new } else { found };
    let (found, _) = core.update_locked(core.address(op), world, change)?;
    compared(core, found);
    Ok(())
}

/// Compares the accumulator with what was found, which it becomes if it differs.
fn compared<W: Word>(core: &mut Core, found: W) -> bool {
    let expected = core.reg::<W>(RAX);
    core.flags.sub(expected, found, W::of(expected.zext().wrapping_sub(found.zext())));
    if expected != found {
        core.set_reg(RAX, found);
    }
    expected == found
}

fn compare_8(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let pair =
        |core: &Core, high, low| u64::from(core.reg::<u32>(high)) << 32 | core.regs[low] & LOW;
    let (expected, new) = (pair(core, RDX, RAX), pair(core, RCX, RBX));
    let change = |found| if found == expected { new } else { found };
    let (found, _) = core.update_locked::<u64>(core.address(op), world, change)?;
    core.flags.set_zf(found == expected);
    if found != expected {
        core.regs[RAX] = found & LOW;
        core.regs[RDX] = found >> 32;
    }
    Ok(())
}

const LOW: u64 = u32::MAX as u64;

fn compare_16(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    if !at.is_multiple_of(16) {
        return Err(core.general_protection(0));
    }
    let pair =
        |core: &Core, high, low| u128::from(core.regs[high]) << 64 | u128::from(core.regs[low]);
    let (expected, new) = (pair(core, RDX, RAX), pair(core, RCX, RBX));
    let change = |found| if found == expected { new } else { found };
    let (found, _) = core.update_locked::<u128>(at, world, change)?;
    core.flags.set_zf(found == expected);
    if found != expected {
        core.regs[RAX] = found as u64;
        core.regs[RDX] = (found >> 64) as u64;
    }
    Ok(())
}
