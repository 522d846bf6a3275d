//! Guests that are moved to other VMs in the middle of what they do, and notice nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Setup,
    guest::{Guest, Kind, Recorder, unexpected},
    outside::{
        A_WHILE, COUNT, FIRST, PATIENCE, READY, SECOND, TARGET, Word, interruptible, irqs, play,
    },
    random::Random,
    relocation::relocated,
};
use crate::{
    arch::RunState,
    error::Result,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::IrqConfig,
    irq::Msi,
    memory::{GuestAddress, GuestMemory},
};

const MOVES: u32 = 100;
/// The longest time between two moves, in microseconds.
const STRETCH: u64 = 1500;
/// The period of the timer in the background, in cycles of the local APIC's clock.
const PERIOD: u32 = 500_000;
/// Vector 0x40 to APIC 0.
const MESSAGE: Msi = Msi { address: 0xfee0_0000, data: 0x40 };

/// The parts of `guests/state_compute.S`.
const STOP: Word = SECOND;
const RESULT: GuestAddress = GuestAddress(0x8100);
const DEVICE: u64 = 0xd000_0000;
const BETWEEN_READS: u64 = 4096;

/// A computation that reads a device in between gives the same result when it was moved a hundred
/// times, at moments of chance.
pub(super) fn a_computation_survives_a_hundred_moves(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("state_compute"))?;
    let device = Device::default();
    let mut random = Random::new(0x5eed_0001);
    for _ in 0..MOVES {
        let stretch = Duration::from_micros(random.below(STRETCH));
        device.run_during(&mut guest, || thread::sleep(stretch))?;
        guest = relocated(setup, guest, None)?;
    }
    device.finish(&mut guest)
}

/// The same with interrupt controllers. The timer interrupts after each move as it did before, and
/// the computation does not notice that either.
pub(super) fn a_computation_and_its_timer_survive_a_hundred_moves(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("state_compute"), &[(FIRST, PERIOD)])?;
    let device = Device::default();
    let mut random = Random::new(0x5eed_0002);
    for _ in 0..MOVES {
        let stretch = Duration::from_micros(random.below(STRETCH));
        device.run_during(&mut guest, || thread::sleep(stretch))?;
        guest = relocated(setup, guest, Some(IrqConfig::default()))?;
    }
    let before = COUNT.read(&guest.memory)?;
    ensure!(before > 0, "the timer never interrupted");
    let memory = guest.memory.clone();
    device.run_during(&mut guest, || until(&memory, COUNT, before + 5))?;
    ensure!(COUNT.read(&memory)? >= before + 5, "the timer stopped at {before} interrupts");
    device.finish(&mut guest)
}

/// A vCPU that waits in HLT is still waiting after a move, and an interrupt wakes it there.
pub(super) fn a_halted_vcpu_is_moved_and_wakes(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_apic"), &[(TARGET, 1)])?;
    let (memory, kicker) = (guest.memory.clone(), guest.vcpu.kicker());
    let start = Instant::now();
    // It says that it is ready just before HLT.
    while guest.vcpu.state()?.run_state != RunState::Halted && start.elapsed() < PATIENCE {
        thread::scope(|scope| {
            scope.spawn(|| {
                until(&memory, READY, 1);
                thread::sleep(A_WHILE);
                kicker.kick();
            });
            guest.run_to_kick()
        })?;
    }
    ensure_eq!(guest.vcpu.state()?.run_state, RunState::Halted, "in HLT");
    let mut guest = relocated(setup, guest, Some(IrqConfig::default()))?;
    ensure_eq!(guest.vcpu.state()?.run_state, RunState::Halted, "in HLT, after the move");
    play(&mut guest, |outside| {
        thread::sleep(A_WHILE);
        outside.check("the guest is in HLT")?;
        outside.irqs.send_msi(MESSAGE)?;
        outside.wait(COUNT, 1)
    })
}

/// An interrupt that the guest does not let in yet moves with it.
pub(super) fn a_pending_interrupt_is_moved(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("state_pending"), &[])?;
    let irqs = irqs(&guest)?;
    let io = Recorder::answering(|_, _, _| match irqs.send_msi(MESSAGE) {
        Ok(_) => Flow::Break(VcpuExit::Reset),
        Err(error) => Flow::Break(VcpuExit::Failed(error)),
    });
    match guest.run(&io)? {
        VcpuExit::Reset => {}
        exit => return Err(unexpected(&exit, &*guest.vcpu)),
    }
    let mut guest = relocated(setup, guest, Some(IrqConfig::default()))?;
    guest.run_to_power_off(&Recorder::new())?;
    ensure_eq!(COUNT.read(&guest.memory)?, 1, "interrupts taken after the move");
    Ok(())
}

/// What `guests/state_compute.S` reads: how often it was read before. A read that was lost, or made
/// twice, changes the result.
#[derive(Default)]
struct Device {
    reads: AtomicU64,
}

impl Device {
    fn io(&self) -> Recorder<'_> {
        Recorder::answering(|kind, address, data| match (kind, address) {
            (Kind::MmioRead, DEVICE) => {
                let reads = self.reads.fetch_add(1, SeqCst).to_le_bytes();
                data.iter_mut().zip(reads).for_each(|(to, from)| *to = from);
                CONTINUE
            }
            _ => Flow::Break(VcpuExit::PowerOff(0)),
        })
    }

    /// Runs the guest, and kicks it when `wait` is over.
    fn run_during(&self, guest: &mut Guest, wait: impl FnOnce() + Send) -> Result<(), Failure> {
        let kicker = guest.vcpu.kicker();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait();
                kicker.kick();
            });
            match guest.run(&self.io())? {
                VcpuExit::Kicked => Ok(()),
                exit => Err(unexpected(&exit, &*guest.vcpu)),
            }
        })
    }

    /// Runs the guest to its end and looks at what it has computed.
    fn finish(&self, guest: &mut Guest) -> Result<(), Failure> {
        STOP.write(&guest.memory, 1)?;
        guest.run_to_power_off(&self.io())?;
        let [number, rounds]: [u64; 2] = guest.memory.read_obj(RESULT)?;
        let reads = self.reads.load(SeqCst);
        ensure_eq!(rounds, reads * BETWEEN_READS, "numbers after {reads} reads");
        ensure_eq!(number, computed(rounds), "number {rounds}");
        Ok(())
    }
}

/// What `guests/state_compute.S` computes.
fn computed(rounds: u64) -> u64 {
    let mut table = [0u64; 512];
    let mut number = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..rounds {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        let word = &mut table[(round % 512) as usize];
        number = number.wrapping_add(*word);
        *word = number;
        if (round + 1).is_multiple_of(BETWEEN_READS) {
            number = number.wrapping_add(round / BETWEEN_READS);
        }
    }
    number
}

/// Waits until the guest's word is at least `value`, or for as long as a guest may take.
fn until(memory: &GuestMemory, word: Word, value: u32) {
    let start = Instant::now();
    while word.read(memory).is_ok_and(|now| now < value) && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_micros(100));
    }
}
