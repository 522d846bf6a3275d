//! The time a program sees.

use std::time::{Duration, Instant, SystemTime};

use rustix::time::ClockId;

/// Real time is the host's; the monotonic clock starts with the sandbox, and goes on in copies of it
/// from where it stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// What it showed then.
    before: Duration,
}

impl Clock {
    /// One that shows `before` now.
    pub(crate) fn new(before: Duration) -> Self {
        Self { started: Instant::now(), before }
    }

    /// Since 1970.
    pub(crate) fn real(self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Since the sandbox was made, in which it was not a snapshot.
    pub(crate) fn monotonic(self) -> Duration {
        self.before + self.started.elapsed()
    }
}

/// The processor time of the calling thread, which a program's own is part of.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
