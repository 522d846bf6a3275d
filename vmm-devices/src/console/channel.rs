//! A port whose other end is in this process.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, ErrorKind, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::event::{EventfdFlags, eventfd};
use vmm_core::{Error, Result};

use super::Peer;
use crate::SerialOutput;

/// The most input that waits for a guest.
const QUEUE: usize = 64 << 10;

/// A peer of which the other end is in this process: input by a [`ConsoleInput`], output by a
/// [`SerialOutput`].
#[derive(Debug)]
pub struct Channel {
    shared: Arc<Shared>,
    output: SerialOutput,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is room again, and when the device is gone.
    room: Condvar,
    /// Readable while input waits.
    waits: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<u8>,
    is_gone: bool,
}

impl Channel {
    /// A channel that nobody has sent anything by.
    ///
    /// # Errors
    /// `Host` if no eventfd can be made.
    pub fn new() -> Result<Self> {
        let waits = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let waits =
            waits.map_err(|error| Error::host("making an eventfd", error.raw_os_error()))?;
        let shared = Shared { state: Mutex::default(), room: Condvar::new(), waits };
        Ok(Self { shared: Arc::new(shared), output: SerialOutput::default() })
    }

    /// What sends the guest input from now on, from any thread; there may be several.
    pub fn input(&self) -> ConsoleInput {
        ConsoleInput(Arc::downgrade(&self.shared))
    }

    /// What the guest sends: the last 1 MiB of it.
    pub fn output(&self) -> SerialOutput {
        self.output.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes as much as there is room for.
    fn take(&self, state: &mut State, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(QUEUE - state.queue.len().min(QUEUE));
        if taken > 0 && state.queue.is_empty() {
            let _ = rustix::io::write(&self.waits, &1_u64.to_ne_bytes());
        }
        state.queue.extend(bytes.iter().take(taken));
        taken
    }
}

impl Peer for Channel {
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.write(data)
    }

    fn receive(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        let len = data.len().min(state.queue.len());
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        data.iter_mut().zip(state.queue.drain(..len)).for_each(|(place, byte)| *place = byte);
        if state.queue.is_empty() {
            let _ = rustix::io::read(&self.shared.waits, &mut [0; 8]);
        }
        self.shared.room.notify_all();
        Ok(len)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.waits.as_fd())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.state().is_gone = true;
        self.shared.room.notify_all();
    }
}

/// Sends a guest input by a console. Cheap to clone; any thread may use it; it does not keep the
/// device.
///
/// Up to 64 KiB wait for the guest. As [`io::Write`] it waits for room, as a
/// [`SerialInput`](crate::SerialInput) does.
#[derive(Clone)]
pub struct ConsoleInput(Weak<Shared>);

impl ConsoleInput {
    /// Sends as much of `bytes` as there is room for and returns how much, 0 if the device is gone.
    /// Never waits for the guest.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let Some(shared) = self.0.upgrade() else { return 0 };
        let mut state = shared.state();
        if state.is_gone { 0 } else { shared.take(&mut state, bytes) }
    }
}

impl Write for ConsoleInput {
    /// Waits until there is room for at least one byte.
    ///
    /// # Errors
    /// `BrokenPipe` as soon as the device is gone, that is, its machine was dropped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = self.0.upgrade().ok_or(ErrorKind::BrokenPipe)?;
        let mut state = shared.state();
        loop {
            if state.is_gone {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let taken = shared.take(&mut state, bytes);
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does nothing: what was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for ConsoleInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gone = self.0.strong_count() == 0;
        f.write_str(if gone { "ConsoleInput(device is gone)" } else { "ConsoleInput" })
    }
}
