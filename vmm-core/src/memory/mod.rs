//! Guest physical memory.
//!
//! [`GuestMemory`] is one concrete type, a cheap handle over a collection of [`RamRegion`]s that
//! can be swapped while devices use it. No reference into guest RAM exists anywhere: the guest may
//! write it at any moment, so every access copies, volatile or atomic, and checks its range. Guest
//! RAM is not inherited by a child of `fork()`; there, each call answers `WrongProcess`.

mod marks;
mod pages;
mod region;

use std::{fmt, sync::Arc};

use vm_memory::{
    Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryRegion,
    GuestRegionCollection, VolatileSlice, bitmap::BS,
};

pub use marks::WriteMarks;
#[cfg(feature = "soft")]
pub(crate) use marks::WriteWatcher;
pub use pages::PageSet;
pub use region::{PAGE_SIZE, RamRegion, Template};
pub use vm_memory::{ByteValued, GuestAddress};

use crate::{
    error::{Error, Result},
    process::Owner,
};

/// Where the hole for devices below 4 GiB starts: RAM beyond it continues at [`HOLE_END`].
pub const HOLE_START: GuestAddress = GuestAddress(3 << 30);
/// The first address after the hole.
pub const HOLE_END: GuestAddress = GuestAddress(4 << 30);

/// The regions as `vm-memory` sees them; what virtio queues and loaders are given.
pub type Regions = GuestRegionCollection<RamRegion>;

/// Some bytes of guest RAM that lie next to each other in this process, for those who hand them to
/// the host's kernel.
pub type GuestSlice<'a> = VolatileSlice<'a, BS<'a, WriteMarks>>;

/// The RAM of one guest: a cheap handle, to be cloned freely and used from any thread.
#[derive(Clone)]
pub struct GuestMemory {
    regions: GuestMemoryAtomic<Regions>,
    owner: Owner,
}

impl GuestMemory {
    /// `size` bytes of zeroed anonymous RAM from address 0, continued above 4 GiB where it passes 3
    /// GiB.
    ///
    /// Nothing is committed until it is touched.
    ///
    /// # Errors
    /// `BadConfig` if `size` is 0 or not a multiple of [`PAGE_SIZE`], `Host` if the address space
    /// does not suffice.
    pub fn anonymous(size: u64) -> Result<Self> {
        Self::split_at_hole(size, RamRegion::anonymous)
    }

    /// Like [`anonymous`](Self::anonymous), in memfds sealed against growing and shrinking, which
    /// another process may be handed.
    ///
    /// # Errors
    /// As for `anonymous`.
    pub fn memfd(size: u64) -> Result<Self> {
        Self::split_at_hole(size, RamRegion::memfd)
    }

    fn split_at_hole(
        size: u64,
        make: impl Fn(GuestAddress, u64) -> Result<RamRegion>,
    ) -> Result<Self> {
        let low = size.min(HOLE_START.0);
        let mut regions = vec![make(GuestAddress(0), low)?];
        if size > low {
            regions.push(make(HOLE_END, size - low)?);
        }
        Self::from_regions(regions)
    }

    /// Memory made of the given regions, in any order.
    ///
    /// # Errors
    /// `BadConfig` if there is none or two overlap.
    pub fn from_regions(mut regions: Vec<RamRegion>) -> Result<Self> {
        regions.sort_by_key(|region| region.start_addr());
        if let Some([a, b]) = regions.array_windows().find(|[a, b]| a.last_addr() >= b.start_addr())
        {
            return Err(Error::bad_config(format!("RAM regions {a} and {b} overlap")));
        }
        let regions = Regions::from_regions(regions)
            .map_err(|error| Error::bad_config(format!("RAM regions: {error}")))?;
        Ok(Self { regions: GuestMemoryAtomic::new(regions), owner: Owner::current() })
    }

    /// The total size of all regions in bytes.
    pub fn size(&self) -> u64 {
        self.regions.memory().iter().map(GuestMemoryRegion::len).sum()
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> Vec<RamRegion> {
        self.regions.memory().iter().cloned().collect()
    }

    /// The regions as they are now, for code that uses `vm-memory` traits directly (virtio queues,
    /// loaders).
    ///
    /// The view stays as it is while regions come and go. It must not be used in a child of
    /// `fork()`.
    pub fn view(&self) -> impl std::ops::Deref<Target = Regions> + Clone + use<> {
        self.regions.memory()
    }

    /// Like [`view`](Self::view), to be kept for long and given to others.
    pub(crate) fn shared_view(&self) -> Arc<Regions> {
        self.regions.memory().into_inner()
    }

    /// Fills `data` from guest RAM at `at`; the range may span adjacent regions.
    ///
    /// # Errors
    /// `GuestMemory` if any byte is not RAM, and `data` is then unspecified; `WrongProcess` after
    /// `fork()`.
    pub fn read(&self, at: GuestAddress, data: &mut [u8]) -> Result<()> {
        self.check(at, data.len(), "reading")?;
        self.regions.memory().read_slice(data, at).map_err(|e| no_ram("reading", at, data.len(), e))
    }

    /// Copies `data` to guest RAM at `at`, all or nothing.
    ///
    /// # Errors
    /// `GuestMemory` if any byte is not RAM; `WrongProcess` after `fork()`.
    pub fn write(&self, at: GuestAddress, data: &[u8]) -> Result<()> {
        self.check(at, data.len(), "writing")?;
        self.regions
            .memory()
            .write_slice(data, at)
            .map_err(|e| no_ram("writing", at, data.len(), e))
    }

    /// Reads one object in host byte order.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_obj<T: ByteValued>(&self, at: GuestAddress) -> Result<T> {
        let mut value = T::zeroed();
        self.read(at, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes one object in host byte order.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_obj<T: ByteValued>(&self, at: GuestAddress, value: T) -> Result<()> {
        self.write(at, value.as_slice())
    }

    /// Writes zeros, all or nothing. Many of them are not written but the pages given back to the
    /// host, except for memory of the caller's own.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn zero(&self, at: GuestAddress, len: u64) -> Result<()> {
        let size =
            usize::try_from(len).map_err(|_| no_ram("zeroing", at, usize::MAX, "too large"))?;
        self.check(at, size, "zeroing")?;
        let (mut next, end) = (at.0, at.0 + len);
        for region in self.regions.memory().iter() {
            let (start, last) = (region.start().0, region.start().0 + region.len());
            if (start..last).contains(&next) && next < end {
                let part = end.min(last) - next;
                let zeroed = region.zero(next - start, part);
                zeroed.map_err(|error| no_ram("zeroing", at, size, error))?;
                next += part;
            }
        }
        Ok(())
    }

    /// Zeroes all of it; the host gets back what was committed, but for memory of the caller's own.
    ///
    /// # Errors
    /// `Host` if the host refuses; `WrongProcess` after `fork()`.
    pub fn clear(&self) -> Result<()> {
        self.owner.check()?;
        self.regions().iter().try_for_each(|region| self.zero(region.start(), region.len()))
    }

    /// Whether the whole range is RAM.
    pub fn has(&self, at: GuestAddress, len: u64) -> bool {
        usize::try_from(len).is_ok_and(|len| self.check(at, len, "looking for").is_ok())
    }

    fn check(&self, at: GuestAddress, len: usize, doing: &str) -> Result<()> {
        self.owner.check()?;
        if len == 0 || self.regions.memory().check_range(at, len) {
            return Ok(());
        }
        Err(no_ram(doing, at, len, "not all of it is RAM"))
    }
}

fn no_ram(doing: &str, at: GuestAddress, len: usize, why: impl fmt::Display) -> Error {
    Error::guest_memory(format!("{doing} {len} bytes at guest address {:#x}: {why}", at.0))
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_written_is_read_back_also_across_regions() {
        let low = RamRegion::anonymous(GuestAddress(0), MIB).unwrap();
        let high = RamRegion::memfd(GuestAddress(MIB), MIB).unwrap();
        let memory = GuestMemory::from_regions(vec![high, low]).unwrap();
        memory.write(GuestAddress(MIB - 2), &[1, 2, 3, 4]).unwrap();
        assert_eq!(memory.read_obj::<u32>(GuestAddress(MIB - 2)).unwrap(), 0x0403_0201);
        assert_eq!(memory.size(), 2 * MIB);
    }

    #[test]
    fn a_range_that_leaves_ram_is_refused_and_nothing_is_written() {
        let memory = GuestMemory::anonymous(MIB).unwrap();
        let error = memory.write(GuestAddress(MIB - 2), &[9; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GuestMemory);
        assert!(error.to_string().contains("0xffffe"), "{error}");
        assert_eq!(memory.read_obj::<u16>(GuestAddress(MIB - 2)).unwrap(), 0);
        assert!(memory.read(GuestAddress(u64::MAX - 1), &mut [0; 4]).is_err());
        memory.read(GuestAddress(u64::MAX), &mut []).unwrap();
    }

    #[test]
    fn zeroed_is_the_range_and_nothing_beside_it() {
        let regions = |middle: RamRegion| {
            let low = RamRegion::anonymous(GuestAddress(0), 4 * MIB).unwrap();
            let high = RamRegion::anonymous(GuestAddress(5 * MIB), 4 * MIB).unwrap();
            GuestMemory::from_regions(vec![low, middle, high]).unwrap()
        };
        for middle in [RamRegion::anonymous, RamRegion::memfd] {
            let memory = regions(middle(GuestAddress(4 * MIB), MIB).unwrap());
            let ones = vec![0xff; 9 * MIB as usize];
            for range in [0..9 * MIB, 1..9 * MIB - 1, 5000..5001, 4096..8192, 5 * MIB..5 * MIB] {
                memory.write(GuestAddress(0), &ones).unwrap();
                memory.zero(GuestAddress(range.start), range.end - range.start).unwrap();
                let mut expected = ones.clone();
                expected[range.start as usize..range.end as usize].fill(0);
                let mut found = vec![1; ones.len()];
                memory.read(GuestAddress(0), &mut found).unwrap();
                assert!(found == expected, "{range:?}");
            }
        }
        let memory = GuestMemory::anonymous(MIB).unwrap();
        assert!(memory.zero(GuestAddress(MIB), 1).is_err());
        assert!(memory.zero(GuestAddress(1), u64::MAX).is_err());
        memory.zero(GuestAddress(u64::MAX), 0).unwrap();
    }

    #[test]
    fn ram_lies_on_the_host_as_in_the_guest_within_huge_pages() {
        let huge = 2 * MIB;
        for (start, len) in [(0, 64 * MIB), (HOLE_END.0, huge), (3 * MIB, 16 * MIB + 4096)] {
            let region = RamRegion::anonymous(GuestAddress(start), len).unwrap();
            assert_eq!(region.host_address().addr() as u64 % huge, start % huge, "{start:#x}");
            let memory = GuestMemory::from_regions(vec![region]).unwrap();
            memory.write_obj(GuestAddress(start + len - 1), 7u8).unwrap();
        }
    }

    #[test]
    fn ram_beyond_three_gib_continues_above_the_hole() {
        let memory = GuestMemory::anonymous(HOLE_START.0 + MIB).unwrap();
        memory.write_obj(HOLE_END, 7u8).unwrap();
        assert!(memory.write_obj(HOLE_START, 7u8).is_err());
        assert_eq!(memory.regions().len(), 2);
    }

    #[test]
    fn bad_sizes_and_overlaps_are_bad_config() {
        let make = |at, len| RamRegion::anonymous(GuestAddress(at), len);
        for (at, len) in [(0, 0), (0, 4097), (1, 4096), (u64::MAX - 4095, 4096)] {
            assert_eq!(make(at, len).unwrap_err().kind(), ErrorKind::BadConfig, "{at:#x} {len:#x}");
        }
        let overlapping = vec![make(0, MIB).unwrap(), make(MIB - 4096, MIB).unwrap()];
        let error = GuestMemory::from_regions(overlapping).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadConfig);
        assert!(GuestMemory::from_regions(vec![]).is_err());
    }
}
