//! An operation: one instruction, or a step of one, ready to be executed.

use crate::{
    core::{Core, World},
    regs::NONE,
};

/// What executes an operation, and those after it in `rest` as far as they go on; [`exec!`] makes it
/// of a function that executes one.
pub(crate) type Exec = fn(&mut Core, &Op, rest: &[Op], &World<'_>) -> Result<(), Stop>;

/// Makes an [`Exec`] of a function that executes one operation.
///
/// Each goes on to the next itself. That is its last call, which an optimizer makes a jump: there is
/// no loop that every operation would have to return to, and each has a place of its own where the
/// host predicts which comes next.
macro_rules! exec {
    ($function:expr) => {
        (|core: &mut $crate::core::Core,
          op: &$crate::op::Op,
          rest: &[$crate::op::Op],
          world: &$crate::core::World<'_>| {
            let done = $function(core, op, world);
            $crate::op::follow(done, core, rest, world)
        }) as $crate::op::Exec
    };
    // What may need care, unless a look shows that it will not. The function is there twice, so that
    // the common case needs no frame for the other.
    ($function:expr, $look:expr) => {
        (|core: &mut $crate::core::Core,
          op: &$crate::op::Op,
          rest: &[$crate::op::Op],
          world: &$crate::core::World<'_>| {
            if !$look(core, op) {
                return $crate::op::slowly(core, op, rest, world, $function);
            }
            let done = $function(core, op, world);
            $crate::op::follow(done, core, rest, world)
        }) as $crate::op::Exec
    };
}
pub(crate) use exec;

/// How many operations go on to each other before they return. Rust does not promise the jump, and
/// without it each is a frame deeper; threads that others lend may have small stacks.
const CHAIN: usize = 16;

/// Executes operations until one stops: why, and which it is.
#[inline(always)]
pub(crate) fn execute(core: &mut Core, ops: &[Op], world: &World<'_>) -> Option<(Stop, usize)> {
    let mut begun = 0;
    loop {
        let end = ops.len().min(begun + CHAIN);
        match go_on(core, &ops[begun..end], world) {
            Err(stop) => return Some((stop, end - 1 - core.left)),
            Ok(()) if end == ops.len() => return None,
            Ok(()) => begun = end,
        }
    }
}

/// Executes the first of some operations, which goes on to the next. `Ok` if none of them stops.
#[inline(always)]
fn go_on(core: &mut Core, ops: &[Op], world: &World<'_>) -> Result<(), Stop> {
    match ops.split_first() {
        Some((op, rest)) => (op.exec)(core, op, rest, world),
        None => Ok(()),
    }
}

/// Goes on to the next operation if the one before did not stop.
#[inline(always)]
pub(crate) fn follow(
    done: Result<(), Stop>,
    core: &mut Core,
    rest: &[Op],
    world: &World<'_>,
) -> Result<(), Stop> {
    match done {
        Ok(()) => go_on(core, rest, world),
        Err(stop) => {
            core.left = rest.len();
            Err(stop)
        }
    }
}

/// Executes an operation that needs care, and those after it.
#[cold]
#[inline(never)]
pub(crate) fn slowly(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
    world: &World<'_>,
    function: fn(&mut Core, &Op, &World<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let done = function(core, op, world);
    follow(done, core, rest, world)
}

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

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        regs::{RBX, RDI, RSI},
        testing::{DATA, Nobody, machine},
    };

    /// Whatever the compiler makes of the calls from one operation to the next. Each of these takes
    /// the slow way: it goes over the border of two pages.
    #[test]
    fn a_small_stack_is_enough() {
        const SIZE: usize = 64 << 10;
        // add rax, [rsi+rbx]; mov [rdi+rbx], rax; mulsd xmm0, [rsi+rbx]; xadd gs:[rdi+rbx+4], rax
        let row: &[u8] = &[
            0x48, 0x03, 0x04, 0x1e, 0x48, 0x89, 0x04, 0x1f, 0xf2, 0x0f, 0x59, 0x04, 0x1e, 0x65,
            0x48, 0x0f, 0xc1, 0x44, 0x1f, 0x04,
        ];
        let (mut cpu, ram) = machine(&[&row.repeat(100), &[0xf4][..]].concat());
        (cpu.core.regs[RSI], cpu.core.regs[RDI]) = (DATA, DATA + 0x8000);
        cpu.core.regs[RBX] = 0xffc;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(SIZE);
            let thread = thread.spawn_scoped(scope, || cpu.run(&ram, &Nobody)).unwrap();
            assert_eq!(thread.join().unwrap(), Exit::Halted);
        });
        assert_eq!(cpu.instructions(), 401);
    }
}
