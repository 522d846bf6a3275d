//! How long a program may run and how much it may write, and stopping it from elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use vmm_core::hv::Kicker;

/// What one start or call may take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) time: Option<Duration>,
    pub(crate) cpu_time: Option<Duration>,
    /// Bytes in all.
    pub(crate) output: u64,
}

/// Stops a sandbox from elsewhere: any thread, or a signal handler. It may outlive the sandbox.
#[derive(Clone, Debug)]
pub struct Canceller {
    kicker: Kicker,
    cancelled: Arc<AtomicBool>,
}

impl Canceller {
    pub(crate) fn new(kicker: Kicker) -> Self {
        Self { kicker, cancelled: Arc::default() }
    }

    /// Stops the program in the middle of what it does; the start or call ends with
    /// [`Cause::Cancelled`](crate::Cause::Cancelled). If it does nothing now, the next one does.
    pub fn cancel(&self) {
        self.cancelled.store(true, SeqCst);
        self.kicker.kick();
    }

    /// Whether it was cancelled since this was last asked.
    pub(crate) fn take(&self) -> bool {
        self.cancelled.swap(false, SeqCst)
    }
}
