//! What is behind a block device: disks that answer when they like, and images that take their time.

use std::{
    io,
    sync::{Arc, OnceLock},
    vec::Drain,
};

use vmm_core::{
    Result,
    virtio::{Readable, Worker, Writable},
};

use super::{Operation, Request, SECTOR};

/// A back end that answers requests whenever it likes, on whatever thread.
///
/// One that waits for something while it reads and writes is better an [`Image`].
pub trait Disk: Send + Sync + 'static {
    /// Its length in bytes, a multiple of 512; it may change.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes requests of one queue, in the order they came, and sees to it that they are
    /// [finished](Request::finish). Each is within the disk. Called on the machine's reactor: it
    /// does not wait. There are never more requests than the queues hold, 256 each.
    ///
    /// # Errors
    /// What keeps it from ever working again: the run ends with it. A request that fails is no such
    /// thing.
    fn submit(&self, requests: Drain<'_, Request>) -> Result<()>;

    /// The size that the host best writes at once, in bytes: a power of 2.
    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    /// Whether it can only be read.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Whether it takes [`Operation::Discard`] and [`Operation::WriteZeroes`].
    fn can_discard(&self) -> bool {
        false
    }

    /// Makes it so long. Called by [`BlockHandle::resize`](super::BlockHandle::resize), on its
    /// thread.
    ///
    /// # Errors
    /// `Unsupported` if it has one size for ever; what the host says.
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Bytes that can be read and written at any place, by several threads at once. Calls may take their
/// time: they are made on threads for nothing else, but for [`try_read_into`](Self::try_read_into).
///
/// ```
/// use std::io;
/// use vmm_devices::{Block, Image};
///
/// /// A disk on which every byte says where it is.
/// struct Ruler;
///
/// impl Image for Ruler {
///     fn len(&self) -> u64 {
///         1 << 20
///     }
///
///     fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
///         data.iter_mut().zip(at..).for_each(|(byte, at)| *byte = (at >> 9) as u8);
///         Ok(())
///     }
///
///     fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
///         Err(io::ErrorKind::ReadOnlyFilesystem.into())
///     }
///
///     fn flush(&self) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # fn main() -> vmm_core::Result<()> {
/// let device = Block::image(Ruler)?.read_only();
/// # Ok(())
/// # }
/// ```
#[expect(clippy::len_without_is_empty, reason = "no disk is empty")]
pub trait Image: Send + Sync + 'static {
    /// As [`Disk::len`].
    fn len(&self) -> u64;

    /// Fills `data` with what is at `at`.
    ///
    /// # Errors
    /// What the guest gets as an I/O error.
    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` to `at`.
    ///
    /// # Errors
    /// What the guest gets as an I/O error.
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()>;

    /// Makes what was written durable, as far as this image is at all.
    ///
    /// # Errors
    /// What the guest gets as an I/O error.
    fn flush(&self) -> io::Result<()>;

    /// Fills a guest's buffers. By way of a small buffer, unless there is a better one.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at).
    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        let mut bounce = [0; BOUNCE];
        pieces(to.len()).try_for_each(|(offset, len)| {
            let data = bounce.get_mut(..len).unwrap_or_default();
            self.read_at(at + offset, data)?;
            to.write(offset, data);
            Ok(())
        })
    }

    /// Fills a guest's buffers if that takes no waiting: neither for a device nor for a lock. Called
    /// on the machine's reactor, with up to 32 KiB, while the image's thread has nothing to do; what
    /// cannot be done there is read by [`read_into`](Self::read_into).
    ///
    /// # Errors
    /// `WouldBlock` if it might wait, as it always might unless an image knows better; others as for
    /// [`read_at`](Self::read_at).
    fn try_read_into(&self, _at: u64, _to: &Writable<'_>) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Writes what is in a guest's buffers.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn write_from(&self, at: u64, from: &Readable<'_>) -> io::Result<()> {
        let mut bounce = [0; BOUNCE];
        pieces(from.len()).try_for_each(|(offset, len)| {
            let data = bounce.get_mut(..len).unwrap_or_default();
            from.read(offset, data);
            self.write_at(at + offset, data)
        })
    }

    /// Nobody needs these bytes any more. Nothing is to be done, nor an error to be made of it.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn discard(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// Makes these bytes zeros; if `unmap`, they need no room.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn write_zeroes(&self, at: u64, len: u64, _unmap: bool) -> io::Result<()> {
        write_zeros(self, at, len)
    }

    /// As [`Disk::block_size`].
    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    /// As [`Disk::is_read_only`].
    fn is_read_only(&self) -> bool {
        false
    }

    /// As [`Disk::set_len`].
    ///
    /// # Errors
    /// As for that.
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Writes zeros as any other bytes.
pub(super) fn write_zeros(image: &(impl Image + ?Sized), at: u64, len: u64) -> io::Result<()> {
    const ZEROS: [u8; BOUNCE] = [0; BOUNCE];
    pieces(len).try_for_each(|(offset, len)| {
        image.write_at(at + offset, ZEROS.get(..len).unwrap_or_default())
    })
}

/// As much as is copied at once.
const BOUNCE: usize = 16 << 10;

/// `len` bytes in pieces of at most [`BOUNCE`]: the offset and length of each.
fn pieces(len: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..len).step_by(BOUNCE).map(move |at| (at, (len - at).min(BOUNCE as u64) as usize))
}

/// The longest read that is tried on the reactor: longer ones would keep other devices, and a change
/// of threads is little beside them.
const MOST_AT_ONCE: u64 = 32 << 10;

/// An image as a disk: with a thread for each queue, from the first request on that may wait.
///
/// To hand a request to a thread costs several times what a small read from the host's page cache
/// does. So reads are tried on the spot, as long as none had to be handed over that is not done yet.
pub struct Threaded<I> {
    image: Arc<I>,
    /// By queue, as far as there were requests.
    workers: Vec<OnceLock<Worker<Request>>>,
}

impl<I: Image> Threaded<I> {
    /// The disk that `image` is.
    pub fn new(image: I) -> Self {
        let workers = (0..super::MOST_QUEUES).map(|_| OnceLock::new()).collect();
        Self { image: Arc::new(image), workers }
    }

    fn worker(&self, queue: usize) -> Result<Option<&Worker<Request>>> {
        let Some(place) = self.workers.get(queue) else { return Ok(None) };
        if place.get().is_none() {
            let image = Arc::clone(&self.image);
            let worker = Worker::start("block", move |request: Request| {
                // What was asked for before a reset is not done after it.
                if request.is_current() {
                    let result = perform(&*image, &request);
                    request.finish(result);
                }
            })?;
            let _ = place.set(worker);
        }
        Ok(place.get())
    }
}

/// Does the request if it is a read that takes no waiting, and gives it back if not.
fn read_at_once(image: &dyn Image, request: Request) -> Option<Request> {
    let Operation::Read { at, to } = request.operation() else { return Some(request) };
    if to.len() > MOST_AT_ONCE {
        return Some(request);
    }
    match image.try_read_into(at, &to) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(request),
        result => {
            request.finish(result);
            None
        }
    }
}

fn perform(image: &dyn Image, request: &Request) -> io::Result<()> {
    match request.operation() {
        Operation::Read { at, to } => image.read_into(at, &to),
        Operation::Write { at, from } => image.write_from(at, &from),
        Operation::Flush => image.flush(),
        Operation::Discard { at, len } => image.discard(at, len),
        Operation::WriteZeroes { at, len, unmap } => image.write_zeroes(at, len, unmap),
    }
}

impl<I: Image> Disk for Threaded<I> {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn submit(&self, mut requests: Drain<'_, Request>) -> Result<()> {
        let Some(queue) = requests.as_slice().first().map(Request::queue) else { return Ok(()) };
        let worker = self.workers.get(queue).and_then(OnceLock::get);
        let mut first = None;
        if worker.is_none_or(Worker::is_idle) {
            first = requests.find_map(|request| read_at_once(&*self.image, request));
            if first.is_none() {
                return Ok(());
            }
        }
        match self.worker(queue)? {
            Some(worker) => worker.give_all(first.into_iter().chain(requests)),
            None => Ok(()),
        }
    }

    fn block_size(&self) -> u32 {
        self.image.block_size()
    }

    fn is_read_only(&self) -> bool {
        self.image.is_read_only()
    }

    fn can_discard(&self) -> bool {
        !self.image.is_read_only()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.image.set_len(len)
    }
}

impl<I: Image> std::fmt::Debug for Threaded<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threaded({} bytes)", self.image.len())
    }
}
