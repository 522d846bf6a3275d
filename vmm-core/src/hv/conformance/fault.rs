//! Guests that cannot go on, or should not: the host learns of it in an exit, never in an error or
//! a hang.

use std::time::{Duration, Instant};

use super::{
    Failure, Setup,
    guest::{CODE, Guest, PATIENCE, Recorder, Watchdog},
    random::Random,
};
use crate::{
    arch::Regs,
    exit::{Fault, FaultKind, VcpuExit},
    memory::GuestAddress,
};

/// The entries of `guests/fault.S`.
const UNDEFINED: u64 = 0;
const JUMP: u64 = 1;
const LOAD: u64 = 2;
/// Outside RAM.
const NOWHERE: u64 = 0xd000_0000;
/// Beyond what the page tables map.
const UNMAPPED: u64 = 0x80_0000_0000;
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

/// An exception that cannot be delivered, nor the double fault after it, is a triple fault.
pub(super) fn a_triple_fault_is_a_fault_exit(setup: &Setup<'_>) -> Result<(), Failure> {
    for (entry, rbx) in [(UNDEFINED, 0), (LOAD, UNMAPPED), (LOAD, NOT_CANONICAL), (JUMP, UNMAPPED)]
    {
        let fault = stop(setup, entry, rbx)?;
        let what = format!("entry {entry} with {rbx:#x}");
        ensure_eq!(fault.kind, FaultKind::TripleFault, "{what}");
    }
    Ok(())
}

/// A jump to an address that is mapped but no RAM cannot be followed by every back end, and says
/// so.
pub(super) fn a_jump_to_no_ram_is_a_fault_exit(setup: &Setup<'_>) -> Result<(), Failure> {
    stop(setup, JUMP, NOWHERE).map(drop)
}

/// Runs an entry of `guests/fault.S`, which must end in a fault. The vCPU is dropped in that state.
fn stop(setup: &Setup<'_>, entry: u64, rbx: u64) -> Result<Fault, Failure> {
    let mut guest = Guest::long(setup, None, program!("fault"))?;
    guest.prepare(entry, Regs { rbx, ..Regs::default() })?;
    match guest.run(&Recorder::new())? {
        VcpuExit::Fault(fault) => Ok(*fault),
        other => Err(Failure::from(format!("entry {entry} with {rbx:#x}: {other}"))),
    }
}

/// Random bytes as a program, in each mode there is: any exit will do, an error or a hang will
/// not.
pub(super) fn garbage_ends_in_an_exit_or_can_be_kicked(setup: &Setup<'_>) -> Result<(), Failure> {
    const PROGRAMS: u64 = 100;
    let mut random = Random::new(0x6a72_b4e3);
    for n in 0..PROGRAMS {
        let program = garbage(&mut random);
        let mut guest = match n % 2 {
            0 => Guest::real(setup, None, &program)?,
            _ => Guest::long(setup, None, &program)?,
        };
        // Its stack and everything else it may reach is garbage too.
        guest.memory.write(GuestAddress(0), &program[..CODE as usize])?;
        run_for(&mut guest, Duration::from_millis(50))
            .map_err(|why| Failure::from(format!("program {n}: {why}")))?;
    }
    Ok(())
}

fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..0x400).flat_map(|_| random.next().to_le_bytes()).collect();
    // A hypercall is the one instruction whose meaning is the host's: some hang in it.
    while let Some(at) = bytes.windows(3).position(|w| matches!(w, [0x0f, 0x01, 0xc1 | 0xd9])) {
        bytes[at] = 0x90;
    }
    bytes
}

/// Lets a guest run, and run on after exits it survives, until it ends or the time is over.
fn run_for(guest: &mut Guest, time: Duration) -> Result<(), Failure> {
    let io = Recorder::new();
    let start = Instant::now();
    let watchdog = Watchdog::new(guest.vcpu.kicker(), time);
    while !watchdog.has_barked() && start.elapsed() < time {
        match guest.vcpu.run(&io)? {
            VcpuExit::Halted | VcpuExit::Interrupted | VcpuExit::Kicked => {}
            _ => break,
        }
    }
    let took = start.elapsed();
    ensure!(took < PATIENCE, "a kick after {time:?} ended it after {took:?}");
    Ok(())
}
