//! What a program has open, and where it finds what it can open.
//!
//! A [`File`] is anything behind a descriptor; several descriptors may share one ([`Handle`]). A
//! [`Node`] is anything behind a path, in the program's own tree or in a directory of the host that
//! was granted; [`path`](mod@path) is the way to it. System calls know no kinds of either.

mod copies;
mod device;
mod host;
mod list;
mod node;
mod path;
mod pipe;
mod proc;
mod saved;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    any::Any,
    io::SeekFrom,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_core::Result as CoreResult;

pub(crate) use self::{
    copies::{Copied, Copies},
    host::grant,
    node::{How, Kind, Listed, Node, Set, View},
    path::{Follow, Found, MOST_PATH, Namespace, Place},
    pipe::pipe,
    saved::{RECORD, Record, SavedFile, SavedGrant, Saver},
    tree::Room,
};

/// The most descriptors a program may have.
const MOST: usize = 1024;

/// The tree of a program that was given no directory: empty but for `/tmp`, and at most `limit`
/// bytes.
pub(crate) fn empty(limit: u64) -> Result<Namespace, Errno> {
    let room = Room::new(limit);
    let root = tree::tree(&room)?;
    for (name, mode) in [(b"dev".as_slice(), 0o755), (b"proc", 0o555), (b"tmp", 0o1777)] {
        root.make(name, Kind::Directory, mode)?;
    }
    let mut namespace = Namespace::new(root, room);
    namespace.mount(b"/dev", device::directory());
    namespace.mount(b"/proc", proc::directory());
    namespace.keep_to_oneself();
    Ok(namespace)
}

/// Something that is open. Each call is made with the file locked, on the sandbox's thread.
pub(crate) trait File: Copied + Send + Any {
    /// Fills `data` from where the file stands; 0 at its end.
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno>;

    /// Writes `data` where the file stands.
    fn write(&mut self, data: &[u8]) -> Result<usize, Errno>;

    /// What `fstat` shows.
    fn status(&self) -> Result<Status, Errno>;

    /// Fills `data` from a place, without moving.
    fn read_at(&mut self, _offset: u64, _data: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::SPIPE)
    }

    /// Writes `data` to a place, without moving.
    fn write_at(&mut self, _offset: u64, _data: &[u8]) -> Result<usize, Errno> {
        Err(Errno::SPIPE)
    }

    /// Moves to a place and says where that is.
    fn seek(&mut self, _to: SeekFrom) -> Result<u64, Errno> {
        Err(Errno::SPIPE)
    }

    /// Makes the file so long.
    fn set_len(&mut self, _len: u64) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// Makes sure that what was written stays.
    fn sync(&mut self) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// Whether a read, a write would not wait.
    fn ready(&self) -> Ready<'_> {
        Ready::ALWAYS
    }

    /// The next names of a directory, as many as `take` takes.
    fn list(&mut self, _take: &mut dyn FnMut(&Listed, u64) -> bool) -> Result<(), Errno> {
        Err(Errno::NOTDIR)
    }

    /// What is to be known of it beside its content.
    fn about(&self) -> About<'_>;

    /// Sets `O_APPEND` and `O_NONBLOCK` as in `flags`.
    fn set_flags(&mut self, _flags: i32) {}
}

/// What is to be known of an open file beside its content.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    /// The `O_*` flags it was opened with, as far as `fcntl` shows them.
    pub(crate) flags: i32,
    /// Whether what is written counts as output of the sandbox.
    pub(crate) is_output: bool,
    /// Where it was found, if by a path.
    pub(crate) place: Option<&'a Place>,
}

impl<'a> About<'a> {
    /// Of a file without a path.
    pub(crate) fn stream(flags: i32) -> Self {
        Self { flags, is_output: false, place: None }
    }

    /// Of a file at a place.
    pub(crate) fn at(place: &'a Place, flags: i32) -> Self {
        Self { flags, is_output: false, place: Some(place) }
    }
}

/// What a wait for a file finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready<'a> {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The other end is gone.
    pub(crate) hangup: bool,
    /// A descriptor of the host to ask instead.
    pub(crate) ask: Option<BorrowedFd<'a>>,
}

impl Ready<'_> {
    pub(crate) const ALWAYS: Self = Self { read: true, write: true, hangup: false, ask: None };
}

/// What a program can learn of a file without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Type and permissions: `st_mode`.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    /// `None`: the program itself.
    pub(crate) owner: Option<(u32, u32)>,
    /// For a device: which one.
    pub(crate) special: u64,
    /// Of 512 bytes.
    pub(crate) blocks: u64,
    /// Since 1970: the last access, the last change of the content, of the status.
    pub(crate) times: [Duration; 3],
}

impl Status {
    /// A pipe.
    pub(crate) const PIPE: Self = Self::of_mode(libc::S_IFIFO | 0o600);

    /// All else 0, of the program itself.
    pub(crate) const fn of_mode(mode: u32) -> Self {
        const NEVER: [Duration; 3] = [Duration::ZERO; 3];
        Self {
            mode,
            size: 0,
            device: 0,
            inode: 0,
            links: 1,
            owner: None,
            special: 0,
            blocks: 0,
            times: NEVER,
        }
    }

    /// The type alone.
    pub(crate) fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }
}

/// The time that goes into a file's status.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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

    /// Whether both are the same open file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The descriptors.
pub(crate) struct Files {
    open: Vec<Option<Descriptor>>,
}

/// A descriptor.
#[derive(Clone)]
struct Descriptor {
    file: Handle,
    /// `FD_CLOEXEC`: kept for who asks; nothing is ever executed.
    closes: bool,
}

impl Files {
    /// Standard input, output and error.
    pub(crate) fn new(streams: [Handle; 3]) -> Self {
        let open = streams.into_iter().map(|file| Some(Descriptor { file, closes: false }));
        Self { open: open.collect() }
    }

    /// The same files, open in another sandbox.
    ///
    /// # Errors
    /// `Host` if one is the host's and cannot be opened anew.
    pub(crate) fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        let copy = |slot: &Option<Descriptor>| {
            let copy = slot.as_ref().map(|Descriptor { file, closes }| {
                Ok(Descriptor { file: copies.handle(file)?, closes: *closes })
            });
            copy.transpose()
        };
        Ok(Self { open: self.open.iter().map(copy).collect::<CoreResult<_>>()? })
    }

    /// The most there may be.
    pub(crate) fn most(&self) -> usize {
        MOST
    }

    /// The file behind a descriptor.
    pub(crate) fn get(&self, fd: u64) -> Result<Handle, Errno> {
        Ok(self.descriptor(fd)?.file.clone())
    }

    /// Whether the descriptor is marked as one that closes on exec.
    pub(crate) fn closes(&self, fd: u64) -> Result<bool, Errno> {
        Ok(self.descriptor(fd)?.closes)
    }

    pub(crate) fn set_closes(&mut self, fd: u64, closes: bool) -> Result<(), Errno> {
        let slot = index(fd).and_then(|index| self.open.get_mut(index)?.as_mut());
        slot.ok_or(Errno::BADF)?.closes = closes;
        Ok(())
    }

    /// Opens a file at the lowest free descriptor.
    pub(crate) fn open(&mut self, file: Handle) -> Result<u64, Errno> {
        self.open_from(0, file, false)
    }

    /// Opens a file at the lowest free descriptor that is not below `least`.
    pub(crate) fn open_from(
        &mut self,
        least: usize,
        file: Handle,
        closes: bool,
    ) -> Result<u64, Errno> {
        let taken = |slot: &Option<Descriptor>| slot.is_some();
        let behind = self.open.get(least..).unwrap_or(&[]);
        let free = least + behind.iter().take_while(|slot| taken(slot)).count();
        self.put(free, file, closes).map_err(|_| Errno::MFILE)
    }

    /// Opens a file at this descriptor, closing what was there.
    pub(crate) fn replace(&mut self, fd: u64, file: Handle, closes: bool) -> Result<u64, Errno> {
        self.put(index(fd).ok_or(Errno::BADF)?, file, closes)
    }

    fn put(&mut self, place: usize, file: Handle, closes: bool) -> Result<u64, Errno> {
        if place >= MOST {
            return Err(Errno::BADF);
        }
        if place >= self.open.len() {
            self.open.resize(place + 1, None);
        }
        if let Some(slot) = self.open.get_mut(place) {
            *slot = Some(Descriptor { file, closes });
        }
        Ok(place as u64)
    }

    /// Closes a descriptor.
    pub(crate) fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let slot = index(fd).and_then(|index| self.open.get_mut(index));
        slot.and_then(Option::take).map(drop).ok_or(Errno::BADF)
    }

    /// Those that are open, in ascending order.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = u64> {
        (0..).zip(&self.open).filter(|(_, slot)| slot.is_some()).map(|(fd, _)| fd)
    }

    fn descriptor(&self, fd: u64) -> Result<&Descriptor, Errno> {
        let slot = index(fd).and_then(|index| self.open.get(index)?.as_ref());
        slot.ok_or(Errno::BADF)
    }
}

/// A descriptor is an `int`: the upper half of the register is not part of it.
fn index(fd: u64) -> Option<usize> {
    usize::try_from(fd as i32).ok()
}
