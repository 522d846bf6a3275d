//! Files in memory: what a program has that was given no directory.
//!
//! All of a tree counts against one limit, names and nodes too, so that a program cannot make the
//! host's memory its own.

mod saved;

use std::{
    any::Any,
    collections::BTreeMap,
    io::SeekFrom,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::io::Errno;
use vmm_core::Result as CoreResult;

use super::{
    About, Copied, Copies, File, Handle, How, Kind, Listed, Node, Place, Set, Status, View,
    list::{Names, OpenDirectory},
    now,
    saved::{SavedAbout, SavedFile, SavedNode, Saver},
};

pub(super) use self::saved::{Links, connect, directory_of, file_of, link_of, open_of};

/// What a node and its first name, and each further name, cost beside their bytes.
const NODE: u64 = 256;
const ENTRY: u64 = 64;
/// `st_dev` of everything in memory.
const DEVICE: u64 = 1;

/// What a tree may still grow, and its next inode number.
#[derive(Debug)]
pub(crate) struct Room {
    left: AtomicU64,
    inodes: AtomicU64,
}

impl Room {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(limit), inodes: AtomicU64::new(2) })
    }

    fn take(&self, bytes: u64) -> Result<(), Errno> {
        let taken = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| Errno::NOSPC)
    }

    /// The bytes that can still be taken.
    #[cfg(feature = "testing")]
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }

    /// The number that the next node gets.
    pub(super) fn next_inode(&self) -> u64 {
        self.inodes.load(Relaxed)
    }

    pub(super) fn set_next_inode(&self, next: u64) {
        self.inodes.store(next, Relaxed);
    }

    fn give(&self, bytes: u64) {
        self.left.fetch_add(bytes, Relaxed);
    }

    /// The room of a copy of everything that counts against it: none of that takes room again.
    pub(super) fn copy(self: &Arc<Self>, copies: &mut Copies) -> CoreResult<Arc<Self>> {
        copies.once(self, |_| {
            let copy = |word: &AtomicU64| AtomicU64::new(word.load(Relaxed));
            Ok(Arc::new(Self { left: copy(&self.left), inodes: copy(&self.inodes) }))
        })
    }
}

/// What any node in memory has.
#[derive(Debug)]
struct Common {
    inode: u64,
    room: Arc<Room>,
    meta: Mutex<Meta>,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    /// Permissions.
    mode: u32,
    links: u64,
    times: [Duration; 3],
}

impl Common {
    fn new(room: &Arc<Room>, mode: u32) -> Result<Self, Errno> {
        room.take(NODE)?;
        let meta = Meta { mode: mode & 0o7777, links: 1, times: [now(); 3] };
        let inode = room.inodes.fetch_add(1, Relaxed);
        Ok(Self { inode, room: Arc::clone(room), meta: Mutex::new(meta) })
    }

    fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        let (room, meta) = (self.room.copy(copies)?, Mutex::new(*self.meta()));
        Ok(Self { inode: self.inode, room, meta })
    }

    fn save(&self) -> SavedAbout {
        let meta = *self.meta();
        SavedAbout { inode: self.inode, mode: meta.mode, times: meta.times }
    }

    fn of_saved(room: &Arc<Room>, about: &SavedAbout, links: u64) -> Result<Self, Errno> {
        room.take(NODE)?;
        let meta = Meta { mode: about.mode & 0o7777, links, times: about.times };
        Ok(Self { inode: about.inode, room: Arc::clone(room), meta: Mutex::new(meta) })
    }

    fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, kind: u32, size: u64) -> Status {
        let meta = *self.meta();
        Status {
            size,
            device: DEVICE,
            inode: self.inode,
            links: meta.links,
            blocks: size.div_ceil(512),
            times: meta.times,
            ..Status::of_mode(kind | meta.mode)
        }
    }

    /// The content was changed now.
    fn touch(&self) {
        let now = now();
        let times = &mut self.meta().times;
        (times[1], times[2]) = (now, now);
    }

    fn set(&self, what: Set) {
        let mut meta = self.meta();
        match what {
            Set::Len(_) => {}
            Set::Mode(mode) => meta.mode = mode & 0o7777,
            Set::Times([access, change]) => {
                meta.times[0] = access.unwrap_or(meta.times[0]);
                meta.times[1] = change.unwrap_or(meta.times[1]);
            }
        }
        meta.times[2] = now();
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.room.give(NODE);
    }
}

/// A directory in memory.
pub(super) struct Directory {
    common: Common,
    entries: Mutex<Entries>,
    me: Weak<Self>,
    parent: Mutex<Weak<Self>>,
}

type Entries = BTreeMap<Vec<u8>, Arc<dyn Node>>;

/// An empty tree in this room.
pub(super) fn tree(room: &Arc<Room>) -> Result<Arc<dyn Node>, Errno> {
    Ok(Directory::new(room, 0o755, Weak::new())?)
}

impl Directory {
    fn new(room: &Arc<Room>, mode: u32, parent: Weak<Self>) -> Result<Arc<Self>, Errno> {
        let common = Common::new(room, mode)?;
        common.meta().links = 2;
        let (entries, parent) = (Mutex::default(), Mutex::new(parent));
        Ok(Arc::new_cyclic(|me| Self { common, entries, me: me.clone(), parent }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parent(&self) -> MutexGuard<'_, Weak<Self>> {
        self.parent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is `other` or below it. Its path does not tell: a program may hold on to a
    /// directory that was moved.
    fn is_in(&self, other: &Self) -> bool {
        let mut at = self.me.upgrade();
        while let Some(directory) = at {
            if std::ptr::eq(&*directory, other) {
                return true;
            }
            at = directory.parent().upgrade();
        }
        false
    }

    /// Whether it was taken out of the tree, and only who has it open still sees it.
    fn is_removed(&self) -> bool {
        self.common.meta().links == 0
    }

    fn add(&self, name: &[u8], node: Arc<dyn Node>) -> Result<(), Errno> {
        if self.is_removed() {
            return Err(Errno::NOENT);
        }
        self.common.room.take(cost(name))?;
        self.put(name, node);
        Ok(())
    }

    /// Adds what there is room for.
    fn put(&self, name: &[u8], node: Arc<dyn Node>) {
        self.entries().insert(name.to_vec(), node);
        self.common.touch();
    }

    fn take_all(&self) -> Entries {
        let entries = std::mem::take(&mut *self.entries());
        self.common.room.give(entries.keys().map(|name| cost(name)).sum());
        entries
    }

    fn take(&self, name: &[u8]) -> Option<Arc<dyn Node>> {
        let node = self.entries().remove(name)?;
        self.common.room.give(cost(name));
        self.common.touch();
        Some(node)
    }
}

impl Drop for Directory {
    /// Takes what is below apart one by one: a program can make a tree deeper than the stack is for
    /// drops inside drops.
    fn drop(&mut self) {
        let mut left: Vec<_> = self.take_all().into_values().collect();
        while let Some(node) = left.pop() {
            if Arc::strong_count(&node) == 1
                && let Some(directory) = directory(&node)
            {
                left.extend(directory.take_all().into_values());
            }
        }
    }
}

/// A directory's copy that has no entries and no parent yet.
pub(super) struct Unfilled {
    from: Arc<Directory>,
    to: Arc<Directory>,
}

impl Unfilled {
    pub(super) fn fill(self, copies: &mut Copies) -> CoreResult<()> {
        let entries = self.from.entries().clone();
        for (name, node) in entries {
            let copy = copies.node(&node)?;
            self.to.entries().insert(name, copy);
        }
        if let Some(parent) = self.from.parent().upgrade() {
            *self.to.parent() = Arc::downgrade(&parent.copy_of(copies)?);
        }
        Ok(())
    }
}

impl Directory {
    /// The copy, which is filled later.
    fn copy_of(self: &Arc<Self>, copies: &mut Copies) -> CoreResult<Arc<Self>> {
        let node: Arc<dyn Node> = self.clone();
        let copy = copies.node(&node)?;
        let me = directory(&copy).and_then(|directory| directory.me.upgrade());
        me.ok_or_else(|| vmm_core::Error::internal("a directory whose copy is none"))
    }
}

/// What a name in a directory takes.
fn cost(name: &[u8]) -> u64 {
    ENTRY + name.len() as u64
}

/// Room that is given back when it is dropped.
pub(super) struct Held {
    room: Arc<Room>,
    bytes: u64,
}

impl Held {
    pub(super) fn nothing(room: &Arc<Room>) -> Self {
        Self { room: Arc::clone(room), bytes: 0 }
    }

    /// Takes more; `NOMEM` if there is none: it is no file that has no space.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Errno> {
        self.room.take(bytes).map_err(|_| Errno::NOMEM)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Held {
    /// The same of the room's copy, where it is taken already.
    pub(super) fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        Ok(Self { room: self.room.copy(copies)?, bytes: self.bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.give(self.bytes);
    }
}

/// The directory, if a node is one of memory.
fn directory(node: &Arc<dyn Node>) -> Option<&Directory> {
    (&**node as &dyn Any).downcast_ref()
}

fn common(node: &Arc<dyn Node>) -> Option<&Common> {
    let any = &**node as &dyn Any;
    let file = any.downcast_ref::<Regular>().map(|file| &file.0.common);
    let link = || any.downcast_ref::<Link>().map(|link| &link.common);
    file.or_else(link).or_else(|| directory(node).map(|directory| &directory.common))
}

impl Node for Directory {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(self.common.status(libc::S_IFDIR, 4096))
    }

    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno> {
        if how.write {
            return Err(Errno::ISDIR);
        }
        let mut names = Names::new(view.room);
        for (name, node) in self.entries().iter() {
            let status = node.status(view)?;
            let (inode, kind) = (status.inode, status.kind());
            names.add(Listed { name: name.clone(), inode, kind })?;
        }
        Ok(Handle::new(OpenDirectory::new(names, self.status(view)?, (place, how), view)?))
    }

    fn find(&self, name: &[u8], _: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        self.entries().get(name).cloned().ok_or(Errno::NOENT)
    }

    fn make(&self, name: &[u8], kind: Kind<'_>, mode: u32) -> Result<Arc<dyn Node>, Errno> {
        if self.entries().contains_key(name) {
            return Err(Errno::EXIST);
        }
        let room = &self.common.room;
        let node: Arc<dyn Node> = match kind {
            Kind::Directory => Self::new(room, mode, self.me.clone())?,
            Kind::File => Arc::new(Regular::new(room, mode)?),
            Kind::Link(target) => Arc::new(Link::new(room, target)?),
        };
        self.add(name, Arc::clone(&node))?;
        if matches!(kind, Kind::Directory) {
            self.common.meta().links += 1;
        }
        Ok(node)
    }

    fn link(&self, name: &[u8], node: &Arc<dyn Node>) -> Result<(), Errno> {
        let common = common(node).ok_or(Errno::XDEV)?;
        if directory(node).is_some() {
            return Err(Errno::PERM);
        }
        if self.entries().contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.add(name, Arc::clone(node))?;
        common.meta().links += 1;
        Ok(())
    }

    fn remove(&self, name: &[u8], wants_directory: bool) -> Result<(), Errno> {
        let node = self.entries().get(name).cloned().ok_or(Errno::NOENT)?;
        match directory(&node) {
            Some(_) if !wants_directory => return Err(Errno::ISDIR),
            None if wants_directory => return Err(Errno::NOTDIR),
            Some(directory) if !directory.entries().is_empty() => return Err(Errno::NOTEMPTY),
            Some(_) => self.common.meta().links -= 1,
            None => {}
        }
        self.take(name);
        if let Some(common) = common(&node) {
            let mut meta = common.meta();
            meta.links = if wants_directory { 0 } else { meta.links.saturating_sub(1) };
        }
        Ok(())
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Node>, new: &[u8], keep: bool) -> Result<(), Errno> {
        let to = directory(to).ok_or(Errno::XDEV)?;
        let node = self.entries().get(name).cloned().ok_or(Errno::NOENT)?;
        let moved = directory(&node);
        if moved.is_some_and(|moved| to.is_in(moved)) {
            return Err(Errno::INVAL);
        }
        if to.is_removed() {
            return Err(Errno::NOENT);
        }
        let there = to.entries().get(new).cloned();
        if let Some(there) = &there {
            if keep {
                return Err(Errno::EXIST);
            }
            if Arc::ptr_eq(there, &node) {
                return Ok(());
            }
            match (moved.is_some(), directory(there).is_some()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ => {}
            }
        }
        // First what may fail: a name that is lost on the way is lost for good.
        to.common.room.take(cost(new))?;
        if let Some(there) = there {
            let removed = to.remove(new, directory(&there).is_some());
            removed.inspect_err(|_| to.common.room.give(cost(new)))?;
        }
        to.put(new, Arc::clone(&node));
        self.take(name);
        if let Some(moved) = moved {
            *moved.parent() = to.me.clone();
            self.common.meta().links -= 1;
            to.common.meta().links += 1;
        }
        Ok(())
    }

    fn set(&self, what: Set) -> Result<(), Errno> {
        if matches!(what, Set::Len(_)) {
            return Err(Errno::ISDIR);
        }
        self.common.set(what);
        Ok(())
    }

    fn copy(&self, copies: &mut Copies) -> CoreResult<Option<Arc<dyn Node>>> {
        let common = self.common.copy(copies)?;
        let (entries, parent) = (Mutex::default(), Mutex::default());
        let to = Arc::new_cyclic(|me| Self { common, entries, me: me.clone(), parent });
        if let Some(from) = self.me.upgrade() {
            copies.fill_later(Unfilled { from, to: Arc::clone(&to) });
        }
        Ok(Some(to))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedNode> {
        let entries = self.entries();
        let entries = entries.iter().map(|(name, node)| (name.clone(), saver.node(node)));
        Ok(SavedNode::Directory { about: self.common.save(), entries: entries.collect() })
    }
}

/// A regular file in memory.
struct Regular(Arc<Content>);

struct Content {
    common: Common,
    /// Shared with copies until one of them is written.
    bytes: Mutex<Arc<Vec<u8>>>,
}

impl Regular {
    fn new(room: &Arc<Room>, mode: u32) -> Result<Self, Errno> {
        let common = Common::new(room, mode)?;
        Ok(Self(Arc::new(Content { common, bytes: Mutex::default() })))
    }
}

impl Content {
    fn copy_of(self: &Arc<Self>, copies: &mut Copies) -> CoreResult<Arc<Self>> {
        copies.once(self, |copies| {
            let (common, bytes) = (self.common.copy(copies)?, Arc::clone(&*self.bytes()));
            Ok(Arc::new(Self { common, bytes: Mutex::new(bytes) }))
        })
    }

    fn bytes(&self) -> MutexGuard<'_, Arc<Vec<u8>>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Status {
        let len = self.bytes().len() as u64;
        self.common.status(libc::S_IFREG, len)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> usize {
        let bytes = self.bytes();
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let from = from.unwrap_or(&[]);
        let count = from.len().min(data.len());
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        count
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::FBIG)?;
        if end > self.bytes().len() as u64 {
            self.set_len(end)?;
        }
        let mut bytes = self.bytes();
        let start = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        let to = Arc::make_mut(&mut bytes).get_mut(start..start + data.len()).ok_or(Errno::FBIG)?;
        to.copy_from_slice(data);
        drop(bytes);
        self.common.touch();
        Ok(data.len())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        let mut bytes = self.bytes();
        let bytes = Arc::make_mut(&mut bytes);
        let old = bytes.len() as u64;
        if len > old {
            self.common.room.take(len - old)?;
            let wanted = usize::try_from(len).unwrap_or(usize::MAX);
            if bytes.try_reserve(wanted.saturating_sub(old as usize)).is_err() {
                self.common.room.give(len - old);
                return Err(Errno::NOSPC);
            }
        } else {
            self.common.room.give(old - len);
        }
        bytes.resize(len as usize, 0);
        // What does not count any more must not stay with the host.
        if bytes.capacity() / 2 > bytes.len() {
            bytes.shrink_to_fit();
        }
        self.common.touch();
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let len = self.bytes().len() as u64;
        self.common.room.give(len);
    }
}

impl Node for Regular {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(self.0.status())
    }

    fn open(&self, how: How, place: &Place, _: &View<'_>) -> Result<Handle, Errno> {
        if how.truncate {
            self.0.set_len(0)?;
        }
        let content = Arc::clone(&self.0);
        Ok(Handle::new(Open { content, at: 0, how, place: place.clone() }))
    }

    fn set(&self, what: Set) -> Result<(), Errno> {
        match what {
            Set::Len(len) => self.0.set_len(len),
            what => {
                self.0.common.set(what);
                Ok(())
            }
        }
    }

    fn copy(&self, copies: &mut Copies) -> CoreResult<Option<Arc<dyn Node>>> {
        Ok(Some(Arc::new(Self(self.0.copy_of(copies)?))))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        let bytes = self.0.bytes().to_vec();
        Ok(SavedNode::File { about: self.0.common.save(), bytes })
    }
}

/// A regular file that is open.
struct Open {
    content: Arc<Content>,
    at: u64,
    how: How,
    place: Place,
}

impl File for Open {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        let count = self.read_at(self.at, data)?;
        self.at += count as u64;
        Ok(count)
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        if self.how.append {
            self.at = self.content.bytes().len() as u64;
        }
        let count = self.write_at(self.at, data)?;
        self.at += count as u64;
        Ok(count)
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(self.content.status())
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        if !self.how.read {
            return Err(Errno::BADF);
        }
        Ok(self.content.read(offset, data))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        if !self.how.write {
            return Err(Errno::BADF);
        }
        self.content.write(offset, data)
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Errno> {
        let end = self.content.bytes().len() as u64;
        self.at = sought(to, self.at, end)?;
        Ok(self.at)
    }

    fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        if !self.how.write {
            return Err(Errno::INVAL);
        }
        self.content.set_len(len)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn about(&self) -> About<'_> {
        About::at(&self.place, self.how.flags())
    }

    fn set_flags(&mut self, flags: i32) {
        self.how.append = flags & libc::O_APPEND != 0;
    }
}

impl Copied for Open {
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let (content, place) = (self.content.copy_of(copies)?, self.place.copy(copies)?);
        Ok(Handle::new(Self { content, at: self.at, how: self.how, place }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        Ok(SavedFile::Memory { at: self.at, how: self.how, place: saver.place(&self.place) })
    }
}

/// Where a seek leads.
pub(super) fn sought(to: SeekFrom, at: u64, end: u64) -> Result<u64, Errno> {
    let sum = match to {
        SeekFrom::Start(place) => Some(place),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => end.checked_add_signed(by),
    };
    sum.filter(|place| i64::try_from(*place).is_ok()).ok_or(Errno::INVAL)
}

/// A symbolic link in memory.
struct Link {
    common: Common,
    target: Vec<u8>,
}

impl Link {
    fn new(room: &Arc<Room>, target: &[u8]) -> Result<Self, Errno> {
        room.take(target.len() as u64)?;
        let common = Common::new(room, 0o777).inspect_err(|_| room.give(target.len() as u64))?;
        Ok(Self { common, target: target.to_vec() })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.common.room.give(self.target.len() as u64);
    }
}

impl Node for Link {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        Ok(self.common.status(libc::S_IFLNK, self.target.len() as u64))
    }

    fn open(&self, _: How, _: &Place, _: &View<'_>) -> Result<Handle, Errno> {
        Err(Errno::LOOP)
    }

    fn target(&self, _: &View<'_>) -> Result<Vec<u8>, Errno> {
        Ok(self.target.clone())
    }

    fn set(&self, what: Set) -> Result<(), Errno> {
        self.common.set(what);
        Ok(())
    }

    fn copy(&self, copies: &mut Copies) -> CoreResult<Option<Arc<dyn Node>>> {
        let common = self.common.copy(copies)?;
        Ok(Some(Arc::new(Self { common, target: self.target.clone() })))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedNode> {
        let (about, target) = (self.common.save(), self.target.clone());
        Ok(SavedNode::Link { about, target })
    }
}
