//! Memory slots: read-only ones, those that go and come back, parts of a region, and those that are
//! refused.

use super::{
    Failure, Setup,
    guest::{Access as GuestAccess, Guest, Kind, Recorder, patterns, value},
};
use crate::{
    ErrorKind,
    arch::Regs,
    error::Result as CoreResult,
    hv::{Access, MemorySlot},
    memory::{GuestAddress, GuestMemory, PAGE_SIZE, RamRegion},
};

/// Where the slots under test lie: outside the guest's RAM.
const SLOT: u64 = 0x40_0000;
const LEN: u64 = 8 * PAGE_SIZE;

/// The entries of `guests/slot.S`.
const LOAD: u64 = 0;
const STORE: u64 = 1;
const ADD: u64 = 2;
const CALL: u64 = 3;
const RAX: u64 = 0x1122_3344_5566_7788;

/// A region for a slot at [`SLOT`], filled so that regions of different seeds differ everywhere.
fn region(seed: u64) -> Result<RamRegion, Failure> {
    let region = RamRegion::anonymous(GuestAddress(SLOT), LEN)?;
    alone(&region)?.write(GuestAddress(SLOT), &content(seed))?;
    Ok(region)
}

fn content(seed: u64) -> Vec<u8> {
    patterns(seed << 32, LEN as usize)
}

/// What is in a region now.
fn bytes_of(region: &RamRegion) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; LEN as usize];
    alone(region)?.read(GuestAddress(SLOT), &mut bytes)?;
    Ok(bytes)
}

/// A region as memory of its own, for the host's accesses.
fn alone(region: &RamRegion) -> Result<GuestMemory, Failure> {
    Ok(GuestMemory::from_regions(vec![region.clone()])?)
}

fn regs(address: u64) -> Regs {
    Regs { rax: RAX, rbx: address, ..Regs::default() }
}

/// The guest loads 8 bytes at `address` from RAM, without an access to `io`.
fn load(guest: &mut Guest, address: u64) -> Result<u64, Failure> {
    let io = Recorder::new();
    let loaded = guest.perform(&io, LOAD, regs(address))?.rax;
    ensure_eq!(io.take(), [], "accesses of a load from RAM at {address:#x}");
    Ok(loaded)
}

/// A guest's stores to a read-only slot go to `io` and leave the memory alone; loads and code come
/// from the memory.
pub(super) fn a_read_only_slot_takes_no_writes(setup: &Setup<'_>) -> Result<(), Failure> {
    const RET: u8 = 0xc3;
    const FUNCTION: u64 = 0x2000;
    let mut guest = Guest::long(setup, None, program!("slot"))?;
    let region = region(1)?;
    let mut expected = content(1);
    expected[FUNCTION as usize] = RET;
    alone(&region)?.write_obj(GuestAddress(SLOT + FUNCTION), RET)?;
    let slot = MemorySlot { access: Access::ReadOnly, ..MemorySlot::whole(region.clone()) };
    guest.vm.map(slot)?;

    for offset in [0, 0x1ff8, LEN - 8] {
        let at = SLOT + offset;
        let held = value(&expected[offset as usize..][..8]);
        ensure_eq!(load(&mut guest, at)?, held, "a load from {at:#x}");
        let io = Recorder::new();
        guest.perform(&io, STORE, regs(at))?;
        guest.perform(&io, ADD, regs(at))?;
        let writes = [RAX, held.wrapping_add(RAX)]
            .map(|data| GuestAccess::new(Kind::MmioWrite, at, &data.to_le_bytes()));
        ensure_eq!(io.take(), writes, "a store and an addition to {at:#x}");
        ensure_eq!(load(&mut guest, at)?, held, "a load from {at:#x} after them");
    }
    guest.perform(&Recorder::new(), CALL, regs(SLOT + FUNCTION))?;
    ensure!(bytes_of(&region)? == expected, "the memory of a read-only slot has changed");
    Ok(())
}

/// What was a slot goes to `io` once it is unmapped; mapped again, the guest sees the new region
/// and not the old one.
pub(super) fn an_unmapped_slot_goes_to_io_until_it_is_mapped_again(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("slot"))?;
    let at = SLOT + PAGE_SIZE;
    for seed in 1..=3 {
        let region = region(seed)?;
        guest.vm.map(MemorySlot::whole(region.clone()))?;
        let held = value(&content(seed)[PAGE_SIZE as usize..][..8]);
        ensure_eq!(load(&mut guest, at)?, held, "a load from region {seed}");
        guest.perform(&Recorder::new(), STORE, regs(at))?;
        ensure_eq!(load(&mut guest, at)?, RAX, "a load after a store, region {seed}");

        guest.vm.unmap(GuestAddress(SLOT))?;
        let io = Recorder::new();
        let loaded = guest.perform(&io, LOAD, regs(at))?.rax;
        guest.perform(&io, STORE, regs(at))?;
        let given = patterns(at, 8);
        let expected = [
            GuestAccess::new(Kind::MmioRead, at, &given),
            GuestAccess::new(Kind::MmioWrite, at, &RAX.to_le_bytes()),
        ];
        ensure_eq!((io.take(), loaded), (expected.to_vec(), value(&given)), "unmapped {seed}");
        let last = value(&bytes_of(&region)?[PAGE_SIZE as usize..][..8]);
        ensure_eq!(last, RAX, "region {seed} behind its slot");
    }
    Ok(())
}

/// A slot may be any pages of a region, and several slots pages of the same one.
pub(super) fn a_slot_may_start_inside_its_region(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("slot"))?;
    let region = region(1)?;
    let slot = |at, offset, pages| MemorySlot {
        at: GuestAddress(at),
        offset,
        len: pages * PAGE_SIZE,
        ..MemorySlot::whole(region.clone())
    };
    let elsewhere = SLOT + 0x10_0000;
    guest.vm.map(slot(SLOT, 3 * PAGE_SIZE, 2))?;
    guest.vm.map(slot(elsewhere, 4 * PAGE_SIZE, 4))?;
    let held = |offset: u64| value(&content(1)[offset as usize..][..8]);
    for (at, offset) in [
        (SLOT, 3 * PAGE_SIZE),
        (SLOT + 2 * PAGE_SIZE - 8, 5 * PAGE_SIZE - 8),
        (elsewhere, 4 * PAGE_SIZE),
        (elsewhere + 4 * PAGE_SIZE - 8, LEN - 8),
    ] {
        ensure_eq!(load(&mut guest, at)?, held(offset), "a load from {at:#x}");
    }
    // Page 4 is in both.
    guest.perform(&Recorder::new(), STORE, regs(SLOT + PAGE_SIZE + 0x10))?;
    ensure_eq!(load(&mut guest, elsewhere + 0x10)?, RAX, "a load through the other slot");
    // Behind the shorter slot there is nothing.
    let io = Recorder::new();
    guest.perform(&io, STORE, regs(SLOT + 2 * PAGE_SIZE))?;
    ensure_eq!(io.take().len(), 1, "accesses behind the slot");
    Ok(())
}

/// Slots that make no sense are refused by kind, and refusing them changes nothing.
pub(super) fn bad_slots_are_refused(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("slot"))?;
    let region = region(1)?;
    let whole = MemorySlot::whole(region);
    let page = |n: u64| GuestAddress(SLOT + n * PAGE_SIZE);
    guest.vm.map(MemorySlot { len: 4 * PAGE_SIZE, ..whole.clone() })?;
    let bad = [
        ("at an odd address", MemorySlot { at: GuestAddress(SLOT + LEN + 8), ..whole.clone() }),
        ("of odd length", MemorySlot { at: page(8), len: LEN - 8, ..whole.clone() }),
        (
            "at an odd offset",
            MemorySlot { at: page(8), offset: 8, len: PAGE_SIZE, ..whole.clone() },
        ),
        ("of no length", MemorySlot { at: page(8), len: 0, ..whole.clone() }),
        (
            "longer than its region",
            MemorySlot { at: page(8), len: LEN + PAGE_SIZE, ..whole.clone() },
        ),
        ("past its region", MemorySlot { at: page(8), offset: PAGE_SIZE, ..whole.clone() }),
        ("with an offset near 2^64", MemorySlot { at: page(8), offset: !0xfff, ..whole.clone() }),
        ("near 2^64", MemorySlot { at: GuestAddress(!0xfff), ..whole.clone() }),
        ("that is there already", whole.clone()),
        (
            "that overlaps from below",
            MemorySlot { at: GuestAddress(SLOT - PAGE_SIZE), ..whole.clone() },
        ),
        ("that overlaps from above", MemorySlot { at: page(3), ..whole.clone() }),
        ("inside another", MemorySlot { at: page(1), len: PAGE_SIZE, ..whole }),
    ];
    for (what, slot) in bad {
        refused(guest.vm.map(slot), ErrorKind::BadConfig, &format!("a slot {what}"))?;
    }
    for at in [page(1), page(4), GuestAddress(8), GuestAddress(!0)] {
        let what = format!("unmapping {:#x}", at.0);
        refused(guest.vm.unmap(at), ErrorKind::NotFound, &what)?;
    }
    ensure_eq!(load(&mut guest, SLOT)?, value(&content(1)[..8]), "a load from the good slot");
    guest.vm.unmap(page(0))?;
    refused(guest.vm.unmap(page(0)), ErrorKind::NotFound, "unmapping twice")
}

/// The call gave an error of this kind.
pub(super) fn refused<T>(
    result: CoreResult<T>,
    kind: ErrorKind,
    what: &str,
) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => {
            Err(Failure::from(format!("{what}: {:?}, not {kind:?}: {error}", error.kind())))
        }
        Ok(_) => Err(Failure::from(format!("{what} was accepted"))),
    }
}
