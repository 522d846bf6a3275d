//! A disk that is another one, and what was written since: copy on write.
//!
//! What is written goes to a file of its own, in clusters of 64 KiB; the base is only read. The file:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `vmm-cow` and a zero byte |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | size of a cluster in bytes: 65536 |
//! | 16 | 8 | length of the disk in bytes, which is the base's |
//! | 4096 | (clusters + 7) / 8 | one bit a cluster, the lowest first: it is in this file |
//! | next multiple of 65536 | length of the disk | the clusters, each where it is on the disk |
//!
//! Numbers are little-endian. Clusters that were never written are holes. A bit is written once the
//! cluster it speaks of is durable, by a flush: after a power cut the disk is as at the last flush or
//! later, cluster by cluster.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
};

use rustix::fs::{Mode, OFlags};
use vmm_core::{
    Error, Result,
    virtio::{Readable, Writable},
};

use super::{Image, RawFile, io_error};

const MAGIC: [u8; 8] = *b"vmm-cow\0";
const VERSION: u32 = 1;
const CLUSTER: u64 = 64 << 10;
/// Where the bits are.
const BITS: u64 = 4096;

/// A base that is only read, and a file with what was written.
///
/// The base must stay as it is for as long as there is an overlay of it; one that became longer or
/// shorter is refused. A kept overlay is as durable as its file, from each flush on; a temporary one
/// has nothing to keep, and its flush does nothing.
pub struct Overlay<B = RawFile> {
    base: B,
    top: RawFile,
    len: u64,
    /// Where the clusters are.
    data: u64,
    /// Which clusters are in `top`.
    present: Vec<AtomicU64>,
    /// Which words of that have changed since they were written. Taken by whoever brings a cluster
    /// into `top`.
    changed: Mutex<BTreeSet<usize>>,
    /// Taken by whoever writes words, before `changed`; `None` if none are.
    kept: Option<Mutex<()>>,
}

impl<B: Image> Overlay<B> {
    /// An overlay of `base` that is gone with the device, in the directory for temporary files.
    ///
    /// # Errors
    /// `Host` if there can be no such file.
    pub fn temporary(base: B) -> Result<Self> {
        let directory = std::env::temp_dir();
        let doing = format!("temporary overlay in {}", directory.display());
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|error| io_error(&doing, &error.into()))?;
        let new = Self::new(base, File::from(file), &directory, None);
        new.map_err(|error| error.context(doing))
    }

    /// A new overlay of `base`, in a new file.
    ///
    /// # Errors
    /// `Host` if the file exists or cannot be made.
    pub fn create(path: impl AsRef<Path>, base: B) -> Result<Self> {
        let path = path.as_ref();
        let doing = || format!("new overlay {}", path.display());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|error| io_error(&doing(), &error))?;
        let header = [
            MAGIC.as_slice(),
            &VERSION.to_le_bytes(),
            &(CLUSTER as u32).to_le_bytes(),
            &base.len().to_le_bytes(),
        ];
        let len = data_at(base.len()).checked_add(base.len());
        let made = file.write_all_at(&header.concat(), 0).and_then(|()| {
            file.set_len(len.ok_or(io::ErrorKind::FileTooLarge)?)?;
            file.sync_all()
        });
        made.map_err(|error| io_error(&doing(), &error))?;
        Self::new(base, file, path, Some(Mutex::default())).map_err(|error| error.context(doing()))
    }

    /// The overlay of `base` that was kept in the file at `path`.
    ///
    /// # Errors
    /// `Host` if it cannot be opened or read; `BadImage` if it is none; `Incompatible` if it is one
    /// of a disk of another length; `BadConfig` if it is in use.
    pub fn open(path: impl AsRef<Path>, base: B) -> Result<Self> {
        let path = path.as_ref();
        let what = format!("overlay {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| io_error(&what, &error))?;
        let new = check_header(&file, base.len())
            .and_then(|()| Self::new(base, file, path, Some(Mutex::default())))
            .and_then(|mut overlay| overlay.read_bits().map(|()| overlay));
        new.map_err(|error| error.context(what))
    }

    fn new(base: B, file: File, path: &Path, kept: Option<Mutex<()>>) -> Result<Self> {
        let len = base.len();
        let data = data_at(len);
        let top = RawFile::from_file(file, path)?;
        let sized = top.set_len(data.saturating_add(len));
        sized.map_err(|error| io_error("making room", &error))?;
        let words = len.div_ceil(CLUSTER).div_ceil(64);
        let present = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { base, top, len, data, present, changed: Mutex::default(), kept })
    }

    fn read_bits(&mut self) -> Result<()> {
        for (word, at) in self.present.iter_mut().zip((BITS..).step_by(8)) {
            let mut bytes = [0; 8];
            let read = self.top.read_at(at, &mut bytes);
            read.map_err(|error| io_error("reading its bits", &error))?;
            *word = AtomicU64::new(u64::from_le_bytes(bytes));
        }
        Ok(())
    }

    fn is_present(&self, cluster: u64) -> bool {
        let word = self.present.get((cluster / 64) as usize);
        word.is_some_and(|word| word.load(Acquire) >> (cluster % 64) & 1 != 0)
    }

    /// Splits `len` bytes at `at` where they go from one file to the other: offset, length, whether
    /// they are in `top`.
    fn runs(&self, at: u64, len: u64) -> impl Iterator<Item = (u64, u64, bool)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let from = done;
            let is_present = self.is_present((at + from) / CLUSTER);
            while done < len && self.is_present((at + done) / CLUSTER) == is_present {
                done = (((at + done) / CLUSTER + 1) * CLUSTER - at).min(len);
            }
            (done > from).then_some((from, done - from, is_present))
        })
    }

    /// Calls `write` for each cluster of `len` bytes at `at`, which is in `top` by then, with where
    /// in the bytes it starts, how many they are, and where in `top` they go.
    fn change(
        &self,
        at: u64,
        len: u64,
        write: impl Fn(u64, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let cluster = (at + done) / CLUSTER;
            let (start, end) = (cluster * CLUSTER, ((cluster + 1) * CLUSTER).min(self.len));
            let part = end.saturating_sub(at + done).min(len - done);
            if part == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let write = || write(done, part, self.data + at + done);
            if self.is_present(cluster) {
                write()?;
            } else {
                let mut changed = self.changed();
                if !self.is_present(cluster) && part < end - start {
                    self.copy_up(start, end)?;
                }
                write()?;
                let word = (cluster / 64) as usize;
                if let Some(bits) = self.present.get(word) {
                    bits.fetch_or(1 << (cluster % 64), Release);
                }
                changed.insert(word);
            }
            done += part;
        }
        Ok(())
    }

    fn copy_up(&self, start: u64, end: u64) -> io::Result<()> {
        let mut copy = vec![0; (end - start) as usize];
        self.base.read_at(start, &mut copy)?;
        self.top.write_at(self.data + start, &copy)
    }
}

impl<B> Overlay<B> {
    fn changed(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable what was written, then the bits that say so.
    fn keep(&self) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let _alone = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<_> = {
            let changed = std::mem::take(&mut *self.changed());
            let word = |index: usize| Some((index, self.present.get(index)?.load(Relaxed)));
            changed.into_iter().filter_map(word).collect()
        };
        let flushed = self.top.flush().and_then(|()| {
            words.iter().try_for_each(|(index, word)| {
                self.top.write_at(BITS + 8 * *index as u64, &word.to_le_bytes())
            })?;
            if words.is_empty() { Ok(()) } else { self.top.flush() }
        });
        if flushed.is_err() {
            self.changed().extend(words.into_iter().map(|(index, _)| index));
        }
        flushed
    }
}

/// Where the clusters of a disk of `len` bytes are.
fn data_at(len: u64) -> u64 {
    let bits = len.div_ceil(CLUSTER).div_ceil(64) * 8;
    (BITS + bits).next_multiple_of(CLUSTER)
}

fn check_header(file: &File, len: u64) -> Result<()> {
    let mut header = [0; 24];
    let read = file.read_exact_at(&mut header, 0);
    read.map_err(|error| io_error("reading its header", &error))?;
    let (magic, rest) = header.split_at(8);
    if magic != MAGIC {
        return Err(Error::bad_image("it does not begin as one"));
    }
    let number = |at: usize, size: usize| {
        let bytes = rest.get(at..at + size).unwrap_or_default();
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let (version, cluster, own) = (number(0, 4), number(4, 4), number(8, 8));
    if version != u64::from(VERSION) || cluster != CLUSTER {
        let why = format!("version {version} with clusters of {cluster} bytes");
        return Err(Error::bad_image(why));
    }
    if own != len {
        let why = format!("it is of a disk of {own} bytes, and its base has {len}");
        return Err(Error::incompatible(why));
    }
    Ok(())
}

impl<B: Image> Image for Overlay<B> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        for (offset, len, is_present) in self.runs(at, data.len() as u64) {
            let (from, to) = (offset as usize, (offset + len) as usize);
            let part = data.get_mut(from..to).unwrap_or_default();
            match is_present {
                true => self.top.read_at(self.data + at + offset, part)?,
                false => self.base.read_at(at + offset, part)?,
            }
        }
        Ok(())
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.change(at, data.len() as u64, |offset, len, to| {
            let (from, end) = (offset as usize, (offset + len) as usize);
            self.top.write_at(to, data.get(from..end).unwrap_or_default())
        })
    }

    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        for (offset, len, is_present) in self.runs(at, to.len()) {
            let part = to.part(offset, len);
            match is_present {
                true => self.top.read_into(self.data + at + offset, &part)?,
                false => self.base.read_into(at + offset, &part)?,
            }
        }
        Ok(())
    }

    fn try_read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        for (offset, len, is_present) in self.runs(at, to.len()) {
            let part = to.part(offset, len);
            match is_present {
                true => self.top.try_read_into(self.data + at + offset, &part)?,
                false => self.base.try_read_into(at + offset, &part)?,
            }
        }
        Ok(())
    }

    fn write_from(&self, at: u64, from: &Readable<'_>) -> io::Result<()> {
        let write = |offset, len, to| self.top.write_from(to, &from.part(offset, len));
        self.change(at, from.len(), write)
    }

    fn flush(&self) -> io::Result<()> {
        self.keep()
    }

    /// Gives back what room whole clusters have taken.
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let (first, last) = (at.next_multiple_of(CLUSTER), (at + len) / CLUSTER * CLUSTER);
        for (offset, len, is_present) in self.runs(first, last.saturating_sub(first)) {
            if is_present {
                self.top.discard(self.data + first + offset, len)?;
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.change(at, len, |_, len, to| self.top.write_zeroes(to, len, unmap))
    }

    fn block_size(&self) -> u32 {
        self.top.block_size()
    }
}

impl<B> Drop for Overlay<B> {
    /// What was not flushed is kept nonetheless where that is possible.
    fn drop(&mut self) {
        if let Err(error) = self.keep() {
            log::error!("{self:?}: what was written since the last flush is lost: {error}");
        }
    }
}

impl<B> fmt::Debug for Overlay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({:?}, {} bytes)", self.top, self.len)
    }
}
