//! What is behind a path.

use std::{any::Any, sync::Arc, time::Duration};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_core::Result as CoreResult;

use super::{
    Copies, Files, Handle, Place, Room, Status,
    saved::{SavedNode, Saver},
};
use crate::space::Space;

/// A file, a directory, a link somewhere in a program's tree.
///
/// Names are single: not empty, no `/`, neither `.` nor `..`; who walks has seen to that, and
/// follows links. What a kind does not have is refused as by Linux.
pub(crate) trait Node: Send + Sync + Any {
    /// What `lstat` shows.
    fn status(&self, view: &View<'_>) -> Result<Status, Errno>;

    /// Opens it; `place` is where it was found.
    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno>;

    /// What a link says.
    fn target(&self, _view: &View<'_>) -> Result<Vec<u8>, Errno> {
        Err(Errno::INVAL)
    }

    /// What has this name in a directory.
    fn find(&self, _name: &[u8], _view: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        Err(Errno::NOTDIR)
    }

    /// Makes something of this name, which there must not be.
    fn make(&self, _name: &[u8], _kind: Kind<'_>, _mode: u32) -> Result<Arc<dyn Node>, Errno> {
        Err(Errno::ROFS)
    }

    /// Gives a file a second name.
    fn link(&self, _name: &[u8], _node: &Arc<dyn Node>) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }

    /// Takes a name away: of an empty directory, or of something else.
    fn remove(&self, _name: &[u8], _directory: bool) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }

    /// Moves a name to another directory of the same kind, or inside this one.
    fn rename(
        &self,
        _name: &[u8],
        _to: &Arc<dyn Node>,
        _new: &[u8],
        _keep: bool,
    ) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }

    /// Changes the status.
    fn set(&self, _what: Set) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }

    /// The same in another sandbox; `None` if it is shared, because it never changes or is the
    /// host's.
    fn copy(&self, _copies: &mut Copies) -> CoreResult<Option<Arc<dyn Node>>> {
        Ok(None)
    }

    /// It as a record, which names others by what `saver` calls them.
    fn save(&self, saver: &mut Saver) -> CoreResult<SavedNode>;

    /// Whether nothing of it can be changed by anyone.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// What can be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    Directory,
    File,
    Link(&'a [u8]),
}

/// What can be changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Set {
    Len(u64),
    /// Permissions.
    Mode(u32),
    /// Last access and last change; what is `None` stays.
    Times([Option<Duration>; 2]),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct How {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) truncate: bool,
}

impl How {
    /// From the flags of `open`.
    pub(crate) fn of(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        let has = |flag| flags & flag != 0;
        Self {
            read: access != libc::O_WRONLY && !has(libc::O_PATH),
            write: access != libc::O_RDONLY && !has(libc::O_PATH),
            append: has(libc::O_APPEND),
            truncate: has(libc::O_TRUNC) && !has(libc::O_PATH),
        }
    }

    /// The permissions it takes: a sum of `R_OK` and `W_OK`.
    pub(crate) fn wants(self) -> i32 {
        (if self.read { libc::R_OK } else { 0 }) | (if self.write { libc::W_OK } else { 0 })
    }

    /// As the flags of `open`.
    pub(crate) fn flags(self) -> i32 {
        let access = match (self.read, self.write) {
            (true, true) => libc::O_RDWR,
            (false, true) => libc::O_WRONLY,
            (true, false) => libc::O_RDONLY,
            (false, false) => libc::O_PATH,
        };
        access | if self.append { libc::O_APPEND } else { 0 }
    }
}

/// A name in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: u64,
    /// `S_IFDIR` and so on.
    pub(crate) kind: u32,
}

/// What of the program itself its files show.
pub(crate) struct View<'a> {
    pub(crate) files: &'a Files,
    pub(crate) space: &'a Space,
    pub(crate) program: &'a [u8],
    /// What the host keeps for it counts against this.
    pub(crate) room: &'a Arc<Room>,
    /// What is mounted in the directory that is opened.
    pub(crate) mounted: Vec<Listed>,
}
