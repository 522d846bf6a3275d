//! The timer of a local APIC (Intel SDM 3-11.5.4). Its clock runs at 1 GHz, so that a cycle is a
//! nanosecond.

/// How it counts, as the local vector table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    /// Until the time-stamp counter is what the guest said.
    Deadline,
}

impl Mode {
    /// Bits 17 and 18 of the timer's entry.
    pub(super) fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::Deadline,
            _ => Self::OneShot,
        }
    }
}

/// What a local APIC's timer is about to do. All times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Timer {
    /// When it has counted down.
    due: Option<u64>,
    period: u64,
    /// The time-stamp that is waited for, or 0.
    deadline: u64,
}

impl Timer {
    /// Begins to count down from `left`, then from `period` again if it is periodic.
    pub(super) fn start(&mut self, left: u64, period: u64, now: u64) {
        *self = Self { due: Some(now.saturating_add(left)), period, deadline: 0 };
    }

    /// What it still has to count.
    pub(super) fn left(&self, mode: Mode, now: u64) -> u64 {
        match self.due {
            Some(due) if due > now => due - now,
            Some(due) if mode == Mode::Periodic => {
                self.period - (now - due).checked_rem(self.period).unwrap_or(self.period)
            }
            _ => 0,
        }
    }

    /// From now on each of its cycles takes `to` nanoseconds instead of `from`.
    pub(super) fn rescale(&mut self, from: u64, to: u64, mode: Mode, now: u64) {
        if self.due.is_some() {
            let left = self.left(mode, now) / from * to;
            self.start(left, self.period / from * to, now);
        }
    }

    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    pub(super) fn set_deadline(&mut self, deadline: u64) {
        *self = Self { deadline, ..Self::default() };
    }

    /// Whether it interrupts: once for all that has passed since the last time.
    pub(super) fn expire(&mut self, mode: Mode, now: u64, left: u64) -> bool {
        if self.due(mode, now, left).is_none_or(|due| due > now) {
            return false;
        }
        self.due = match mode {
            Mode::Periodic if self.period > 0 => {
                Some(now.saturating_add(self.left(Mode::Periodic, now)))
            }
            _ => None,
        };
        self.deadline = 0;
        true
    }

    /// When it interrupts next; `left` is how far the deadline is from `now`.
    pub(super) fn due(&self, mode: Mode, now: u64, left: u64) -> Option<u64> {
        match mode {
            Mode::OneShot | Mode::Periodic => self.due,
            Mode::Deadline if self.deadline == 0 => None,
            Mode::Deadline => Some(now.saturating_add(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_periodic_timer_keeps_its_beat_however_late_it_is_looked_at() {
        let mut timer = Timer::default();
        timer.start(100, 100, 1000);
        assert_eq!(timer.left(Mode::Periodic, 1040), 60);
        assert!(!timer.expire(Mode::Periodic, 1099, 0));
        assert_eq!(timer.left(Mode::Periodic, 1100), 100);
        assert!(timer.expire(Mode::Periodic, 1350, 0));
        assert_eq!(timer.due(Mode::Periodic, 1350, 0), Some(1400));
        assert!(!timer.expire(Mode::Periodic, 1399, 0));
        assert!(timer.expire(Mode::Periodic, 1400, 0));
        assert_eq!(timer.due(Mode::Periodic, 1400, 0), Some(1500));
    }

    #[test]
    fn a_one_shot_timer_expires_once_and_stays_at_0() {
        let mut timer = Timer::default();
        timer.start(100, 100, 0);
        assert_eq!(timer.left(Mode::OneShot, 100), 0);
        assert!(timer.expire(Mode::OneShot, 250, 0));
        assert_eq!(timer.due(Mode::OneShot, 250, 0), None);
        assert!(!timer.expire(Mode::OneShot, 500, 0));
    }

    #[test]
    fn a_deadline_is_of_the_time_stamp_counter_and_disarmed_by_coming() {
        let mut timer = Timer::default();
        timer.set_deadline(5_000);
        assert_eq!(timer.due(Mode::Deadline, 70, 1_000), Some(1_070));
        assert!(!timer.expire(Mode::Deadline, 70, 1));
        assert!(timer.expire(Mode::Deadline, 70, 0));
        assert_eq!(timer.deadline(), 0);
        assert!(!timer.expire(Mode::Deadline, 70, 0));
    }

    #[test]
    fn a_divider_that_changes_leaves_the_count() {
        let mut timer = Timer::default();
        timer.start(400, 800, 0);
        timer.rescale(4, 1, Mode::Periodic, 200);
        assert_eq!(timer.left(Mode::Periodic, 200), 50);
        assert_eq!(timer.due(Mode::Periodic, 200, 0), Some(250));
        assert!(timer.expire(Mode::Periodic, 250, 0));
        assert_eq!(timer.due(Mode::Periodic, 250, 0), Some(450));
    }
}
