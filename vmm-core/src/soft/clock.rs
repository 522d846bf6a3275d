//! The clock of a VM.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::arch::irqchip::Clock as Saved;

/// Counts nanoseconds, of which the first was at power-on; as the host's monotonic clock does.
#[derive(Debug)]
pub(super) struct Clock {
    begin: Instant,
    /// What it showed then.
    value: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), value: AtomicU64::new(0) }
    }

    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// What it shows at a moment since it began.
    pub(super) fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.begin).as_nanos() as u64;
        self.value.load(Relaxed).wrapping_add(since)
    }

    pub(super) fn save(&self) -> Saved {
        let realtime = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        Saved { nanoseconds: self.now(), realtime: realtime.map(|time| time.as_nanos() as u64) }
    }

    /// Goes on from where it was; time that passed meanwhile is the caller's to add.
    pub(super) fn restore(&self, saved: &Saved) {
        self.value.store(saved.nanoseconds.wrapping_sub(self.since()), Relaxed);
    }

    fn since(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}
