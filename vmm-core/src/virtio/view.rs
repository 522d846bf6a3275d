//! Guest memory as rings and chains use it: ranges that seldom leave their region.
//!
//! `vm-memory` looks for the regions of a range by an iterator that is ready for many; a ring makes
//! a dozen accesses of a few bytes for each request, and all but the search is then small.

use std::iter::FusedIterator;

use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    Permissions,
    bitmap::BS,
    guest_memory::{GuestMemoryBackendSliceIterator, GuestMemorySliceIterator, Result},
};

use crate::memory::{GuestSlice, Regions, WriteMarks};

/// The regions, with a short way to what lies in one of them.
#[derive(Clone, Copy)]
pub(super) struct View<'a>(pub(super) &'a Regions);

impl<'a> View<'a> {
    /// The range, if it lies in one region.
    #[inline]
    pub(super) fn near(self, at: GuestAddress, len: usize) -> Option<GuestSlice<'a>> {
        let region = self.0.find_region(at)?;
        let offset = at.0 - region.start_addr().0;
        region.get_slice(MemoryRegionAddress(offset), len).ok()
    }

    /// Whether all of it is RAM.
    #[inline]
    pub(super) fn has(self, at: GuestAddress, len: usize) -> bool {
        self.near(at, len).is_some() || GuestMemoryBackend::check_range(self.0, at, len)
    }

    /// The range, piece by piece.
    #[inline]
    pub(super) fn slices(self, at: GuestAddress, len: usize) -> Pieces<'a> {
        match self.near(at, len) {
            Some(slice) => Pieces::Near(Some(slice)),
            None => Pieces::Far(GuestMemoryBackend::get_slices(self.0, at, len)),
        }
    }
}

impl GuestMemory for View<'_> {
    type PhysicalMemory = Regions;
    type Bitmap = WriteMarks;

    #[inline]
    fn check_range(&self, at: GuestAddress, len: usize, _: Permissions) -> bool {
        self.has(at, len)
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        at: GuestAddress,
        len: usize,
        _: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, WriteMarks>>> {
        Ok(self.slices(at, len))
    }

    fn physical_memory(&self) -> Option<&Regions> {
        Some(self.0)
    }
}

/// The pieces of a range.
pub(super) enum Pieces<'a> {
    Near(Option<GuestSlice<'a>>),
    Far(GuestMemoryBackendSliceIterator<'a, Regions>),
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<GuestSlice<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Near(slice) => slice.take().map(Ok),
            Self::Far(pieces) => pieces.next(),
        }
    }
}

impl FusedIterator for Pieces<'_> {}

impl<'a> GuestMemorySliceIterator<'a, BS<'a, WriteMarks>> for Pieces<'a> {}
