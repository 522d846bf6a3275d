//! A block device (virtio 1.2, section 5.2): what guests call `/dev/vda`.
//!
//! [`Block`] is the device: it reads each request's header once, checks it, and gives a [`Request`]
//! to a [`Disk`], which finishes it whenever it likes. Most disks are an [`Image`]: something that
//! reads and writes at an offset and may take its time, on a thread of its own. There are raw files
//! ([`RawFile`]), memory ([`MemoryImage`]) and copies that leave their original alone ([`Overlay`]);
//! an embedder's own are as good. What a file's bytes are is never guessed from them: a guest could
//! write them.
//!
//! What a guest may count on, by back end:
//!
//! | disk | a write is finished | a flush is finished | the process dies | the power fails |
//! |---|---|---|---|---|
//! | [`RawFile`] | in the host's page cache | on its disk (`fdatasync`) | finished writes are kept | finished flushes are kept |
//! | [`Overlay`] that is kept | in the page cache | data on the disk, then the bits that say so | clusters new since the last flush may be lost | finished flushes are kept |
//! | [`Overlay`] that is temporary | in the page cache | nothing to do | all is lost | all is lost |
//! | [`MemoryImage`] | in memory | nothing to do | all is lost | all is lost |
//!
//! The host's disk must keep what it was told to; a sector of 512 bytes is written whole or not as far
//! as that disk does so. A discard promises nothing of what is read there afterwards.
//!
//! ```
//! use vmm_devices::{Block, MemoryImage};
//!
//! # fn main() -> vmm_core::Result<()> {
//! let disk = Block::image(MemoryImage::new(1 << 20)?)?.serial("scratch")?;
//! let handle = disk.handle();
//! # use vmm_core::{Machine, boot::Flat, hv::script::Script};
//! # let builder = Machine::builder().hypervisor(Script::new([])).memory(1 << 20);
//! # let builder = builder.boot(Flat::real_mode([0xf4]));
//! let machine = builder.device(disk).build()?;
//! handle.resize(2 << 20)?;
//! assert_eq!(handle.statistics().reads, 0);
//! # Ok(())
//! # }
//! ```

mod disk;
mod file;
mod memory;
mod overlay;
mod request;

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use vmm_core::{
    Error, Result,
    persist::{Kind, StateReader, StateWriter},
    virtio::{Cause, DeviceId, VirtioDevice, VirtioIo},
};

use self::request::{Counters, Parsed, parse};
pub use self::{
    disk::{Disk, Image, Threaded},
    file::RawFile,
    memory::MemoryImage,
    overlay::Overlay,
    request::{Operation, Request},
};
use crate::rate::{Limiter, RateLimit};

/// The unit of capacity and of requests, whatever the disk's blocks are.
pub(crate) const SECTOR: u64 = 512;
/// How many requests a queue holds.
const QUEUE_SIZE: u16 = 256;
/// As many as are given to a disk at once: more would keep the first ones waiting for the others.
const BATCH: usize = 32;
/// As many as Linux makes of a machine's processors.
const MOST_QUEUES: usize = 64;
/// The length of a serial number (section 5.2.6.1).
const ID_LEN: usize = 20;
/// The most sectors of one discard or write of zeros: 1 GiB.
const MOST_CLEARED: u32 = 1 << 21;

/// Feature bits (section 5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// A disk as a device of a machine.
///
/// The guest is told that there is a cache: what it wants to be durable it flushes, and what that
/// means is the disk's to say. A request that fails is the guest's I/O error and is counted; the
/// machine goes on.
pub struct Block {
    shared: Arc<Shared>,
    queues: Vec<u16>,
    read_only: bool,
    id: [u8; ID_LEN],
    block_size: u32,
    /// What the driver is told of a change by.
    changed: Option<OwnedFd>,
    /// Requests on their way to the disk; empty but while it is woken.
    batch: Vec<Request>,
    limiter: Option<Limiter>,
}

/// What a device and its handles share.
struct Shared {
    disk: Box<dyn Disk>,
    counters: Arc<Counters>,
    /// Rung when the disk has another size.
    changed: OwnedFd,
}

impl Block {
    /// The device of `disk`.
    ///
    /// # Errors
    /// `BadConfig` if the disk is empty or not whole sectors of 512 bytes; `Host` if no eventfd can
    /// be made.
    pub fn new(disk: impl Disk) -> Result<Self> {
        let len = disk.len();
        if len == 0 || !len.is_multiple_of(SECTOR) {
            let why = format!("disk of {len} bytes: not one or more sectors of {SECTOR} bytes");
            return Err(Error::bad_config(why));
        }
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let changed = changed.map_err(|error| host("making an eventfd", error))?;
        let block_size = disk.block_size().clamp(SECTOR as u32, 1 << 20);
        let shared = Shared { disk: Box::new(disk), counters: Arc::default(), changed };
        Ok(Self {
            read_only: shared.disk.is_read_only(),
            shared: Arc::new(shared),
            queues: vec![QUEUE_SIZE],
            id: [0; ID_LEN],
            block_size,
            changed: None,
            batch: Vec::with_capacity(BATCH),
            limiter: None,
        })
    }

    /// The device of `image`, which works on threads of its own, one for each queue.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn image(image: impl Image) -> Result<Self> {
        Self::new(Threaded::new(image))
    }

    /// The raw image at `path`, to be read and written by nobody else; see [`RawFile::open`].
    ///
    /// # Errors
    /// As for that and for [`new`](Self::new).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::image(RawFile::open(path)?)
    }

    /// The raw image at `path`, which several may read; see [`RawFile::open_read_only`].
    ///
    /// # Errors
    /// As for that and for [`new`](Self::new).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::image(RawFile::open_read_only(path)?)
    }

    /// Lets the guest write nothing.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// What the guest finds as the disk's serial number.
    ///
    /// # Errors
    /// `BadConfig` if it is longer than 20 bytes.
    pub fn serial(mut self, serial: &str) -> Result<Self> {
        let Some(id) = self.id.get_mut(..serial.len()) else {
            let why = format!("serial number '{serial}': longer than {ID_LEN} bytes");
            return Err(Error::bad_config(why));
        };
        id.copy_from_slice(serial.as_bytes());
        Ok(self)
    }

    /// Gives it `count` queues, so that as many processors of the guest need not wait for each
    /// other; an image then has as many threads.
    ///
    /// # Errors
    /// `BadConfig` if it is 0 or more than 64.
    pub fn queues(mut self, count: usize) -> Result<Self> {
        if count == 0 || count > MOST_QUEUES {
            return Err(Error::bad_config(format!("{count} queues: from 1 to {MOST_QUEUES}")));
        }
        self.queues = vec![QUEUE_SIZE; count];
        Ok(self)
    }

    /// Lets the guest read and write no more than so many bytes; a request without data counts as one
    /// sector.
    ///
    /// # Errors
    /// `BadConfig` if that is none; `Host` if there can be no timer.
    pub fn limit(mut self, bytes: RateLimit) -> Result<Self> {
        self.limiter = Some(Limiter::new(bytes)?);
        Ok(self)
    }

    /// What changes it and counts while the machine has it.
    pub fn handle(&self) -> BlockHandle {
        BlockHandle(Arc::clone(&self.shared))
    }

    /// Takes some requests for the disk; whether there are any.
    fn take(&mut self, queue: usize, io: &mut VirtioIo<'_>) -> bool {
        let Shared { disk, counters, .. } = &*self.shared;
        let size = disk.len();
        while self.batch.len() < BATCH
            && self.limiter.as_mut().is_none_or(Limiter::may_begin)
            && let Some(chain) = io.pop(queue)
        {
            if let Some(limiter) = &mut self.limiter {
                let data = chain.readable().len() + chain.writable().len();
                limiter.spend(data.max(SECTOR));
            }
            match parse(chain, size, self.read_only, counters) {
                Parsed::Request(request) => self.batch.push(request),
                Parsed::Id(request) => request.identify(&self.id),
                Parsed::Done => {}
                Parsed::Malformed(why) => io.need_reset(why),
            }
        }
        !self.batch.is_empty()
    }

    /// Configuration space (section 5.2.4).
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = config.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        let disk = &self.shared.disk;
        let block = u64::from(self.block_size) / SECTOR;
        put(0, &(disk.len() / SECTOR).to_le_bytes());
        // Two descriptors are the header and the status.
        put(12, &(u32::from(QUEUE_SIZE) - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Its blocks as the host likes them: the logarithm, and what to write at least at once.
        put(24, &[block.ilog2() as u8, 0]);
        put(26, &(block as u16).to_le_bytes());
        put(34, &(self.queues.len() as u16).to_le_bytes());
        // One range a request; aligned as the blocks are.
        put(36, &MOST_CLEARED.to_le_bytes());
        put(40, &1_u32.to_le_bytes());
        put(44, &(block as u32).to_le_bytes());
        put(48, &MOST_CLEARED.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for Block {
    fn name(&self) -> &str {
        "block"
    }

    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        use feature::{BLK_SIZE, DISCARD, FLUSH, MQ, RO, SEG_MAX, TOPOLOGY, WRITE_ZEROES};
        let changes = match (self.read_only, self.shared.disk.can_discard()) {
            (true, _) => RO,
            (false, true) => FLUSH | DISCARD | WRITE_ZEROES,
            (false, false) => FLUSH,
        };
        let queues = if self.queues.len() > 1 { MQ } else { 0 };
        SEG_MAX | BLK_SIZE | TOPOLOGY | changes | queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(config.get(from..).unwrap_or_default()) {
            *byte = *value;
        }
    }

    fn wake(&mut self, cause: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        match (cause, &self.changed, &self.limiter) {
            (Cause::Source(0), Some(changed), _) => {
                let _ = rustix::io::read(changed, &mut [0; 8]);
                io.config_changed();
            }
            (Cause::Source(_), _, Some(limiter)) => limiter.silence(),
            _ => {}
        }
        for queue in 0..self.queues.len() {
            while self.take(queue, io) {
                self.shared.disk.submit(self.batch.drain(..))?;
            }
        }
        Ok(())
    }

    fn sources(&mut self) -> Result<Vec<OwnedFd>> {
        let copy = || {
            let copy = self.shared.changed.as_fd().try_clone_to_owned();
            copy.map_err(|error| {
                Error::host("copying an eventfd", error.raw_os_error().unwrap_or_default())
            })
        };
        let source = copy()?;
        self.changed = Some(copy()?);
        let timer = self.limiter.as_ref().map(Limiter::source).transpose()?;
        Ok([source].into_iter().chain(timer).collect())
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        out.put(STATE, &State { len: self.shared.disk.len() })
    }

    /// # Errors
    /// `Incompatible` if the disk has another size than the saved one.
    fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        let State { len } = from.take(STATE)?;
        let own = self.shared.disk.len();
        if len == own {
            return Ok(());
        }
        Err(Error::incompatible(format!("disk of {own} bytes: the saved one had {len}")))
    }
}

const STATE: Kind = Kind { name: "block", version: 1 };

/// All that a disk's contents do not say.
#[derive(Serialize, Deserialize)]
struct State {
    len: u64,
}

/// What reaches a disk while its machine has it. Cheap to clone; any thread may use it; it keeps the
/// disk.
#[derive(Clone)]
pub struct BlockHandle(Arc<Shared>);

impl BlockHandle {
    /// Makes the disk `len` bytes long, and tells the guest.
    ///
    /// # Errors
    /// `BadConfig` if it is not one or more whole sectors; `Unsupported` if the disk cannot be
    /// resized; `Host` with what the host says.
    pub fn resize(&self, len: u64) -> Result<()> {
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(Error::bad_config(format!("disk of {len} bytes: not whole sectors")));
        }
        self.0.disk.set_len(len).map_err(|error| match error.kind() {
            std::io::ErrorKind::Unsupported => Error::unsupported("this disk cannot be resized"),
            _ => io_error(&format!("resizing a disk to {len} bytes"), &error),
        })?;
        rustix::io::write(&self.0.changed, &1_u64.to_ne_bytes())
            .map_err(|error| host("telling of a change", error))
            .map(|_| ())
    }

    /// The disk's length in bytes.
    pub fn len(&self) -> u64 {
        self.0.disk.len()
    }

    /// Whether it has no bytes, which no disk of a machine does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the guest has asked for so far.
    pub fn statistics(&self) -> BlockStatistics {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        BlockStatistics {
            reads: read(&counters.reads),
            read_bytes: read(&counters.read_bytes),
            writes: read(&counters.writes),
            written_bytes: read(&counters.written_bytes),
            flushes: read(&counters.flushes),
            discards: read(&counters.discards),
            errors: read(&counters.errors),
        }
    }
}

/// What a guest has asked a disk for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockStatistics {
    /// Reads that succeeded.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards and writes of zeros that succeeded.
    pub discards: u64,
    /// Requests that failed, or that the disk cannot do.
    pub errors: u64,
}

fn host(doing: &str, error: rustix::io::Errno) -> Error {
    Error::host(doing, error.raw_os_error())
}

/// The error of the host's file system, with what was being done.
fn io_error(doing: &str, error: &std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(errno) => Error::host(doing, errno),
        None => Error::new(vmm_core::ErrorKind::Host, format!("{doing}: {error}")),
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.shared.disk.len())
    }
}

impl fmt::Debug for BlockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHandle({} bytes)", self.len())
    }
}
