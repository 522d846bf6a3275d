//! The names in a directory, as they were when a program opened it.

use std::{io::SeekFrom, sync::Arc};

use rustix::io::Errno;
use vmm_core::Result as CoreResult;

use super::{
    About, Copied, Copies, File, Handle, How, Listed, Place, Status, View,
    saved::{SavedFile, Saver},
    tree::{Held, Room, sought},
};

/// A list of names. It is a copy, made by the host for the program, so it counts against what the
/// program's files in memory may take, wherever the directory is.
pub(super) struct Names {
    pub(super) all: Vec<Listed>,
    pub(super) held: Held,
}

impl Names {
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self { all: Vec::new(), held: Held::nothing(room) }
    }

    /// Adds a name; `NOMEM` if there is no room for it.
    pub(super) fn add(&mut self, listed: Listed) -> Result<(), Errno> {
        self.held.take((listed.name.len() + size_of::<Listed>()) as u64)?;
        self.all.push(listed);
        Ok(())
    }
}

/// A directory that is open: its names as they were then.
pub(super) struct OpenDirectory {
    names: Vec<Listed>,
    next: usize,
    status: Status,
    place: Place,
    how: How,
    /// What the list takes.
    held: Held,
}

impl OpenDirectory {
    /// With what is mounted in it.
    pub(super) fn new(
        mut names: Names,
        status: Status,
        (place, how): (&Place, How),
        view: &View<'_>,
    ) -> Result<Self, Errno> {
        for listed in &view.mounted {
            if !names.all.iter().any(|known| known.name == listed.name) {
                names.add(listed.clone())?;
            }
        }
        let kind = libc::S_IFDIR;
        let dots = [b".".to_vec(), b"..".to_vec()];
        let dots = dots.into_iter().map(|name| Listed { name, inode: status.inode, kind });
        let Names { all, held } = names;
        let names = dots.chain(all).collect();
        Ok(Self { names, next: 0, status, place: place.clone(), how, held })
    }
}

impl File for OpenDirectory {
    fn read(&mut self, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::ISDIR)
    }

    fn write(&mut self, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::BADF)
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(self.status)
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Errno> {
        let place = sought(to, self.next as u64, self.names.len() as u64)?;
        self.next = usize::try_from(place).unwrap_or(usize::MAX);
        Ok(place)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn list(&mut self, take: &mut dyn FnMut(&Listed, u64) -> bool) -> Result<(), Errno> {
        if !self.how.read {
            return Err(Errno::BADF);
        }
        while let Some(listed) = self.names.get(self.next) {
            if !take(listed, self.next as u64 + 1) {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn about(&self) -> About<'_> {
        About::at(&self.place, self.how.flags() | libc::O_DIRECTORY)
    }
}

impl Copied for OpenDirectory {
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let (held, place) = (self.held.copy(copies)?, self.place.copy(copies)?);
        let (names, status) = (self.names.clone(), self.status);
        Ok(Handle::new(Self { names, next: self.next, status, place, how: self.how, held }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        Ok(SavedFile::Directory {
            names: self.names.clone(),
            next: self.next as u64,
            status: self.status,
            how: self.how,
            place: saver.place(&self.place),
        })
    }
}

/// A directory that was open when it was saved.
pub(super) fn saved(
    names: &[Listed],
    next: usize,
    (status, how): (Status, How),
    place: Place,
    room: &Arc<Room>,
) -> Result<Handle, Errno> {
    let mut all = Names::new(room);
    names.iter().try_for_each(|name| all.add(name.clone()))?;
    let Names { all: names, held } = all;
    Ok(Handle::new(OpenDirectory { names, next, status, place, how, held }))
}
