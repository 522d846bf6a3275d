//! Opening what a path names, and where a program is.

use rustix::io::Errno;

use super::{Answer, Call, Calls, status::permitted};
use crate::{
    files::{Follow, Found, How, Kind, MOST_PATH, Place, Set, View},
    process::Process,
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_chdir, chdir),
    (libc::SYS_creat, creat),
    (libc::SYS_fchdir, fchdir),
    (libc::SYS_getcwd, getcwd),
    (libc::SYS_open, open),
    (libc::SYS_openat, openat),
    (libc::SYS_umask, umask),
];

/// Paths begin where the program is.
pub(super) const HERE: u64 = libc::AT_FDCWD as u64;

/// Reads a path.
pub(super) fn path(process: &Process, at: u64) -> Result<Vec<u8>, Errno> {
    process.space.read_string(at, MOST_PATH)
}

/// The place that paths relative to a directory's descriptor begin at.
pub(super) fn base(process: &Process, fd: u64) -> Result<Place, Errno> {
    if fd as i32 == libc::AT_FDCWD {
        return Ok(process.namespace.current.clone());
    }
    process.files.get(fd)?.lock().about().place.cloned().ok_or(Errno::NOTDIR)
}

/// What the path at an address leads to.
pub(super) fn find(process: &Process, fd: u64, at: u64, follow: Follow) -> Result<Found, Errno> {
    let path = path(process, at)?;
    let from = if path.starts_with(b"/") { HERE } else { fd };
    process.namespace.find(&base(process, from)?, &path, follow, &process.view())
}

fn open(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, flags, mode, ..] = call.args;
    open_at(process, HERE, path, flags as i32, mode as u32)
}

fn creat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args;
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    open_at(process, HERE, path, flags, mode as u32)
}

fn openat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, flags, mode, ..] = call.args;
    open_at(process, fd, path, flags as i32, mode as u32)
}

fn open_at(process: &mut Process, fd: u64, path: u64, flags: i32, mode: u32) -> Answer {
    let has = |flag| flags & flag == flag;
    if has(libc::O_TMPFILE) {
        return Err(Errno::OPNOTSUPP);
    }
    let creates = has(libc::O_CREAT);
    let fresh = creates && has(libc::O_EXCL);
    let follow = if fresh || has(libc::O_NOFOLLOW) { Follow::NotLast } else { Follow::Last };
    let found = find(process, fd, path, follow)?;
    let how = How::of(flags);
    if found.node.is_some() && fresh {
        return Err(Errno::EXIST);
    }
    let view = process.view();
    let file = match found.node {
        None if creates => create(process, &found, how, mode)?,
        None => return Err(Errno::NOENT),
        Some(place) => {
            let status = place.node().status(&view)?;
            if has(libc::O_DIRECTORY) && !status.is_directory() {
                return Err(Errno::NOTDIR);
            }
            if creates && status.is_directory() {
                return Err(Errno::ISDIR);
            }
            permitted(process, &status, how.wants())?;
            let mounted = process.namespace.mounted_in(&place);
            place.node().open(how, &place, &View { mounted, ..view })?
        }
    };
    process.files.open_from(0, file, has(libc::O_CLOEXEC))
}

/// Makes a regular file and opens it, whatever its permissions will be.
fn create(
    process: &Process,
    found: &Found,
    how: How,
    mode: u32,
) -> Result<crate::files::Handle, Errno> {
    const OWN: u32 = 0o600;
    if found.slash {
        return Err(Errno::ISDIR);
    }
    let (name, view) = (found.name()?, process.view());
    let mode = mode & 0o7777 & !process.umask;
    let node = found.parent.node().make(name, Kind::File, mode | OWN)?;
    let file = node.open(how, &found.parent.with(name, node.clone()), &view)?;
    if mode & OWN != OWN {
        node.set(Set::Mode(mode))?;
    }
    Ok(file)
}

fn getcwd(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [to, size, ..] = call.args;
    let mut path = process.namespace.current.path();
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::RANGE);
    }
    process.space.write(to, &path)?;
    Ok(path.len() as u64)
}

fn chdir(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let place = find(process, HERE, call.args[0], Follow::Last)?.there()?;
    enter(process, place)
}

fn fchdir(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let place = process.files.get(call.args[0])?.lock().about().place.cloned();
    enter(process, place.ok_or(Errno::NOTDIR)?)
}

fn enter(process: &mut Process, place: Place) -> Answer {
    if !place.node().status(&process.view())?.is_directory() {
        return Err(Errno::NOTDIR);
    }
    process.namespace.current = place;
    Ok(0)
}

fn umask(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let new = call.args[0] as u32 & 0o777;
    Ok(u64::from(std::mem::replace(&mut process.umask, new)))
}
