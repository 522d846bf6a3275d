//! The time-stamp counter: the host's monotonic clock, in nanoseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The frequency of the time-stamp counter in kHz.
pub const TSC_KHZ: u32 = 1_000_000;

/// A time-stamp counter that runs at [`TSC_KHZ`], whatever its CPU does. Clones are the same
/// counter; any thread may hold one.
#[derive(Clone, Debug)]
pub struct Tsc {
    begin: Instant,
    /// What it showed then.
    value: Arc<AtomicU64>,
}

impl Tsc {
    /// At 0 now.
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), value: Arc::default() }
    }

    /// What it shows.
    pub fn now(&self) -> u64 {
        self.value.load(Relaxed).wrapping_add(self.since())
    }

    /// When it shows `value`, as it counts now: the present, if that is past. `None`: later than
    /// the host can tell.
    pub fn when(&self, value: u64) -> Option<Instant> {
        // What is less than half of all numbers behind is past.
        let left = value.wrapping_sub(self.now()).cast_signed().max(0);
        Instant::now().checked_add(Duration::from_nanos(left.cast_unsigned()))
    }

    /// From now on it counts from `value`.
    pub(crate) fn set(&self, value: u64) {
        self.value.store(value.wrapping_sub(self.since()), Relaxed);
    }

    fn since(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_was_set_goes_on_from_there_for_all_who_hold_it() {
        let (tsc, other) = (Tsc::new(), Tsc::new());
        let same = tsc.clone();
        tsc.set(1 << 60);
        assert!((1 << 60..1 << 61).contains(&same.now()));
        assert!(other.now() < 1 << 60);
        let begin = Instant::now();
        assert!(same.when(1 << 60) >= Some(begin));
        let hour = 3600 * 1_000_000_000;
        assert!(same.when(same.now() + hour) >= Some(begin + Duration::from_secs(3600)));
    }
}
