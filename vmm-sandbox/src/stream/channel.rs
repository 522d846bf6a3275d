//! Descriptors of the host as a program's streams. Where a read or a write may wait (a pipe, a
//! socket, a terminal), it is made without waiting: who waits does it in one place, which ends by
//! time limits and cancellation too.
//!
//! The descriptor stays as the caller has it: `O_NONBLOCK` would be seen by everybody who shares it.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use libc::PIPE_BUF;
use rustix::io::{Errno, ReadWriteFlags};
use vmm_sys_util::signal::{block_signal, clear_signal, unblock_signal};

/// `preadv2` and `pwritev2` then use and move the file's own position.
const HERE: u64 = u64::MAX;

/// A file of the host.
#[derive(Debug)]
pub(super) struct Channel {
    file: fs::File,
    /// What is done with it may have to wait.
    waits: bool,
}

impl Channel {
    pub(super) fn new(file: fs::File) -> Self {
        // Who has only a part of a file in memory would be told to wait for it, for ever.
        let is_regular = |stat: rustix::fs::Stat| {
            [libc::S_IFREG, libc::S_IFDIR, libc::S_IFBLK].contains(&(stat.st_mode & libc::S_IFMT))
        };
        let waits = !rustix::fs::fstat(&file).is_ok_and(is_regular);
        Self { file, waits }
    }

    /// What to ask whether it is ready, if that matters.
    pub(super) fn ask(&self) -> Option<BorrowedFd<'_>> {
        self.waits.then(|| self.file.as_fd())
    }

    /// Reads what is there; `AGAIN` if that is nothing.
    ///
    /// A terminal cannot be read so (and nor can pipes before Linux 6.4): who was told that there
    /// is something reads it, and waits if another reader was faster.
    pub(super) fn read(&self, data: &mut [u8]) -> Result<usize, Errno> {
        if self.waits {
            let now = ReadWriteFlags::NOWAIT;
            match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(data)], HERE, now) {
                Err(Errno::OPNOTSUPP) => {}
                done => return done,
            }
        }
        (&self.file).read(data).map_err(|error| errno(&error))
    }

    /// Writes what there is room for; `AGAIN` if there is none. Where it cannot be said so, the
    /// first bytes, which a pipe that is ready has room for.
    pub(super) fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        if !self.waits {
            return (&self.file).write(data).map_err(|error| errno(&error));
        }
        without_signal(|| {
            let now = ReadWriteFlags::NOWAIT;
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(data)], HERE, now) {
                Err(Errno::OPNOTSUPP) => {}
                done => return done,
            }
            let first = data.get(..PIPE_BUF).unwrap_or(data);
            (&self.file).write(first).map_err(|error| errno(&error))
        })
    }
}

/// A write to a pipe that nobody reads is a program's mistake, and must not end the host's process.
fn without_signal(write: impl FnOnce() -> Result<usize, Errno>) -> Result<usize, Errno> {
    let blocked = block_signal(libc::SIGPIPE).is_ok();
    let done = write();
    if blocked {
        if done == Err(Errno::PIPE) {
            // Where the signal is ignored there is none.
            let _ = clear_signal(libc::SIGPIPE);
        }
        let _ = unblock_signal(libc::SIGPIPE);
    }
    done
}

/// The host's reason, as a program may see it.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_pipe_is_read_and_written_as_far_as_it_goes() {
        let (reader, writer) = io::pipe().unwrap();
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        let (reader, writer) = (Channel::new(reader.into()), Channel::new(writer.into()));
        let mut data = vec![0; 1 << 20];
        assert_eq!(reader.read(&mut data), Err(Errno::AGAIN));
        let written = writer.write(&data).unwrap();
        assert!((PIPE_BUF..1 << 20).contains(&written), "{written}");
        assert_eq!(writer.write(&data), Err(Errno::AGAIN));
        assert_eq!(reader.read(&mut data), Ok(written));
        drop(reader);
        assert_eq!(writer.write(&data), Err(Errno::PIPE));
    }

    #[test]
    fn a_file_is_written_whole() {
        let file = tempfile::tempfile().unwrap();
        let channel = Channel::new(file);
        assert!(channel.ask().is_none());
        assert_eq!(channel.write(&[1; 1 << 20]), Ok(1 << 20));
        assert_eq!(channel.read(&mut [0; 4]), Ok(0));
    }
}
