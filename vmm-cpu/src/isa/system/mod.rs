//! What the system does, and how programs ask it.

mod port;
mod run;

use crate::decode::Lowering;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    const FAMILIES: [fn(&mut Lowering<'_>) -> Option<()>; 2] = [port::lower, run::lower];
    FAMILIES.iter().find_map(|lower| lower(l))
}
