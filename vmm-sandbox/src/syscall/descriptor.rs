//! Descriptors: more of them for one file, and what is said of them.

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::{files::pipe as new_pipe, process::Process};

pub(super) const CALLS: Calls = &[
    (libc::SYS_close, close),
    (libc::SYS_close_range, close_range),
    (libc::SYS_dup, dup),
    (libc::SYS_dup2, dup2),
    (libc::SYS_dup3, dup3),
    (libc::SYS_fcntl, fcntl),
    (libc::SYS_ioctl, control),
    (libc::SYS_pipe, pipe),
    (libc::SYS_pipe2, pipe2),
];

fn close(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.close(call.args[0])?;
    Ok(0)
}

fn close_range(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [first, last, flags, ..] = call.args;
    let (first, last) = (u64::from(first as u32), u64::from(last as u32));
    if first > last || flags & !u64::from(libc::CLOSE_RANGE_CLOEXEC) != 0 {
        return Err(Errno::INVAL);
    }
    let fds: Vec<_> =
        process.files.descriptors().filter(|fd| (first..=last).contains(fd)).collect();
    for fd in fds {
        match flags {
            0 => process.files.close(fd)?,
            _ => process.files.set_closes(fd, true)?,
        }
    }
    Ok(0)
}

/// A second descriptor of one file.
fn dup(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let file = process.files.get(call.args[0])?;
    process.files.open(file)
}

fn dup2(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old, new, ..] = call.args;
    let file = process.files.get(old)?;
    if old as i32 == new as i32 {
        return Ok(u64::from(new as u32));
    }
    process.files.replace(new, file, false)
}

fn dup3(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [old, new, flags, ..] = call.args;
    if old as i32 == new as i32 || flags & !(libc::O_CLOEXEC as u64) != 0 {
        return Err(Errno::INVAL);
    }
    let file = process.files.get(old)?;
    process.files.replace(new, file, flags != 0)
}

fn fcntl(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, command, argument, ..] = call.args;
    let file = process.files.get(fd)?;
    match command as i32 {
        command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
            let least = usize::try_from(argument).ok().filter(|at| *at < process.files.most());
            let closes = command == libc::F_DUPFD_CLOEXEC;
            process.files.open_from(least.ok_or(Errno::INVAL)?, file, closes)
        }
        libc::F_GETFD => Ok(u64::from(process.files.closes(fd)?)),
        libc::F_SETFD => {
            process.files.set_closes(fd, argument & libc::FD_CLOEXEC as u64 != 0)?;
            Ok(0)
        }
        libc::F_GETFL => Ok(file.lock().about().flags as u64),
        libc::F_SETFL => {
            file.lock().set_flags(argument as i32);
            Ok(0)
        }
        libc::F_GETLK => {
            // Nobody else could hold a lock.
            process.space.write(argument, &(libc::F_UNLCK as u16).to_le_bytes())?;
            Ok(0)
        }
        libc::F_SETLK | libc::F_SETLKW => Ok(0),
        _ => Err(Errno::INVAL),
    }
}

/// Nothing here is a terminal or a device with requests of its own.
fn control(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.get(call.args[0])?;
    Err(Errno::NOTTY)
}

fn pipe(process: &mut Process, call: &mut Call<'_>) -> Answer {
    make_pipe(process, call.args[0], 0)
}

fn pipe2(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [to, flags, ..] = call.args;
    make_pipe(process, to, flags as i32)
}

fn make_pipe(process: &mut Process, to: u64, flags: i32) -> Answer {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    let closes = flags & libc::O_CLOEXEC != 0;
    let (reader, writer) = new_pipe(flags);
    let read = process.files.open_from(0, reader, closes)?;
    let write = match process.files.open_from(0, writer, closes) {
        Ok(write) => write,
        Err(errno) => {
            process.files.close(read)?;
            return Err(errno);
        }
    };
    if let Err(errno) = process.space.write_words(to, &[write << 32 | read]) {
        process.files.close(read)?;
        process.files.close(write)?;
        return Err(errno);
    }
    Ok(0)
}
