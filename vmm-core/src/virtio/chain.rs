//! A chain of buffers that the driver lends the device.
//!
//! Its descriptors are read once, when it is popped; what was checked then is what is used. Buffers
//! are guest memory, which the guest may change at any moment: they are copied from and to, or
//! handed to the host's kernel, never referred to.

use std::{fmt, sync::Arc};

use virtio_queue::DescriptorChain;
use vm_memory::{ByteValued, GuestAddress};

use super::{
    ring::{Answer, Ring},
    view::View,
};
use crate::memory::{GuestSlice, Regions};

/// A chain of buffers, first those that the device reads, then those that it writes. The device
/// owns it until it [completes](Self::complete) it, on whatever thread; one that is dropped is
/// completed with nothing written, so that no chain is ever lost to the driver.
pub struct Chain {
    ring: Arc<Ring>,
    regions: Arc<Regions>,
    head: u16,
    epoch: u64,
    segments: Segments,
    written: u32,
    has_failed: bool,
}

impl Chain {
    pub(super) fn new(
        ring: Arc<Ring>,
        regions: Arc<Regions>,
        head: u16,
        epoch: u64,
        segments: Segments,
    ) -> Self {
        Self { ring, regions, head, epoch, segments, written: 0, has_failed: false }
    }

    /// The queue it was popped from.
    pub fn queue(&self) -> usize {
        self.ring.index()
    }

    /// The buffers for the device to read.
    pub fn readable(&self) -> Readable<'_> {
        let Segments { list, readable, readable_len, .. } = &self.segments;
        let list = list.get(..*readable).unwrap_or_default();
        Readable(Buffers { regions: &self.regions, list, start: 0, len: *readable_len })
    }

    /// The buffers for the device to write.
    pub fn writable(&self) -> Writable<'_> {
        let Segments { list, readable, writable_len, .. } = &self.segments;
        let list = list.get(*readable..).unwrap_or_default();
        Writable(Buffers { regions: &self.regions, list, start: 0, len: *writable_len })
    }

    /// Whether the driver still waits for it: not after a reset. Work on one that it does not wait
    /// for can be left out.
    pub fn is_current(&self) -> bool {
        self.ring.epoch() == self.epoch
    }

    /// Gives it back to the driver, which is told that the first `written` bytes of the writable
    /// buffers were written. After a reset this does nothing.
    pub fn complete(mut self, written: u32) {
        self.written = written;
    }

    /// As [`complete`](Self::complete), of a request that the device could not do as it was asked:
    /// that counts as an error ([`Traffic::errors`](super::Traffic::errors)).
    pub fn fail(mut self, written: u32) {
        (self.written, self.has_failed) = (written, true);
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let segments = std::mem::take(&mut self.segments);
        let answer = Answer { written: self.written, has_failed: self.has_failed, segments };
        self.ring.give_back(&self.regions, self.head, self.epoch, answer);
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Segments { readable_len, writable_len, .. } = self.segments;
        write!(f, "Chain({}: {readable_len} bytes to read, {writable_len} to write)", self.head)
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Segment {
    at: GuestAddress,
    len: u32,
}

/// The buffers of a chain; the readable ones come first.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: Vec<Segment>,
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0:#x} bytes at {1:#x} are not all RAM")]
    NoRam(u32, u64),
    #[error("a chain that does not end: a loop, a bad index or a bad table of descriptors")]
    NoEnd,
    #[error("a buffer to be read behind one to be written")]
    Order,
    #[error("a chain of more than {MOST_BUFFERS} buffers")]
    TooLong,
    #[error("an empty buffer")]
    Zero,
}

/// Longer chains than this are refused; as many as one system call takes (`UIO_MAXIOV`).
const MOST_BUFFERS: usize = 1024;

impl Segments {
    pub(super) fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Takes what `chain` consists of. `virtio-queue` reads each descriptor once, follows an indirect
    /// table and ends silently where it can go no further: what it gave last tells whether that was
    /// the end.
    pub(super) fn fill(
        &mut self,
        chain: DescriptorChain<&View<'_>>,
        view: View<'_>,
    ) -> Result<(), Malformed> {
        self.list.clear();
        (self.readable, self.readable_len, self.writable_len) = (0, 0, 0);
        let mut goes_on = true;
        for descriptor in chain {
            let (at, len) = (descriptor.addr(), descriptor.len());
            if len == 0 {
                return Err(Malformed::Zero);
            }
            if self.list.len() == MOST_BUFFERS {
                return Err(Malformed::TooLong);
            }
            if !view.has(at, len as usize) {
                return Err(Malformed::NoRam(len, at.0));
            }
            if descriptor.is_write_only() {
                self.writable_len += u64::from(len);
            } else if self.readable < self.list.len() {
                return Err(Malformed::Order);
            } else {
                self.readable += 1;
                self.readable_len += u64::from(len);
            }
            self.list.push(Segment { at, len });
            goes_on = descriptor.has_next();
        }
        if goes_on { Err(Malformed::NoEnd) } else { Ok(()) }
    }
}

/// Some bytes of the buffers of a chain.
#[derive(Clone, Copy)]
struct Buffers<'a> {
    regions: &'a Regions,
    list: &'a [Segment],
    /// The bytes of `list` before those meant.
    start: u64,
    len: u64,
}

impl<'a> Buffers<'a> {
    /// `len` bytes of it from `at` on, or as many as there are.
    fn part(mut self, at: u64, len: u64) -> Self {
        let at = at.min(self.len);
        self.len = len.min(self.len - at);
        self.start += at;
        self
    }

    /// All of it, if it is one piece: headers and answers are, and this costs a third of a search for
    /// the next piece.
    fn piece(self) -> Option<GuestSlice<'a>> {
        let mut skip = self.start;
        for segment in self.list {
            let len = u64::from(segment.len);
            if skip < len {
                let at = GuestAddress(segment.at.0 + skip);
                let fits = self.len <= len - skip;
                return fits.then(|| View(self.regions).near(at, self.len as usize)).flatten();
            }
            skip -= len;
        }
        None
    }

    fn slices(self) -> impl Iterator<Item = GuestSlice<'a>> {
        let (mut skip, mut left) = (self.start, self.len);
        let pieces = self.list.iter().map_while(move |segment| {
            if left == 0 {
                return None;
            }
            let len = u64::from(segment.len);
            let from = skip.min(len);
            skip -= from;
            let taken = (len - from).min(left);
            left -= taken;
            Some((GuestAddress(segment.at.0 + from), taken as usize))
        });
        // What was skipped whole is no piece: whoever takes so many of them at once would get nowhere.
        let pieces = pieces.filter(|(_, len)| *len > 0);
        // All of it was RAM when the chain was popped, and `regions` is as it was then.
        pieces.flat_map(move |(at, len)| View(self.regions).slices(at, len).flatten())
    }
}

/// Bytes of a chain that the device reads. Each read finds what is there at that moment: what a
/// decision depends on is read once.
#[derive(Clone, Copy)]
pub struct Readable<'a>(Buffers<'a>);

/// Bytes of a chain that the device writes.
#[derive(Clone, Copy)]
pub struct Writable<'a>(Buffers<'a>);

impl<'a> Readable<'a> {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// `len` bytes from `at` on, or as many of them as there are.
    #[must_use]
    pub fn part(&self, at: u64, len: u64) -> Self {
        Self(self.0.part(at, len))
    }

    /// Copies what is at `at`, and returns how many bytes there were.
    pub fn read(&self, at: u64, data: &mut [u8]) -> usize {
        let part = self.0.part(at, data.len() as u64);
        if let Some(slice) = part.piece() {
            return slice.copy_to(data);
        }
        let mut done = 0;
        for slice in part.slices() {
            done += slice.copy_to(data.get_mut(done..).unwrap_or_default());
        }
        done
    }

    /// Reads one object at `at`; virtio's are little-endian. `None` if it is not all there.
    pub fn read_obj<T: ByteValued>(&self, at: u64) -> Option<T> {
        let mut value = T::zeroed();
        let data = value.as_mut_slice();
        let len = data.len();
        (self.read(at, data) == len).then_some(value)
    }

    /// The bytes as they lie in memory, for the host's kernel to read from.
    pub fn slices(&self) -> impl Iterator<Item = GuestSlice<'a>> {
        self.0.slices()
    }
}

impl<'a> Writable<'a> {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// `len` bytes from `at` on, or as many of them as there are.
    #[must_use]
    pub fn part(&self, at: u64, len: u64) -> Self {
        Self(self.0.part(at, len))
    }

    /// Copies `data` to `at`, and returns how many bytes there was room for.
    pub fn write(&self, at: u64, data: &[u8]) -> usize {
        let part = self.0.part(at, data.len() as u64);
        if let Some(slice) = part.piece() {
            slice.copy_from(data.get(..slice.len()).unwrap_or_default());
            return slice.len();
        }
        let mut done = 0;
        for slice in part.slices() {
            let rest = data.get(done..).unwrap_or_default();
            let len = rest.len().min(slice.len());
            slice.copy_from(rest.get(..len).unwrap_or_default());
            done += len;
        }
        done
    }

    /// Writes zeros to all of it.
    pub fn zero(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = 0;
        while at < self.len() {
            at += self.write(at, &ZEROS) as u64;
        }
    }

    /// The bytes as they lie in memory, for the host's kernel to write to. Whoever has something
    /// written there behind this library's back marks it afterwards
    /// ([`Bitmap::mark_dirty`](vm_memory::bitmap::Bitmap::mark_dirty) of each slice's bitmap).
    pub fn slices(&self) -> impl Iterator<Item = GuestSlice<'a>> {
        self.0.slices()
    }
}

impl fmt::Debug for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Readable({} bytes)", self.0.len)
    }
}

impl fmt::Debug for Writable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writable({} bytes)", self.0.len)
    }
}
