//! Instructions on flags: CLC, STC, CMC, CLD, STD, LAHF, SAHF.

use iced_x86::Mnemonic;

use super::Done;
use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{AF, CF, DF, OF, PF, SF, ZF},
    op::{Exec, Op},
    regs::RAX,
    word::HIGH,
};

/// AH.
const AH: u8 = RAX | HIGH;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec: Exec = match l.instruction.mnemonic() {
        Mnemonic::Clc => |core, _, _| set_carry(core, false),
        Mnemonic::Cld => |core, _, _| set_direction(core, 0),
        Mnemonic::Cmc => |core, _, _| set_carry(core, !core.flags.cf()),
        Mnemonic::Lahf => store_flags,
        Mnemonic::Sahf => load_flags,
        Mnemonic::Stc => |core, _, _| set_carry(core, true),
        Mnemonic::Std => |core, _, _| set_direction(core, DF),
        _ => return None,
    };
    l.push_pure(l.bare(exec), exec);
    Some(())
}

fn set_carry(core: &mut Core, cf: bool) -> Done {
    core.flags.set_cf(cf);
    Ok(())
}

fn set_direction(core: &mut Core, df: u64) -> Done {
    core.other_flags = core.other_flags & !DF | df;
    Ok(())
}

/// What LAHF and SAHF move; bit 1 is always set.
const MOVED: u64 = SF | ZF | AF | PF | CF;

fn store_flags(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.set_reg(AH, (core.flags.image() & MOVED | 2) as u8);
    Ok(())
}

fn load_flags(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let image = core.flags.image() & OF | u64::from(core.reg::<u8>(AH)) & MOVED;
    core.flags.set(image);
    Ok(())
}
