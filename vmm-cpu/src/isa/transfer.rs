//! Moves: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, BSWAP, LEA, XLAT, and the sign extensions of the
//! accumulator.

use iced_x86::{Code, Mnemonic, OpKind};

use super::{Done, sized, sized_in_memory};
use crate::{
    access::{loads, stores},
    core::{Core, World},
    decode::{Form, Lowering, field_of},
    op::{Exec, Op, exec},
    regs::{BASES, NONE, RAX, RBX, RDX},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec: Exec = match l.instruction.code() {
        Code::Cbw => exec!(widen::<u8, u16>),
        Code::Cdq => exec!(spread::<u32>),
        Code::Cdqe => exec!(widen::<u32, u64>),
        Code::Cqo => exec!(spread::<u64>),
        Code::Cwd => exec!(spread::<u16>),
        Code::Cwde => exec!(widen::<u16, u32>),
        _ => return with_operands(l),
    };
    l.push_pure(l.bare(exec), exec);
    Some(())
}

fn with_operands(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Bswap => bswap(l),
        Mnemonic::Lea => lea(l),
        Mnemonic::Mov | Mnemonic::Movnti => mov(l),
        Mnemonic::Movbe => movbe(l),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<true>(l),
        Mnemonic::Movzx => extend::<false>(l),
        Mnemonic::Xlatb => xlat(l),
        _ => None,
    }
}

fn mov(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let special = |n| {
        let register = i.op_register(n);
        i.op_kind(n) == OpKind::Register && !register.is_gpr()
    };
    if special(0) || special(1) {
        return None;
    }
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::RegReg => sized!(size, reg_reg),
        Form::RegImm => sized!(size, reg_imm),
        Form::RegMem => sized_in_memory!(size, loads, reg_mem),
        Form::MemReg => sized_in_memory!(size, stores, mem_reg),
        _ => sized_in_memory!(size, stores, mem_imm),
    };
    match form {
        Form::RegReg | Form::RegImm => l.push_pure(op, op.exec),
        _ => l.push_or_lean(op, op.exec),
    }
    Some(())
}

fn reg_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg::<W>(op.dst, core.reg(op.src));
    Ok(())
}

fn reg_imm<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(op.imm));
    Ok(())
}

#[inline(always)]
fn reg_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.load::<W>(core.address(op), world)?;
    core.set_reg(op.dst, value);
    Ok(())
}

#[inline(always)]
fn mem_reg<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store::<W>(core.address(op), core.reg(op.src), world)
}

#[inline(always)]
fn mem_imm<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), W::of(op.imm), world)
}

fn extend<const SIGNED: bool>(l: &mut Lowering<'_>) -> Option<()> {
    let (to, mut from) = (l.size(0), l.size(1));
    let (mut op, form) = l.operands();
    if l.instruction.code() == Code::Movsxd_r16_rm16 {
        // AMD's processors load 4 bytes to keep 2.
        from = 4;
    }
    op.exec = match (form == Form::RegMem, to) {
        (false, 2) => sized!(from, extend_reg, u16, SIGNED),
        (false, 4) => sized!(from, extend_reg, u32, SIGNED),
        (false, _) => sized!(from, extend_reg, u64, SIGNED),
        (true, 2) => sized_in_memory!(from, loads, extend_mem, u16, SIGNED),
        (true, 4) => sized_in_memory!(from, loads, extend_mem, u32, SIGNED),
        (true, _) => sized_in_memory!(from, loads, extend_mem, u64, SIGNED),
    };
    match form {
        Form::RegReg => l.push_pure(op, op.exec),
        _ => l.push(op),
    }
    Some(())
}

#[inline(always)]
fn extended<S: Word, D: Word, const SIGNED: bool>(value: S) -> D {
    D::of(if SIGNED { value.sext() } else { value.zext() })
}

fn extend_reg<S: Word, D: Word, const SIGNED: bool>(
    core: &mut Core,
    op: &Op,
    _: &World<'_>,
) -> Done {
    let value = core.reg::<S>(op.src);
    core.set_reg::<D>(op.dst, extended::<S, D, SIGNED>(value));
    Ok(())
}

#[inline(always)]
fn extend_mem<S: Word, D: Word, const SIGNED: bool>(
    core: &mut Core,
    op: &Op,
    world: &World<'_>,
) -> Done {
    let value = core.load::<S>(core.address(op), world)?;
    core.set_reg::<D>(op.dst, extended::<S, D, SIGNED>(value));
    Ok(())
}

/// CBW, CWDE, CDQE.
fn widen<S: Word, D: Word>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.set_reg::<D>(RAX, extended::<S, D, true>(core.reg(RAX)));
    Ok(())
}

/// CWD, CDQ, CQO.
fn spread<W: Word>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let sign = core.reg::<W>(RAX).sext().cast_signed() >> 63;
    core.set_reg(RDX, W::of(sign.cast_unsigned()));
    Ok(())
}

/// The bytes of a word in reverse.
fn swapped<W: Word>(value: W) -> W {
    W::of(value.zext().swap_bytes() >> (64 - W::BITS))
}

fn bswap(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let mut op = l.operands().0;
    op.exec = match size {
        2 => exec!(bswap_16),
        4 => exec!(bswap_reg::<u32>),
        _ => exec!(bswap_reg::<u64>),
    };
    l.push_pure(op, op.exec);
    Some(())
}

fn bswap_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg::<W>(op.dst, swapped(core.reg(op.dst)));
    Ok(())
}

/// Undefined (Intel SDM 2, "BSWAP"); processors give 0.
fn bswap_16(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg::<u16>(op.dst, 0);
    Ok(())
}

fn movbe(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::RegMem => sized!(size, load_swapped),
        _ => sized!(size, store_swapped),
    };
    l.push(op);
    Some(())
}

fn load_swapped<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.load::<W>(core.address(op), world)?;
    core.set_reg(op.dst, swapped(value));
    Ok(())
}

fn store_swapped<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store::<W>(core.address(op), swapped(core.reg(op.src)), world)
}

/// The address alone, without its segment.
fn lea(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let mut op = l.bare(sized!(size, address_of));
    op.dst = field_of(l.instruction.op_register(0));
    l.address_plus(&mut op, NONE, NONE, 0);
    l.push_pure(op, op.exec);
    Some(())
}

fn address_of<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(core.address(op)));
    Ok(())
}

/// Its index is AL, which no address else has.
fn xlat(l: &mut Lowering<'_>) -> Option<()> {
    let mask = u64::MAX >> (64 - 8 * l.instruction.memory_base().size());
    let segment = l.segment();
    let exec = if l.is_long() || segment == NONE { exec!(look_up) } else { exec!(look_up_checked) };
    l.push(Op { imm: mask, third: segment, ..l.bare(exec) });
    Some(())
}

fn look_up(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.regs[RBX].wrapping_add(core.reg::<u8>(RAX).zext()) & op.imm;
    let value = core.load::<u8>(at.wrapping_add(core.regs[op.third]), world)?;
    core.set_reg(RAX, value);
    Ok(())
}

/// The same outside 64-bit code.
fn look_up_checked(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let offset = core.regs[RBX].wrapping_add(core.reg::<u8>(RAX).zext()) & op.imm;
    let at = core.segment_address(op.third.wrapping_sub(BASES), offset, 1, false)?;
    let value = core.load::<u8>(at, world)?;
    core.set_reg(RAX, value);
    Ok(())
}
