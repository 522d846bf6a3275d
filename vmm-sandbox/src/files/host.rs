//! A directory of the host that was granted.
//!
//! Every step is one name from one descriptor, never through a link, `..` or a mount's magic link
//! (`openat2(2)`, `RESOLVE_BENEATH`): a race with the host's own users can lead to another file of
//! the granted directory, never out of it. Devices, sockets and pipes of the host cannot be opened.

use std::{
    any::Any,
    fs,
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps},
    io::Errno,
};
use vmm_core::{Error, Result as CoreResult};

use super::{
    About, Copied, Copies, File, Handle, How, Kind, Listed, Node, Place, Room, Set, Status, View,
    list::{Names, OpenDirectory},
    saved::{SavedFile, SavedNode, Saver},
};

/// Opens a directory of the host as a grant.
pub(crate) fn grant(directory: &Path, read_only: bool) -> io::Result<Arc<dyn Node>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open(directory, flags, Mode::empty())?;
    Ok(Arc::new(Granted { own: Arc::new(own), parent: None, read_only }))
}

/// Something in a directory that was granted, or that directory.
struct Granted {
    /// The thing itself; `O_PATH` but for the directory that was granted.
    own: Arc<OwnedFd>,
    /// The directory it was found in, and its name there.
    parent: Option<(Arc<OwnedFd>, Vec<u8>)>,
    read_only: bool,
}

impl Granted {
    fn child(&self, name: &[u8]) -> Result<Self, Errno> {
        let own = open_beneath(&self.own, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let parent = Some((Arc::clone(&self.own), name.to_vec()));
        Ok(Self { own: Arc::new(own), parent, read_only: self.read_only })
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Opens the thing anew, to be read or written.
    fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match &self.parent {
            Some((parent, name)) => open_beneath(parent, name, flags, Mode::empty())?,
            None => open_beneath(&self.own, b".", flags, Mode::empty())?,
        };
        Ok(file)
    }

    fn status(&self) -> Result<Status, Errno> {
        status(self.own.as_fd())
    }

    fn list(&self, room: &Arc<Room>) -> Result<Names, Errno> {
        let file = self.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Names::new(room);
        for entry in rustix::fs::Dir::new(file)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                let kind = entry.file_type().as_raw_mode();
                names.add(Listed { name, inode: entry.ino(), kind })?;
            }
        }
        Ok(names)
    }
}

fn open_beneath(at: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(at, name, flags | OFlags::CLOEXEC, mode, how)
}

fn status(file: BorrowedFd<'_>) -> Result<Status, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let since = |seconds: i64, nanoseconds: u64| {
        Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds as u32)
    };
    // What is the caller's own is the program's own; of others it sees that they are others.
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    Ok(Status {
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        device: stat.st_dev,
        inode: stat.st_ino,
        links: stat.st_nlink,
        owner: (!own).then_some((stat.st_uid, stat.st_gid)),
        special: stat.st_rdev,
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        times: [
            since(stat.st_atime, stat.st_atime_nsec),
            since(stat.st_mtime, stat.st_mtime_nsec),
            since(stat.st_ctime, stat.st_ctime_nsec),
        ],
    })
}

impl Node for Granted {
    fn status(&self, _: &View<'_>) -> Result<Status, Errno> {
        self.status()
    }

    fn open(&self, how: How, place: &Place, view: &View<'_>) -> Result<Handle, Errno> {
        if how.write || how.truncate {
            self.writable()?;
        }
        let status = self.status()?;
        if status.is_directory() {
            if how.write {
                return Err(Errno::ISDIR);
            }
            let names = if how.read { self.list(view.room)? } else { Names::new(view.room) };
            return Ok(Handle::new(OpenDirectory::new(names, status, (place, how), view)?));
        }
        if status.kind() != libc::S_IFREG {
            return Err(if status.is_link() { Errno::LOOP } else { Errno::ACCESS });
        }
        Ok(Handle::new(Open { file: self.open_file(how)?, how, place: place.clone() }))
    }

    fn target(&self, _: &View<'_>) -> Result<Vec<u8>, Errno> {
        match rustix::fs::readlinkat(&self.own, "", Vec::new()) {
            // An empty path is what is not there then, and not what is no link.
            Err(Errno::NOENT) => Err(Errno::INVAL),
            target => Ok(target?.into_bytes()),
        }
    }

    fn find(&self, name: &[u8], _: &View<'_>) -> Result<Arc<dyn Node>, Errno> {
        Ok(Arc::new(self.child(name)?))
    }

    fn make(&self, name: &[u8], kind: Kind<'_>, mode: u32) -> Result<Arc<dyn Node>, Errno> {
        self.writable()?;
        // Neither set-user-ID nor set-group-ID: on the host they would mean something.
        let mode = Mode::from_raw_mode(mode & 0o777);
        match kind {
            Kind::Directory => rustix::fs::mkdirat(&self.own, name, mode)?,
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
                open_beneath(&self.own, name, flags, mode)?;
            }
            Kind::Link(target) => rustix::fs::symlinkat(target, &self.own, name)?,
        }
        Ok(Arc::new(self.child(name)?))
    }

    fn link(&self, _: &[u8], _: &Arc<dyn Node>) -> Result<(), Errno> {
        self.writable()?;
        Err(Errno::PERM)
    }

    fn remove(&self, name: &[u8], directory: bool) -> Result<(), Errno> {
        self.writable()?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&self.own, name, flags)
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Node>, new: &[u8], keep: bool) -> Result<(), Errno> {
        let to: Option<&Self> = (&**to as &dyn Any).downcast_ref();
        let to = to.ok_or(Errno::XDEV)?;
        self.writable()?;
        to.writable()?;
        let flags = if keep { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(&self.own, name, &to.own, new, flags)
    }

    fn set(&self, what: Set) -> Result<(), Errno> {
        self.writable()?;
        match what {
            Set::Len(len) => {
                let file = fs::File::from(self.reopen(OFlags::WRONLY)?);
                file.set_len(len).map_err(|error| errno(&error))
            }
            Set::Mode(mode) => {
                let kind = self.status()?.kind();
                if kind != libc::S_IFREG && kind != libc::S_IFDIR {
                    return Err(Errno::OPNOTSUPP);
                }
                let file = self.reopen(OFlags::RDONLY)?;
                rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o777))
            }
            Set::Times(times) => self.set_times(times),
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedNode> {
        let located = self.located()?;
        let way = saver.granted(&located);
        let (grant, path) = way.ok_or_else(|| {
            let path = located.path.escape_ascii();
            Error::unsupported(format!("saving: {path} is in no directory that was granted"))
        })?;
        Ok(SavedNode::Granted { grant, path })
    }
}

/// Where the host has something now.
pub(super) struct Located {
    path: Vec<u8>,
    read_only: bool,
}

impl Located {
    /// The names from a directory on, if it is below that and as open to changes.
    pub(super) fn way_from(&self, grant: &Self) -> Option<Vec<Vec<u8>>> {
        let base = grant.path.strip_suffix(b"/").unwrap_or(&grant.path);
        let rest = self.path.strip_prefix(base)?;
        let below = rest.is_empty() || rest.starts_with(b"/");
        let names = rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        (below && self.read_only == grant.read_only).then(|| names.map(<[u8]>::to_vec).collect())
    }
}

impl Granted {
    /// Where it is now, which is where it will be looked for.
    fn located(&self) -> CoreResult<Located> {
        let link = format!("/proc/self/fd/{}", self.own.as_raw_fd());
        let host = |errno: Errno| Error::host("asking where a file is", errno.raw_os_error());
        let path = rustix::fs::readlink(link, Vec::new()).map_err(host)?.into_bytes();
        let there = rustix::fs::lstat(path.as_slice());
        let own = rustix::fs::fstat(&*self.own).map_err(host)?;
        if !there.is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) {
            let path = path.escape_ascii();
            return Err(Error::unsupported(format!("saving: {path} is not there any more")));
        }
        Ok(Located { path, read_only: self.read_only })
    }
}

/// Where a directory is that was granted, and whether only to be read; `None` for what is no
/// directory of the host.
pub(super) fn granted(node: &Arc<dyn Node>) -> CoreResult<Option<(Located, bool)>> {
    let granted: Option<&Granted> = (&**node as &dyn Any).downcast_ref();
    granted.map(|granted| Ok((granted.located()?, granted.read_only))).transpose()
}

/// What is at the end of a way, name by name, from a directory that was granted.
pub(super) fn walk(root: &Arc<dyn Node>, way: &[Vec<u8>]) -> Result<Arc<dyn Node>, Errno> {
    let mut node = Arc::clone(root);
    for name in way {
        let granted: Option<&Granted> = (&*node as &dyn Any).downcast_ref();
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        node = Arc::new(granted.ok_or(Errno::INVAL)?.child(name)?);
    }
    Ok(node)
}

/// Opens a file again, at the same position.
pub(super) fn saved_open(place: Place, how: How, at: u64) -> Result<Handle, Errno> {
    let granted: Option<&Granted> = (&**place.node() as &dyn Any).downcast_ref();
    let mut file = granted.ok_or(Errno::INVAL)?.open_file(How { truncate: false, ..how })?;
    if how.read || how.write {
        file.seek(SeekFrom::Start(at)).map_err(|error| errno(&error))?;
    }
    Ok(Handle::new(Open { file, how, place }))
}

impl Granted {
    /// Opens a regular file.
    fn open_file(&self, how: How) -> Result<fs::File, Errno> {
        if how.write || how.truncate {
            self.writable()?;
        }
        let mut flags = match (how.read, how.write) {
            (_, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (true, true) => OFlags::RDWR,
        };
        flags.set(OFlags::APPEND, how.append);
        flags.set(OFlags::TRUNC, how.truncate && how.write);
        let file = match how.read || how.write {
            true => self.reopen(flags)?,
            false => self.own.try_clone().map_err(|error| errno(&error))?,
        };
        // Between the look and the opening it may have become something else.
        let kind = rustix::fs::fstat(&file)?.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG {
            return Err(Errno::ACCESS);
        }
        Ok(file.into())
    }

    fn set_times(&self, times: [Option<Duration>; 2]) -> Result<(), Errno> {
        let [last_access, last_modification] = times.map(|time| match time {
            Some(time) => Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            },
            None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        });
        let times = Timestamps { last_access, last_modification };
        match &self.parent {
            Some((parent, name)) => {
                rustix::fs::utimensat(parent, name.as_slice(), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            None => rustix::fs::futimens(&self.own, &times),
        }
    }
}

/// A file of the host that is open.
struct Open {
    file: fs::File,
    how: How,
    place: Place,
}

impl File for Open {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        self.check(self.how.read)?;
        io::Read::read(&mut self.file, data).map_err(|error| errno(&error))
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        self.check(self.how.write)?;
        io::Write::write(&mut self.file, data).map_err(|error| errno(&error))
    }

    fn status(&self) -> Result<Status, Errno> {
        status(self.file.as_fd())
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        self.check(self.how.read)?;
        self.file.read_at(data, offset).map_err(|error| errno(&error))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.check(self.how.write)?;
        self.file.write_at(data, offset).map_err(|error| errno(&error))
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Errno> {
        self.check(self.how.read || self.how.write)?;
        self.file.seek(to).map_err(|error| errno(&error))
    }

    fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        if !self.how.write {
            return Err(Errno::INVAL);
        }
        self.file.set_len(len).map_err(|error| errno(&error))
    }

    fn sync(&mut self) -> Result<(), Errno> {
        self.check(self.how.read || self.how.write)?;
        self.file.sync_all().map_err(|error| errno(&error))
    }

    fn about(&self) -> About<'_> {
        About::at(&self.place, self.how.flags())
    }

    fn set_flags(&mut self, flags: i32) {
        self.how.append = flags & libc::O_APPEND != 0;
        let mut own = OFlags::NONBLOCK;
        own.set(OFlags::APPEND, self.how.append);
        // The kernel takes these two from any open file.
        let _ = rustix::fs::fcntl_setfl(&self.file, own);
    }
}

impl Copied for Open {
    /// The same file of the host, opened anew, so that each sandbox has a position of its own.
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let mut file = self.open_anew().map_err(|errno| {
            let path = self.place.path().escape_ascii().to_string();
            Error::host(format!("opening {path} anew for another sandbox"), errno.raw_os_error())
        })?;
        if let Ok(at) = (&self.file).stream_position() {
            let sought = file.seek(SeekFrom::Start(at));
            sought.map_err(|error| Error::host("seeking", errno(&error).raw_os_error()))?;
        }
        Ok(Handle::new(Self { file, how: self.how, place: self.place.copy(copies)? }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        // What is only named has no position.
        let at = (&self.file).stream_position().unwrap_or(0);
        Ok(SavedFile::Granted { at, how: self.how, place: saver.place(&self.place) })
    }
}

impl Open {
    fn open_anew(&self) -> Result<fs::File, Errno> {
        if !self.how.read && !self.how.write {
            return self.file.try_clone().map_err(|error| errno(&error));
        }
        let mut flags = match (self.how.read, self.how.write) {
            (_, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (true, true) => OFlags::RDWR,
        };
        flags.set(OFlags::APPEND, self.how.append);
        flags |= OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        // By its descriptor: the file may have another name by now, or none.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
    }

    fn check(&self, may: bool) -> Result<(), Errno> {
        if may { Ok(()) } else { Err(Errno::BADF) }
    }
}

/// The host's reason, as a program may see it.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
