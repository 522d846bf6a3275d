//! The record of pages the guest has written.

use super::{
    Failure, Setup,
    guest::{Guest, Recorder},
    slot::refused,
};
use crate::{
    ErrorKind,
    arch::Regs,
    hv::{DirtyLog, MemorySlot},
    memory::{GuestAddress, GuestMemory, PAGE_SIZE, RamRegion},
};

/// The logged slot: more pages than a word has bits, and not a multiple of them.
const SLOT: u64 = 0x40_0000;
const PAGES: u64 = 70;
/// The entries of `guests/slot.S`.
const LOAD: u64 = 0;
const STORE: u64 = 1;

/// After a harvest exactly the bits of the pages written since the one before are set; reads, and
/// writes by the host, set none.
pub(super) fn the_dirty_log_has_exactly_the_pages_written(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("slot"))?;
    let region = RamRegion::anonymous(GuestAddress(SLOT), PAGES * PAGE_SIZE)?;
    let slot = MemorySlot { log_dirty: true, ..MemorySlot::whole(region.clone()) };
    guest.vm.map(slot)?;
    ensure_eq!(take(&guest)?, pages(&[]), "pages before the guest has run");

    let rounds: [&[u64]; 4] = [&[0, 1, 5, 63, 64, PAGES - 1], &[5], &[5, 6], &[0, PAGES - 1]];
    for written in rounds {
        for page in 0..PAGES {
            touch(&mut guest, LOAD, page * PAGE_SIZE)?;
        }
        for page in written {
            touch(&mut guest, STORE, page * PAGE_SIZE + 0x7f8)?;
        }
        ensure_eq!(take(&guest)?, pages(written), "pages after stores to {written:?}");
        ensure_eq!(take(&guest)?, pages(&[]), "pages after the harvest");
    }

    touch(&mut guest, STORE, 10 * PAGE_SIZE - 4)?;
    ensure_eq!(take(&guest)?, pages(&[9, 10]), "pages after a store across two");

    let memory = GuestMemory::from_regions(vec![region])?;
    memory.write(GuestAddress(SLOT), &[1; 0x2000])?;
    ensure_eq!(take(&guest)?, pages(&[]), "pages after a write by the host");
    Ok(())
}

/// There is no log of a slot that was not mapped with one, nor of what is no slot.
pub(super) fn there_is_no_dirty_log_of_an_unlogged_slot(setup: &Setup<'_>) -> Result<(), Failure> {
    let guest = Guest::long(setup, None, program!("slot"))?;
    let log = log(&guest)?;
    for at in [0, PAGE_SIZE, SLOT] {
        refused(log.take(GuestAddress(at)), ErrorKind::NotFound, &format!("the log at {at:#x}"))?;
    }
    Ok(())
}

fn touch(guest: &mut Guest, entry: u64, offset: u64) -> Result<(), Failure> {
    let regs = Regs { rbx: SLOT + offset, ..Regs::default() };
    guest.perform(&Recorder::new(), entry, regs).map(drop)
}

fn log(guest: &Guest) -> Result<&dyn DirtyLog, Failure> {
    guest.vm.dirty_log().ok_or_else(|| Failure::from("the VM has no dirty log".to_owned()))
}

fn take(guest: &Guest) -> Result<Vec<u64>, Failure> {
    Ok(log(guest)?.take(GuestAddress(SLOT))?)
}

/// The bitmap with these pages set.
fn pages(set: &[u64]) -> Vec<u64> {
    let mut words = vec![0; PAGES.div_ceil(64) as usize];
    set.iter().for_each(|page| words[(page / 64) as usize] |= 1 << (page % 64));
    words
}
