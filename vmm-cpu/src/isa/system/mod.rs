//! What the system does, and how programs ask it.

mod call;
mod control;
mod far;
mod identity;
mod interrupt;
mod port;
mod register;
mod run;
mod segment;
mod table;

use crate::decode::Lowering;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    const FAMILIES: [fn(&mut Lowering<'_>) -> Option<()>; 10] = [
        call::lower,
        control::lower,
        far::lower,
        identity::lower,
        interrupt::lower,
        port::lower,
        register::lower,
        run::lower,
        segment::lower,
        table::lower,
    ];
    FAMILIES.iter().find_map(|lower| lower(l))
}
