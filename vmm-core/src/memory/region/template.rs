//! RAM as it was at one moment, and regions that begin as copies of it.
//!
//! A [`Template`] is a memfd that is sealed: nothing changes it any more. A region that is a view of
//! one is a private mapping: it shares the template's pages until it writes them, and continues
//! with memory of its own behind the template's end.
#![expect(unsafe_code, reason = "mmap and munmap of guest RAM, copies between two mappings")]

use std::{
    ffi::c_void,
    fs::File,
    ops::Range,
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{SealFlags, SeekFrom},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};
use vm_memory::{GuestAddress, VolatileSlice};

use super::{
    super::pages::PageSet, Backing, Mapping, PAGE_SIZE, RW, RamRegion, RawMapping, checked_size,
};
use crate::{
    error::{Error, HostResult, Result},
    process::Owner,
};

/// RAM as it was at one moment: a cheap handle, to be shared by any threads. Behind its end there
/// were zeros.
#[derive(Clone, Debug)]
pub struct Template(Arc<Frozen>);

#[derive(Debug)]
struct Frozen {
    file: File,
    len: u64,
    /// The pages that may hold something else than zeros.
    pages: PageSet,
    /// A mapping of the file, to be read.
    address: usize,
    owner: Owner,
}

/// How many pages are copied back, at most: more are dropped, so that a burst of writes is not kept
/// for ever.
const MOST_COPIED: u64 = 1024;

/// How many pieces of a view may be cut out of the template: each is a mapping more for the kernel.
const MOST_CUTS: usize = 64;

impl Template {
    fn new(file: File, len: u64, pages: PageSet) -> Result<Self> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).host(|| "sealing a template")?;
        let size = checked_size(GuestAddress(0), len)?;
        let (read, flags) = (ProtFlags::READ, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; the seals keep
        // the file as it is.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, read, flags, &file, 0) }
                .host(|| format!("mapping a template of {len:#x} bytes"))?;
        let owner = Owner::current();
        let template = Self(Arc::new(Frozen { file, len, pages, address: address.addr(), owner }));
        // SAFETY: the mapping just made; the advice changes only what a child of fork() sees.
        unsafe { rustix::mm::madvise(address, size, Advice::LinuxDontFork) }
            .host(|| "keeping a template out of child processes")?;
        Ok(template)
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Always false: no template is empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The pages that may hold something else than zeros.
    pub fn pages(&self) -> &PageSet {
        &self.0.pages
    }

    /// A region that begins as the template, with `len` bytes at guest address `start`.
    ///
    /// # Errors
    /// `BadConfig` if `len` is less than the template's, and as for [`RamRegion::anonymous`];
    /// `WrongProcess` after `fork()`.
    pub fn view(&self, start: GuestAddress, len: u64) -> Result<RamRegion> {
        self.0.owner.check()?;
        let size = checked_size(start, len)?;
        if len < self.len() {
            let message = format!("{len:#x} bytes are less than a template of {:#x}", self.len());
            return Err(Error::bad_config(message));
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let address = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, RW, flags) };
        let address = address.host(|| format!("mapping {len:#x} bytes of guest RAM"))?;
        let view = View { template: self.clone(), cuts: Vec::new() };
        let backing = Mutex::new(Backing::Anonymous);
        let raw = RawMapping { address, size, guard: 0, backing, owner: Some(Owner::current()) };
        // What concerns children of fork() is said of the whole mapping below, once.
        raw.put(0..self.len(), Some(&self.0.file)).host(|| "mapping a private view")?;
        *raw.backing() = Backing::View(view);
        Mapping::new(raw).map(|mapping| RamRegion { start, mapping })
    }

    /// Fills `data` from the template.
    ///
    /// # Errors
    /// `GuestMemory` if it ends before; `WrongProcess` after `fork()`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.owner.check()?;
        let source = self.slice(offset, data.len()).ok_or_else(|| {
            Error::guest_memory(format!(
                "a template of {:#x} bytes: {} at {offset:#x}",
                self.len(),
                data.len()
            ))
        })?;
        source.copy_to(data);
        Ok(())
    }

    fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.0.len)?;
        let start = usize::try_from(end).ok()? - len;
        let address = std::ptr::with_exposed_provenance_mut::<u8>(self.0.address + start);
        // SAFETY: the range lies in the mapping, which is readable as long as `self` is; nobody
        // writes through this slice, and nothing else can: the file is sealed.
        Some(unsafe { VolatileSlice::new(address, len) })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // A child of fork() does not have the mapping.
        if self.owner.is_current() {
            let address = std::ptr::with_exposed_provenance_mut(self.address);
            // SAFETY: we mapped these bytes, and the last user of them is this one.
            let unmapped = unsafe { rustix::mm::munmap(address, self.len as usize) };
            if let Err(error) = unmapped {
                log::error!("unmapping a template at {address:?}: {error}");
            }
        }
    }
}

/// What a region is a view of.
pub(super) struct View {
    template: Template,
    /// Pieces of the template that the region does not show any more, but memory of its own: they
    /// were discarded. In bytes.
    cuts: Vec<Range<u64>>,
}

impl View {
    /// Maps these bytes of the template where they belong, whatever is there.
    fn map(&self, raw: &RawMapping, bytes: Range<u64>) -> rustix::io::Result<()> {
        raw.replace(bytes, Some(&self.template.0.file))
    }

    /// Puts zeros in place of whole pages of the mapping.
    pub(super) fn discard(
        &mut self,
        raw: &RawMapping,
        offset: u64,
        len: u64,
    ) -> rustix::io::Result<()> {
        let (end, border) = (offset + len, self.template.len());
        if end > border {
            let start = offset.max(border);
            raw.forget(start, end - start)?;
        }
        let cut = offset..end.min(border);
        if cut.is_empty() {
            return Ok(());
        }
        let size = cut.end - cut.start;
        if self.cuts.iter().any(|known| known.start <= cut.start && cut.end <= known.end) {
            return raw.forget(offset, size);
        }
        if self.cuts.len() >= MOST_CUTS {
            return Err(Errno::NOMEM);
        }
        raw.replace(cut.clone(), None)?;
        self.cuts.push(cut);
        Ok(())
    }
}

impl RawMapping {
    /// Maps a memfd as it was mapped at first.
    fn share(&self, file: &File) {
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: as in `replace`.
        let shared = unsafe {
            rustix::mm::mmap(self.address, self.size, RW, flags, file, 0)
                .and_then(|address| rustix::mm::madvise(address, self.size, Advice::LinuxDontFork))
        };
        if let Err(error) = shared {
            log::error!("mapping guest RAM at {:?} again: {error}", self.address);
        }
    }

    /// Maps these bytes of a file privately, or zeros, in place of what is there.
    fn replace(&self, bytes: Range<u64>, file: Option<&File>) -> rustix::io::Result<()> {
        let address = self.put(bytes.clone(), file)?;
        // SAFETY: what was just mapped; the advice changes only what a child of fork() sees.
        unsafe {
            rustix::mm::madvise(address, (bytes.end - bytes.start) as usize, Advice::LinuxDontFork)
        }
    }

    /// The same for a mapping that is new.
    fn put(&self, bytes: Range<u64>, file: Option<&File>) -> rustix::io::Result<*mut c_void> {
        let address = self.address.wrapping_byte_add(bytes.start as usize);
        let size = (bytes.end - bytes.start) as usize;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: replaces bytes that we mapped (callers keep to the mapping; a template is not
        // longer than its views), and nothing relies on what is in guest RAM.
        unsafe {
            match file {
                Some(file) => rustix::mm::mmap(address, size, RW, flags, file, bytes.start),
                None => rustix::mm::mmap_anonymous(address, size, RW, flags),
            }
        }
    }
}

impl View {
    /// Drops what was written to whole pages: they show the template again, or zeros behind it.
    fn uncover(&mut self, raw: &RawMapping, bytes: Range<u64>) -> rustix::io::Result<()> {
        let shown = bytes.start..bytes.end.min(self.template.len());
        let is_cut = self.cuts.iter().any(|cut| cut.start < shown.end && shown.start < cut.end);
        if !is_cut {
            return raw.forget(bytes.start, bytes.end - bytes.start);
        }
        self.map(raw, shown.clone())?;
        let around = |cut: &Range<u64>| {
            [cut.start..cut.end.min(shown.start), cut.start.max(shown.end)..cut.end]
        };
        let left = self.cuts.iter().flat_map(around).filter(|cut| !cut.is_empty());
        self.cuts = left.collect();
        match bytes.end.checked_sub(shown.end).filter(|rest| *rest > 0) {
            Some(rest) => raw.forget(shown.end, rest),
            None => Ok(()),
        }
    }
}

impl RamRegion {
    /// Makes what the first `len` bytes hold a template, and the region a private view of it. What
    /// is behind is zeros from then on. No vCPU may run.
    ///
    /// A memfd is sealed; nothing is copied. Of a region that is a view already, the pages go to a
    /// new memfd: those of its template, and those in `written`, which is to have all that guest and
    /// host have written since. Other regions cannot become templates.
    ///
    /// # Errors
    /// `Unsupported` for a region without a memfd; `Host` if the host does not seal it, and the
    /// region goes on with what it holds; `WrongProcess` after `fork()`.
    pub fn freeze(&self, len: u64, written: &PageSet) -> Result<Template> {
        let raw = &self.mapping.raw;
        raw.owner.map_or(Ok(()), Owner::check)?;
        if checked_size(GuestAddress(0), len)? > raw.size {
            let message = format!("a template of {len:#x} bytes of a region of {self}");
            return Err(Error::bad_config(message));
        }
        let mut backing = raw.backing();
        let template = match &mut *backing {
            Backing::Anonymous => {
                return Err(Error::unsupported(format!("a template of {self}: it has no memfd")));
            }
            Backing::Memfd(file) => {
                let pages = data(file, len).host(|| "looking for what a memfd holds")?;
                let own = file.try_clone().host(|| "a descriptor for a template")?;
                // While there is a shared mapping that may be written, there is no seal.
                raw.replace(0..raw.size as u64, Some(file)).host(|| "mapping RAM privately")?;
                Template::new(own, len, pages).inspect_err(|_| raw.share(file))?
            }
            Backing::View(view) => {
                let mut pages = written.clone();
                pages.insert_all(view.template.pages());
                self.copy(len, &pages)?
            }
        };
        let view = View { template: template.clone(), cuts: Vec::new() };
        view.map(raw, 0..len).host(|| "mapping a private view")?;
        if len < raw.size as u64 {
            raw.replace(len..raw.size as u64, None).host(|| "mapping memory behind a view")?;
        }
        *backing = Backing::View(view);
        Ok(template)
    }

    /// Becomes what [`Template::view`] makes, at the same address, whatever it was and held before:
    /// nothing of that is left, neither pages nor marks. No vCPU may run.
    ///
    /// # Errors
    /// `BadConfig` if the template is longer; `Unsupported` for memory of the caller's own; `Host` if
    /// the host refuses, and the region then holds no defined memory; `WrongProcess` after `fork()`.
    pub fn become_view(&self, template: &Template) -> Result<()> {
        let raw = &self.mapping.raw;
        let Some(owner) = raw.owner else {
            return Err(Error::unsupported(format!("a view at {self}, which is the caller's")));
        };
        owner.check()?;
        template.0.owner.check()?;
        let (len, size) = (template.len(), raw.size as u64);
        if len > size {
            let message = format!("a template of {len:#x} bytes in a region of {self}");
            return Err(Error::bad_config(message));
        }
        let mut backing = raw.backing();
        let view = View { template: template.clone(), cuts: Vec::new() };
        view.map(raw, 0..len).host(|| "mapping a private view")?;
        if len < size {
            raw.replace(len..size, None).host(|| "mapping memory behind a view")?;
        }
        *backing = Backing::View(view);
        self.take_written(&mut PageSet::new());
        self.mapping.map.bitmap().changed(0, raw.size);
        Ok(())
    }

    /// Whether it is a view of this template.
    pub fn is_view_of(&self, template: &Template) -> bool {
        match &*self.mapping.raw.backing() {
            Backing::View(view) => Arc::ptr_eq(&view.template.0, &template.0),
            _ => false,
        }
    }

    /// A new template of these pages of the first `len` bytes.
    fn copy(&self, len: u64, pages: &PageSet) -> Result<Template> {
        let copy = Self::memfd(GuestAddress(0), len)?;
        for page in pages.runs().flatten().take_while(|page| *page < len / PAGE_SIZE) {
            let (from, to) = (self.bare(page, 1), copy.bare(page, 1));
            let mut bytes = [0; PAGE_SIZE as usize];
            if let (Some(from), Some(to)) = (from, to) {
                from.copy_to(&mut bytes);
                if bytes.iter().any(|byte| *byte != 0) {
                    to.copy_from(&bytes);
                }
            }
        }
        copy.freeze(len, &PageSet::new())
    }

    /// Puts back what the template holds, of which the region is a view, in the pages `written`: all
    /// that guest and host have written since it became one, or since the last `restore`, but for
    /// those that are to stay as they are. Nothing is marked as written by this. No vCPU may run.
    ///
    /// # Errors
    /// `Unsupported` if it is no view; `Host` if the host refuses; `WrongProcess` after `fork()`.
    pub fn restore(&self, written: &PageSet) -> Result<()> {
        let raw = &self.mapping.raw;
        raw.owner.map_or(Ok(()), Owner::check)?;
        let mut backing = raw.backing();
        let Backing::View(view) = &mut *backing else {
            return Err(Error::unsupported(format!("restoring {self}: it is no view")));
        };
        let few = written.count() <= MOST_COPIED;
        for run in written.runs() {
            let end = run.end.saturating_mul(PAGE_SIZE).min(raw.size as u64);
            let start = run.start.saturating_mul(PAGE_SIZE).min(end);
            match few {
                true => run.for_each(|page| self.copy_back(&view.template, page)),
                false => view.uncover(raw, start..end).host(|| "dropping written pages")?,
            }
            self.mapping.map.bitmap().changed(start as usize, (end - start) as usize);
        }
        Ok(())
    }

    fn copy_back(&self, template: &Template, page: u64) {
        let Some(to) = self.bare(page, 1) else { return };
        let from = template.slice(page * PAGE_SIZE, PAGE_SIZE as usize);
        match from.filter(|_| template.pages().contains(page)) {
            Some(from) => from.copy_to_volatile_slice(to),
            None => to.copy_from(&[0_u8; PAGE_SIZE as usize]),
        }
    }

    /// Pages of it, where writes are not marked.
    fn bare(&self, page: u64, pages: u64) -> Option<VolatileSlice<'_>> {
        let raw = &self.mapping.raw;
        let (offset, len) = (page.checked_mul(PAGE_SIZE)?, pages.checked_mul(PAGE_SIZE)?);
        offset.checked_add(len).filter(|end| *end <= raw.size as u64)?;
        let address = raw.address.wrapping_byte_add(offset as usize).cast();
        // SAFETY: the range lies in the mapping, which lives as long as `self`; guest RAM is only
        // reached by volatile copies.
        Some(unsafe { VolatileSlice::new(address, len as usize) })
    }
}

/// The pages of a file that are not holes.
fn data(file: &File, len: u64) -> rustix::io::Result<PageSet> {
    let mut pages = PageSet::new();
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            start => start?.min(len),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(len);
        pages.insert_range(start / PAGE_SIZE..at.div_ceil(PAGE_SIZE));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, MemoryRegionAddress};

    use super::*;
    use crate::ErrorKind;

    const LEN: u64 = 64 * PAGE_SIZE;

    fn region(fill: u8) -> RamRegion {
        let region = RamRegion::memfd(GuestAddress(0), 2 * LEN).unwrap();
        for page in 0..32 {
            put(&region, page, fill);
        }
        region
    }

    fn put(region: &RamRegion, page: u64, value: u8) {
        region.write_slice(&[value; 16], MemoryRegionAddress(page * PAGE_SIZE + 7)).unwrap();
    }

    fn at(region: &RamRegion, page: u64) -> u8 {
        region
            .load(MemoryRegionAddress(page * PAGE_SIZE + 7), std::sync::atomic::Ordering::Relaxed)
            .unwrap()
    }

    fn taken(region: &RamRegion) -> PageSet {
        let mut set = PageSet::new();
        region.take_written(&mut set);
        set
    }

    #[test]
    fn nothing_that_parent_or_child_write_reaches_the_other() {
        let parent = region(1);
        taken(&parent);
        let template = parent.freeze(LEN, &PageSet::new()).unwrap();
        assert!(template.pages().runs().eq(std::iter::once(0..32)));
        let child = template.view(GuestAddress(0), 2 * LEN).unwrap();
        let sibling = template.view(GuestAddress(0), LEN).unwrap();
        (0..128).for_each(|page| put(&parent, page, 2));
        assert!((0..32).all(|page| at(&child, page) == 1));
        (0..128).for_each(|page| put(&child, page, 3));
        assert!((0..32).all(|page| at(&sibling, page) == 1));
        assert!((0..128).all(|page| at(&parent, page) == 2));
        drop(parent);
        let mut bytes = [0; 8];
        template.read(7, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 8]);
        assert_eq!(template.read(LEN - 1, &mut bytes).unwrap_err().kind(), ErrorKind::GuestMemory);
        assert!(template.view(GuestAddress(0), LEN - PAGE_SIZE).is_err());
    }

    #[test]
    fn a_template_cannot_be_written_by_anyone() {
        let parent = region(1);
        let template = parent.freeze(LEN, &PageSet::new()).unwrap();
        let file = template.0.file.try_clone().unwrap();
        assert!(rustix::io::pwrite(&file, &[9], 0).is_err());
        assert!(file.set_len(0).is_err() && file.set_len(1 << 30).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(&file, punch, 0, LEN).is_err());
    }

    #[test]
    fn a_view_goes_back_to_its_template_however_much_was_written() {
        for pages in [1, 40, 100, 128] {
            for zeroed in [0, 20, 64] {
                let template = region(1).freeze(LEN, &PageSet::new()).unwrap();
                let child = template.view(GuestAddress(0), 2 * LEN).unwrap();
                for _ in 0..2 {
                    child.zero(5 * PAGE_SIZE, zeroed * PAGE_SIZE).unwrap();
                    assert!((5..5 + zeroed).all(|page| at(&child, page) == 0));
                    (0..pages).for_each(|page| put(&child, page, 2));
                    let written = taken(&child);
                    assert!((0..pages).all(|page| written.contains(page)));
                    child.restore(&written).unwrap();
                    assert!((0..32).all(|page| at(&child, page) == 1));
                    assert!((32..128).all(|page| at(&child, page) == 0));
                    assert!(taken(&child).is_empty());
                }
            }
        }
        let large = RamRegion::memfd(GuestAddress(0), 4096 * PAGE_SIZE).unwrap();
        (0..4096).for_each(|page| put(&large, page, 1));
        taken(&large);
        large.freeze(4096 * PAGE_SIZE, &PageSet::new()).unwrap();
        (0..4096).step_by(2).for_each(|page| put(&large, page, 2));
        large.restore(&taken(&large)).unwrap();
        assert!((0..4096).all(|page| at(&large, page) == 1));
    }

    #[test]
    fn a_template_of_a_view_has_what_both_held() {
        let first = region(1).freeze(LEN, &PageSet::new()).unwrap();
        let child = first.view(GuestAddress(0), 2 * LEN).unwrap();
        (30..34).for_each(|page| put(&child, page, 2));
        child.zero(0, 17 * PAGE_SIZE).unwrap();
        let second = child.freeze(2 * LEN, &taken(&child)).unwrap();
        assert!(second.pages().runs().eq(std::iter::once(17..34)));
        (0..128).for_each(|page| put(&child, page, 9));
        let grandchild = second.view(GuestAddress(0), 2 * LEN).unwrap();
        let want = |page| match page {
            17..30 => 1,
            30..34 => 2,
            _ => 0,
        };
        assert!((0..128).all(|page| at(&grandchild, page) == want(page)));
        child.restore(&taken(&child)).unwrap();
        assert!((0..128).all(|page| at(&child, page) == want(page)));
    }

    #[test]
    fn a_region_becomes_a_view_and_keeps_nothing() {
        let (one, two) = (region(1), region(2));
        let templates = [&one, &two].map(|region| region.freeze(LEN, &taken(region)).unwrap());
        let fresh = RamRegion::memfd(GuestAddress(0), 2 * LEN).unwrap();
        let view = templates[0].view(GuestAddress(0), 2 * LEN).unwrap();
        for region in [fresh, view, one] {
            let address = region.host_address();
            for (template, value) in templates.iter().zip([1, 2]) {
                (0..128).for_each(|page| put(&region, page, 9));
                region.zero(3 * PAGE_SIZE, 20 * PAGE_SIZE).unwrap();
                region.become_view(template).unwrap();
                assert_eq!(region.host_address(), address);
                assert!(taken(&region).is_empty());
                let want = |page| if page < 32 { value } else { 0 };
                assert!((0..128).all(|page| at(&region, page) == want(page)));
                put(&region, 5, 7);
                region.restore(&taken(&region)).unwrap();
                assert_eq!(at(&region, 5), value);
            }
        }
        let short = RamRegion::memfd(GuestAddress(0), LEN - PAGE_SIZE).unwrap();
        assert_eq!(short.become_view(&templates[0]).unwrap_err().kind(), ErrorKind::BadConfig);
    }

    #[test]
    fn only_a_memfd_becomes_a_template_and_only_a_view_goes_back() {
        let region = RamRegion::anonymous(GuestAddress(0), LEN).unwrap();
        let none = PageSet::new();
        assert_eq!(region.freeze(LEN, &none).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(region.restore(&none).unwrap_err().kind(), ErrorKind::Unsupported);
        let region = RamRegion::memfd(GuestAddress(0), LEN).unwrap();
        assert_eq!(region.freeze(2 * LEN, &none).unwrap_err().kind(), ErrorKind::BadConfig);
        assert_eq!(region.restore(&none).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
