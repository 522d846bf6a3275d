//! The time-stamp counter: the host's monotonic clock, in nanoseconds.

use std::time::Instant;

/// The frequency of the time-stamp counter in kHz.
pub const TSC_KHZ: u32 = 1_000_000;

/// A counter that runs at [`TSC_KHZ`], whatever the CPU does.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    begin: Instant,
    /// What the counter showed then.
    value: u64,
}

impl Clock {
    /// At 0 now.
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), value: 0 }
    }

    /// What it shows.
    pub(crate) fn now(&self) -> u64 {
        self.value.wrapping_add(self.begin.elapsed().as_nanos() as u64)
    }

    /// From now on it counts from `value`.
    pub(crate) fn set(&mut self, value: u64) {
        *self = Self { begin: Instant::now(), value };
    }
}
