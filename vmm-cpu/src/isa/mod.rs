//! The instructions, a family each file: how they become operations, and what executes those.

mod alu;
mod atomic;
mod bits;
mod bmi;
mod branch;
mod condition;
mod double_shift;
mod flag;
mod hint;
mod legacy;
mod multiply;
mod scan;
mod shift;
mod sse;
pub(crate) mod stack;
mod string;
mod system;
mod transfer;
mod x87;
mod xsave;

use crate::{
    core::{Core, World},
    decode::Lowering,
    op::{Op, Stop},
    regs::{PAGE, VALUE},
    word::Word,
};

/// What an operation returns.
pub(crate) type Done = Result<(), Stop>;

/// Turns an instruction into operations. `None` if it is not built.
pub(crate) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    const FAMILIES: [fn(&mut Lowering<'_>) -> Option<()>; 20] = [
        transfer::lower,
        alu::lower,
        branch::lower,
        stack::lower,
        condition::lower,
        shift::lower,
        sse::lower,
        hint::lower,
        multiply::lower,
        double_shift::lower,
        atomic::lower,
        bits::lower,
        scan::lower,
        bmi::lower,
        flag::lower,
        string::lower,
        system::lower,
        x87::lower,
        xsave::lower,
        legacy::lower,
    ];
    FAMILIES.iter().find_map(|lower| lower(l))
}

/// Chooses the instance of a generic function for a size in bytes.
macro_rules! sized {
    ($size:expr, $name:ident $(, $arg:tt)*) => {
        match $size {
            1 => $crate::op::exec!($name::<u8 $(, $arg)*>),
            2 => $crate::op::exec!($name::<u16 $(, $arg)*>),
            4 => $crate::op::exec!($name::<u32 $(, $arg)*>),
            _ => $crate::op::exec!($name::<u64 $(, $arg)*>),
        }
    };
}
pub(crate) use sized;

/// As [`sized`], for functions that go to memory: with a look, generic in the same size, that tells
/// whether they need care.
macro_rules! sized_in_memory {
    ($size:expr, $look:ident, $name:ident $(, $arg:tt)*) => {
        match $size {
            1 => $crate::op::exec!($name::<u8 $(, $arg)*>, $look::<u8>),
            2 => $crate::op::exec!($name::<u16 $(, $arg)*>, $look::<u16>),
            4 => $crate::op::exec!($name::<u32 $(, $arg)*>, $look::<u32>),
            _ => $crate::op::exec!($name::<u64 $(, $arg)*>, $look::<u64>),
        }
    };
}
pub(crate) use sized_in_memory;

/// Chooses the instance of a generic function for a condition's code of 4 bits.
macro_rules! by_condition {
    ($code:expr, $name:ident $(, $arg:ty)*) => {
        [
            $crate::op::exec!($name::<$($arg,)* 0>),
            $crate::op::exec!($name::<$($arg,)* 1>),
            $crate::op::exec!($name::<$($arg,)* 2>),
            $crate::op::exec!($name::<$($arg,)* 3>),
            $crate::op::exec!($name::<$($arg,)* 4>),
            $crate::op::exec!($name::<$($arg,)* 5>),
            $crate::op::exec!($name::<$($arg,)* 6>),
            $crate::op::exec!($name::<$($arg,)* 7>),
            $crate::op::exec!($name::<$($arg,)* 8>),
            $crate::op::exec!($name::<$($arg,)* 9>),
            $crate::op::exec!($name::<$($arg,)* 10>),
            $crate::op::exec!($name::<$($arg,)* 11>),
            $crate::op::exec!($name::<$($arg,)* 12>),
            $crate::op::exec!($name::<$($arg,)* 13>),
            $crate::op::exec!($name::<$($arg,)* 14>),
            $crate::op::exec!($name::<$($arg,)* 15>),
        ][usize::from($code & 15)]
    };
}
pub(crate) use by_condition;

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

/// Loads the memory operand for the operation that comes after.
pub(crate) fn load_value<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.regs[VALUE] = core.load::<W>(core.address(op), world)?.zext();
    Ok(())
}
