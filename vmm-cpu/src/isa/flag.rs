//! Instructions on flags: CLC, STC, CMC, CLD, STD, LAHF, SAHF.

use iced_x86::Mnemonic;

use super::Done;
use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{AF, CF, DF, OF, PF, SF, ZF},
    op::{Exec, Op, exec},
    regs::RAX,
    word::HIGH,
};

/// AH.
const AH: u8 = RAX | HIGH;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec: Exec = match l.instruction.mnemonic() {
        Mnemonic::Clc => exec!(set_carry::<false>),
        Mnemonic::Cld => exec!(set_direction::<0>),
        Mnemonic::Cmc => exec!(complement_carry),
        Mnemonic::Lahf => exec!(store_flags),
        Mnemonic::Sahf => exec!(load_flags),
        Mnemonic::Stc => exec!(set_carry::<true>),
        Mnemonic::Std => exec!(set_direction::<DF>),
        _ => return None,
    };
    l.push_pure(l.bare(exec), exec);
    Some(())
}

fn set_carry<const CF: bool>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.flags.set_cf(CF);
    Ok(())
}

fn complement_carry(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.flags.set_cf(!core.flags.cf());
    Ok(())
}

fn set_direction<const TO: u64>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.other_flags = core.other_flags & !DF | TO;
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
