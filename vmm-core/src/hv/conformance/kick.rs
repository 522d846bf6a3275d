//! Kicks: each ends one `run`, whatever the guest does, and whether it came before or during it.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Setup,
    guest::{CODE, Guest, PATIENCE, Recorder, USER_CODE64, USER_DATA},
};
use crate::{
    arch::{Segment, SystemRegs},
    memory::{GuestAddress, GuestMemory},
};

/// Where `guests/spin.S` counts.
const COUNTER: GuestAddress = GuestAddress(0x1_0000);

/// A guest that executes for ever without an exit, in ring 0 or ring 3, is brought back by one
/// kick, stays where it is, and runs on.
pub(super) fn one_kick_brings_back_a_spinning_guest(setup: &Setup<'_>) -> Result<(), Failure> {
    for ring in [0, 3] {
        let mut guest = Guest::long(setup, None, program!("spin"))?;
        if ring == 3 {
            drop_to_ring_3(&mut guest)?;
        }
        let (kicker, memory) = (guest.vcpu.kicker(), guest.memory.clone());
        let mut before = 0;
        for round in 0..5 {
            let (ran, kicked) = thread::scope(|scope| {
                let kick = scope.spawn(|| {
                    let counter = await_beyond(before, &memory);
                    kicker.kick();
                    counter
                });
                (guest.run_to_kick(), kick.join())
            });
            ran?;
            let counter = kicked.map_err(|_| Failure::from("nobody kicked".to_owned()))?;
            before = counter
                .map_err(|why| Failure::from(format!("ring {ring}, round {round}: {why}")))?;
            let rip = guest.vcpu.regs()?.rip;
            ensure!((CODE..CODE + 0x10).contains(&rip), "ring {ring}: left its loop for {rip:#x}");
        }
    }
    Ok(())
}

/// Waits until the guest has counted on from `before` for a while.
fn await_beyond(before: u64, memory: &GuestMemory) -> Result<u64, Failure> {
    let start = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(10));
        let counter: u64 = memory.read_obj(COUNTER)?;
        if counter > before {
            return Ok(counter);
        }
        ensure!(start.elapsed() < PATIENCE, "the guest stays at {before}");
    }
}

fn drop_to_ring_3(guest: &mut Guest) -> Result<(), Failure> {
    let (code, data) = (Segment::code64(USER_CODE64, 3), Segment::data(USER_DATA, 3));
    let system = guest.vcpu.system_regs()?;
    let system = SystemRegs { cs: code, ss: data, ds: data, es: data, ..system };
    Ok(guest.vcpu.set_system_regs(&system)?)
}

/// Kicks that come before `run` make it return at once, without a single instruction, and count as
/// one.
pub(super) fn kicks_before_run_end_it_at_once_and_once(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::real(setup, None, program!("halt"))?;
    let kicker = guest.vcpu.kicker();
    let io = Recorder::new();
    let before = guest.vcpu.regs()?;
    (0..3).for_each(|_| kicker.kick());
    guest.run_to_kick()?;
    ensure_eq!(guest.vcpu.regs()?, before, "registers after a kick before `run`");
    guest.run_to_halt(&io)?;
    ensure_eq!(io.take().len(), 1, "accesses up to the first HLT");
    Ok(())
}
