//! The instructions, a family each file: how they become operations, and what executes those.

mod alu;
mod branch;
mod sse;
mod stack;
mod system;
mod transfer;
mod xsave;

use crate::{
    access::address,
    core::{Core, World},
    decode::Lowering,
    op::{Op, Stop},
    regs::{PAGE, TEMP},
};

/// What an operation returns.
pub(crate) type Done = Result<(), Stop>;

/// Turns an instruction into operations. `None` if it is not built.
pub(crate) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    const FAMILIES: [fn(&mut Lowering<'_>) -> Option<()>; 6] =
        [alu::lower, transfer::lower, branch::lower, stack::lower, sse::lower, system::lower];
    FAMILIES.iter().find_map(|lower| lower(l))
}

/// Chooses the instance of a generic function for a size in bytes.
macro_rules! sized {
    ($size:expr, $name:ident $(, $arg:tt)*) => {
        match $size {
            1 => $name::<u8 $(, $arg)*>,
            2 => $name::<u16 $(, $arg)*>,
            4 => $name::<u32 $(, $arg)*>,
            _ => $name::<u64 $(, $arg)*>,
        }
    };
}
pub(crate) use sized;

/// Bytes that are no instruction.
pub(crate) fn invalid(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    Err(core.invalid_opcode())
}

/// An instruction that is not built.
pub(crate) fn unknown(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    *core.unknown.entry(op.code).or_default() += 1;
    Err(core.invalid_opcode())
}

/// The end of a block whose last instruction is no jump.
pub(crate) fn go_on(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.rip = core.regs[PAGE].wrapping_add(op.next());
    Err(Stop::Jump)
}

/// An address of which base, index and displacement are not all, or which is too long for them.
pub(crate) fn long_address(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let sum = address(&core.regs, op).wrapping_add(op.imm);
    core.regs[TEMP] = sum.wrapping_add(core.regs[op.third]);
    Ok(())
}

/// An address of 32 bits, in a segment.
pub(crate) fn short_address(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let sum = address(&core.regs, op).wrapping_add(op.imm) & u64::from(u32::MAX);
    core.regs[TEMP] = sum.wrapping_add(core.regs[op.third]);
    Ok(())
}
