//! A disk in memory, gone with its machine.

use std::{
    fmt, io,
    ops::Range,
    sync::{PoisonError, RwLock},
};

use vmm_core::{
    Error, Result,
    virtio::{Readable, Writable},
};

use super::Image;

/// Bytes in memory, zeros at first. A flush has nothing to do; nothing outlives the device.
pub struct MemoryImage(RwLock<Vec<u8>>);

impl MemoryImage {
    /// `len` zeros. The host gives memory as it is written.
    ///
    /// # Errors
    /// `BadConfig` if there is no such memory.
    pub fn new(len: u64) -> Result<Self> {
        let too_large = || Error::bad_config(format!("disk of {len} bytes in memory"));
        let size = usize::try_from(len).map_err(|_| too_large())?;
        // Asked for first, for an allocation of zeros that fails ends the process.
        let mut data = Vec::<u8>::new();
        data.try_reserve_exact(size).map_err(|_| too_large())?;
        drop(data);
        Ok(Self::from(vec![0; size]))
    }

    fn range(data: &[u8], at: u64, len: u64) -> io::Result<Range<usize>> {
        let start = usize::try_from(at).ok();
        let end = at.checked_add(len).and_then(|end| usize::try_from(end).ok());
        match (start, end) {
            (Some(start), Some(end)) if end <= data.len() => Ok(start..end),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Does something with bytes of it.
    fn with<T>(&self, at: u64, len: u64, read: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let data = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let range = Self::range(&data, at, len)?;
        Ok(read(data.get(range).unwrap_or_default()))
    }

    /// Changes bytes of it.
    fn change<T>(&self, at: u64, len: u64, change: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
        let mut data = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let range = Self::range(&data, at, len)?;
        Ok(change(data.get_mut(range).unwrap_or_default()))
    }
}

impl From<Vec<u8>> for MemoryImage {
    fn from(data: Vec<u8>) -> Self {
        Self(RwLock::new(data))
    }
}

impl Image for MemoryImage {
    fn len(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        self.with(at, data.len() as u64, |bytes| data.copy_from_slice(bytes))
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.change(at, data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        self.with(at, to.len(), |bytes| to.write(0, bytes)).map(|_| ())
    }

    fn try_read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        // Locked only by who writes it or makes it longer, or by a panic.
        let Ok(data) = self.0.try_read() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let range = Self::range(&data, at, to.len())?;
        to.write(0, data.get(range).unwrap_or_default());
        Ok(())
    }

    fn write_from(&self, at: u64, from: &Readable<'_>) -> io::Result<()> {
        self.change(at, from.len(), |bytes| from.read(0, bytes)).map(|_| ())
    }

    fn write_zeroes(&self, at: u64, len: u64, _: bool) -> io::Result<()> {
        self.change(at, len, |bytes| bytes.fill(0))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut data = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let more = size.saturating_sub(data.len());
        data.try_reserve_exact(more)?;
        data.resize(size, 0);
        Ok(())
    }
}

impl fmt::Debug for MemoryImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryImage({} bytes)", self.len())
    }
}
