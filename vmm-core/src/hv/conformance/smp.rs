//! Several vCPUs: how they start, interrupt each other, and come back.

use std::thread;

use super::{
    Failure, Setup,
    guest::{Guest, Plan, Recorder, run_to_end, unexpected},
    outside::{A_WHILE, COUNT, FIRST, SECOND, TARGET, Word},
};
use crate::{
    arch::{RunState, VcpuId},
    error::Result,
    exit::VcpuExit,
    hv::{IrqConfig, Kicker, Vcpu},
};

/// The vCPUs of a VM that starts all of them.
const VCPUS: u32 = 4;
/// How often an interrupt goes to the other vCPU and back.
const ROUND_TRIPS: u32 = 100;
/// Where `guests/smp_start.S` leaves two APIC IDs for each vCPU it has started.
const IDS: u64 = 0x8100;

/// INIT and start-up messages start each vCPU at the page they name, and it finds its own APIC ID.
pub(super) fn startup_messages_start_every_vcpu(setup: &Setup<'_>) -> Result<(), Failure> {
    let (mut guest, others) = several(setup, program!("smp_start"), VCPUS)?;
    let started = VCPUS - 1;
    TARGET.write(&guest.memory, started)?;
    run_all(&mut guest, others)?;
    ensure_eq!(COUNT.read(&guest.memory)?, started, "vCPUs that have started");
    let mut ids = Vec::new();
    for ticket in 0..u64::from(started) {
        let by_cpuid = Word(IDS + 8 * ticket).read(&guest.memory)?;
        let by_apic = Word(IDS + 8 * ticket + 4).read(&guest.memory)?;
        ensure_eq!(by_apic, by_cpuid, "the APIC ID of a vCPU, which CPUID tells otherwise");
        ids.push(by_apic);
    }
    ids.sort_unstable();
    ensure_eq!(ids, (1..VCPUS).collect::<Vec<_>>(), "APIC IDs of the vCPUs that were started");
    Ok(())
}

/// An interrupt sent by one vCPU wakes the one it names from HLT, and no other.
pub(super) fn vcpus_interrupt_each_other(setup: &Setup<'_>) -> Result<(), Failure> {
    let (mut guest, others) = several(setup, program!("smp_ipi"), 2)?;
    FIRST.write(&guest.memory, ROUND_TRIPS)?;
    run_all(&mut guest, others)?;
    ensure_eq!(SECOND.read(&guest.memory)?, ROUND_TRIPS, "interrupts of vCPU 1");
    ensure_eq!(COUNT.read(&guest.memory)?, ROUND_TRIPS, "interrupts of vCPU 0");
    Ok(())
}

/// A vCPU that nobody has started waits inside `run`, and a kick brings it back as it was.
pub(super) fn a_kick_brings_back_a_vcpu_that_was_never_started(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let (_guest, mut others) = several(setup, program!("smp_start"), VCPUS)?;
    for vcpu in &mut others {
        let kicker = vcpu.kicker();
        thread::scope(|scope| {
            let run = scope.spawn(|| run_to_end(&mut **vcpu, &Recorder::new()));
            thread::sleep(A_WHILE);
            let early = run.is_finished();
            kicker.kick();
            let exit = joined(run.join())?;
            ensure!(!early, "a vCPU that was never started came back by itself: {exit}");
            ensure!(matches!(exit, VcpuExit::Kicked), "after a kick: {exit}");
            Ok::<_, Failure>(())
        })?;
        ensure_eq!(vcpu.state()?.run_state, RunState::Uninitialized, "after a kick");
    }
    Ok(())
}

/// A guest in 64-bit mode with `count` vCPUs, and those but the first.
fn several(
    setup: &Setup<'_>,
    code: &[u8],
    count: u32,
) -> Result<(Guest, Vec<Box<dyn Vcpu>>), Failure> {
    let plan = Plan { irq: Some(IrqConfig::default()), vcpus: count, ..Plan::default() };
    let guest = Guest::long_as(setup, &plan, code)?;
    let cpu = &setup.hypervisor.caps().cpu;
    let others = (1..count).map(|id| guest.vm.create_vcpu(VcpuId(id), cpu));
    let others = others.collect::<Result<_>>()?;
    Ok((guest, others))
}

/// Runs the first vCPU until it powers off and the others beside it; these are then kicked, and
/// must come back for no other reason.
fn run_all(guest: &mut Guest, others: Vec<Box<dyn Vcpu>>) -> Result<(), Failure> {
    let first = guest.vcpu.kicker();
    let kickers: Vec<_> = others.iter().map(|vcpu| vcpu.kicker()).collect();
    thread::scope(|scope| {
        let run = |vcpu| {
            let first = &first;
            scope.spawn(move || run_beside(vcpu, first))
        };
        let threads: Vec<_> = others.into_iter().map(run).collect();
        let end = guest.run_to_power_off(&Recorder::new());
        kickers.iter().for_each(Kicker::kick);
        let ends = threads.into_iter().map(|thread| joined(thread.join()));
        // What another vCPU met is the reason why the first one did not end well.
        ends.collect::<Result<Vec<_>, Failure>>().and(end)
    })
}

/// Runs a vCPU until it is kicked; any other end ends the first vCPU's run too.
fn run_beside(mut vcpu: Box<dyn Vcpu>, first: &Kicker) -> Result<(), Failure> {
    let ended = match run_to_end(&mut *vcpu, &Recorder::new()) {
        Ok(VcpuExit::Kicked) => return Ok(()),
        Ok(exit) => unexpected(&exit, &*vcpu),
        Err(failure) => failure,
    };
    first.kick();
    Err(ended)
}

fn joined<T>(result: thread::Result<Result<T, Failure>>) -> Result<T, Failure> {
    result.unwrap_or_else(|_| Err(Failure::from("the thread of a vCPU panicked".to_owned())))
}
