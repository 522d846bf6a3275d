//! `/proc`: what a program can learn of itself, and nothing of the host.

use std::{collections::BTreeMap, fmt::Write as _, io::SeekFrom, sync::Arc};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_core::{Error, Result as CoreResult};

use super::{
    About, Copied, Copies, File, Handle, How, Listed, Node, Place, Status, View,
    list::{Names, OpenDirectory},
    saved::{SavedFile, SavedNode, Saver},
    tree::{Held, Room, sought},
};

/// `st_dev` of what is made up.
pub(super) const DEVICE: u64 = 2;

/// The directory `/proc`.
pub(super) fn directory() -> Arc<dyn Node> {
    Fixed::directory(Which::Processes, [("self", own_directory())].into_iter())
}

/// The directory `/proc/self`.
fn own_directory() -> Arc<dyn Node> {
    let own: [(&str, Arc<dyn Node>); 3] =
        [("exe", Arc::new(Own::Exe)), ("fd", Arc::new(Descriptors)), ("maps", Arc::new(Own::Maps))];
    Fixed::directory(Which::Own, own.into_iter())
}

/// A directory whose names never change.
pub(super) struct Fixed {
    which: Which,
    entries: BTreeMap<Vec<u8>, Arc<dyn Node>>,
}

/// The directories there are of that kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Which {
    /// `/dev`.
    Devices,
    /// What only leads to something mounted.
    Empty,
    /// `/proc/self`.
    Own,
    /// `/proc`.
    Processes,
}

impl Fixed {
    pub(super) fn directory(
        which: Which,
        entries: impl Iterator<Item = (&'static str, Arc<dyn Node>)>,
    ) -> Arc<dyn Node> {
        let entries = entries.map(|(name, node)| (name.as_bytes().to_vec(), node));
        Arc::new(Self { which, entries: entries.collect() })
    }

    /// One without names.
    pub(super) fn empty() -> Arc<dyn Node> {
        Self::directory(Which::Empty, std::iter::empty())
    }
}

/// What of all that is in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Saved {
    Descriptors,
    Directory(Which),
    Exe,
    Link(Vec<u8>),
    Maps,
}

/// What was saved, made anew.
pub(super) fn saved(saved: &Saved) -> Arc<dyn Node> {
    match saved {
        Saved::Descriptors => Arc::new(Descriptors),
        Saved::Directory(Which::Devices) => super::device::directory(),
        Saved::Directory(Which::Empty) => Fixed::empty(),
        Saved::Directory(Which::Own) => own_directory(),
        Saved::Directory(Which::Processes) => directory(),
        Saved::Exe => Arc::new(Own::Exe),
        Saved::Link(target) => link(target.clone()),
        Saved::Maps => Arc::new(Own::Maps),
    }
}

/// A text that was open when it was saved.
pub(super) fn saved_text(
    text: &[u8],
    at: u64,
    place: Place,
    room: &Arc<Room>,
) -> Result<Handle, Errno> {
    let mut held = Held::nothing(room);
    held.take(text.len() as u64)?;
    Ok(Handle::new(Text { text: text.to_vec(), at, place, held }))
}

impl Node for Fixed {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(made_up(libc::S_IFDIR | 0o555))
    }

    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno> {
        let mut names = Names::new(view.room);
        for (name, node) in &self.entries {
            let status = node.status(view)?;
            let (inode, kind) = (status.inode, status.kind());
            names.add(Listed { name: name.clone(), inode, kind })?;
        }
        open_directory(names, (place, how), view)
    }

    fn find(&self, name: &[u8], _: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        self.entries.get(name).cloned().ok_or(Errno::NOENT)
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        Ok(SavedNode::Own(Saved::Directory(self.which)))
    }
}

fn open_directory(names: Names, at: (&Place, How), view: &View<'_>) -> Result<Handle, Errno> {
    if at.1.write {
        return Err(Errno::ISDIR);
    }
    let status = made_up(libc::S_IFDIR | 0o555);
    Ok(Handle::new(OpenDirectory::new(names, status, at, view)?))
}

fn made_up(mode: u32) -> Status {
    Status { device: DEVICE, inode: 1, ..Status::of_mode(mode) }
}

/// A link that always says the same.
pub(super) fn link(target: Vec<u8>) -> Arc<dyn Node> {
    Arc::new(Own::Link(target))
}

/// What of the program is one file.
enum Own {
    /// A link to the program, which is not in its tree.
    Exe,
    Link(Vec<u8>),
    Maps,
}

impl Node for Own {
    fn status(&self, view: &View<'_>) -> Result<Status, Errno> {
        Ok(match self {
            Self::Maps => made_up(libc::S_IFREG | 0o444),
            link => {
                let size = link.target(view)?.len() as u64;
                Status { size, ..made_up(libc::S_IFLNK | 0o777) }
            }
        })
    }

    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno> {
        match self {
            _ if how.write => Err(Errno::ACCESS),
            Self::Maps => Ok(Handle::new(Text::new(maps(view), place, view)?)),
            _ => Err(Errno::LOOP),
        }
    }

    fn target(&self, view: &View<'_>) -> Result<Vec<u8>, Errno> {
        match self {
            Self::Exe => Ok(view.program.to_vec()),
            Self::Link(target) => Ok(target.clone()),
            Self::Maps => Err(Errno::INVAL),
        }
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        Ok(SavedNode::Own(match self {
            Self::Exe => Saved::Exe,
            Self::Link(target) => Saved::Link(target.clone()),
            Self::Maps => Saved::Maps,
        }))
    }
}

/// The areas of memory as `proc_pid_maps(5)` has them.
fn maps(view: &View<'_>) -> Vec<u8> {
    let mut text = String::new();
    for (at, len, protection) in view.space.areas() {
        let letter = |may, letter| if may { letter } else { '-' };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{at:08x}-{:08x} {}{}{}p 00000000 00:00 0",
            at + len,
            letter(protection.read, 'r'),
            letter(protection.write, 'w'),
            letter(protection.execute, 'x'),
        );
    }
    text.into_bytes()
}

/// `/proc/self/fd`.
struct Descriptors;

impl Node for Descriptors {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(made_up(libc::S_IFDIR | 0o500))
    }

    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno> {
        let mut names = Names::new(view.room);
        for fd in view.files.descriptors() {
            let name = fd.to_string().into_bytes();
            names.add(Listed { name, inode: 1000 + fd, kind: libc::S_IFLNK })?;
        }
        open_directory(names, (place, how), view)
    }

    fn find(&self, name: &[u8], view: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let fd = number.filter(|fd: &u64| fd.to_string().as_bytes() == name).ok_or(Errno::NOENT)?;
        let file = view.files.get(fd).map_err(|_| Errno::NOENT)?;
        Ok(Arc::new(Descriptor(file)))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        Ok(SavedNode::Own(Saved::Descriptors))
    }
}

/// A link to what a descriptor has open.
struct Descriptor(Handle);

impl Node for Descriptor {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        // Not a link to who looks at it: following it leads to the open file itself, which may have
        // no path.
        self.0.lock().status()
    }

    fn open(&self, _: How, _: &Place, _: &View<'_>) -> Result<Handle, Errno> {
        Ok(self.0.clone())
    }

    fn copy(&self, copies: &mut Copies) -> CoreResult<Option<Arc<dyn Node>>> {
        Ok(Some(Arc::new(Self(copies.handle(&self.0)?))))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        let why = "the program is in a directory that it found as one of /proc/self/fd";
        Err(Error::unsupported(format!("saving: {why}")))
    }

    fn target(&self, _: &View<'_>) -> Result<Vec<u8>, Errno> {
        let file = self.0.lock();
        if let Some(place) = file.about().place {
            return Ok(place.path());
        }
        let inode = file.status()?.inode;
        Ok(format!("pipe:[{inode}]").into_bytes())
    }
}

/// A text that is open.
struct Text {
    text: Vec<u8>,
    at: u64,
    place: Place,
    /// What the text takes.
    held: Held,
}

impl Text {
    fn new(text: Vec<u8>, place: &Place, view: &View<'_>) -> Result<Self, Errno> {
        let mut held = Held::nothing(view.room);
        held.take(text.len() as u64)?;
        Ok(Self { text, at: 0, place: place.clone(), held })
    }
}

impl File for Text {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        let count = self.read_at(self.at, data)?;
        self.at += count as u64;
        Ok(count)
    }

    fn write(&mut self, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::BADF)
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(made_up(libc::S_IFREG | 0o444))
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.text.get(at..)).unwrap_or(&[]);
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(rest.len().min(data.len()))
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Errno> {
        self.at = sought(to, self.at, self.text.len() as u64)?;
        Ok(self.at)
    }

    fn about(&self) -> About<'_> {
        About::at(&self.place, libc::O_RDONLY)
    }
}

impl Copied for Text {
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let (place, held) = (self.place.copy(copies)?, self.held.copy(copies)?);
        Ok(Handle::new(Self { text: self.text.clone(), at: self.at, place, held }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        let (text, place) = (self.text.clone(), saver.place(&self.place));
        Ok(SavedFile::Text { text, at: self.at, place })
    }
}
