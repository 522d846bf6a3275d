//! Deadlines.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Setup,
    guest::{Guest, PATIENCE, Recorder, unexpected},
};
use crate::{
    exit::VcpuExit,
    hv::{GuestIo, Vcpu},
};

const SHORT: Duration = Duration::from_millis(20);

/// A guest that spins is stopped at its deadline, not before; again and again until the deadline is
/// taken away; on whichever thread it runs. A kick needs no deadline and is not lost by one.
pub(super) fn a_deadline_ends_run_on_any_thread(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::real(setup, None, program!("spin"))?;
    let io = Recorder::new();
    let vcpu = &mut *guest.vcpu;
    for _ in 0..20 {
        expires(vcpu, &io)?;
    }
    thread::scope(|scope| {
        let other = scope.spawn(|| expires(vcpu, &io));
        other.join().map_err(|_| Failure::from("the other thread panicked".to_owned()))?
    })?;
    expires(vcpu, &io)?;
    vcpu.set_deadline(None)?;
    vcpu.kicker().kick();
    match vcpu.run(&io)? {
        VcpuExit::Kicked => {}
        other => return Err(unexpected(&other, vcpu)),
    }
    // Nothing is left that would end this run before the kick.
    let kicker = vcpu.kicker();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(3 * SHORT);
            kicker.kick();
        });
        match vcpu.run(&io)? {
            VcpuExit::Kicked => Ok(()),
            other => Err(unexpected(&other, vcpu)),
        }
    })
}

/// One run to a deadline, and one after it.
fn expires(vcpu: &mut dyn Vcpu, io: &dyn GuestIo) -> Result<(), Failure> {
    let start = Instant::now();
    vcpu.set_deadline(Some(start + SHORT))?;
    for _ in 0..2 {
        match vcpu.run(io)? {
            VcpuExit::Expired => {}
            other => return Err(unexpected(&other, vcpu)),
        }
    }
    let took = start.elapsed();
    ensure!(took >= SHORT && took < PATIENCE, "a deadline of {SHORT:?} after {took:?}");
    Ok(())
}
