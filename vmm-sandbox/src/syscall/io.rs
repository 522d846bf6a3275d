//! Reading and writing what is open.

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{Answer, Call, Calls};
use crate::{
    files::Status,
    process::{Ended, Process},
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_close, close),
    (libc::SYS_dup, dup),
    (libc::SYS_fstat, fstat),
    (libc::SYS_ioctl, control),
    (libc::SYS_lseek, lseek),
    (libc::SYS_read, read),
    (libc::SYS_readv, readv),
    (libc::SYS_write, write),
    (libc::SYS_writev, writev),
];

/// One call moves at most this much at once; programs go on with the rest.
const MOST: u64 = 1 << 20;
/// Linux' limit of the pieces of one call.
const MOST_PIECES: u64 = 1024;

fn read(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, to, len, ..] = call.args;
    fill(process, fd, to, len)
}

fn write(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, from, len, ..] = call.args;
    drain(process, fd, from, len)
}

fn readv(process: &mut Process, call: &mut Call<'_>) -> Answer {
    vectored(process, call, fill)
}

fn writev(process: &mut Process, call: &mut Call<'_>) -> Answer {
    vectored(process, call, drain)
}

/// Moves data from a file to the program.
fn fill(process: &mut Process, fd: u64, to: u64, len: u64) -> Answer {
    let file = process.files.get(fd)?;
    let mut data = vec![0; len.min(MOST) as usize];
    let mut file = file.lock();
    if let Some(fd) = file.readable() {
        process.watch.wait(&[PollFd::from_borrowed_fd(fd, PollFlags::IN)], None)?;
    }
    let count = file.read(&mut data)?;
    process.space.write(to, data.get(..count).unwrap_or(&[]))?;
    Ok(count as u64)
}

/// Moves data from the program to a file.
fn drain(process: &mut Process, fd: u64, from: u64, len: u64) -> Answer {
    let file = process.files.get(fd)?;
    let data = process.space.read_bytes(from, len.min(MOST) as usize)?;
    let mut file = file.lock();
    if !file.is_output() {
        return Ok(file.write(&data)? as u64);
    }
    let allowed = data.len().min(usize::try_from(process.output_left).unwrap_or(usize::MAX));
    let count = file.write(data.get(..allowed).unwrap_or(&[]))?;
    process.output_left -= count as u64;
    if allowed < data.len() {
        process.ended = Some(Ended::Output);
    }
    Ok(count as u64)
}

/// Does a call piece by piece, until one comes out short.
fn vectored(
    process: &mut Process,
    call: &mut Call<'_>,
    one: fn(&mut Process, u64, u64, u64) -> Answer,
) -> Answer {
    let [fd, pieces, count, ..] = call.args;
    if count > MOST_PIECES {
        return Err(Errno::INVAL);
    }
    let mut total = 0;
    for piece in 0..count {
        let at = pieces.checked_add(16 * piece).ok_or(Errno::FAULT)?;
        let [start, len] = process.space.read_words(at)?;
        let moved = match one(process, fd, start, len) {
            Err(_) if total > 0 => break,
            moved => moved?,
        };
        total += moved;
        if moved < len {
            break;
        }
    }
    Ok(total)
}

fn close(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.close(call.args[0])?;
    Ok(0)
}

/// A second descriptor of one file.
fn dup(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let file = process.files.get(call.args[0])?;
    process.files.open(file)
}

fn lseek(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args;
    process.files.get(fd)?;
    Err(Errno::SPIPE)
}

fn fstat(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, to, ..] = call.args;
    let status = process.files.get(fd)?.lock().status();
    write_status(process, to, &status)
}

/// Writes a `stat`.
pub(super) fn write_status(process: &Process, to: u64, status: &Status) -> Answer {
    const BLOCK: u64 = 4096;
    let owner = u64::from(process.uid) << 32 | u64::from(status.mode);
    let mut words = [0; 18];
    words[2] = 1; // st_nlink
    words[3] = owner; // st_mode, st_uid
    words[4] = u64::from(process.gid); // st_gid
    words[6] = status.size;
    words[7] = BLOCK; // st_blksize
    words[8] = status.size.div_ceil(512); // st_blocks
    process.space.write_words(to, &words)?;
    Ok(0)
}

/// Nothing here is a terminal or a device with requests of its own.
fn control(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.get(call.args[0])?;
    Err(Errno::NOTTY)
}
