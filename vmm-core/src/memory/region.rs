//! One contiguous piece of guest RAM: its mapping in this process and its place in the guest.
#![expect(unsafe_code, reason = "mmap, munmap and madvise of guest RAM")]

mod template;

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom},
    io::Errno,
    mm::{Advice, MapFlags, MprotectFlags, ProtFlags},
};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileMemory, VolatileSlice,
    bitmap::{BS, Bitmap},
    guest_memory,
    mmap::MmapRegionBuilder,
};

pub use self::template::Template;
use self::template::View;
use super::{
    marks::{WriteMarks, WriteWatcher},
    pages::PageSet,
};
use crate::{
    error::{Context, Error, HostResult, Result},
    process::Owner,
};

/// The size of a page of guest RAM in bytes; regions start and end on multiples of it.
pub const PAGE_SIZE: u64 = 4096;
/// What lies before RAM in huge pages.
const GUARD: usize = PAGE_SIZE as usize;
/// The size of a huge page of x86-64.
const HUGE_PAGE: usize = 2 << 20;

/// A region of guest RAM: a cheap handle, the mapping lives as long as any handle to it.
#[derive(Clone)]
pub struct RamRegion {
    start: GuestAddress,
    mapping: Arc<Mapping>,
}

impl RamRegion {
    /// `len` bytes of zeroed anonymous memory at guest address `start`.
    ///
    /// # Errors
    /// `BadConfig` if `len` is 0, or `start` or `len` is no multiple of [`PAGE_SIZE`], or the end
    /// passes 2^64; `Host` if it cannot be mapped.
    pub fn anonymous(start: GuestAddress, len: u64) -> Result<Self> {
        let size = checked_size(start, len)?;
        let raw = map_anonymous(start, size);
        Mapping::new(raw.host(|| format!("mapping {len:#x} bytes of guest RAM"))?)
            .map(|mapping| Self { start, mapping })
    }

    /// `len` zeroed bytes of a new memfd, sealed against growing and shrinking from birth.
    ///
    /// # Errors
    /// As for [`anonymous`](Self::anonymous).
    pub fn memfd(start: GuestAddress, len: u64) -> Result<Self> {
        let size = checked_size(start, len)?;
        let file = sealed_memfd(len).context(|| format!("memfd of {len:#x} bytes of guest RAM"))?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing, and the seals
        // keep the file from being truncated under it.
        let address = unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, RW, flags, &file, 0) };
        let address = address.host(|| format!("mapping {len:#x} bytes of a memfd"))?;
        let (backing, owner) = (Mutex::new(Backing::Memfd(file)), Some(Owner::current()));
        let raw = RawMapping { address, size, guard: 0, backing, owner };
        Mapping::new(raw).map(|mapping| Self { start, mapping })
    }

    /// `len` bytes of the caller's own memory at `address`, for instance a buffer shared with
    /// another component.
    ///
    /// It is marked `MADV_DONTFORK` and never unmapped by this library.
    ///
    /// # Errors
    /// `BadConfig` as for [`anonymous`](Self::anonymous), or if `address` is null or not on a page
    /// boundary.
    ///
    /// # Safety
    /// The `len` bytes at `address` are mapped readable and writable until the last handle to the
    /// region and every machine that uses it are gone, and the program makes no reference into them
    /// meanwhile: the guest may write them at any moment.
    pub unsafe fn from_raw(start: GuestAddress, address: *mut u8, len: u64) -> Result<Self> {
        let size = checked_size(start, len)?;
        if address.is_null() || !(address.addr() as u64).is_multiple_of(PAGE_SIZE) {
            return Err(Error::bad_config(format!(
                "caller's RAM at {address:?}: not page-aligned"
            )));
        }
        let (address, backing) = (address.cast(), Mutex::new(Backing::Anonymous));
        let raw = RawMapping { address, size, guard: 0, backing, owner: None };
        Mapping::new(raw).map(|mapping| Self { start, mapping })
    }

    /// The first guest address of the region.
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// The length in bytes, a multiple of [`PAGE_SIZE`].
    pub fn len(&self) -> u64 {
        GuestMemoryRegion::len(self)
    }

    /// Always false: no region is empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the region is mapped in this process. Only a back end that maps it into a guest has a
    /// use for it.
    pub fn host_address(&self) -> *mut u8 {
        self.mapping.map.as_ptr()
    }

    /// Makes `len` bytes at `offset`, which lie in the region, read as zeros. Many of them are not
    /// written but the pages given back to the host, unless they are memory of the caller's own.
    ///
    /// # Errors
    /// If they do not lie in the region.
    pub fn zero(&self, offset: u64, len: u64) -> guest_memory::Result<()> {
        let (end, page) = (offset + len, PAGE_SIZE);
        let (first, last) = (offset.next_multiple_of(page), end / page * page);
        if first + ZEROS.len() as u64 >= last || !self.mapping.raw.discard(first, last - first) {
            return self.write_zeros(offset, end);
        }
        self.bitmap().mark_dirty(first as usize, (last - first) as usize);
        self.write_zeros(offset, first)?;
        self.write_zeros(last, end)
    }

    /// Copies `data` to `offset`, for much at once: a memfd takes it without being touched through
    /// the mapping, so that none of its pages is filled with zeros first and faulted in.
    ///
    /// # Errors
    /// `GuestMemory` if it leaves the region; `Host` if the host has no memory.
    pub fn copy_slice(&self, offset: u64, data: &[u8]) -> Result<()> {
        let len = data.len() as u64;
        self.fill(offset, len, |memfd| memfd.write_all_at(data, offset)).unwrap_or_else(|| {
            let written = self.write_slice(data, MemoryRegionAddress(offset));
            written.map_err(|error| outside(self, offset, len, &error))
        })
    }

    /// Copies `len` bytes from `from` on of a regular file to `offset`. Where RAM is a memfd, nothing
    /// of it comes to this process.
    ///
    /// # Errors
    /// As for [`copy_slice`](Self::copy_slice), and `Host` if the file cannot be read or ends before.
    pub fn copy_file(&self, offset: u64, len: u64, file: &File, from: u64) -> Result<()> {
        let copied = self.fill(offset, len, |memfd| send_file(file, from, memfd, offset, len));
        copied.unwrap_or_else(|| {
            let mut done = 0;
            let mut buffer = vec![0; ZEROS.len().min(len as usize)];
            while done < len {
                let part = (buffer.len() as u64).min(len - done);
                let buffer = &mut buffer[..part as usize];
                file.read_exact_at(buffer, from + done).host(|| "reading a file into RAM")?;
                self.copy_slice(offset + done, buffer)?;
                done += part;
            }
            Ok(())
        })
    }

    /// Has the memfd filled and the pages marked; `None` if there is no memfd that may be written.
    fn fill(
        &self,
        offset: u64,
        len: u64,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Option<Result<()>> {
        let Backing::Memfd(memfd) = &*self.mapping.raw.backing() else { return None };
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        let filled = match is_inside {
            true => write(memfd).host(|| "copying to guest RAM"),
            false => Err(outside(self, offset, len, &"no such range")),
        };
        self.bitmap().mark_dirty(offset as usize, len as usize);
        Some(filled)
    }

    fn write_zeros(&self, start: u64, end: u64) -> guest_memory::Result<()> {
        (start..end).step_by(ZEROS.len()).try_for_each(|at| {
            let part = (end - at).min(ZEROS.len() as u64);
            self.write_slice(&ZEROS[..part as usize], MemoryRegionAddress(at))
        })
    }

    /// From now on `watcher` is told of what the host writes to the region, until it is dropped.
    /// What guests write is not the host's.
    #[cfg_attr(not(feature = "soft"), expect(dead_code, reason = "only the software CPU watches"))]
    pub(crate) fn watch(&self, watcher: &Arc<dyn WriteWatcher>) {
        self.mapping.map.bitmap().watch(watcher);
    }

    /// Moves the marks of what the host has written to `set`.
    pub fn take_written(&self, set: &mut PageSet) {
        self.mapping.map.bitmap().take(set);
    }
}

/// As many as are written at once; to give more back to the host is faster than to write them.
static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];

fn outside(region: &RamRegion, offset: u64, len: u64, why: &dyn fmt::Display) -> Error {
    Error::guest_memory(format!("{len:#x} bytes at {offset:#x} of RAM at {region}: {why}"))
}

/// Has the kernel copy from one file to another.
fn send_file(from: &File, mut at: u64, memfd: &File, offset: u64, len: u64) -> io::Result<()> {
    // It writes where the descriptor stands; nobody else uses that.
    rustix::fs::seek(memfd, SeekFrom::Start(offset))?;
    let mut left = len as usize;
    while left > 0 {
        match rustix::fs::sendfile(memfd, from, Some(&mut at), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => left -= sent,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

const RW: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn checked_size(start: GuestAddress, len: u64) -> Result<usize> {
    let what = || format!("RAM region of {len:#x} bytes at guest address {:#x}", start.0);
    if len == 0 {
        return Err(Error::bad_config(format!("{}: empty", what())));
    }
    if !start.0.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
        return Err(Error::bad_config(format!("{}: not a multiple of {PAGE_SIZE} bytes", what())));
    }
    if start.0.checked_add(len).is_none() {
        return Err(Error::bad_config(format!("{}: ends beyond 2^64", what())));
    }
    usize::try_from(len).map_err(|_| Error::bad_config(format!("{}: too large", what())))
}

/// Maps anonymous memory for the guest address `start`, so that the host can back it by huge pages
/// and KVM can map these as such: that takes host addresses that are at the guest's offsets in a
/// huge page. A boot of Linux then takes 200 page faults of guest memory instead of 17,000.
fn map_anonymous(start: GuestAddress, size: usize) -> rustix::io::Result<RawMapping> {
    let spare = if size < HUGE_PAGE { 0 } else { HUGE_PAGE };
    let whole = size.checked_add(spare).ok_or(Errno::NOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let mapped = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, RW, flags) }?;
    let own = |address, guard| RawMapping {
        address,
        size,
        guard,
        backing: Mutex::new(Backing::Anonymous),
        owner: Some(Owner::current()),
    };
    if spare == 0 {
        return Ok(own(mapped, 0));
    }
    let before = match (start.0 as usize).wrapping_sub(mapped.addr()) % HUGE_PAGE {
        0 => HUGE_PAGE,
        before => before,
    };
    let address = mapped.wrapping_byte_add(before);
    // The page before RAM stays, without access: else what the kernel maps next, perhaps a stack,
    // ends where a huge page begins, and takes one as soon as it is touched.
    let guard = address.wrapping_byte_sub(GUARD);
    // SAFETY: both ends of the new mapping, which nobody knows yet; what stays is the guard and
    // `size` bytes.
    unsafe {
        unmap(mapped, before - GUARD)?;
        unmap(address.wrapping_byte_add(size), spare - before)?;
        rustix::mm::mprotect(guard, GUARD, MprotectFlags::empty())?;
    }
    if let Some(low) = HUGE_PAGE.checked_sub(start.0 as usize) {
        // Small images, tables and the BIOS's areas lie here, and often nothing else: a huge page
        // would be zeroed for a few small ones. A kernel without huge pages refuses; it has none.
        // SAFETY: the first bytes of the new mapping; the advice changes no contents.
        let _ = unsafe { rustix::mm::madvise(address, low.min(size), Advice::LinuxNoHugepage) };
    }
    Ok(own(address, GUARD))
}

/// # Safety
/// As for `munmap`; `size` may be 0.
unsafe fn unmap(address: *mut libc::c_void, size: usize) -> rustix::io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::munmap(address, size) }
}

fn sealed_memfd(len: u64) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("guest-ram", flags).host(|| "memfd_create")?);
    rustix::fs::ftruncate(&file, len).host(|| "ftruncate")?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)
        .host(|| "sealing against grow and shrink")?;
    Ok(file)
}

/// A mapping with the volatile access and the write tracking of `vm-memory` on top.
struct Mapping {
    /// Views `raw`; declared first, so that it is dropped before the memory is unmapped.
    map: MmapRegion<WriteMarks>,
    raw: RawMapping,
}

impl Mapping {
    fn new(raw: RawMapping) -> Result<Arc<Self>> {
        // SAFETY: `raw` is a mapping of `size` bytes; the advice changes only what a child of
        // fork() sees.
        unsafe { rustix::mm::madvise(raw.address, raw.size, Advice::LinuxDontFork) }
            .host(|| "keeping guest RAM out of child processes")?;
        let bitmap = WriteMarks::new(raw.address.addr(), raw.size);
        let builder = MmapRegionBuilder::new_with_bitmap(raw.size, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_SHARED);
        // SAFETY: `raw` is mapped readable and writable for `size` bytes and outlives `map`: the
        // two are dropped together, `map` first, or the caller of `from_raw` promised it.
        let map = unsafe { builder.with_raw_mmap_pointer(raw.address.cast()) }
            .build()
            .map_err(|error| Error::internal(format!("viewing guest RAM: {error}")))?;
        Ok(Arc::new(Self { map, raw }))
    }
}

/// What is behind a mapping.
enum Backing {
    /// Memory of its own, or of the caller's.
    Anonymous,
    /// A memfd, shared.
    Memfd(File),
    /// A template, of which it has copied what was written.
    View(View),
}

struct RawMapping {
    address: *mut libc::c_void,
    size: usize,
    /// Bytes before it that are mapped too.
    guard: usize,
    backing: Mutex<Backing>,
    /// The process that mapped it and unmaps it; `None` if it is the caller's.
    owner: Option<Owner>,
}

// SAFETY: a `RawMapping` is only an address, never dereferenced here; the memory is not tied to a
// thread.
unsafe impl Send for RawMapping {}
// SAFETY: as above; no method of it changes anything through `&self`.
unsafe impl Sync for RawMapping {}

impl RawMapping {
    /// Gives whole pages in it back to the host, after which they read as zeros. False if that
    /// cannot be done, as with memory of the caller's own and memory that is locked.
    fn discard(&self, offset: u64, len: u64) -> bool {
        let in_range = offset.checked_add(len).is_some_and(|end| end <= self.size as u64);
        if !in_range || !self.owner.is_some_and(Owner::is_current) {
            return false;
        }
        let discarded = match &mut *self.backing() {
            Backing::Memfd(file) => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, how, offset, len)
            }
            Backing::Anonymous => self.forget(offset, len),
            Backing::View(view) => view.discard(self, offset, len),
        };
        discarded.is_ok()
    }

    /// Drops what was written to whole pages in it: they are again what is behind them.
    fn forget(&self, offset: u64, len: u64) -> rustix::io::Result<()> {
        let address = self.address.wrapping_byte_add(offset as usize);
        // SAFETY: we mapped these bytes, and nothing relies on what is in guest RAM: the guest may
        // change it at any moment.
        unsafe { rustix::mm::madvise(address, len as usize, Advice::LinuxDontNeed) }
    }

    fn backing(&self) -> MutexGuard<'_, Backing> {
        self.backing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RawMapping {
    fn drop(&mut self) {
        // A child of fork() does not have the mapping: at its address something of the child's own
        // may lie.
        if self.owner.is_some_and(Owner::is_current) {
            let (start, size) =
                (self.address.wrapping_byte_sub(self.guard), self.size + self.guard);
            // SAFETY: we mapped these bytes, and the last user of them is this one.
            let unmapped = unsafe { rustix::mm::munmap(start, size) };
            if let Err(error) = unmapped {
                log::error!("unmapping guest RAM at {:?}: {error}", self.address);
            }
        }
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = WriteMarks;

    fn len(&self) -> GuestUsize {
        self.mapping.raw.size as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, WriteMarks> {
        self.mapping.map.bitmap().slice_at(0)
    }

    fn get_host_address(&self, at: MemoryRegionAddress) -> guest_memory::Result<*mut u8> {
        self.get_slice(at, 1).map(|slice| slice.ptr_guard_mut().as_ptr())
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.mapping.map.file_offset()
    }

    fn get_slice(
        &self,
        at: MemoryRegionAddress,
        count: usize,
    ) -> guest_memory::Result<VolatileSlice<'_, BS<'_, WriteMarks>>> {
        let start =
            usize::try_from(at.0).map_err(|_| guest_memory::Error::InvalidBackendAddress)?;
        Ok(VolatileMemory::get_slice(&self.mapping.map, start, count)?)
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

impl fmt::Display for RamRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start.0, self.last_addr().0)
    }
}

impl fmt::Debug for RamRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RamRegion({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, memory::GuestMemory};

    #[test]
    fn much_at_once_comes_from_memory_and_from_files() {
        let data: Vec<u8> = (0..3 * PAGE_SIZE as usize + 5).map(|n| (n % 251) as u8).collect();
        let file = sealed_memfd(data.len() as u64).unwrap();
        file.write_all_at(&data, 0).unwrap();
        let len = 16 * PAGE_SIZE;
        let view = {
            let parent = RamRegion::memfd(GuestAddress(0), len).unwrap();
            parent.freeze(len, &PageSet::new()).unwrap();
            parent
        };
        let others =
            [RamRegion::anonymous, RamRegion::memfd].map(|make| make(GuestAddress(0), len));
        for region in others.into_iter().map(Result::unwrap).chain([view]) {
            region.copy_slice(PAGE_SIZE, &data).unwrap();
            region.copy_file(8 * PAGE_SIZE + 1, PAGE_SIZE + 9, &file, 3).unwrap();
            let read = |at, len: usize| {
                let mut read = vec![0; len];
                region.read_slice(&mut read, MemoryRegionAddress(at)).unwrap();
                read
            };
            assert_eq!(read(PAGE_SIZE, data.len()), data);
            assert_eq!(read(8 * PAGE_SIZE + 1, 4105), data[3..3 + 4105]);
            assert_eq!(read(8 * PAGE_SIZE, 1), [0]);
            let mut marked = PageSet::new();
            region.take_written(&mut marked);
            assert!(marked.runs().eq([1..5, 8..10]), "{:?}", marked.runs().collect::<Vec<_>>());
            let short = region.copy_file(0, PAGE_SIZE, &file, data.len() as u64 - 1);
            assert_eq!(short.unwrap_err().kind(), ErrorKind::Host);
            let beyond = region.copy_slice(len - 1, &[1, 2]).unwrap_err();
            assert_eq!(beyond.kind(), ErrorKind::GuestMemory);
            assert_eq!(
                region.copy_file(u64::MAX, 2, &file, 0).unwrap_err().kind(),
                ErrorKind::GuestMemory
            );
        }
    }

    #[test]
    fn cleared_memory_reads_as_zeros_whatever_is_behind_it() {
        const SIZE: u64 = 1 << 20;
        let mut own = vec![0xff_u8; 3 * PAGE_SIZE as usize];
        let at = own.as_mut_ptr();
        let at = at.wrapping_add(at.align_offset(PAGE_SIZE as usize));
        let regions = vec![
            RamRegion::anonymous(GuestAddress(0), SIZE).unwrap(),
            RamRegion::memfd(GuestAddress(SIZE), SIZE).unwrap(),
            // SAFETY: `own` outlives the memory and is not used meanwhile.
            unsafe { RamRegion::from_raw(GuestAddress(2 * SIZE), at, 2 * PAGE_SIZE) }.unwrap(),
        ];
        let memory = GuestMemory::from_regions(regions).unwrap();
        let last = 2 * SIZE + 2 * PAGE_SIZE - 1;
        for at in [0, SIZE - 1, SIZE, 2 * SIZE - 1, 2 * SIZE, last].map(GuestAddress) {
            memory.write_obj(at, 0xa5_u8).unwrap();
            memory.clear().unwrap();
            assert_eq!(memory.read_obj::<u8>(at).unwrap(), 0, "{:#x}", at.0);
        }
        assert_eq!(
            memory
                .regions()
                .iter()
                .filter(|region| region.mapping.raw.discard(0, region.len()))
                .count(),
            2
        );
        drop(memory);
        drop(own);
    }
}
