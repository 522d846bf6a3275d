//! Pipes inside a program.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use vmm_core::Result as CoreResult;

use super::{
    About, Copied, Copies, File, Handle, Ready, Status,
    saved::{SavedFile, Saver},
};

/// What fits into a pipe, as in Linux.
const ROOM: usize = 64 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    bytes: VecDeque<u8>,
    readers: usize,
    writers: usize,
}

/// One end; the other shares what is in between.
struct End {
    shared: Arc<Mutex<Shared>>,
    writes: bool,
    nonblocking: bool,
}

/// The end to read from, and the end to write to.
pub(crate) fn pipe(flags: i32) -> (Handle, Handle) {
    let shared = Shared { readers: 1, writers: 1, ..Shared::default() };
    let shared = Arc::new(Mutex::new(shared));
    let nonblocking = flags & libc::O_NONBLOCK != 0;
    let end = |writes| Handle::new(End { shared: Arc::clone(&shared), writes, nonblocking });
    (end(false), end(true))
}

/// Pipes without ends, with these bytes in them; `None` if one has no room for its.
pub(super) fn saved(pipes: &[Vec<u8>]) -> Option<Vec<Arc<Mutex<Shared>>>> {
    let pipe = |bytes: &Vec<u8>| {
        let shared = Shared { bytes: bytes.clone().into(), ..Shared::default() };
        (bytes.len() <= ROOM).then(|| Arc::new(Mutex::new(shared)))
    };
    pipes.iter().map(pipe).collect()
}

/// One more end of a pipe.
pub(super) fn saved_end(shared: &Arc<Mutex<Shared>>, writes: bool, nonblocking: bool) -> Handle {
    let end = End { shared: Arc::clone(shared), writes, nonblocking };
    match writes {
        true => end.shared().writers += 1,
        false => end.shared().readers += 1,
    }
    Handle::new(end)
}

impl End {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program alone would wait for itself for ever: it is told of the deadlock instead.
    fn would_wait(&self) -> Errno {
        if self.nonblocking { Errno::AGAIN } else { Errno::DEADLK }
    }
}

impl File for End {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        if self.writes {
            return Err(Errno::BADF);
        }
        let mut shared = self.shared();
        if shared.bytes.is_empty() && shared.writers > 0 && !data.is_empty() {
            return Err(self.would_wait());
        }
        let count = shared.bytes.len().min(data.len());
        data.iter_mut().zip(shared.bytes.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        if !self.writes {
            return Err(Errno::BADF);
        }
        let mut shared = self.shared();
        if shared.readers == 0 {
            return Err(Errno::PIPE);
        }
        let count = data.len().min(ROOM - shared.bytes.len());
        if count == 0 && !data.is_empty() {
            return Err(self.would_wait());
        }
        shared.bytes.extend(data.iter().take(count));
        Ok(count)
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(Status::PIPE)
    }

    fn ready(&self) -> Ready<'_> {
        let shared = self.shared();
        match self.writes {
            true => Ready {
                read: false,
                write: shared.bytes.len() < ROOM || shared.readers == 0,
                hangup: shared.readers == 0,
                ask: None,
            },
            false => Ready {
                read: !shared.bytes.is_empty(),
                write: false,
                hangup: shared.writers == 0,
                ask: None,
            },
        }
    }

    fn about(&self) -> About<'_> {
        let access = if self.writes { libc::O_WRONLY } else { libc::O_RDONLY };
        About::stream(access | if self.nonblocking { libc::O_NONBLOCK } else { 0 })
    }

    fn set_flags(&mut self, flags: i32) {
        self.nonblocking = flags & libc::O_NONBLOCK != 0;
    }
}

impl Copied for End {
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let shared = copies.shared(&self.shared)?;
        Ok(Handle::new(Self { shared, ..*self }))
    }

    fn save(&self, saver: &mut Saver) -> CoreResult<SavedFile> {
        let pipe = saver.pipe(&self.shared, || self.shared().bytes.iter().copied().collect());
        Ok(SavedFile::Pipe { pipe, writes: self.writes, nonblocking: self.nonblocking })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut shared = self.shared();
        match self.writes {
            true => shared.writers -= 1,
            false => shared.readers -= 1,
        }
    }
}
