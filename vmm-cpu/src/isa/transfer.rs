//! Moves: MOV, MOVZX, MOVSX, MOVSXD, LEA, XCHG, CMOVcc, BSWAP.

use iced_x86::{Mnemonic, OpKind};

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    op::Op,
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Lea => lea(l),
        Mnemonic::Mov => mov(l),
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
        Form::RegMem => sized!(size, reg_mem),
        Form::MemReg => sized!(size, mem_reg),
        _ => sized!(size, mem_imm),
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

fn reg_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.load::<W>(core.address(op), world)?;
    core.set_reg(op.dst, value);
    Ok(())
}

fn mem_reg<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store::<W>(core.address(op), core.reg(op.src), world)
}

fn mem_imm<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), W::of(op.imm), world)
}

fn lea(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let mut op = l.operands().0;
    op.exec = sized!(size, address_of);
    l.push_pure(op, op.exec);
    Some(())
}

fn address_of<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(core.address(op)));
    Ok(())
}
