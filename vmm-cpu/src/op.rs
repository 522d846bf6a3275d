//! An operation: one instruction, or a step of one, ready to be executed.

use crate::{
    core::{Core, World},
    regs::NONE,
};

/// What executes an operation.
pub(crate) type Exec = fn(&mut Core, &Op, &World<'_>) -> Result<(), Stop>;

/// Why the next operation of a block is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// This operation has device accesses or overwrites code; nothing of it was done. It is to be
    /// executed once more, on its own.
    Careful,
    /// An exception, in [`Core::fault`]; nothing of the instruction was done.
    Fault,
    /// HLT: done, RIP is at the next instruction.
    Halt,
    /// Done, and RIP says where to go on.
    Jump,
    /// Something that is not built, in [`Core::refused`]; nothing of the instruction was done.
    Refuse,
    /// Done but for what is asked in [`Core::leave`] or changed in what blocks depend on: RIP is at
    /// the next instruction.
    Leave,
}

/// One instruction or a step of one; a block is a row of them.
///
/// Everything that is known once it is decoded is in it, in a form that needs no instruction bytes
/// any more. [`exec`](Self::exec) follows from the rest: something other than the interpreter, a
/// translator, takes `code` and the operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) exec: Exec,
    /// The immediate operand; the target of a branch, relative to the page.
    pub(crate) imm: u64,
    /// The displacement of the memory operand.
    pub(crate) disp: i32,
    /// Which instruction it is: an [`iced_x86::Code`].
    pub(crate) code: u16,
    /// Where the instruction begins in its page.
    pub(crate) offset: u16,
    /// The instruction's length in bytes.
    pub(crate) len: u8,
    /// The first register operand, mostly the destination.
    pub(crate) dst: u8,
    /// The second register operand.
    pub(crate) src: u8,
    /// The third register operand.
    pub(crate) third: u8,
    /// The memory operand's base register.
    pub(crate) base: u8,
    /// The memory operand's index register.
    pub(crate) index: u8,
    /// The binary logarithm of what the index is multiplied by in bits 0 and 1; bit 2:
    /// [`STACK`](Self::STACK).
    pub(crate) scale: u8,
    /// How many instructions of the block come before this one.
    pub(crate) ordinal: u8,
}

impl Op {
    /// In [`scale`](Self::scale): the memory operand is in the stack segment, so that an address it
    /// cannot have is #SS.
    pub(crate) const STACK: u8 = 1 << 2;

    /// The offset of the next instruction from this one's page.
    #[inline(always)]
    pub(crate) fn next(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }

    /// An operation without operands.
    pub(crate) fn bare(exec: Exec) -> Self {
        Self {
            exec,
            imm: 0,
            disp: 0,
            code: 0,
            offset: 0,
            len: 0,
            dst: NONE,
            src: NONE,
            third: NONE,
            base: NONE,
            index: NONE,
            scale: 0,
            ordinal: 0,
        }
    }
}

const _: () = assert!(size_of::<Op>() == 32);
