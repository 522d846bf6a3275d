//! PUSH, POP, RET, LEAVE.

use iced_x86::Mnemonic;

use super::Done;
use crate::{
    core::{Core, World},
    decode::Lowering,
    op::{Op, Stop},
    regs::RSP,
    word::Word,
};

impl Core {
    /// Pushes a word.
    #[inline(always)]
    pub(crate) fn push<W: Word>(&mut self, value: W, world: &World<'_>) -> Done {
        let top = self.regs[RSP].wrapping_sub(W::BYTES);
        self.store(top, value, world)?;
        self.regs[RSP] = top;
        Ok(())
    }

    /// Pops a word.
    #[inline(always)]
    pub(crate) fn pop<W: Word>(&mut self, world: &World<'_>) -> Result<W, Stop> {
        let top = self.regs[RSP];
        let value = self.load(top, world)?;
        self.regs[RSP] = top.wrapping_add(W::BYTES);
        Ok(value)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Ret if l.instruction.op_count() == 0 => {
            let op = Op { scale: Op::STACK, ..l.bare(ret) };
            l.push(op);
            Some(())
        }
        _ => None,
    }
}

fn ret(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.rip = core.pop::<u64>(world)?;
    Err(Stop::Jump)
}
