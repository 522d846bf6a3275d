//! Where a VM's memory slots lie, as the CPU asks for it.
#![expect(unsafe_code, reason = "tells the CPU where guest RAM is in this process")]

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use vm_memory::{Bytes, MemoryRegionAddress};
use vmm_cpu::{Page, Ram};

use crate::{
    hv::{Access, MemorySlot},
    memory::PAGE_SIZE,
};

/// The slots of a moment. A vCPU runs with one that nobody changes; when slots come or go, it is
/// given another.
#[derive(Clone, Default)]
pub(super) struct Layout {
    /// In ascending order of their addresses.
    places: Vec<Place>,
    /// Shared by all layouts of a VM.
    generation: Arc<AtomicU64>,
}

/// A slot.
#[derive(Clone)]
struct Place {
    /// The numbers of its first page and of the one behind its last.
    first: u64,
    end: u64,
    /// Keeps the RAM mapped.
    slot: MemorySlot,
    /// A bit for each page the guest has written, if that is asked for.
    dirty: Option<Arc<[AtomicU64]>>,
}

impl Layout {
    /// With one more slot, which is known to fit.
    pub(super) fn with(&self, slot: &MemorySlot) -> Self {
        let (first, pages) = (slot.at.0 / PAGE_SIZE, slot.len / PAGE_SIZE);
        let words = || (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let dirty = slot.log_dirty.then(words);
        let mut layout = self.clone();
        let place = Place { first, end: first + pages, slot: slot.clone(), dirty };
        let at = layout.places.partition_point(|other| other.first < first);
        layout.places.insert(at, place);
        layout
    }

    /// Without the slot that starts there.
    pub(super) fn without(&self, slot: &MemorySlot) -> Self {
        let mut layout = self.clone();
        layout.places.retain(|place| place.slot.at != slot.at);
        layout
    }

    /// What a CPU knows of it is no longer true.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// The pages written in the slot that starts there, which are then forgotten; `None` if it is
    /// not logged. No CPU may run.
    pub(super) fn take_dirty(&self, slot: &MemorySlot) -> Option<Vec<u64>> {
        let place = self.places.iter().find(|place| place.slot.at == slot.at)?;
        Some(place.dirty.as_ref()?.iter().map(|word| word.swap(0, Relaxed)).collect())
    }

    /// Writes to RAM as the guest would; what does not lie in one slot that can be written is left.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        let Some((place, offset)) = self.find(at, bytes.len()) else { return };
        if place.slot.access == Access::ReadWrite
            && place.slot.region.write_slice(bytes, MemoryRegionAddress(offset)).is_ok()
        {
            (at / PAGE_SIZE..=(at + bytes.len() as u64 - 1) / PAGE_SIZE)
                .for_each(|page| self.dirty(page));
        }
    }

    /// Reads from RAM, if it lies in one slot.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        if let Some((place, offset)) = self.find(at, bytes.len()) {
            // It lies in the region, as the slot does.
            let _ = place.slot.region.read_slice(bytes, MemoryRegionAddress(offset));
        }
    }

    /// The slot that so many bytes lie in, and where in its region.
    fn find(&self, at: u64, len: usize) -> Option<(&Place, u64)> {
        let place = self.place(at / PAGE_SIZE)?;
        let within = at - place.first * PAGE_SIZE;
        let fits = len > 0 && within + len as u64 <= place.slot.len;
        fits.then_some((place, place.slot.offset + within))
    }

    fn place(&self, page: u64) -> Option<&Place> {
        let behind = self.places.partition_point(|place| place.first <= page);
        self.places[..behind].last().filter(|place| page < place.end)
    }
}

// SAFETY: a page lies in a region that its slot holds (`SlotTable` has checked the slot's bounds),
// so it is mapped readable and writable as long as this layout is; regions start on page
// boundaries, and so do slots in them. Nothing refers into guest RAM. A CPU uses what it was told
// only until the generation changes, and layouts are changed while it does not run.
unsafe impl Ram for Layout {
    fn page(&self, number: u64) -> Option<Page> {
        let place = self.place(number)?;
        let offset = place.slot.offset + (number - place.first) * PAGE_SIZE;
        let host = place.slot.region.host_address().wrapping_byte_add(offset as usize);
        let writable = place.slot.access == Access::ReadWrite;
        Some(Page { host: NonNull::new(host)?, writable })
    }

    fn dirty(&self, number: u64) {
        let Some(place) = self.place(number) else { return };
        let page = number - place.first;
        let word = place.dirty.as_ref().and_then(|words| words.get((page / 64) as usize));
        if let Some(word) = word {
            word.fetch_or(1 << (page % 64), Relaxed);
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestAddress, RamRegion};

    fn slot(at: u64, pages: u64) -> MemorySlot {
        let region = RamRegion::anonymous(GuestAddress(at), pages * PAGE_SIZE).unwrap();
        MemorySlot { log_dirty: true, ..MemorySlot::whole(region) }
    }

    #[test]
    fn pages_are_found_in_their_slots_and_nowhere_else() {
        let (low, high) = (slot(0x2000, 2), slot(0x8000, 1));
        let layout = Layout::default().with(&high).with(&low);
        let found: Vec<_> = (0..10).filter(|n| layout.page(*n).is_some()).collect();
        assert_eq!(found, [2, 3, 8]);
        let host = low.region.host_address().wrapping_byte_add(4096);
        assert_eq!(layout.page(3).unwrap().host.as_ptr(), host);
        let found: Vec<_> = (0..10).filter(|n| layout.without(&low).page(*n).is_some()).collect();
        assert_eq!(found, [8]);
    }

    #[test]
    fn written_pages_are_taken_once() {
        let slot = slot(0, 130);
        let layout = Layout::default().with(&slot);
        [0, 65, 129, 130, 1 << 40].iter().for_each(|page| layout.dirty(*page));
        assert_eq!(layout.take_dirty(&slot).unwrap(), [1, 2, 2]);
        assert_eq!(layout.take_dirty(&slot).unwrap(), [0, 0, 0]);
    }
}
