//! One request of a driver: its header, read once and checked, and its answer.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use vmm_core::virtio::{Chain, Readable, Writable};

use super::{MOST_CLEARED, SECTOR};

/// Types of requests (section 5.2.6).
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// What the last byte says of a request.
#[derive(Clone, Copy)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Type, priority, first sector.
const HEADER: u64 = 16;
/// First sector, number of sectors, flags: what a discard is about.
const RANGE: usize = 16;

/// A request for a [`Disk`](super::Disk) to do. It owns the guest's buffers until it is
/// [finished](Self::finish); dropped, it has failed.
pub struct Request {
    chain: Option<Chain>,
    what: What,
    at: u64,
    len: u64,
    counters: Arc<Counters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes { unmap: bool },
    Identify,
}

/// What a [`Request`] asks for. All of it is within the disk, in bytes, and whole sectors.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// Read what is at `at`.
    Read {
        /// The first byte.
        at: u64,
        /// Where it goes; all of it is to be filled.
        to: Writable<'a>,
    },
    /// Write to `at`.
    Write {
        /// The first byte.
        at: u64,
        /// What is to be there.
        from: Readable<'a>,
    },
    /// Make what was written by finished requests durable.
    Flush,
    /// Nobody needs these bytes any more; what is read there is anything.
    Discard {
        /// The first byte.
        at: u64,
        /// How many.
        len: u64,
    },
    /// These bytes are to be zeros.
    WriteZeroes {
        /// The first byte.
        at: u64,
        /// How many.
        len: u64,
        /// They need no room on the host.
        unmap: bool,
    },
}

impl Request {
    /// What is asked for.
    pub fn operation(&self) -> Operation<'_> {
        let Self { at, len, .. } = *self;
        match (self.what, &self.chain) {
            (What::Read, Some(chain)) => {
                Operation::Read { at, to: chain.writable().part(0, self.len) }
            }
            (What::Write, Some(chain)) => {
                Operation::Write { at, from: chain.readable().part(HEADER, self.len) }
            }
            (What::Discard, _) => Operation::Discard { at, len },
            (What::WriteZeroes { unmap }, _) => Operation::WriteZeroes { at, len, unmap },
            // Only a finished one has no chain, and identities are not asked of disks.
            _ => Operation::Flush,
        }
    }

    /// The queue it came by.
    pub fn queue(&self) -> usize {
        self.chain.as_ref().map_or(0, Chain::queue)
    }

    /// Whether the driver still waits for it; if not, it need not be done.
    pub fn is_current(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::is_current)
    }

    /// Answers the driver.
    pub fn finish(mut self, result: io::Result<()>) {
        let status = match result {
            Ok(()) => Status::Ok,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
            Err(error) => {
                log::debug!("block: {:?} of {} bytes at {}: {error}", self.what, self.len, self.at);
                Status::IoError
            }
        };
        self.answer(status);
    }

    /// Answers with the disk's serial number.
    pub(super) fn identify(mut self, id: &[u8]) {
        if let Some(chain) = &self.chain {
            chain.writable().part(0, self.len).write(0, id);
        }
        self.answer(Status::Ok);
    }

    fn answer(&mut self, status: Status) {
        let Some(chain) = self.chain.take() else { return };
        self.counters.count(self.what, self.len, status);
        let data = match self.what {
            What::Read | What::Identify => self.len,
            _ => 0,
        };
        let writable = chain.writable();
        writable.write(writable.len().saturating_sub(1), &[status as u8]);
        // Checked when the request was taken: a chain is less than 4 GiB.
        let written = (data + 1) as u32;
        match status {
            Status::Ok => chain.complete(written),
            Status::IoError | Status::Unsupported => chain.fail(written),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.answer(Status::IoError);
    }
}

/// What became of a chain.
pub(super) enum Parsed {
    Request(Request),
    Id(Request),
    /// It was answered: no disk is to be asked.
    Done,
    /// It cannot even be answered.
    Malformed(&'static str),
}

/// Takes a chain for a request to a disk of `size` bytes.
pub(super) fn parse(chain: Chain, size: u64, read_only: bool, counters: &Arc<Counters>) -> Parsed {
    let Some(header) = chain.readable().read_obj::<[u8; HEADER as usize]>(0) else {
        return Parsed::Malformed("a request without header");
    };
    if chain.writable().is_empty() {
        return Parsed::Malformed("a request without room for its status");
    }
    let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
    let (data_out, data_in) = (chain.readable().len() - HEADER, chain.writable().len() - 1);
    let mut range = [0; RANGE];
    let has_range = data_out == RANGE as u64 && chain.readable().read(HEADER, &mut range) == RANGE;
    let (range_sector, range_len) = (u64_at(&range, 0), u32_at(&range, 8));
    let unmap = u32_at(&range, 12) & 1 != 0;
    // What it asks for, the sector, the length in bytes, and whether the rest fits that.
    let range = |what| {
        (what, range_sector, u64::from(range_len) * SECTOR, {
            has_range && data_in == 0 && range_len <= MOST_CLEARED
        })
    };
    let (what, sector, len, fits) = match kind {
        kind::IN => (What::Read, sector, data_in, data_out == 0),
        kind::OUT => (What::Write, sector, data_out, data_in == 0),
        kind::FLUSH => (What::Flush, 0, 0, true),
        kind::GET_ID => (What::Identify, 0, data_in, data_out == 0),
        kind::DISCARD => range(What::Discard),
        kind::WRITE_ZEROES => range(What::WriteZeroes { unmap }),
        _ => {
            counters.errors.fetch_add(1, Relaxed);
            let writable = chain.writable();
            writable.write(data_in, &[Status::Unsupported as u8]);
            chain.fail(1);
            return Parsed::Done;
        }
    };
    let at = sector.checked_mul(SECTOR);
    let end = at.and_then(|at| at.checked_add(len));
    let request = Request {
        chain: Some(chain),
        what,
        at: at.unwrap_or(0),
        len,
        counters: Arc::clone(counters),
    };
    if what == What::Identify && fits {
        return Parsed::Id(request);
    }
    let changes = matches!(what, What::Write | What::Discard | What::WriteZeroes { .. });
    let is_inside = len.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= size);
    if !fits || !is_inside || changes && read_only {
        drop(request);
        return Parsed::Done;
    }
    Parsed::Request(request)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(found.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(found.unwrap_or_default())
}

/// What has been asked for, by success and kind.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) discards: AtomicU64,
    pub(super) errors: AtomicU64,
}

impl Counters {
    fn count(&self, what: What, len: u64, status: Status) {
        let Status::Ok = status else {
            self.errors.fetch_add(1, Relaxed);
            return;
        };
        match what {
            What::Read => {
                self.reads.fetch_add(1, Relaxed);
                self.read_bytes.fetch_add(len, Relaxed);
            }
            What::Write => {
                self.writes.fetch_add(1, Relaxed);
                self.written_bytes.fetch_add(len, Relaxed);
            }
            What::Flush => {
                self.flushes.fetch_add(1, Relaxed);
            }
            What::Discard | What::WriteZeroes { .. } => {
                self.discards.fetch_add(1, Relaxed);
            }
            What::Identify => {}
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?}, {} bytes at {})", self.what, self.len, self.at)
    }
}
