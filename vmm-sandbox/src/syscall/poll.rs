//! Waiting for files: poll and select. There is nobody but the host's streams to wait for.

use std::time::Duration;

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{Answer, Call, Calls};
use crate::{
    files::{Handle, Ready},
    process::Process,
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_clock_nanosleep, clock_nanosleep),
    (libc::SYS_nanosleep, nanosleep),
    (libc::SYS_poll, poll),
    (libc::SYS_ppoll, ppoll),
    (libc::SYS_pselect6, pselect),
    (libc::SYS_select, select),
];

/// What one file is waited for.
struct Wanted {
    file: Option<Handle>,
    read: bool,
    write: bool,
}

/// What a wait found of it.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    read: bool,
    write: bool,
    hangup: bool,
}

impl Found {
    fn any(self) -> bool {
        self.read || self.write || self.hangup
    }
}

/// Waits until something that is wanted is there, at most for `timeout`.
fn wait(
    process: &Process,
    wanted: &[Wanted],
    timeout: Option<Duration>,
) -> Result<Vec<Found>, Errno> {
    let files = distinct(wanted);
    let guards: Vec<_> = files.iter().map(Handle::lock).collect();
    let ready = |wanted: &Wanted| {
        let file = wanted.file.as_ref()?;
        let index = files.iter().position(|known| known.is(file))?;
        guards.get(index).map(|guard| guard.ready())
    };
    let (mut found, mut asked) = (Vec::new(), Vec::new());
    for (index, wanted) in wanted.iter().enumerate() {
        found.push(match ready(wanted) {
            Some(Ready { ask: Some(fd), .. }) => {
                asked.push((index, PollFd::from_borrowed_fd(fd, wanted.flags())));
                Found::default()
            }
            Some(Ready { read, write, hangup, .. }) => {
                Found { read: wanted.read && read, write: wanted.write && write, hangup }
            }
            None => Found::default(),
        });
    }
    let at_once = found.iter().any(|found| found.any());
    let timeout = if at_once { Some(Duration::ZERO) } else { timeout };
    let (indices, polled): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let flags = process.watch.wait(&polled, timeout)?;
    for (index, flags) in indices.into_iter().zip(flags) {
        let (Some(found), Some(wanted)) = (found.get_mut(index), wanted.get(index)) else {
            continue;
        };
        let ends = PollFlags::HUP | PollFlags::ERR;
        found.read = wanted.read && flags.intersects(PollFlags::IN | ends);
        found.write = wanted.write && flags.intersects(PollFlags::OUT | ends);
        found.hangup = flags.intersects(PollFlags::HUP);
    }
    Ok(found)
}

impl Wanted {
    fn flags(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.read);
        flags.set(PollFlags::OUT, self.write);
        flags
    }
}

/// The files that are waited for, each once: a lock is not taken twice.
fn distinct(wanted: &[Wanted]) -> Vec<Handle> {
    let mut files: Vec<Handle> = Vec::new();
    for file in wanted.iter().filter_map(|wanted| wanted.file.as_ref()) {
        if !files.iter().any(|known| known.is(file)) {
            files.push(file.clone());
        }
    }
    files
}

fn poll(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fds, count, milliseconds, ..] = call.args;
    let timeout = u64::try_from(milliseconds as i32).ok().map(Duration::from_millis);
    poll_all(process, fds, count, timeout)
}

fn ppoll(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [fds, count, timeout, ..] = call.args;
    let timeout = optional_time(process, timeout, 1)?;
    poll_all(process, fds, count, timeout)
}

fn poll_all(process: &Process, fds: u64, count: u64, timeout: Option<Duration>) -> Answer {
    if count > process.files.most() as u64 {
        return Err(Errno::INVAL);
    }
    let at = |index: u64| fds.checked_add(8 * index).ok_or(Errno::FAULT);
    let mut entries = Vec::new();
    let mut wanted = Vec::new();
    for index in 0..count {
        let [word] = process.space.read_words(at(index)?)?;
        let (fd, events) = (word as i32, (word >> 32) as i16);
        let file = if fd < 0 { None } else { process.files.get(fd as u64).ok() };
        let (read, write) = (events & libc::POLLIN != 0, events & libc::POLLOUT != 0);
        entries.push((fd, file.is_some()));
        wanted.push(Wanted { file, read, write });
    }
    let invalid = entries.iter().any(|(fd, is_open)| *fd >= 0 && !is_open);
    let timeout = if invalid { Some(Duration::ZERO) } else { timeout };
    let found = wait(process, &wanted, timeout)?;
    let mut ready = 0;
    for (index, (found, (fd, is_open))) in (0..).zip(found.iter().zip(&entries)) {
        let bit = |set, bit: i16| if set { bit } else { 0 };
        let events = bit(found.read, libc::POLLIN)
            | bit(found.write, libc::POLLOUT)
            | bit(found.hangup, libc::POLLHUP)
            | bit(*fd >= 0 && !is_open, libc::POLLNVAL);
        process
            .space
            .write(at(index)?.checked_add(6).ok_or(Errno::FAULT)?, &events.to_le_bytes())?;
        ready += u64::from(events != 0);
    }
    Ok(ready)
}

fn select(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [count, read, write, except, timeout, _] = call.args;
    let timeout = optional_time(process, timeout, 1000)?;
    select_all(process, count, [read, write, except], timeout)
}

fn pselect(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [count, read, write, except, timeout, _] = call.args;
    let timeout = optional_time(process, timeout, 1)?;
    select_all(process, count, [read, write, except], timeout)
}

fn select_all(process: &Process, count: u64, sets: [u64; 3], timeout: Option<Duration>) -> Answer {
    let count = usize::try_from(count as i32).map_err(|_| Errno::INVAL)?;
    let count = count.min(process.files.most());
    let mut images = [const { Vec::new() }; 3];
    for (image, at) in images.iter_mut().zip(sets) {
        *image = match at {
            0 => vec![0; count.div_ceil(64) * 8],
            at => process.space.read_bytes(at, count.div_ceil(64) * 8)?,
        };
    }
    let is_set =
        |image: &[u8], fd: usize| image.get(fd / 8).is_some_and(|b| b >> (fd % 8) & 1 != 0);
    let [reads, writes, excepts] = &images;
    let mut wanted = Vec::new();
    for fd in 0..count {
        let (read, write) = (is_set(reads, fd), is_set(writes, fd));
        let file = match read || write || is_set(excepts, fd) {
            true => Some(process.files.get(fd as u64)?),
            false => None,
        };
        wanted.push(Wanted { file, read, write });
    }
    let found = wait(process, &wanted, timeout)?;
    let mut results = images.each_ref().map(|image| vec![0_u8; image.len()]);
    let mut ready = 0;
    for (fd, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
        let is_there = [
            wanted.read && (found.read || found.hangup),
            wanted.write && (found.write || found.hangup),
            false,
        ];
        for (result, is_there) in results.iter_mut().zip(is_there) {
            if let Some(byte) = result.get_mut(fd / 8).filter(|_| is_there) {
                *byte |= 1 << (fd % 8);
                ready += 1;
            }
        }
    }
    for (result, at) in results.iter().zip(sets).filter(|(_, at)| *at != 0) {
        process.space.write(at, result)?;
    }
    Ok(ready)
}

/// A time-out from memory: seconds, and parts of a second of so many nanoseconds. None: for ever.
fn optional_time(process: &Process, at: u64, part: u64) -> Result<Option<Duration>, Errno> {
    if at == 0 { Ok(None) } else { time(process, at, part).map(Some) }
}

fn time(process: &Process, at: u64, part: u64) -> Result<Duration, Errno> {
    let [seconds, parts] = process.space.read_words(at)?;
    let nanoseconds = parts.checked_mul(part).filter(|n| *n < 1_000_000_000);
    let nanoseconds = nanoseconds.ok_or(Errno::INVAL)? as u32;
    i64::try_from(seconds).map_err(|_| Errno::INVAL)?;
    Ok(Duration::new(seconds, nanoseconds))
}

fn nanosleep(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let wanted = time(process, call.args[0], 1)?;
    process.watch.wait(&[], Some(wanted))?;
    Ok(0)
}

fn clock_nanosleep(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [clock, flags, at, ..] = call.args;
    let now = match clock as libc::clockid_t {
        libc::CLOCK_REALTIME => process.clock.real(),
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => process.clock.monotonic(),
        _ => return Err(Errno::INVAL),
    };
    let wanted = time(process, at, 1)?;
    let absolute = flags as i32 & libc::TIMER_ABSTIME != 0;
    let left = if absolute { wanted.saturating_sub(now) } else { wanted };
    process.watch.wait(&[], Some(left))?;
    Ok(0)
}
