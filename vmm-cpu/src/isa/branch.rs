//! Jumps, calls and returns inside a segment.

use iced_x86::Mnemonic;

use super::Done;
use crate::{
    core::{Core, World},
    decode::Lowering,
    op::{Exec, Op, Stop},
    regs::PAGE,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let exec = match i.mnemonic() {
        Mnemonic::Call if i.is_call_near() => call as Exec,
        Mnemonic::Jmp if i.is_jmp_short_or_near() => jump,
        _ if i.is_jcc_short_or_near() => conditional(i.condition_code() as u8 - 1),
        _ => return None,
    };
    let mut op = l.bare(exec);
    op.imm = i.near_branch_target();
    l.push(op);
    Some(())
}

/// What executes Jcc, by its condition's code.
fn conditional(code: u8) -> Exec {
    macro_rules! table {
        ($($cc:literal)*) => { [$(jump_if::<$cc> as Exec),*] };
    }
    let table = table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    table[usize::from(code & 15)]
}

fn jump_if<const CC: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let target = if core.flags.condition::<CC>() { op.imm } else { op.next() };
    core.rip = core.regs[PAGE].wrapping_add(target);
    Err(Stop::Jump)
}

fn jump(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.rip = core.regs[PAGE].wrapping_add(op.imm);
    Err(Stop::Jump)
}

fn call(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let back = core.regs[PAGE].wrapping_add(op.next());
    let target = core.regs[PAGE].wrapping_add(op.imm);
    core.push(back, world)?;
    core.rip = target;
    Err(Stop::Jump)
}
