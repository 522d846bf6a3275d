//! A raw file or block device of the host, read and written straight from and to guest memory.
#![expect(unsafe_code, reason = "preadv and pwritev on guest memory, which nothing may refer to")]

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom},
    mem::MaybeUninit,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use vm_memory::bitmap::Bitmap;
use vmm_core::{
    Error, Result,
    memory::GuestSlice,
    virtio::{Readable, Writable},
};

use super::{Image, SECTOR, disk::write_zeros, io_error};

/// A file or block device whose bytes are the disk's.
///
/// A finished write is in the host's page cache, a finished flush (`fdatasync`) on its disk. The file
/// is locked (`flock`), so that no two machines write it, nor one what another reads. If it becomes
/// shorter meanwhile, what is missing is an I/O error.
pub struct RawFile {
    file: File,
    path: PathBuf,
    len: AtomicU64,
    read_only: bool,
    /// A regular file, which can grow and shrink.
    is_regular: bool,
    block_size: u32,
    /// Its file system knows reads that do not wait, as far as was tried.
    has_nowait: AtomicBool,
}

impl RawFile {
    /// Opens the file at `path` for reading and writing, for nobody else.
    ///
    /// # Errors
    /// `Host` if it cannot be opened; `BadConfig` if it is no file or block device, is empty or no
    /// multiple of 512 bytes, or in use.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), false)
    }

    /// Opens the file at `path` for reading, beside others that read it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), true)
    }

    fn open_with(path: &Path, read_only: bool) -> Result<Self> {
        let what = || format!("disk image {}", path.display());
        // Opening a FIFO would wait for its other end.
        let about = std::fs::metadata(path).map_err(|error| io_error(&what(), &error))?;
        if !about.is_file() && !about.file_type().is_block_device() {
            return Err(Error::bad_config(format!("{}: no file or block device", what())));
        }
        let file = OpenOptions::new().read(true).write(!read_only).open(path);
        let file = file.map_err(|error| io_error(&what(), &error))?;
        let opened = Self::locked(file, path, read_only);
        let opened = opened.map_err(|error| error.context(what()))?;
        let len = opened.len();
        if len == 0 || !len.is_multiple_of(SECTOR) {
            let why = format!("{}: {len} bytes are not whole sectors of {SECTOR}", what());
            return Err(Error::bad_config(why));
        }
        Ok(opened)
    }

    /// A file that was opened for reading and writing, for an image that has a format.
    pub(super) fn from_file(file: File, path: &Path) -> Result<Self> {
        Self::locked(file, path, false)
    }

    fn locked(mut file: File, path: &Path, read_only: bool) -> Result<Self> {
        match if read_only { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::bad_config("in use by another")),
            Err(TryLockError::Error(error)) => return Err(io_error("locking it", &error)),
        }
        let len = file.seek(SeekFrom::End(0)).map_err(|error| io_error("its length", &error))?;
        let about = file.metadata().map_err(|error| io_error("its type", &error))?;
        let block_size = u32::try_from(about.blksize()).ok().filter(|size| size.is_power_of_two());
        let block_size = block_size.unwrap_or(4096).clamp(SECTOR as u32, 4096);
        let (path, len, is_regular) = (path.to_owned(), AtomicU64::new(len), about.is_file());
        let has_nowait = AtomicBool::new(true);
        Ok(Self { file, path, len, read_only, is_regular, block_size, has_nowait })
    }

    /// Reads as many bytes as one system call does.
    fn read_some(&self, at: u64, to: &Writable<'_>, flags: i32) -> io::Result<u64> {
        let mut vectors = Vectors::new();
        let (list, count) = vectors.fill(to.slices());
        let (file, from) = (self.file.as_raw_fd(), offset(at)?);
        // SAFETY: the first `count` vectors are slices of guest memory, which stays mapped while `to`
        // borrows it. The kernel writes there as another processor would; nothing here refers to
        // those bytes.
        let count = moved(unsafe { libc::preadv2(file, list, count, from, flags) })?;
        to.part(0, count).slices().for_each(|slice| slice.bitmap().mark_dirty(0, slice.len()));
        Ok(count)
    }

    /// Makes a hole, or zeros; `false` if this file system cannot.
    fn fallocate(&self, how: FallocateFlags, at: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, at, len) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Buffers of a guest as a system call takes them: as many as fit, none of it allocated.
struct Vectors([MaybeUninit<libc::iovec>; Self::MOST]);

impl Vectors {
    const MOST: usize = 64;

    /// Room for them, which is written where it is: to fill and move it would cost as much as a
    /// small read.
    const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; Self::MOST])
    }

    /// Describes `slices`; gives where, and how many there are.
    fn fill<'a>(
        &mut self,
        slices: impl Iterator<Item = GuestSlice<'a>>,
    ) -> (*const libc::iovec, i32) {
        let mut count = 0;
        for (vector, slice) in self.0.iter_mut().zip(slices) {
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            vector.write(libc::iovec { iov_base, iov_len: slice.len() });
            count += 1;
        }
        (self.0.as_ptr().cast(), count)
    }
}

/// How many bytes a system call moved: none if a signal came first, and an error at the end of file.
fn moved(result: isize) -> io::Result<u64> {
    match u64::try_from(result) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Image for RawFile {
    fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, at)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < to.len() {
            done += self.read_some(at + done, &to.part(done, to.len()), 0)?;
        }
        Ok(())
    }

    /// From the page cache alone. Not all that it has of a request, or an error, is left to the
    /// thread, which finds out what it means.
    fn try_read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        if self.has_nowait.load(Relaxed) {
            match self.read_some(at, to, libc::RWF_NOWAIT) {
                Ok(count) if count == to.len() => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.has_nowait.store(false, Relaxed);
                }
                _ => {}
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_from(&self, at: u64, from: &Readable<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < from.len() {
            let mut vectors = Vectors::new();
            let (list, count) = vectors.fill(from.part(done, from.len()).slices());
            let (file, to) = (self.file.as_raw_fd(), offset(at + done)?);
            // SAFETY: the first `count` vectors are slices of guest memory, which stays mapped while
            // `from` borrows it. The kernel reads there as another processor would.
            done += moved(unsafe { libc::pwritev(file, list, count, to) })?;
        }
        Ok(())
    }

    /// Gives the room back to the host, where its file system can.
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::PUNCH_HOLE, at, len).map(|_| ())
    }

    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let how = match unmap {
            true => FallocateFlags::PUNCH_HOLE,
            false => FallocateFlags::ZERO_RANGE,
        };
        match self.fallocate(how, at, len)? {
            true => Ok(()),
            false => write_zeros(self, at, len),
        }
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Makes the file longer or shorter; of a block device, which only its owner resizes, nothing.
    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.is_regular || self.read_only {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.file.set_len(len)?;
        self.len.store(len, Relaxed);
        Ok(())
    }
}

impl fmt::Debug for RawFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawFile({}, {} bytes)", self.path.display(), self.len())
    }
}
