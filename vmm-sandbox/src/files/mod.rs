//! What a program has open.
//!
//! A file is anything behind a descriptor, and knows the host only by what it was made of. Several
//! descriptors may share one ([`Handle`]).

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

/// The most descriptors a program may have.
const MOST: usize = 1024;

/// Something that is open. Each call is made with the file locked, on the sandbox's thread.
pub(crate) trait File: Send {
    /// Fills `data` from where the file stands; 0 at its end.
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno>;

    /// Writes `data` where the file stands.
    fn write(&mut self, data: &[u8]) -> Result<usize, Errno>;

    /// What `fstat` shows.
    fn status(&self) -> Status;

    /// Fills `data` from a place, without moving.
    fn read_at(&mut self, _offset: u64, _data: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NODEV)
    }

    /// What to wait for until a read can go on, where one may wait.
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether what is written counts as output of the sandbox.
    fn is_output(&self) -> bool {
        false
    }
}

/// What a program can learn of a file without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Type and permissions: `st_mode`.
    pub(crate) mode: u32,
    pub(crate) size: u64,
}

impl Status {
    /// A pipe.
    pub(crate) const PIPE: Self = Self { mode: libc::S_IFIFO | 0o600, size: 0 };
}

/// An open file, as descriptors share it.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Mutex<dyn File>>);

impl Handle {
    pub(crate) fn new(file: impl File + 'static) -> Self {
        Self(Arc::new(Mutex::new(file)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, dyn File + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The descriptors.
pub(crate) struct Files {
    open: Vec<Option<Handle>>,
}

impl Files {
    /// Standard input, output and error.
    pub(crate) fn new(streams: [Handle; 3]) -> Self {
        Self { open: streams.into_iter().map(Some).collect() }
    }

    /// The most there may be.
    pub(crate) fn most(&self) -> usize {
        MOST
    }

    /// The file behind a descriptor.
    pub(crate) fn get(&self, fd: u64) -> Result<Handle, Errno> {
        let slot = index(fd).and_then(|index| self.open.get(index));
        slot.cloned().flatten().ok_or(Errno::BADF)
    }

    /// Opens a file at the lowest free descriptor.
    pub(crate) fn open(&mut self, file: Handle) -> Result<u64, Errno> {
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if free >= MOST {
            return Err(Errno::MFILE);
        }
        if free == self.open.len() {
            self.open.push(None);
        }
        if let Some(slot) = self.open.get_mut(free) {
            *slot = Some(file);
        }
        Ok(free as u64)
    }

    /// Closes a descriptor.
    pub(crate) fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let slot = index(fd).and_then(|index| self.open.get_mut(index));
        slot.and_then(Option::take).map(drop).ok_or(Errno::BADF)
    }
}

/// A descriptor is an `int`: the upper half of the register is not part of it.
fn index(fd: u64) -> Option<usize> {
    usize::try_from(fd as i32).ok()
}
