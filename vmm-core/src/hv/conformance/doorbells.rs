//! Doorbells: a store that matches one becomes an event, any other goes to io.

use super::{
    Failure, Setup,
    guest::{Access, CODE, Guest, Kind, Recorder},
    slot::refused,
};
use crate::{
    arch::Regs,
    error::{ErrorKind, Result},
    hv::{Doorbells, IoAddress, Match},
    irq::EventFd,
    memory::GuestAddress,
};

const ADDRESS: u64 = 0xd000_0000;
const PORT: u16 = 0x1234;
const AT: IoAddress = IoAddress::Mmio(GuestAddress(ADDRESS));
const AT_PORT: IoAddress = IoAddress::Port(PORT);

/// The stores of `guests/bell_stores.S` that match the value of their width, in order.
const RINGING: [(IoAddress, Match); 7] = [
    (AT, Match::U8(0x11)),
    (AT, Match::U16(0x1111)),
    (AT, Match::U32(0x1111_1111)),
    (AT, Match::U64(0x1111_1111_1111_1111)),
    (AT_PORT, Match::U8(0x11)),
    (AT_PORT, Match::U16(0x1111)),
    (AT_PORT, Match::U32(0x1111_1111)),
];

/// A doorbell for a value takes the stores of its width and value; io gets the others.
pub(super) fn a_doorbell_takes_only_stores_that_match(setup: &Setup<'_>) -> Result<(), Failure> {
    for (number, (at, matching)) in RINGING.into_iter().enumerate() {
        let mut guest = Guest::long(setup, None, program!("bell_stores"))?;
        let event = event()?;
        doorbells(&guest)?.add(at, matching, &event)?;
        let mut expected = all_stores();
        expected.remove(number);
        ensure_eq!(
            stores(&mut guest)?,
            expected,
            "accesses with a doorbell at {at:x?} {matching:x?}"
        );
        ensure_eq!(rings(&event)?, 1, "rings at {at:x?} {matching:x?}");
    }
    Ok(())
}

/// Doorbells for different values at one address each ring their own event.
pub(super) fn doorbells_at_one_address_do_not_mix(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("bell_stores"))?;
    let other = [Match::U8(0x12), Match::U16(0x1112), Match::U32(0x1111_1112)];
    let more = [AT, AT_PORT].into_iter().flat_map(|at| other.map(|matching| (at, matching)));
    let bells = RINGING.into_iter().chain(more).map(|(at, matching)| {
        let event = event()?;
        doorbells(&guest)?.add(at, matching, &event)?;
        Ok((at, matching, event))
    });
    let bells: Vec<_> = bells.collect::<Result<_, Failure>>()?;
    let left = [store(Kind::MmioWrite, ADDRESS, 0x1111_1111_1111_1112, 8)];
    ensure_eq!(stores(&mut guest)?, left, "accesses that no doorbell is for");
    for (at, matching, event) in &bells {
        ensure_eq!(rings(event)?, 1, "rings at {at:x?} {matching:x?}");
    }
    Ok(())
}

/// A doorbell for any store takes every width and value at its address, and nothing elsewhere.
pub(super) fn a_doorbell_for_any_store_takes_all_widths(setup: &Setup<'_>) -> Result<(), Failure> {
    for (at, widths) in [(AT, 4), (AT_PORT, 3)] {
        let mut guest = Guest::long(setup, None, program!("bell_stores"))?;
        let event = event()?;
        doorbells(&guest)?.add(at, Match::Any, &event)?;
        let elsewhere = if at == AT { Kind::PortOut } else { Kind::MmioWrite };
        let mut expected = all_stores();
        expected.retain(|access| access.kind == elsewhere);
        ensure_eq!(stores(&mut guest)?, expected, "accesses with a doorbell at {at:x?}");
        ensure_eq!(rings(&event)?, 2 * widths, "rings at {at:x?}");
    }
    Ok(())
}

/// Each of 1,000 matching stores is one ring, and none reaches io.
pub(super) fn a_doorbell_counts_every_store(setup: &Setup<'_>) -> Result<(), Failure> {
    const STORES: u64 = 1000;
    let mut guest = Guest::long(setup, None, program!("bell_many"))?;
    let (event, port_event) = (event()?, event()?);
    doorbells(&guest)?.add(AT, Match::Any, &event)?;
    doorbells(&guest)?.add(AT_PORT, Match::U8(0), &port_event)?;
    start(&mut guest, STORES)?;
    let io = Recorder::new();
    guest.run_to_halt(&io)?;
    ensure_eq!(io.take(), [], "accesses that should have rung");
    ensure_eq!(rings(&event)?, STORES, "rings by MMIO");
    ensure_eq!(rings(&port_event)?, STORES, "rings by port");
    Ok(())
}

/// A doorbell that is taken away takes no more stores, and the others stay.
pub(super) fn a_removed_doorbell_takes_nothing(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("bell_many"))?;
    let (removed, kept) = (event()?, event()?);
    doorbells(&guest)?.add(AT, Match::Any, &removed)?;
    doorbells(&guest)?.add(AT_PORT, Match::Any, &kept)?;
    let io = Recorder::new();
    start(&mut guest, 1)?;
    guest.run_to_halt(&io)?;
    ensure_eq!(io.take(), [], "accesses while there is a doorbell");
    doorbells(&guest)?.remove(AT, Match::Any, &removed)?;
    start(&mut guest, 1)?;
    guest.run_to_halt(&io)?;
    let expected = [store(Kind::MmioWrite, ADDRESS, 1, 2)];
    ensure_eq!(io.take(), expected, "accesses when there is none");
    ensure_eq!(rings(&removed)?, 1, "rings of the doorbell that was removed");
    ensure_eq!(rings(&kept)?, 2, "rings of the doorbell that stayed");
    Ok(())
}

/// A doorbell that exists cannot be added, and one that does not cannot be removed; a removed one
/// can be added again.
pub(super) fn a_doorbell_is_added_and_removed_once(setup: &Setup<'_>) -> Result<(), Failure> {
    let guest = Guest::long(setup, None, program!("bell_many"))?;
    let bells = doorbells(&guest)?;
    let (event, other) = (event()?, event()?);
    for (at, matching) in RINGING.into_iter().chain([AT, AT_PORT].map(|at| (at, Match::Any))) {
        let what = |doing| format!("{doing} {at:x?} {matching:x?}");
        let gone = |event| bells.remove(at, matching, event);
        refused(gone(&event), ErrorKind::NotFound, &what("removing before adding"))?;
        bells.add(at, matching, &event)?;
        for event in [&event, &other] {
            let added = bells.add(at, matching, event);
            refused(added, ErrorKind::BadConfig, &what("adding again"))?;
        }
        refused(gone(&other), ErrorKind::NotFound, &what("removing with another event"))?;
        gone(&event)?;
        bells.add(at, matching, &other)?;
        gone(&other)?;
    }
    Ok(())
}

/// A doorbell is removed by its event, whatever descriptors led or lead to it.
pub(super) fn a_doorbell_is_removed_by_its_event(setup: &Setup<'_>) -> Result<(), Failure> {
    let guest = Guest::long(setup, None, program!("bell_many"))?;
    let bells = doorbells(&guest)?;
    let event = event()?;
    bells.add(AT, Match::Any, &event)?;
    let again = event.try_clone().map_err(|error| Failure::from(format!("dup: {error}")))?;
    drop(event);
    // Most likely by the number that is free now.
    let other = self::event()?;
    let gone = bells.remove(AT, Match::Any, &other);
    refused(gone, ErrorKind::NotFound, "removing with another event")?;
    bells.remove(AT, Match::Any, &again)?;
    Ok(())
}

fn doorbells(guest: &Guest) -> Result<&dyn Doorbells, Failure> {
    guest.vm.doorbells().ok_or_else(|| Failure::from("the VM has no doorbells".to_owned()))
}

fn event() -> Result<EventFd, Failure> {
    EventFd::new(libc::EFD_NONBLOCK).map_err(|error| Failure::from(format!("eventfd: {error}")))
}

/// How often the event was rung since it was last asked.
fn rings(event: &EventFd) -> Result<u64, Failure> {
    match event.read() {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        rings => rings.map_err(|error| Failure::from(format!("reading an event: {error}"))),
    }
}

/// Runs `guests/bell_stores.S` and returns what reaches io.
fn stores(guest: &mut Guest) -> Result<Vec<Access>, Failure> {
    start(guest, 0)?;
    let io = Recorder::new();
    guest.run_to_halt(&io)?;
    Ok(io.take())
}

/// Puts the guest at its beginning.
fn start(guest: &mut Guest, rcx: u64) -> Result<()> {
    let regs = guest.vcpu.regs()?;
    let (rbx, rdx) = (ADDRESS, u64::from(PORT));
    guest.vcpu.set_regs(&Regs { rax: 0, rbx, rcx, rdx, rip: CODE, ..regs })
}

/// What `guests/bell_stores.S` stores.
fn all_stores() -> Vec<Access> {
    let ones = 0x1111_1111_1111_1111;
    let values = [(ones, 0x1111_1111), (ones + 1, 0x1111_1112)];
    let stores = values.into_iter().flat_map(|(mmio, port)| {
        let mmio = [1, 2, 4, 8].map(|width| store(Kind::MmioWrite, ADDRESS, mmio, width));
        let port = [1, 2, 4].map(|width| store(Kind::PortOut, PORT.into(), port, width));
        mmio.into_iter().chain(port)
    });
    stores.collect()
}

fn store(kind: Kind, at: u64, value: u64, width: usize) -> Access {
    let bytes = value.to_le_bytes();
    Access::new(kind, at, bytes.get(..width).unwrap_or(&bytes))
}
