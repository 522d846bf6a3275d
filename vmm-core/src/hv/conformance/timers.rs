//! Timers that wake a halted guest.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder},
    outside::{COUNT, FIRST, SECOND, TARGET, interruptible},
};
use crate::{arch::Feature, error::Result, hv::IrqConfig};

/// Interrupts of a periodic timer that are waited for.
const TICKS: u32 = 5;
/// Vector 0x50, which `guests/irq_timer.S` has a handler for, and the mode bit of the LVT entry.
const VECTOR: u32 = 0x50;
const PERIODIC: u32 = 1 << 17;

/// The local APIC's timer in one-shot mode interrupts when it has counted down, and stays at 0.
pub(super) fn the_apic_timer_wakes_halt_once(setup: &Setup<'_>) -> Result<(), Failure> {
    let words = [(FIRST, VECTOR), (SECOND, u32::MAX), (TARGET, 1)];
    let mut guest = interruptible(setup, program!("irq_timer"), &words)?;
    guest.run_to_power_off(&Recorder::new())?;
    ensure_eq!(SECOND.read(&guest.memory)?, 0, "what a one-shot timer still has to count");
    Ok(())
}

/// In periodic mode it interrupts again and again.
pub(super) fn the_apic_timer_wakes_halt_periodically(setup: &Setup<'_>) -> Result<(), Failure> {
    let words = [(FIRST, VECTOR | PERIODIC), (TARGET, TICKS)];
    let mut guest = interruptible(setup, program!("irq_timer"), &words)?;
    guest.run_to_power_off(&Recorder::new())?;
    ensure!(COUNT.read(&guest.memory)? >= TICKS, "fewer interrupts than the guest waited for");
    Ok(())
}

/// If the processor is said to have it, the TSC deadline interrupts when it has come, not before,
/// and is then disarmed. If not, the promise is that the bit is not set.
pub(super) fn the_tsc_deadline_wakes_halt_if_offered(setup: &Setup<'_>) -> Result<(), Failure> {
    if !setup.hypervisor.caps().cpu.has(Feature::TSC_DEADLINE) {
        return Ok(());
    }
    let mut guest = interruptible(setup, program!("irq_deadline"), &[(TARGET, TICKS)])?;
    guest.run_to_power_off(&Recorder::new())?;
    ensure_eq!(COUNT.read(&guest.memory)?, TICKS, "deadlines that interrupted");
    Ok(())
}

/// Channel 0 of the 8254 in mode 2 interrupts periodically through pin 0 of the PIC.
pub(super) fn the_pit_wakes_halt_periodically(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_pit"), &[(TARGET, TICKS)])?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;
    ensure_eq!(io.take(), [], "accesses to the timer that were not answered by it");
    Ok(())
}

/// Without an 8254 its ports are like any others: the accesses go to io.
pub(super) fn without_a_pit_its_ports_go_to_io(setup: &Setup<'_>) -> Result<(), Failure> {
    let irq = IrqConfig { pit: false };
    let mut guest = Guest::long(setup, Some(irq), program!("irq_no_pit"))?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;
    let port = |port: u64, data: u8| Access::new(Kind::PortOut, port, &[data]);
    let expected = [port(0x43, 0x34), port(0x40, 1), port(0x40, 2), port(0x61, 3)];
    ensure_eq!(io.take(), expected, "stores to the ports of a timer that is not there");
    Ok(())
}
