//! Token buckets: how much a guest may ask a device for.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::Timespec,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};
use vmm_core::{Error, Result};

/// So much a second, and so much at once after a rest.
///
/// What is counted, bytes or requests, the device says. A request begins as soon as there is anything
/// left and may take more than that: the debt is waited for before the next one. So none is too large
/// to be done, and over time the rate is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How much is added a second.
    pub per_second: u64,
    /// The most that is saved up.
    pub burst: u64,
}

/// A bucket with a timer, which wakes its device when there is something in it again.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Bucket,
    timer: OwnedFd,
}

impl Limiter {
    /// A full bucket.
    ///
    /// # Errors
    /// `BadConfig` if the limit would let nothing pass; `Host` if there can be no timer.
    pub(crate) fn new(limit: RateLimit) -> Result<Self> {
        if limit.per_second == 0 || limit.burst == 0 {
            return Err(Error::bad_config(format!("{limit:?}: nothing would pass")));
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        let timer = timer.map_err(|error| Error::host("making a timer", error.raw_os_error()))?;
        Ok(Self { bucket: Bucket::new(limit, Instant::now()), timer })
    }

    /// Whether another request may begin. If not, the timer wakes the device when it may.
    pub(crate) fn may_begin(&mut self) -> bool {
        let Some(wait) = self.bucket.wait(Instant::now()) else { return true };
        let it_value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let timer = Itimerspec { it_interval: Timespec::default(), it_value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer) {
            log::error!("setting a timer: {error}");
            return true;
        }
        false
    }

    /// A request took so much.
    pub(crate) fn spend(&mut self, amount: u64) {
        self.bucket.spend(amount);
    }

    /// What wakes the device.
    ///
    /// # Errors
    /// `Host` if it cannot be copied.
    pub(crate) fn source(&self) -> Result<OwnedFd> {
        self.timer.as_fd().try_clone_to_owned().map_err(|error| {
            Error::host("copying a timer", error.raw_os_error().unwrap_or_default())
        })
    }

    /// The timer woke the device.
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

/// What is left, in parts of which a billion are one, so that slow rates lose nothing to rounding.
#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    level: i128,
    since: Instant,
}

const PARTS: i128 = 1_000_000_000;

impl Bucket {
    fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, level: i128::from(limit.burst) * PARTS, since: now }
    }

    /// How long until there is something; `None` if there is now.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since).as_nanos();
        self.since = now;
        let rate = i128::from(self.limit.per_second);
        // A rate is less than 2^64 and so are the nanoseconds of 500 years.
        let added = i128::try_from(passed.min(u128::from(u64::MAX >> 1))).unwrap_or(0) * rate;
        self.level = (self.level + added).min(i128::from(self.limit.burst) * PARTS);
        if self.level > 0 {
            return None;
        }
        // One nanosecond's worth more, so that it is not empty then.
        let nanoseconds = -self.level / rate + 1;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX >> 1)))
    }

    fn spend(&mut self, amount: u64) {
        self.level -= i128::from(amount) * PARTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time_and_a_burst_goes_at_once() {
        let limit = RateLimit { per_second: 1000, burst: 5000 };
        let start = Instant::now();
        let mut bucket = Bucket::new(limit, start);
        let (mut now, mut spent) = (start, 0_u64);
        while now < start + Duration::from_secs(100) {
            match bucket.wait(now) {
                None => {
                    bucket.spend(300);
                    spent += 300;
                }
                Some(wait) => now += wait,
            }
        }
        assert!((105_000..=105_300).contains(&spent), "{spent}");
    }

    #[test]
    fn a_rest_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RateLimit { per_second: 10, burst: 7 }, start);
        assert_eq!(bucket.wait(start + Duration::from_secs(1000)), None);
        bucket.spend(7);
        let wait = bucket.wait(start + Duration::from_secs(1000)).unwrap();
        assert_eq!(bucket.wait(start + Duration::from_secs(1000) + wait), None);
    }

    #[test]
    fn no_amount_or_rate_overflows() {
        let start = Instant::now();
        let limit = RateLimit { per_second: u64::MAX, burst: u64::MAX };
        let mut bucket = Bucket::new(limit, start);
        for n in 0..1000 {
            bucket.spend(u64::MAX);
            bucket.wait(start + Duration::from_secs(n << 20));
        }
        let mut slow = Bucket::new(RateLimit { per_second: 1, burst: 1 }, start);
        slow.spend(u64::MAX);
        assert!(slow.wait(start).unwrap() > Duration::from_secs(1 << 30));
    }

    #[test]
    fn a_limit_that_lets_nothing_pass_is_refused() {
        for (per_second, burst) in [(0, 1), (1, 0)] {
            assert!(Limiter::new(RateLimit { per_second, burst }).is_err());
        }
    }
}
