//! The interval timer 8254 of a PC with its speaker port: channel 0 interrupts, channel 2 can be
//! gated and read at port 0x61, channel 1 counts for nobody. Time is given in nanoseconds; counts
//! follow from it when they are asked for.

use crate::arch::irqchip::{Pit as Saved, PitChannel};

/// What the counters count, per second.
const FREQUENCY: u64 = 1_193_182;
const SECOND: u64 = 1_000_000_000;

/// How the bytes of a count are read and written (the control word's bits 4 and 5; the last one is
/// the second half of a word).
mod access {
    pub(super) const LOW: u8 = 1;
    pub(super) const HIGH: u8 = 2;
    pub(super) const WORD: u8 = 3;
    pub(super) const REST: u8 = 4;
}

/// The mode of a channel that nobody has set up.
const NONE: u8 = 0xff;

/// The most interrupts that are kept for a guest that does not get to handle them in time.
const MOST_OWED: u64 = 1_000;

/// The timer. Its registers are kept as they are saved.
#[derive(Debug)]
pub(super) struct Pit {
    state: Saved,
    /// When channel 0 interrupts next.
    due: Option<u64>,
    /// Interrupts that are still to come because the one before was not handled in time: guests
    /// that count them have the right time in the end.
    owed: u64,
    /// The last interrupt was handled.
    ready: bool,
}

/// How many nanoseconds this many counts take, and the reverse; both below 2^32 seconds.
fn time(counts: u64) -> u64 {
    (u128::from(counts) * u128::from(SECOND) / u128::from(FREQUENCY)) as u64
}

fn counts(time: u64) -> u64 {
    (u128::from(time) * u128::from(FREQUENCY) / u128::from(SECOND)) as u64
}

impl Pit {
    pub(super) fn new(now: u64) -> Self {
        let channel = |n: usize| PitChannel {
            mode: NONE,
            gate: u8::from(n != 2),
            count: 0x1_0000,
            count_load_time: now.cast_signed(),
            ..PitChannel::default()
        };
        let channels = [channel(0), channel(1), channel(2)];
        let state = Saved { channels, hpet_legacy: false, speaker_on: false };
        Self { state, due: None, owed: 0, ready: true }
    }

    /// Whether the ports of this chip have that number.
    pub(super) fn has(port: u16) -> bool {
        matches!(port, 0x40..=0x43 | 0x61)
    }

    /// IN of a byte.
    pub(super) fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.state.channels[usize::from(port & 3)].read(now),
            0x61 => {
                // Bit 4 toggles with each refresh of memory, every 16 microseconds.
                let speaker = &self.state.channels[2];
                let refresh = u8::from(now >> 14 & 1 != 0) << 4;
                let on = u8::from(self.state.speaker_on) << 1;
                speaker.gate | on | refresh | u8::from(speaker.output(now)) << 5
            }
            _ => 0,
        }
    }

    /// OUT of a byte.
    pub(super) fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => {
                let n = usize::from(port & 3);
                if self.state.channels[n].write(value, now) && n == 0 {
                    self.start(now);
                }
            }
            0x43 => self.control(value, now),
            0x61 => {
                self.state.speaker_on = value & 2 != 0;
                self.state.channels[2].set_gate(value & 1, now);
            }
            _ => {}
        }
    }

    /// The control word.
    fn control(&mut self, value: u8, now: u64) {
        match usize::from(value >> 6) {
            3 => {
                for (channel, n) in self.state.channels.iter_mut().zip(0..) {
                    if value >> (n + 1) & 1 != 0 {
                        channel.latch(value & 0x20 == 0, value & 0x10 == 0, now);
                    }
                }
            }
            n => self.state.channels[n].control(value, now),
        }
    }

    /// Channel 0 begins to count.
    fn start(&mut self, now: u64) {
        let channel = &self.state.channels[0];
        let interrupts = channel.mode <= 4;
        self.due = interrupts.then(|| now.saturating_add(time(u64::from(channel.count))));
        self.unmasked();
    }

    /// When channel 0 interrupts next.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Whether channel 0 interrupts now.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let channel = &self.state.channels[0];
        self.due = match channel.mode {
            2 | 3 => {
                let period = time(u64::from(channel.count)).max(1);
                let missed = (now - due) / period;
                self.owed = self.owed.saturating_add(missed + 1).min(MOST_OWED);
                Some(due + (missed + 1) * period)
            }
            _ => {
                self.owed = 1;
                None
            }
        };
        self.next()
    }

    /// The guest has handled channel 0's interrupt; whether the next one comes at once.
    pub(super) fn ended(&mut self) -> bool {
        self.ready = true;
        self.next()
    }

    /// The guest lets the interrupt in again: one that came before will not be handled, and those
    /// that were missed are not missed.
    pub(super) fn unmasked(&mut self) {
        (self.owed, self.ready) = (0, true);
    }

    fn next(&mut self) -> bool {
        if !self.ready || self.owed == 0 {
            return false;
        }
        self.owed -= 1;
        self.ready = false;
        true
    }

    pub(super) fn save(&self) -> Saved {
        self.state
    }

    /// Goes on from a state that was saved, with its counts from the beginning: when they were begun
    /// is in another's time.
    pub(super) fn restore(&mut self, saved: &Saved, now: u64) {
        self.state = *saved;
        for channel in &mut self.state.channels {
            channel.gate &= 1;
            channel.load(channel.count, now);
        }
        self.start(now);
    }
}

/// One channel.
impl PitChannel {
    fn elapsed(&self, now: u64) -> u64 {
        counts(now.saturating_sub(self.count_load_time.cast_unsigned()))
    }

    /// Its counter.
    fn counter(&self, now: u64) -> u16 {
        let (elapsed, count) = (self.elapsed(now), u64::from(self.count.max(1)));
        let counter = match self.mode {
            0 | 1 | 4 | 5 => count.wrapping_sub(elapsed),
            3 => count - elapsed.wrapping_mul(2) % count,
            _ => count - elapsed % count,
        };
        counter as u16
    }

    /// Its output.
    fn output(&self, now: u64) -> bool {
        let (elapsed, count) = (self.elapsed(now), u64::from(self.count.max(1)));
        match self.mode {
            1 => elapsed < count,
            2 => elapsed != 0 && elapsed % count == 0,
            3 => elapsed % count < count.div_ceil(2),
            4 | 5 => elapsed == count,
            _ => elapsed >= count,
        }
    }

    /// Begins to count from `count`, of which 0 is the highest.
    fn load(&mut self, count: u32, now: u64) {
        self.count = if count == 0 { 0x1_0000 } else { count.min(0x1_0000) };
        self.count_load_time = now.cast_signed();
    }

    /// A gate that opens begins the count anew in some modes; in others it would only halt it,
    /// which nobody relies on.
    fn set_gate(&mut self, gate: u8, now: u64) {
        if gate > self.gate && matches!(self.mode, 1 | 2 | 3 | 5) {
            self.count_load_time = now.cast_signed();
        }
        self.gate = gate;
    }

    fn control(&mut self, value: u8, now: u64) {
        match value >> 4 & 3 {
            0 => self.latch(true, false, now),
            how => {
                (self.rw_mode, self.read_state, self.write_state) = (how, how, how);
                let mode = value >> 1 & 7;
                self.mode = if mode > 5 { mode - 4 } else { mode };
                self.bcd = value & 1;
            }
        }
    }

    /// Keeps count and status as they are until they are read; what is already kept stays.
    fn latch(&mut self, count: bool, status: bool, now: u64) {
        if count && self.count_latched == 0 {
            self.latched_count = self.counter(now);
            self.count_latched = self.rw_mode;
        }
        if status && self.status_latched == 0 {
            let output = u8::from(self.output(now)) << 7;
            self.status = output | self.rw_mode << 4 | (self.mode & 7) << 1 | self.bcd;
            self.status_latched = 1;
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if self.status_latched != 0 {
            self.status_latched = 0;
            return self.status;
        }
        let latched = self.count_latched != 0;
        let state = if latched { self.count_latched } else { self.read_state };
        let count = if latched { self.latched_count } else { self.counter(now) };
        let [low, high] = count.to_le_bytes();
        let (byte, next) = match state {
            access::HIGH => (high, access::HIGH),
            access::WORD => (low, access::REST),
            access::REST => (high, access::WORD),
            _ => (low, access::LOW),
        };
        if latched {
            self.count_latched = if next == access::REST { access::REST } else { 0 };
        } else {
            self.read_state = next;
        }
        byte
    }

    /// Takes a byte of a count; whether it is complete.
    fn write(&mut self, value: u8, now: u64) -> bool {
        let value = u32::from(value);
        match self.write_state {
            access::HIGH => self.load(value << 8, now),
            access::WORD => {
                (self.write_latch, self.write_state) = (value as u8, access::REST);
                return false;
            }
            access::REST => {
                self.write_state = access::WORD;
                self.load(u32::from(self.write_latch) | value << 8, now);
            }
            _ => self.load(value, now),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control word and count of a channel, from now on at 0.
    fn set_up(pit: &mut Pit, control: u8, count: u16) {
        let [low, high] = count.to_le_bytes();
        let port = 0x40 + u16::from(control >> 6);
        let writes = [(0x43, control), (port, low), (port, high)];
        writes.iter().for_each(|(port, value)| pit.write(*port, *value, 0));
    }

    fn word(pit: &mut Pit, port: u16, now: u64) -> u16 {
        u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
    }

    #[test]
    fn a_rate_generator_interrupts_at_its_rate() {
        let mut pit = Pit::new(0);
        assert_eq!(pit.due(), None);
        set_up(&mut pit, 0x34, 11_932);
        let period = time(11_932);
        assert_eq!(pit.due(), Some(period));
        assert!((9_999_000..10_001_000).contains(&period));
        assert!(!pit.expire(period - 1) && pit.expire(period));
        assert_eq!(pit.due(), Some(2 * period));
        assert!(!pit.ended());
    }

    #[test]
    fn what_a_late_guest_has_missed_comes_one_by_one() {
        let mut pit = Pit::new(0);
        set_up(&mut pit, 0x34, 11_932);
        let period = time(11_932);
        assert!(pit.expire(period) && !pit.expire(4 * period));
        let more: Vec<_> = (0..4).map(|_| pit.ended()).collect();
        assert_eq!((more, pit.due()), (vec![true, true, true, false], Some(5 * period)));
        // As many as can be kept.
        assert!(pit.expire(1 << 60));
        assert_eq!((0..).take_while(|_| pit.ended()).count() as u64, MOST_OWED - 1);
    }

    #[test]
    fn a_one_shot_interrupts_once() {
        let mut pit = Pit::new(0);
        set_up(&mut pit, 0x30, 100);
        assert!(pit.expire(time(100)) && !pit.expire(1 << 40));
        assert_eq!(pit.due(), None);
    }

    #[test]
    fn counters_are_latched_and_read_byte_by_byte() {
        let mut pit = Pit::new(0);
        set_up(&mut pit, 0x34, 1000);
        pit.write(0x43, 0x00, time(400));
        assert_eq!(word(&mut pit, 0x40, time(900)), 601);
        assert_eq!(word(&mut pit, 0x40, time(500) + 1), 500);
        // Mode 3 counts by two.
        set_up(&mut pit, 0xb6, 1000);
        assert_eq!(word(&mut pit, 0x42, time(100) + 1), 800);
        // Status and count of channel 2, in that order.
        pit.write(0x43, 0xc8, time(600) + 1);
        assert_eq!(pit.read(0x42, 0), 0x36);
        assert_eq!(word(&mut pit, 0x42, 0), 800);
    }

    /// As Linux measures the time-stamp counter by it.
    #[test]
    fn the_speaker_channel_is_gated_and_seen_at_its_port() {
        let mut pit = Pit::new(0);
        pit.write(0x61, 1, 0);
        set_up(&mut pit, 0xb0, 1000);
        let seen = |pit: &mut Pit, counts| pit.read(0x61, time(counts) + 1) & 0x23;
        assert_eq!([999, 1000].map(|counts| seen(&mut pit, counts)), [0x01, 0x21]);
        pit.write(0x61, 2, 0);
        assert_eq!(seen(&mut pit, 0), 0x02);
    }

    #[test]
    fn what_is_saved_is_restored_from_the_beginning_of_the_count() {
        let mut pit = Pit::new(0);
        set_up(&mut pit, 0x34, 1000);
        let saved = pit.save();
        let mut other = Pit::new(50);
        other.restore(&saved, 70);
        assert_eq!(other.due(), Some(70 + time(1000)));
        let mut state = other.save();
        state.channels[0].count = 0;
        (state.channels[1].count, state.channels[2].count) = (0x1_0000, u32::MAX);
        other.restore(&state, 0);
        assert_eq!(other.save().channels.map(|channel| channel.count), [0x1_0000; 3]);
    }
}
