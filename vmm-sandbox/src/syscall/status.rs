//! What a program can learn of files, and change of that: the stat family, permissions, times.

use std::time::Duration;

use rustix::io::Errno;

use super::{
    Answer, Call, Calls,
    path::{HERE, find},
};
use crate::{
    files::{Follow, Place, Set, Status, now},
    process::Process,
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_access, access),
    (libc::SYS_chmod, chmod),
    (libc::SYS_chown, chown),
    (libc::SYS_faccessat, faccessat),
    (libc::SYS_faccessat2, faccessat),
    (libc::SYS_fchmod, fchmod),
    (libc::SYS_fchmodat, fchmodat),
    (libc::SYS_fchown, fchown),
    (libc::SYS_fchownat, fchownat),
    (libc::SYS_fstat, fstat),
    (libc::SYS_fstatfs, fstatfs),
    (libc::SYS_lchown, chown),
    (libc::SYS_lstat, lstat),
    (libc::SYS_newfstatat, newfstatat),
    (libc::SYS_stat, stat),
    (libc::SYS_statfs, statfs),
    (libc::SYS_statx, statx),
    (libc::SYS_utimensat, utimensat),
];

/// What is read at once where it matters to nobody.
const BLOCK: u64 = 4096;

/// Whether the program may use a file so: a sum of `R_OK`, `W_OK` and `X_OK`. Files that are not
/// its own are others'.
pub(super) fn permitted(process: &Process, status: &Status, wants: i32) -> Result<(), Errno> {
    let wants = wants as u32 & 7;
    let mode = status.mode;
    let allowed = match status.owner {
        // The superuser may do all but execute what nobody may.
        _ if process.uid == 0 => 6 | u32::from(mode & 0o111 != 0 || status.is_directory()),
        None => mode >> 6 & 7,
        Some(_) => mode & 7,
    };
    if status.is_link() || wants & !allowed == 0 { Ok(()) } else { Err(Errno::ACCESS) }
}

fn stat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.args;
    let status = status_at(process, HERE, path, 0)?;
    write_stat(process, to, &status)
}

fn lstat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.args;
    let status = status_at(process, HERE, path, libc::AT_SYMLINK_NOFOLLOW)?;
    write_stat(process, to, &status)
}

fn fstat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, to, ..] = call.args;
    let status = process.files.get(fd)?.lock().status()?;
    write_stat(process, to, &status)
}

fn newfstatat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, to, flags, ..] = call.args;
    let status = status_at(process, fd, path, flags as i32)?;
    write_stat(process, to, &status)
}

fn statx(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, flags, _, to, _] = call.args;
    let status = status_at(process, fd, path, flags as i32)?;
    let (uid, gid) = owner(process, &status);
    let mut image = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = image.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &libc::STATX_BASIC_STATS.to_le_bytes());
    put(4, &(BLOCK as u32).to_le_bytes());
    put(16, &(status.links as u32).to_le_bytes());
    put(20, &uid.to_le_bytes());
    put(24, &gid.to_le_bytes());
    put(28, &(status.mode as u16).to_le_bytes());
    put(32, &status.inode.to_le_bytes());
    put(40, &status.size.to_le_bytes());
    put(48, &status.blocks.to_le_bytes());
    let [access, change, of_status] = status.times;
    for (at, time) in [(64, access), (96, of_status), (112, change)] {
        put(at, &time.as_secs().to_le_bytes());
        put(at + 8, &time.subsec_nanos().to_le_bytes());
    }
    for (at, device) in [(128, status.special), (136, status.device)] {
        put(at, &libc::major(device).to_le_bytes());
        put(at + 4, &libc::minor(device).to_le_bytes());
    }
    process.space.write(to, &image)?;
    Ok(0)
}

fn status_at(process: &Process, fd: u64, path: u64, flags: i32) -> Result<Status, Errno> {
    if flags & libc::AT_EMPTY_PATH != 0 && is_empty(process, path)? {
        if fd as i32 == libc::AT_FDCWD {
            return process.namespace.current.node().status(&process.view());
        }
        return process.files.get(fd)?.lock().status();
    }
    place_at(process, fd, path, flags)?.node().status(&process.view())
}

/// Whether a path is given that says nothing; no path at all does too.
fn is_empty(process: &Process, path: u64) -> Result<bool, Errno> {
    if path == 0 {
        return Ok(true);
    }
    let mut first = [0];
    process.space.read(path, &mut first)?;
    Ok(first == [0])
}

fn place_at(process: &Process, fd: u64, path: u64, flags: i32) -> Result<Place, Errno> {
    let stays = flags & libc::AT_SYMLINK_NOFOLLOW != 0;
    let follow = if stays { Follow::NotLast } else { Follow::Last };
    find(process, fd, path, follow)?.there()
}

fn owner(process: &Process, status: &Status) -> (u32, u32) {
    status.owner.unwrap_or((process.uid, process.gid))
}

/// Writes a `struct stat`.
fn write_stat(process: &Process, to: u64, status: &Status) -> Answer {
    let (uid, gid) = owner(process, status);
    let [access, change, of_status] =
        status.times.map(|time| [time.as_secs(), u64::from(time.subsec_nanos())]);
    let words = [
        status.device,
        status.inode,
        status.links,
        u64::from(uid) << 32 | u64::from(status.mode),
        gid.into(),
        status.special,
        status.size,
        BLOCK,
        status.blocks,
        access[0],
        access[1],
        change[0],
        change[1],
        of_status[0],
        of_status[1],
        0,
        0,
        0,
    ];
    process.space.write_words(to, &words)?;
    Ok(0)
}

fn statfs(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.args;
    find(process, HERE, path, Follow::Last)?.there()?;
    write_statfs(process, to)
}

fn fstatfs(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, to, ..] = call.args;
    process.files.get(fd)?;
    write_statfs(process, to)
}

/// A file system of which nothing but its block size is known.
fn write_statfs(process: &Process, to: u64) -> Answer {
    let mut words = [0; 15];
    (words[0], words[1]) = (libc::TMPFS_MAGIC as u64, BLOCK);
    (words[8], words[9]) = (255, BLOCK); // f_namelen, f_frsize
    process.space.write_words(to, &words)?;
    Ok(0)
}

fn access(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, wants, ..] = call.args;
    access_at(process, HERE, path, wants, 0)
}

fn faccessat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, wants, flags, ..] = call.args;
    access_at(process, fd, path, wants, flags as i32)
}

fn access_at(process: &Process, fd: u64, path: u64, wants: u64, flags: i32) -> Answer {
    let wants = wants as i32;
    let place = place_at(process, fd, path, flags)?;
    if wants & libc::W_OK != 0 && place.node().is_read_only() {
        return Err(Errno::ROFS);
    }
    permitted(process, &place.node().status(&process.view())?, wants)?;
    Ok(0)
}

fn chmod(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args;
    set(&place_at(process, HERE, path, 0)?, Set::Mode(mode as u32))
}

fn fchmod(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, mode, ..] = call.args;
    set(&opened(process, fd)?, Set::Mode(mode as u32))
}

fn fchmodat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, mode, ..] = call.args;
    set(&place_at(process, fd, path, 0)?, Set::Mode(mode as u32))
}

/// Where what a descriptor has open was found.
pub(super) fn opened(process: &Process, fd: u64) -> Result<Place, Errno> {
    process.files.get(fd)?.lock().about().place.cloned().ok_or(Errno::INVAL)
}

fn set(place: &Place, what: Set) -> Answer {
    place.node().set(what)?;
    Ok(0)
}

fn chown(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, uid, gid, ..] = call.args;
    find(process, HERE, path, Follow::NotLast)?.there()?;
    keep_owner(process, uid, gid)
}

fn fchown(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, uid, gid, ..] = call.args;
    process.files.get(fd)?;
    keep_owner(process, uid, gid)
}

fn fchownat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, uid, gid, flags, ..] = call.args;
    status_at(process, fd, path, flags as i32)?;
    keep_owner(process, uid, gid)
}

/// Everything the program makes is its own; there is nobody else to give it to.
fn keep_owner(process: &Process, uid: u64, gid: u64) -> Answer {
    let keeps = |new: u64, own: u32| new as u32 == u32::MAX || new as u32 == own;
    let keeps = keeps(uid, process.uid) && keeps(gid, process.gid);
    if keeps { Ok(0) } else { Err(Errno::PERM) }
}

fn utimensat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, times, flags, ..] = call.args;
    let place = match path {
        0 => opened(process, fd)?,
        path => place_at(process, fd, path, flags as i32)?,
    };
    let now = now();
    let times = match times {
        0 => [Some(now); 2],
        at => {
            let [s0, n0, s1, n1] = process.space.read_words(at)?;
            [time_of(s0, n0, now)?, time_of(s1, n1, now)?]
        }
    };
    set(&place, Set::Times(times))
}

/// A time of `utimensat`: given, now, or as it is.
fn time_of(seconds: u64, nanoseconds: u64, now: Duration) -> Result<Option<Duration>, Errno> {
    match nanoseconds {
        n if n == libc::UTIME_NOW as u64 => Ok(Some(now)),
        n if n == libc::UTIME_OMIT as u64 => Ok(None),
        n if n < 1_000_000_000 => Ok(Some(Duration::new(seconds, n as u32))),
        _ => Err(Errno::INVAL),
    }
}
