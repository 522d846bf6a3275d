//! Where the thread of a vCPU waits, in a back end whose HLT is not the kernel's.
#![cfg_attr(not(feature = "soft"), expect(dead_code, reason = "the software CPU's"))]

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Instant,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io,
};

use super::kick::{Woken, wait_readable};
use crate::error::{HostResult, Result};

/// One thread waits here; any thread, and a signal handler, may end that.
///
/// Whoever has something for the waiting thread says so where that looks, then calls
/// [`end`](Self::end). The thread says that it is about to wait, and looks once more: one of the two
/// sees the other.
pub(crate) struct Doze {
    /// The thread waits, or is about to.
    waits: AtomicBool,
    /// Readable when it shall go on. An eventfd, because a wait for it can be interrupted by
    /// signals, and because a signal handler may write to it.
    event: OwnedFd,
}

impl Doze {
    pub(crate) fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { waits: AtomicBool::new(false), event: event.host(|| "making an eventfd")? })
    }

    /// The thread goes on, if it waits.
    pub(crate) fn end(&self) {
        if self.waits.swap(false, SeqCst) {
            // It fails only if the counter is full: then it is readable.
            let _ = io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Waits until that is ended, `until` is there, or a signal was handled; not at all if `look`
    /// finds something. It may go on for no reason.
    ///
    /// # Errors
    /// `Host` if the host cannot wait.
    pub(crate) fn wait(
        &self,
        until: Option<Instant>,
        look: impl FnOnce() -> bool,
    ) -> Result<Woken> {
        self.waits.store(true, SeqCst);
        let woken = match look() {
            true => Ok(Woken::Ready),
            false => {
                let within = until.map(|until| until.saturating_duration_since(Instant::now()));
                wait_readable(self.event.as_fd(), within)
            }
        };
        if !self.waits.swap(false, SeqCst) {
            // Whoever ended it has written, or is about to: what is left then ends the next wait
            // for no reason.
            let _ = io::read(&self.event, &mut [0; 8]);
        }
        woken.host(|| "waiting for an interrupt")
    }
}
