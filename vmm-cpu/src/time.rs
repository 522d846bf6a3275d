//! The time-stamp counter: the host's monotonic clock, at any frequency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The frequency of a new time-stamp counter in kHz.
pub const TSC_KHZ: u32 = 1_000_000;

/// A millisecond in nanoseconds.
const MILLISECOND: u64 = 1_000_000;

/// A time-stamp counter that runs at one speed, whatever its CPU does. Clones are the same
/// counter; any thread may hold one.
#[derive(Clone, Debug)]
pub struct Tsc {
    begin: Instant,
    /// What it showed then.
    value: Arc<AtomicU64>,
    /// Its frequency.
    khz: Arc<AtomicU32>,
}

impl Tsc {
    /// At 0 now.
    pub(crate) fn new() -> Self {
        let khz = Arc::new(AtomicU32::new(TSC_KHZ));
        Self { begin: Instant::now(), value: Arc::default(), khz }
    }

    /// Its frequency in kHz.
    pub fn khz(&self) -> u32 {
        self.khz.load(Relaxed)
    }

    /// Changes its frequency, 1 kHz at least; what it shows stays. Not while its CPU runs.
    pub fn set_khz(&self, khz: u32) {
        let now = self.now();
        self.khz.store(khz.max(1), Relaxed);
        self.set(now);
    }

    /// What it shows.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// What it shows at a moment.
    pub fn at(&self, moment: Instant) -> u64 {
        let after = self.cycles(moment.saturating_duration_since(self.begin));
        let before = self.cycles(self.begin.saturating_duration_since(moment));
        self.value.load(Relaxed).wrapping_add(after).wrapping_sub(before)
    }

    /// From now on it shows what `other` shows, at any moment, and is as fast.
    pub fn follow(&self, other: &Self) {
        let moment = Instant::now();
        self.khz.store(other.khz(), Relaxed);
        let ahead = other.at(moment).wrapping_sub(self.at(moment));
        self.value.fetch_add(ahead, Relaxed);
    }

    /// How long it takes until it shows `value` or more.
    pub fn until(&self, value: u64) -> Duration {
        let left = value.saturating_sub(self.now());
        let nanoseconds = u128::from(left) * u128::from(MILLISECOND) / u128::from(self.khz());
        Duration::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
    }

    /// From now on it counts from `value`.
    pub(crate) fn set(&self, value: u64) {
        self.value.store(value.wrapping_sub(self.since()), Relaxed);
    }

    fn since(&self) -> u64 {
        self.cycles(self.begin.elapsed())
    }

    fn cycles(&self, time: Duration) -> u64 {
        (time.as_nanos() * u128::from(self.khz()) / u128::from(MILLISECOND)) as u64
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
        assert_eq!(same.until(1 << 60), Duration::ZERO);
        let (begin, hour) = (Instant::now(), 3600 * 1_000_000_000);
        let until = same.until(same.now() + hour);
        assert!(until <= Duration::from_secs(3600));
        assert!(until + begin.elapsed() >= Duration::from_secs(3600));
    }

    #[test]
    fn a_counter_that_follows_another_shows_the_same() {
        let (tsc, other) = (Tsc::new(), Tsc::new());
        other.set_khz(2_500_000);
        other.set(1 << 62);
        tsc.follow(&other);
        let now = Instant::now();
        for moment in [now, now + Duration::from_nanos(123_456_789), tsc.begin] {
            // Each rounds for itself.
            assert!(tsc.at(moment).abs_diff(other.at(moment)) <= 1);
        }
    }

    #[test]
    fn a_counter_at_another_speed_goes_on_from_what_it_showed() {
        let (tsc, begin) = (Tsc::new(), Instant::now());
        tsc.set(1 << 60);
        let same = tsc.clone();
        tsc.set_khz(4_000_000);
        let first = same.now();
        assert!(same.khz() == 4_000_000 && first >= 1 << 60);
        // Rounding may add a cycle each time.
        let fastest = 4 * begin.elapsed().as_nanos() as u64 + 8;
        assert!(first - (1 << 60) <= fastest);
        let (before, hour) = (Instant::now(), 3600 * 4_000_000_000);
        let until = same.until(first + hour);
        // By so much nearer as has passed since.
        assert!(until <= Duration::from_secs(3600));
        assert!(until + begin.elapsed() + before.elapsed() >= Duration::from_secs(3600));
        assert_eq!(same.until(first), Duration::ZERO);
    }
}
