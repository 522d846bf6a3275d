//! What changes nothing that code can see: NOP and its many forms, PAUSE, fences, prefetches, cache
//! lines flushed.

use std::sync::atomic::{Ordering::SeqCst, fence};

use iced_x86::{Code, Mnemonic};

use super::{Done, invalid};
use crate::{
    core::{Core, World},
    decode::Lowering,
    op::{Op, exec},
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    match i.mnemonic() {
        // Loads acquire and stores release: only a store before a load is to be kept in order.
        Mnemonic::Mfence => l.push_pure(l.bare(exec!(full_fence)), exec!(full_fence)),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => {
            let mut op = l.operands().0;
            op.exec = exec!(flush);
            l.push(op);
        }
        Mnemonic::Pause => l.push_pure(l.bare(exec!(pause)), exec!(pause)),
        // A prefetch of a register (AMD APM 3, "PREFETCHlevel").
        _ if is_bad_prefetch(i.code()) => {
            l.push(l.bare(exec!(invalid)));
            l.end_block();
        }
        Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Lfence
        | Mnemonic::Nop
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Reservednop
        | Mnemonic::Sfence => {}
        // Without shadow stacks a NOP, by which code tells that there are none (Intel SDM 2,
        // "RDSSPD/RDSSPQ").
        Mnemonic::Rdsspd | Mnemonic::Rdsspq => {}
        _ if is_nop(i.code()) => {}
        _ => return None,
    }
    Some(())
}

/// More that is executed as NOP where its feature is not there.
fn is_nop(code: Code) -> bool {
    matches!(
        code,
        Code::Cldemote_m8
            | Code::Prefetchit0_m8
            | Code::Prefetchit1_m8
            | Code::Prefetchreserved3_m8
            | Code::Prefetchreserved4_m8
            | Code::Prefetchreserved5_m8
            | Code::Prefetchreserved6_m8
            | Code::Prefetchreserved7_m8
    )
}

fn is_bad_prefetch(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

fn full_fence(_: &mut Core, _: &Op, _: &World<'_>) -> Done {
    fence(SeqCst);
    Ok(())
}

/// How often PAUSE is executed before somebody is told.
const PATIENCE: u32 = 256;

fn pause(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.pauses = core.pauses.wrapping_add(1);
    if core.pauses.is_multiple_of(PATIENCE) {
        world.io.spins();
    }
    Ok(())
}

/// The line's address is checked as a load's.
fn flush(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.probe_read(core.address(op), 1, world)
}
