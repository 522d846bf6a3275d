//! PTEST, and the blends that XMM0 steers.

use iced_x86::Mnemonic;

use super::Done;
use crate::{
    core::{Core, World},
    flags::{CF, ZF},
    op::{Exec, Op, exec},
    vector::Lane,
};

/// What executes an instruction, and what does if nobody sees its flags.
pub(super) fn exec(mnemonic: Mnemonic) -> Option<[Exec; 2]> {
    Some(match mnemonic {
        Mnemonic::Blendvpd => [exec!(blend::<i64>); 2],
        Mnemonic::Blendvps => [exec!(blend::<i32>); 2],
        Mnemonic::Pblendvb => [exec!(blend::<i8>); 2],
        Mnemonic::Ptest => [exec!(test), exec!(nothing)],
        _ => return None,
    })
}

/// Lanes of the source where XMM0's are negative.
fn blend<L: Lane + PartialOrd>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let [a, b, mask] = [op.dst, op.src, 0].map(|field| L::lanes(core.vectors[field]));
    core.vectors[op.dst] = L::each(|i| {
        let negative = mask.as_ref()[i] < L::default();
        if negative { b.as_ref()[i] } else { a.as_ref()[i] }
    });
    Ok(())
}

fn test(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.vectors[op.dst].low::<u128>(), core.vectors[op.src].low::<u128>());
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    core.flags.set(flag(a & b == 0, ZF) | flag(!a & b == 0, CF));
    Ok(())
}

fn nothing(_: &mut Core, _: &Op, _: &World<'_>) -> Done {
    Ok(())
}
