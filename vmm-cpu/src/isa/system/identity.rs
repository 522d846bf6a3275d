//! CPUID, and random numbers: RDRAND, RDSEED.

use iced_x86::Mnemonic;

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::CF,
    isa::{Done, sized},
    op::{Op, exec},
    regs::{RAX, RBX, RCX, RDX},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Cpuid => {
            l.push(l.bare(exec!(identify)));
            l.end_block();
        }
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            let size = l.size(0);
            let mut op = l.operands().0;
            op.exec = sized!(size, random);
            l.push(op);
        }
        _ => return None,
    }
    Some(())
}

/// Guests serialize by it: what comes next is fetched anew.
fn identify(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let answer = core.cpuid.answer(core.reg(RAX), core.reg(RCX), &core.system);
    for (field, value) in [RAX, RBX, RCX, RDX].into_iter().zip(answer) {
        core.regs[field] = u64::from(value);
    }
    core.leave_block(op)
}

/// The host's random numbers; with CF clear, and 0, if it has none.
fn random<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let number = getrandom::u64().ok();
    core.set_reg(op.dst, W::of(number.unwrap_or(0)));
    core.flags.set(if number.is_some() { CF } else { 0 });
    Ok(())
}
