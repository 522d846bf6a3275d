//! Reading and writing what is open.

use std::io::SeekFrom;

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{Answer, Call, Calls};
use crate::{
    files::File,
    process::{Ended, Process},
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_fadvise64, fadvise),
    (libc::SYS_fdatasync, fsync),
    (libc::SYS_fsync, fsync),
    (libc::SYS_ftruncate, ftruncate),
    (libc::SYS_lseek, lseek),
    (libc::SYS_pread64, pread),
    (libc::SYS_preadv, preadv),
    (libc::SYS_pwrite64, pwrite),
    (libc::SYS_pwritev, pwritev),
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
    let count = until_ready(process, &mut *file, PollFlags::IN, |file| file.read(&mut data))?;
    process.space.write(to, data.get(..count).unwrap_or(&[]))?;
    Ok(count as u64)
}

/// Does something with a file as soon as it can be done.
fn until_ready(
    process: &Process,
    file: &mut dyn File,
    flags: PollFlags,
    mut once: impl FnMut(&mut dyn File) -> Answer<usize>,
) -> Answer<usize> {
    loop {
        let waits = match file.ready().ask {
            Some(fd) => {
                process.watch.wait(&[PollFd::from_borrowed_fd(fd, flags)], None)?;
                true
            }
            None => false,
        };
        match once(file) {
            // Another reader or writer was faster.
            Err(Errno::AGAIN) if waits => {}
            done => return done,
        }
    }
}

/// Moves data from the program to a file.
fn drain(process: &mut Process, fd: u64, from: u64, len: u64) -> Answer {
    let file = process.files.get(fd)?;
    let data = process.space.read_bytes(from, len.min(MOST) as usize)?;
    let mut file = file.lock();
    if !file.about().is_output {
        return Ok(file.write(&data)? as u64);
    }
    let allowed = data.len().min(usize::try_from(process.output_left).unwrap_or(usize::MAX));
    let part = data.get(..allowed).unwrap_or(&[]);
    let count = until_ready(process, &mut *file, PollFlags::OUT, |file| file.write(part))?;
    process.output_left -= count as u64;
    if count == allowed && allowed < data.len() {
        process.ended = Some(Ended::Output);
    }
    Ok(count as u64)
}

/// Does a call piece by piece, until one comes out short.
fn vectored(
    process: &mut Process,
    call: &mut Call<'_>,
    mut one: impl FnMut(&mut Process, u64, u64, u64) -> Answer,
) -> Answer {
    let [fd, pieces, count, ..] = call.args;
    if count > MOST_PIECES {
        return Err(Errno::INVAL);
    }
    let mut total = 0;
    for piece in 0..count {
        let at = pieces.checked_add(16 * piece).ok_or(Errno::FAULT)?;
        if piece > 0 && process.watch.check().is_err() {
            break;
        }
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

fn pread(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, to, len, offset, ..] = call.args;
    fill_from(process, fd, to, len, offset)
}

fn pwrite(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, from, len, offset, ..] = call.args;
    drain_to(process, fd, from, len, offset)
}

fn preadv(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let mut offset = call.args[3];
    vectored(process, call, |process, fd, to, len| {
        let count = fill_from(process, fd, to, len, offset)?;
        offset += count;
        Ok(count)
    })
}

fn pwritev(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let mut offset = call.args[3];
    vectored(process, call, |process, fd, from, len| {
        let count = drain_to(process, fd, from, len, offset)?;
        offset += count;
        Ok(count)
    })
}

fn fill_from(process: &mut Process, fd: u64, to: u64, len: u64, offset: u64) -> Answer {
    check_offset(offset)?;
    let file = process.files.get(fd)?;
    let mut data = vec![0; len.min(MOST) as usize];
    let count = file.lock().read_at(offset, &mut data)?;
    process.space.write(to, data.get(..count).unwrap_or(&[]))?;
    Ok(count as u64)
}

fn drain_to(process: &mut Process, fd: u64, from: u64, len: u64, offset: u64) -> Answer {
    check_offset(offset)?;
    let file = process.files.get(fd)?;
    let data = process.space.read_bytes(from, len.min(MOST) as usize)?;
    let count = file.lock().write_at(offset, &data)?;
    Ok(count as u64)
}

fn check_offset(offset: u64) -> Result<(), Errno> {
    if i64::try_from(offset).is_ok() { Ok(()) } else { Err(Errno::INVAL) }
}

fn lseek(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, offset, whence, ..] = call.args;
    let file = process.files.get(fd)?;
    let mut file = file.lock();
    let to = match whence as i32 {
        libc::SEEK_SET => {
            check_offset(offset)?;
            SeekFrom::Start(offset)
        }
        libc::SEEK_CUR => SeekFrom::Current(offset.cast_signed()),
        libc::SEEK_END => SeekFrom::End(offset.cast_signed()),
        _ => return Err(Errno::INVAL),
    };
    file.seek(to)
}

fn ftruncate(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fd, len, ..] = call.args;
    check_offset(len)?;
    process.files.get(fd)?.lock().set_len(len)?;
    Ok(0)
}

fn fsync(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.get(call.args[0])?.lock().sync()?;
    Ok(0)
}

/// Advice changes nothing that a program can see.
fn fadvise(process: &mut Process, call: &mut Call<'_>) -> Answer {
    process.files.get(call.args[0])?;
    Ok(0)
}
