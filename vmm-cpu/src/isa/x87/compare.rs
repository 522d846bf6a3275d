//! Comparisons, FXAM, and moves that depend on one.

use iced_x86::Mnemonic;

use super::{Denormal, Done, indefinite};
use crate::{
    core::{Core, World},
    flags::{CF, PF, ZF},
    fp::X87,
    op::{Exec, Op, exec},
    vector::Vector,
    x87::{C0, C1, C2, C3},
};

/// What a comparison does beyond setting condition codes: quiet NaNs are no error, the relation goes
/// to RFLAGS, the second operand is zero.
const QUIET: u8 = 1 << 0;
const TO_FLAGS: u8 = 1 << 1;
const WITH_ZERO: u8 = 1 << 2;

/// What executes an instruction.
pub(super) fn exec(mnemonic: Mnemonic) -> Option<Exec> {
    Some(match mnemonic {
        Mnemonic::Fcmovb => exec!(conditional::<2>),
        Mnemonic::Fcmovbe => exec!(conditional::<6>),
        Mnemonic::Fcmove => exec!(conditional::<4>),
        Mnemonic::Fcmovnb => exec!(conditional::<3>),
        Mnemonic::Fcmovnbe => exec!(conditional::<7>),
        Mnemonic::Fcmovne => exec!(conditional::<5>),
        Mnemonic::Fcmovnu => exec!(conditional::<11>),
        Mnemonic::Fcmovu => exec!(conditional::<10>),
        Mnemonic::Fcom | Mnemonic::Ficom => exec!(compare::<0, 0>),
        Mnemonic::Fcomi => exec!(compare::<TO_FLAGS, 0>),
        Mnemonic::Fcomip => exec!(compare::<TO_FLAGS, 1>),
        Mnemonic::Fcomp | Mnemonic::Ficomp => exec!(compare::<0, 1>),
        Mnemonic::Fcompp => exec!(compare::<0, 2>),
        Mnemonic::Ftst => exec!(compare::<WITH_ZERO, 0>),
        Mnemonic::Fucom => exec!(compare::<QUIET, 0>),
        Mnemonic::Fucomi => exec!(compare::<{ QUIET | TO_FLAGS }, 0>),
        Mnemonic::Fucomip => exec!(compare::<{ QUIET | TO_FLAGS }, 1>),
        Mnemonic::Fucomp => exec!(compare::<QUIET, 1>),
        Mnemonic::Fucompp => exec!(compare::<QUIET, 2>),
        Mnemonic::Fxam => exec!(examine),
        _ => return None,
    })
}

fn compare<const HOW: u8, const POPS: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let zero = (Some(Vector::default()), Denormal(false));
    let (b, early) = if HOW & WITH_ZERO != 0 { zero } else { core.x87_source(op) };
    let which = if HOW & QUIET != 0 { X87::UnorderedCompare } else { X87::Compare };
    let (codes, done) = match (core.vectors.x87.get(0), b) {
        (Some(a), Some(b)) => {
            let status = core.x87(which, a, b).status & !C1 | early.beside(a);
            // FCOMI and its like leave C1.
            let kept = if HOW & TO_FLAGS != 0 { core.vectors.x87.status & C1 } else { 0 };
            let done = core.vectors.x87.raise(status);
            core.vectors.x87.status |= kept;
            (status, done)
        }
        _ => (C0 | C2 | C3, core.vectors.x87.stack_fault(0)),
    };
    if HOW & TO_FLAGS == 0 {
        core.vectors.x87.set_codes(codes, C0 | C2 | C3);
    } else {
        let flag = |code: u16, flag: u64| if codes & code != 0 { flag } else { 0 };
        core.flags.set(flag(C0, CF) | flag(C2, PF) | flag(C3, ZF));
    }
    // The relation is told in any case; an exception that is not masked keeps the operands.
    for _ in 0..if done { POPS } else { 0 } {
        core.vectors.x87.pop();
    }
    Ok(())
}

/// FXAM: what kind of value is in ST(0) (Intel SDM 2, FXAM).
fn examine(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &mut core.vectors.x87;
    let bits: u128 = x87.st(0).low();
    let (exponent, significand) = (bits >> 64 & 0x7fff, bits as u64);
    let integer = significand >> 63 != 0;
    let kind = match (exponent, integer) {
        _ if x87.get(0).is_none() => C3 | C0,
        (0, _) if significand == 0 => C3,
        (0, false) => C3 | C2,
        (0x7fff, true) if significand << 1 == 0 => C2 | C0,
        (0x7fff, true) => C0,
        // An exponent of 0 with the integer bit is a denormal, too.
        (0, true) => C3 | C2,
        (_, true) => C2,
        (_, false) => 0,
    };
    let sign = if bits >> 79 & 1 != 0 { C1 } else { 0 };
    x87.set_codes(kind | sign, C0 | C1 | C2 | C3);
    Ok(())
}

fn conditional<const CC: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let holds = core.flags.condition::<CC>();
    let x87 = &mut core.vectors.x87;
    match (x87.get(0), x87.get(op.src)) {
        (Some(_), Some(b)) => {
            if holds {
                x87.set(0, b);
            }
        }
        _ => {
            if x87.stack_fault(0) {
                x87.set(0, indefinite());
            }
        }
    }
    Ok(())
}
