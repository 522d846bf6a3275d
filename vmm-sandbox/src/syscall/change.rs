//! Changing a tree: making, naming, removing.

use rustix::io::Errno;

use super::{
    Answer, Call, Calls,
    path::{HERE, find, path},
};
use crate::{
    files::{Follow, Found, Kind, Set},
    process::Process,
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_link, link),
    (libc::SYS_linkat, linkat),
    (libc::SYS_mkdir, mkdir),
    (libc::SYS_mkdirat, mkdirat),
    (libc::SYS_readlink, readlink),
    (libc::SYS_readlinkat, readlinkat),
    (libc::SYS_rename, rename),
    (libc::SYS_renameat, renameat),
    (libc::SYS_renameat2, renameat2),
    (libc::SYS_rmdir, rmdir),
    (libc::SYS_symlink, symlink),
    (libc::SYS_symlinkat, symlinkat),
    (libc::SYS_truncate, truncate),
    (libc::SYS_unlink, unlink),
    (libc::SYS_unlinkat, unlinkat),
];

fn mkdir(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args;
    make_directory(process, HERE, path, mode)
}

fn mkdirat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, mode, ..] = call.args;
    make_directory(process, fd, path, mode)
}

fn make_directory(process: &Process, fd: u64, path: u64, mode: u64) -> Answer {
    let found = find(process, fd, path, Follow::NotLast)?;
    let mode = mode as u32 & 0o7777 & !process.umask;
    make(&found, Kind::Directory, mode)
}

/// Makes something where there is nothing.
fn make(found: &Found, kind: Kind<'_>, mode: u32) -> Answer {
    match &found.name {
        Some(name) if found.node.is_none() => {
            found.parent.node().make(name, kind, mode)?;
            Ok(0)
        }
        _ => Err(Errno::EXIST),
    }
}

fn symlink(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [target, path, ..] = call.args;
    make_link(process, target, HERE, path)
}

fn symlinkat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [target, fd, path, ..] = call.args;
    make_link(process, target, fd, path)
}

fn make_link(process: &Process, target: u64, fd: u64, at: u64) -> Answer {
    let target = path(process, target)?;
    let found = find(process, fd, at, Follow::NotLast)?;
    if target.is_empty() || found.slash && found.node.is_none() {
        return Err(Errno::NOENT);
    }
    make(&found, Kind::Link(&target), 0o777)
}

fn link(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old, new, ..] = call.args;
    second_name(process, (HERE, old), (HERE, new), Follow::NotLast)
}

fn linkat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old_fd, old, new_fd, new, flags, _] = call.args;
    let follows = flags as i32 & libc::AT_SYMLINK_FOLLOW != 0;
    let follow = if follows { Follow::Last } else { Follow::NotLast };
    second_name(process, (old_fd, old), (new_fd, new), follow)
}

fn second_name(process: &Process, old: (u64, u64), new: (u64, u64), follow: Follow) -> Answer {
    let there = find(process, old.0, old.1, follow)?.there()?;
    let found = find(process, new.0, new.1, Follow::NotLast)?;
    match &found.name {
        Some(name) if found.node.is_none() => {
            found.parent.node().link(name, there.node())?;
            Ok(0)
        }
        _ => Err(Errno::EXIST),
    }
}

fn readlink(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, to, size, ..] = call.args;
    read_link(process, (HERE, path), to, size)
}

fn readlinkat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, to, size, ..] = call.args;
    read_link(process, (fd, path), to, size)
}

fn read_link(process: &Process, (fd, path): (u64, u64), to: u64, size: u64) -> Answer {
    if size as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    let place = find(process, fd, path, Follow::NotLast)?.there()?;
    let mut target = place.node().target(&process.view())?;
    target.truncate(size as u32 as usize);
    process.space.write(to, &target)?;
    Ok(target.len() as u64)
}

fn unlink(process: &mut Process, call: &mut Call<'_>) -> Answer {
    remove(process, HERE, call.args[0], false)
}

fn rmdir(process: &mut Process, call: &mut Call<'_>) -> Answer {
    remove(process, HERE, call.args[0], true)
}

fn unlinkat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, path, flags, ..] = call.args;
    remove(process, fd, path, flags as i32 & libc::AT_REMOVEDIR != 0)
}

fn remove(process: &Process, fd: u64, at: u64, directory: bool) -> Answer {
    let found = find(process, fd, at, Follow::NotLast)?;
    let there = found.node.as_ref().ok_or(Errno::NOENT)?;
    if process.namespace.is_mount(there) {
        return Err(Errno::BUSY);
    }
    if found.slash && !directory {
        return Err(Errno::ISDIR);
    }
    let dots = if directory { Errno::INVAL } else { Errno::ISDIR };
    let name = found.name.as_ref().ok_or(dots)?;
    found.parent.node().remove(name, directory)?;
    Ok(0)
}

fn rename(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old, new, ..] = call.args;
    move_name(process, (HERE, old), (HERE, new), false)
}

fn renameat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old_fd, old, new_fd, new, ..] = call.args;
    move_name(process, (old_fd, old), (new_fd, new), false)
}

fn renameat2(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old_fd, old, new_fd, new, flags, _] = call.args;
    let keep = match flags as u32 {
        0 => false,
        libc::RENAME_NOREPLACE => true,
        _ => return Err(Errno::INVAL),
    };
    move_name(process, (old_fd, old), (new_fd, new), keep)
}

fn move_name(process: &Process, old: (u64, u64), new: (u64, u64), keep: bool) -> Answer {
    let from = find(process, old.0, old.1, Follow::NotLast)?;
    let to = find(process, new.0, new.1, Follow::NotLast)?;
    let there = from.node.as_ref().ok_or(Errno::NOENT)?;
    let mounted = |place: &_| process.namespace.is_mount(place);
    if mounted(there) || to.node.as_ref().is_some_and(mounted) {
        return Err(Errno::BUSY);
    }
    let is_directory = there.node().status(&process.view())?.is_directory();
    if (from.slash || to.slash) && !is_directory {
        return Err(Errno::NOTDIR);
    }
    // A directory cannot go into itself.
    if is_directory && to.parent.is_below(there) {
        return Err(Errno::INVAL);
    }
    let (name, new) = (from.name()?, to.name()?);
    from.parent.node().rename(name, to.parent.node(), new, keep)?;
    Ok(0)
}

fn truncate(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [path, len, ..] = call.args;
    if i64::try_from(len).is_err() {
        return Err(Errno::INVAL);
    }
    let place = find(process, HERE, path, Follow::Last)?.there()?;
    let status = place.node().status(&process.view())?;
    super::status::permitted(process, &status, libc::W_OK)?;
    match status.kind() {
        libc::S_IFREG => place.node().set(Set::Len(len))?,
        libc::S_IFDIR => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}
