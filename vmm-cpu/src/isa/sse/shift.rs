//! Shifts of packed integers, all lanes by one count.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Done;
use crate::{
    core::{Core, World},
    op::{Exec, Op, exec},
    vector::{Lane, Vector},
};

trait Shift: 'static {
    fn apply(a: Vector, count: u32) -> Vector;
}

macro_rules! shifts {
    ($($mnemonic:ident($a:ident, $count:ident) $result:expr;)*) => {
        pub(super) fn exec(i: &Instruction) -> Option<Exec> {
            let immediate = i.op_kind(1) == OpKind::Immediate8;
            Some(match i.mnemonic() {
                $(Mnemonic::$mnemonic => {
                    struct Row;
                    impl Shift for Row {
                        #[inline(always)]
                        fn apply($a: Vector, $count: u32) -> Vector {
                            $result
                        }
                    }
                    if immediate { exec!(by_immediate::<Row>) } else { exec!(by_vector::<Row>) }
                })*
                _ => return None,
            })
        }
    };
}

shifts! {
    Pslld(a, count) u32::map(a, |lane| lane.checked_shl(count).unwrap_or_default());
    Pslldq(a, count) Vector::of(a.low::<u128>().checked_shl(count * 8).unwrap_or_default());
    Psllq(a, count) u64::map(a, |lane| lane.checked_shl(count).unwrap_or_default());
    Psllw(a, count) u16::map(a, |lane| lane.checked_shl(count).unwrap_or_default());
    Psrad(a, count) i32::map(a, |lane| lane >> count.min(31));
    Psraw(a, count) i16::map(a, |lane| lane >> count.min(15));
    Psrld(a, count) u32::map(a, |lane| lane.checked_shr(count).unwrap_or_default());
    Psrldq(a, count) Vector::of(a.low::<u128>().checked_shr(count * 8).unwrap_or_default());
    Psrlq(a, count) u64::map(a, |lane| lane.checked_shr(count).unwrap_or_default());
    Psrlw(a, count) u16::map(a, |lane| lane.checked_shr(count).unwrap_or_default());
}

/// More than any lane has bits.
const ALL: u64 = 255;

fn by_immediate<S: Shift>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.vectors[op.dst] = S::apply(core.vectors[op.dst], op.imm.min(ALL) as u32);
    Ok(())
}

/// The count is the low half of the source, all of it.
fn by_vector<S: Shift>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let count = core.vectors[op.src].low::<u64>().min(ALL) as u32;
    core.vectors[op.dst] = S::apply(core.vectors[op.dst], count);
    Ok(())
}
