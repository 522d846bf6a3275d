//! HLT, CLI, STI, and the caches: INVD, WBINVD.

use std::sync::atomic::{Ordering::SeqCst, fence};

use iced_x86::Mnemonic;

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{IF, IOPL},
    isa::Done,
    op::{Op, Stop, exec},
    regs::PAGE,
};

impl Core {
    /// #GP(0) unless at CPL 0.
    pub(crate) fn privileged(&mut self) -> Done {
        if self.system.cpl != 0 { Err(self.general_protection(0)) } else { Ok(()) }
    }

    /// What an operation returns that is done and has changed what blocks depend on. Guests take most
    /// of these for serializing, as they are on processors (Intel SDM 3-9.3).
    pub(crate) fn leave_block(&mut self, op: &Op) -> Done {
        fence(SeqCst);
        self.rip = self.regs[PAGE].wrapping_add(op.next());
        Err(Stop::Leave)
    }

    /// Nothing is taken from outside before the next instruction is executed.
    pub(super) fn cast_shadow(&mut self, op: &Op) {
        self.signals.shadow = Some(self.regs[PAGE].wrapping_add(op.next()));
    }

    /// Whether flags and ports are free at this privilege level.
    pub(crate) fn has_io_privilege(&self) -> bool {
        u64::from(self.system.cpl) <= (self.other_flags & IOPL) >> 12
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec = match l.instruction.mnemonic() {
        Mnemonic::Cli => exec!(mask),
        Mnemonic::Hlt => {
            l.end_block();
            exec!(halt)
        }
        // Caches are not modelled: there is nothing to write back.
        Mnemonic::Invd | Mnemonic::Wbinvd => exec!(no_cache),
        Mnemonic::Sti => exec!(unmask),
        _ => return None,
    };
    l.push(l.bare(exec));
    Some(())
}

fn halt(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.privileged()?;
    core.rip = core.regs[PAGE].wrapping_add(op.next());
    Err(Stop::Halt)
}

fn no_cache(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.privileged()
}

fn mask(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if !core.has_io_privilege() {
        return Err(core.general_protection(0));
    }
    core.other_flags &= !IF;
    Ok(())
}

/// The next instruction is executed before an interrupt is taken. Where nothing waits the block goes
/// on: whatever comes up is looked at when it ends.
fn unmask(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    if !core.has_io_privilege() {
        return Err(core.general_protection(0));
    }
    if core.other_flags & IF == 0 {
        core.other_flags |= IF;
        core.cast_shadow(op);
    }
    if core.is_signalled() { core.leave_block(op) } else { Ok(()) }
}
