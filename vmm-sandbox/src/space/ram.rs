//! The sandbox's RAM: one memfd, of which the VM sees as much as was ever in use.

use std::{fs::File, sync::Arc};

use vm_memory::{GuestMemoryRegion, MemoryRegionAddress, VolatileSlice, bitmap::BitmapSlice};
use vmm_core::{
    Result,
    hv::{Access, MemorySlot, Vm},
    memory::{GuestAddress, PAGE_SIZE, PageSet, RamRegion, Template},
};

use super::frames::Run;

/// How many words are copied at once.
const WORDS: usize = 64;

/// The first slot, and the least by which the VM's memory grows.
const SMALLEST_SLOT: u64 = 1 << 20;

/// Physical memory: addresses are offsets in the region.
pub(crate) struct Ram {
    region: RamRegion,
    vm: Arc<dyn Vm>,
    /// How much of it the VM has slots for, and where they start.
    mapped: u64,
    slots: Vec<u64>,
    /// Pages that were written and not put back: [`restore`](Self::restore) was told not to.
    left: PageSet,
}

impl Ram {
    pub(crate) fn new(vm: Arc<dyn Vm>, limit: u64) -> Result<Self> {
        let region = RamRegion::memfd(GuestAddress(0), limit)?;
        Ok(Self { region, vm, mapped: 0, slots: Vec::new(), left: PageSet::new() })
    }

    /// One that begins as a template.
    pub(crate) fn view(vm: Arc<dyn Vm>, template: &Template, limit: u64) -> Result<Self> {
        let region = template.view(GuestAddress(0), limit)?;
        Ok(Self { region, vm, mapped: 0, slots: Vec::new(), left: PageSet::new() })
    }

    /// Becomes what [`view`](Self::view) makes, in the same VM.
    pub(crate) fn become_view(&mut self, template: &Template, limit: u64) -> Result<()> {
        if limit == self.region.len() {
            return self.remap(template);
        }
        let region = template.view(GuestAddress(0), limit)?;
        while let Some(slot) = self.slots.pop() {
            self.vm.unmap(GuestAddress(slot))?;
        }
        (self.region, self.mapped, self.left) = (region, 0, PageSet::new());
        Ok(())
    }

    /// The same where it is, with the slots that there are.
    fn remap(&mut self, template: &Template) -> Result<()> {
        self.region.become_view(template)?;
        // The log has what was written before.
        self.take_written()?;
        self.left = PageSet::new();
        Ok(())
    }

    /// The VM and its memory, from one that is dropped.
    pub(crate) fn leave(&mut self) -> Self {
        Self {
            region: self.region.clone(),
            vm: Arc::clone(&self.vm),
            mapped: self.mapped,
            slots: std::mem::take(&mut self.slots),
            left: std::mem::take(&mut self.left),
        }
    }

    /// Makes what lies below `end` a template.
    pub(crate) fn freeze(&mut self, end: u64) -> Result<Template> {
        let mut written = self.take_written()?;
        written.insert_all(&self.left);
        let template = self.region.freeze(end, &written)?;
        self.left = PageSet::new();
        Ok(template)
    }

    /// Puts back the template's content, but for the frames `but`.
    pub(crate) fn restore(&mut self, but: impl Iterator<Item = u64>) -> Result<()> {
        let mut written = self.take_written()?;
        for page in but.map(|frame| frame / PAGE_SIZE) {
            if written.contains(page) {
                written.remove(page);
                self.left.insert(page);
            }
        }
        self.region.restore(&written)
    }

    /// Puts back those that were left.
    pub(crate) fn restore_left(&mut self) -> Result<()> {
        self.region.restore(&std::mem::take(&mut self.left))
    }

    /// Whether it is a view of this template, as long as it can be now.
    pub(crate) fn is_view_of(&self, template: &Template, limit: u64) -> bool {
        limit == self.region.len() && self.region.is_view_of(template)
    }

    /// Whether a frame may hold something else than the template, behind a
    /// [`restore`](Self::restore).
    pub(crate) fn is_left(&self, frame: u64) -> bool {
        self.left.contains(frame / PAGE_SIZE)
    }

    /// The pages that guest and host have written since this was asked last.
    fn take_written(&self) -> Result<PageSet> {
        let mut written = PageSet::new();
        self.region.take_written(&mut written);
        for slot in &self.slots {
            match self.vm.dirty_log() {
                Some(log) => written.insert_bits(slot / PAGE_SIZE, &log.take(GuestAddress(*slot))?),
                None => written.insert_range(slot / PAGE_SIZE..self.mapped / PAGE_SIZE),
            }
        }
        Ok(written)
    }

    /// All of it, as it lies in this process.
    pub(crate) fn region(&self) -> &RamRegion {
        &self.region
    }

    /// The most there can be, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.region.len()
    }

    /// Whether the VM sees everything below `end`.
    #[inline]
    pub(crate) fn is_committed(&self, end: u64) -> bool {
        end <= self.mapped
    }

    /// Makes sure that it does.
    ///
    /// What a slot costs depends on its size, so the VM's memory grows by doubling.
    pub(crate) fn commit(&mut self, end: u64) -> Result<()> {
        if end <= self.mapped {
            return Ok(());
        }
        let wanted = end.max(2 * self.mapped).next_multiple_of(SMALLEST_SLOT);
        let wanted = wanted.min(self.region.len());
        self.vm.map(MemorySlot {
            at: GuestAddress(self.mapped),
            region: self.region.clone(),
            offset: self.mapped,
            len: wanted - self.mapped,
            access: Access::ReadWrite,
            log_dirty: self.vm.dirty_log().is_some(),
        })?;
        self.slots.push(self.mapped);
        self.mapped = wanted;
        Ok(())
    }

    /// Fills `data` from physical memory. What is not RAM is not read; no area leads there.
    pub(crate) fn read(&self, at: u64, data: &mut [u8]) {
        if let Some(slice) = self.slice(at, data.len()) {
            slice.copy_to(data);
        }
    }

    /// Copies `data` to physical memory.
    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        if data.len() as u64 > PAGE_SIZE && self.region.copy_slice(at, data).is_ok() {
            return;
        }
        if let Some(slice) = self.slice(at, data.len()) {
            slice.copy_from(data);
        }
    }

    /// Copies from a regular file to physical memory.
    pub(crate) fn copy_file(&self, at: u64, len: u64, file: &File, from: u64) -> Result<()> {
        self.region.copy_file(at, len, file, from)
    }

    fn slice(&self, at: u64, len: usize) -> Option<VolatileSlice<'_, impl BitmapSlice>> {
        self.region.get_slice(MemoryRegionAddress(at), len).ok()
    }

    /// Puts words, little-endian.
    pub(crate) fn write_words(&self, at: u64, words: &[u64]) {
        let mut bytes = [[0; 8]; WORDS];
        for (at, words) in (at..).step_by(8 * WORDS).zip(words.chunks(WORDS)) {
            bytes.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
            self.write(at, bytes.get(..words.len()).unwrap_or_default().as_flattened());
        }
    }

    /// Fills `words`, little-endian in physical memory.
    pub(crate) fn read_words(&self, at: u64, words: &mut [u64]) {
        let mut bytes = [[0; 8]; WORDS];
        for (at, words) in (at..).step_by(8 * WORDS).zip(words.chunks_mut(WORDS)) {
            let bytes = bytes.get_mut(..words.len()).unwrap_or_default();
            self.read(at, bytes.as_flattened_mut());
            words
                .iter_mut()
                .zip(bytes)
                .for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        }
    }

    /// Fills frames with zeros, and gives the host's memory back where that pays.
    pub(crate) fn clear(&self, run: Run) {
        let zeroed = self.region.zero(run.start, run.len);
        debug_assert!(zeroed.is_ok(), "frames lie in the region");
    }
}
