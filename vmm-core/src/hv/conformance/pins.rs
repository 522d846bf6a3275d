//! What interrupt controllers do with pins and with interrupts in service. The guest tells of each
//! step with a store to a port, and the host interrupts it right there, on the vCPU's thread, as
//! devices do.

use super::{
    Failure, Setup,
    guest::{Guest, Kind, Recorder, value},
    outside::{FIRST, SECOND, TARGET, interruptible, irqs},
};
use crate::{
    error::Result,
    exit::{CONTINUE, Flow, VcpuExit},
    irq::{Gsi, IrqController, Msi},
};

/// The ports of `guests/irq_pin.S`: the number of a step; the number of interrupts, from its
/// handler.
const STEP: u64 = 0x80;
const TAKEN: u64 = 0x81;

/// A pin only the I/O APIC has, and the bits of its redirection entry.
const PIN: Gsi = Gsi(20);
const VECTOR: u32 = 0x40;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
/// The pin of the first PIC that `guests/irq_pic_pin.S` uses.
const PIC_PIN: Gsi = Gsi(5);

/// A level-triggered pin that is masked does not interrupt; unmasked, it does, again and again
/// until the wire is low.
pub(super) fn a_level_interrupts_when_unmasked_until_it_is_low(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let entry = VECTOR | LEVEL | MASKED;
    let words = [(FIRST, PIN.0), (SECOND, entry), (TARGET, 3)];
    let guest = interruptible(setup, program!("irq_pin"), &words)?;
    let mut steps = follow(guest, |irqs, step| match step {
        (STEP, 1) => irqs.set_line(PIN, true),
        (TAKEN, 3) => irqs.set_line(PIN, false),
        _ => Ok(()),
    })?;
    // One more may be on its way where interrupts are acknowledged as they are delivered.
    if let Some(late) = steps.iter().position(|step| *step == (TAKEN, 4)) {
        steps.remove(late);
    }
    let expected = [(STEP, 1), (STEP, 2), (TAKEN, 1), (TAKEN, 2), (TAKEN, 3), (STEP, 3)];
    ensure_eq!(steps, expected, "steps with a level-triggered pin");
    Ok(())
}

/// An edge-triggered pin interrupts once each time the wire goes from low to high, however long it
/// stays high and whoever raises it again.
pub(super) fn an_edge_interrupts_once(setup: &Setup<'_>) -> Result<(), Failure> {
    let words = [(FIRST, PIN.0), (SECOND, VECTOR), (TARGET, 2)];
    let guest = interruptible(setup, program!("irq_pin"), &words)?;
    let steps = follow(guest, |irqs, step| match step {
        (STEP, 1) => irqs.set_line(PIN, true),
        (STEP, 2) => {
            irqs.set_line(PIN, true)?;
            irqs.set_line(PIN, false)?;
            irqs.set_line(PIN, true)
        }
        _ => Ok(()),
    })?;
    let expected = [(STEP, 1), (TAKEN, 1), (STEP, 2), (TAKEN, 2), (STEP, 3)];
    ensure_eq!(steps, expected, "steps with an edge-triggered pin");
    Ok(())
}

/// A masked pin of a PIC does not interrupt; unmasked, it does if the wire is still high.
pub(super) fn an_edge_at_a_masked_pic_pin_waits(setup: &Setup<'_>) -> Result<(), Failure> {
    let guest = interruptible(setup, program!("irq_pic_pin"), &[(TARGET, 1)])?;
    let steps = follow(guest, |irqs, step| match step {
        (STEP, 1) => irqs.set_line(PIC_PIN, true),
        _ => Ok(()),
    })?;
    let expected = [(STEP, 1), (STEP, 2), (TAKEN, 1), (STEP, 3)];
    ensure_eq!(steps, expected, "steps with a pin of the PIC");
    Ok(())
}

/// An interrupt that is not yet acknowledged holds back those that are not more urgent.
pub(super) fn an_interrupt_in_service_yields_only_to_more_urgent_ones(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let guest = interruptible(setup, program!("irq_priority"), &[])?;
    let message = |data| Msi { address: 0xfee0_0000, data };
    let steps = follow(guest, |irqs, step| {
        let vectors: &[u32] = match step {
            (STEP, 1) => &[0x40],
            (STEP, 2) => &[0x30, 0x40, 0x50],
            _ => &[],
        };
        vectors.iter().try_for_each(|vector| irqs.send_msi(message(*vector)).map(drop))
    })?;
    let nested = [(STEP, 1), (TAKEN, 0x40), (STEP, 2), (TAKEN, 0x50), (STEP, 3)];
    let after = [(TAKEN, 0x40), (TAKEN, 0x30)];
    ensure_eq!(steps, [&nested[..], &after].concat(), "the order of interrupts");
    Ok(())
}

/// Runs the guest to its end and returns its steps; `react` is called at each.
fn follow(
    mut guest: Guest,
    react: impl Fn(&dyn IrqController, (u64, u64)) -> Result<()> + Send + Sync,
) -> Result<Vec<(u64, u64)>, Failure> {
    let irqs = irqs(&guest)?;
    let io = Recorder::answering(|kind, port, data| match (kind, port) {
        (Kind::PortOut, STEP | TAKEN) => match react(&*irqs, (port, value(data))) {
            Ok(()) => CONTINUE,
            Err(error) => Flow::Break(VcpuExit::Failed(error)),
        },
        _ => CONTINUE,
    });
    guest.run_to_power_off(&io)?;
    Ok(io.take().iter().map(|access| (access.address, value(&access.data))).collect())
}
