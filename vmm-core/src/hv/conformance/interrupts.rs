//! Interrupts from outside, by each way the seam has for them.

use std::thread;

use super::{
    Failure, Setup,
    outside::{A_WHILE, COUNT, FIRST, Outside, READY, TARGET, interruptible, irqs, play},
    slot::refused,
};
use crate::{
    error::{ErrorKind, Result},
    irq::{Gsi, Msi},
};

/// Interrupts in a row, none of which may be lost.
const MANY: u32 = 200;
/// A pin only the I/O APIC has.
const PIN: Gsi = Gsi(20);
/// A pin of the first PIC and one of the second.
const PIC_PINS: [Gsi; 2] = [Gsi(5), Gsi(10)];
/// Vector 0x40 in fixed delivery to APIC 0.
const MESSAGE: Msi = Msi { address: 0xfee0_0000, data: 0x40 };
/// The same in NMI delivery, which has no vector.
const NMI: Msi = Msi { address: 0xfee0_0000, data: 0x400 };

/// With interrupt controllers HLT does not end `run`: it waits inside, and an interrupt wakes it.
pub(super) fn halt_with_interrupt_controllers_waits_in_run(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_apic"), &[(TARGET, 1)])?;
    play(&mut guest, |outside| {
        outside.wait(READY, 1)?;
        thread::sleep(A_WHILE);
        outside.check("the guest is in HLT")?;
        outside.irqs.send_msi(MESSAGE)?;
        outside.wait(COUNT, 1)
    })
}

/// A message from another thread wakes a halted guest, each time.
pub(super) fn each_message_wakes_halt(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_apic"), &[(TARGET, MANY)])?;
    play(&mut guest, |outside| {
        one_by_one(outside, |_| {
            ensure!(outside.irqs.send_msi(MESSAGE)?, "a message was not delivered");
            Ok(())
        })
    })
}

/// A rising edge at a pin of the I/O APIC wakes a halted guest, each time.
pub(super) fn each_edge_at_the_ioapic_wakes_halt(setup: &Setup<'_>) -> Result<(), Failure> {
    let words = [(TARGET, MANY), (FIRST, PIN.0)];
    let mut guest = interruptible(setup, program!("irq_apic"), &words)?;
    play(&mut guest, |outside| one_by_one(outside, |_| pulse(outside, PIN)))
}

/// A rising edge at a pin of either PIC wakes a halted guest, each time.
pub(super) fn each_edge_at_the_pics_wakes_halt(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_pic"), &[(TARGET, MANY)])?;
    play(&mut guest, |outside| {
        one_by_one(outside, |number| pulse(outside, PIC_PINS[number as usize % 2]))
    })
}

/// Writing the event of a pin, if the back end has such events, wakes a halted guest, each time;
/// once it is closed, the pin can have another one.
pub(super) fn each_line_event_wakes_halt_if_offered(setup: &Setup<'_>) -> Result<(), Failure> {
    let words = [(TARGET, MANY), (FIRST, PIN.0)];
    let mut guest = interruptible(setup, program!("irq_apic"), &words)?;
    let irqs = irqs(&guest)?;
    let Some(first) = irqs.line_event(PIN) else { return Ok(()) };
    drop(first?);
    let none = || Failure::from("the pin has no second event".to_owned());
    let event = irqs.line_event(PIN).ok_or_else(none)??;
    play(&mut guest, |outside| {
        one_by_one(outside, |_| {
            event.write(1).map_err(|error| Failure::from(format!("writing the event: {error}")))
        })
    })
}

/// A message in NMI delivery comes as vector 2 and wakes HLT, also with interrupts off.
pub(super) fn each_nmi_by_message_reaches_vector_2(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = interruptible(setup, program!("irq_nmi"), &[(TARGET, MANY)])?;
    play(&mut guest, |outside| {
        for number in 1..=MANY {
            // READY counts how often the guest was about to halt.
            outside.wait(READY, number)?;
            ensure!(outside.irqs.send_msi(NMI)?, "NMI {number} was not delivered");
            outside.wait(COUNT, number)?;
        }
        Ok(())
    })
}

/// A message to a local APIC that the guest has not switched on is reported as not delivered.
pub(super) fn a_message_to_a_disabled_apic_is_not_delivered(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let guest = interruptible(setup, program!("irq_apic"), &[])?;
    ensure!(!irqs(&guest)?.send_msi(MESSAGE)?, "the APIC of a vCPU that never ran took a message");
    Ok(())
}

/// Pins beyond the last one are refused.
pub(super) fn pins_that_do_not_exist_are_refused(setup: &Setup<'_>) -> Result<(), Failure> {
    let guest = interruptible(setup, program!("irq_apic"), &[])?;
    let irqs = irqs(&guest)?;
    for gsi in [Gsi(24), Gsi(u32::MAX)] {
        refused(irqs.set_line(gsi, true), ErrorKind::BadConfig, &format!("raising {gsi}"))?;
        if let Some(event) = irqs.line_event(gsi) {
            refused(event, ErrorKind::BadConfig, &format!("the event of {gsi}"))?;
        }
    }
    Ok(())
}

/// Interrupts the guest [`MANY`] times, each time when the interrupt before was acknowledged.
fn one_by_one(
    outside: &Outside<'_>,
    interrupt: impl Fn(u32) -> Result<(), Failure>,
) -> Result<(), Failure> {
    outside.wait(READY, 1)?;
    for number in 1..=MANY {
        interrupt(number)?;
        outside.wait(COUNT, number)?;
        ensure_eq!(COUNT.read(outside.memory)?, number, "interrupts taken");
    }
    Ok(())
}

fn pulse(outside: &Outside<'_>, pin: Gsi) -> Result<(), Failure> {
    outside.irqs.set_line(pin, true)?;
    outside.irqs.set_line(pin, false)?;
    Ok(())
}
