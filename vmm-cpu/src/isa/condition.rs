//! What a condition of the status flags decides on, but for jumps: SETcc and CMOVcc.

use iced_x86::Code;

use super::{Done, by_condition};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    op::Op,
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let code = l.instruction.code() as u16;
    let sets = (Code::Seto_rm8 as u16..=Code::Setg_rm8 as u16).contains(&code);
    let moves = (Code::Cmovo_r16_rm16 as u16..=Code::Cmovg_r64_rm64 as u16).contains(&code);
    if !sets && !moves {
        return None;
    }
    let condition = l.instruction.condition_code() as u8 - 1;
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match (form, size) {
        (Form::Reg, _) => by_condition!(condition, set_reg),
        (Form::Mem, _) => by_condition!(condition, set_mem),
        (Form::RegReg, 2) => by_condition!(condition, move_reg, u16),
        (Form::RegReg, 4) => by_condition!(condition, move_reg, u32),
        (Form::RegReg, _) => by_condition!(condition, move_reg, u64),
        (_, 2) => by_condition!(condition, move_mem, u16),
        (_, 4) => by_condition!(condition, move_mem, u32),
        (_, _) => by_condition!(condition, move_mem, u64),
    };
    match form {
        Form::Reg | Form::RegReg => l.push_pure(op, op.exec),
        _ => l.push(op),
    }
    Some(())
}

fn set_reg<const CC: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, u8::from(core.flags.condition::<CC>()));
    Ok(())
}

fn set_mem<const CC: u8>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), u8::from(core.flags.condition::<CC>()), world)
}

/// The destination is always written: of 32 bits, zero-extended whether moved or not.
fn move_reg<W: Word, const CC: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let field = if core.flags.condition::<CC>() { op.src } else { op.dst };
    core.set_reg::<W>(op.dst, core.reg(field));
    Ok(())
}

/// The source is always loaded.
fn move_mem<W: Word, const CC: u8>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.load::<W>(core.address(op), world)?;
    let kept = core.reg::<W>(op.dst);
    core.set_reg(op.dst, if core.flags.condition::<CC>() { value } else { kept });
    Ok(())
}
