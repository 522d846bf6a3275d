//! The real-time clock of a PC: an MC146818 with 128 bytes of CMOS RAM.
//!
//! Shows a clock of the host's, plus what the guest has set it forward or back. Registers: Motorola
//! MC146818 data sheet; century in 0x32, where ACPI says it is. The day of the week follows from
//! the date.
//!
//! It never interrupts, as a device has no thread to do it on time: the enable bits of register B
//! and the alarm are stored, register C reads 0. Daylight saving and the square wave are stored
//! too. PC guests take ticks from elsewhere.

mod calendar;

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use vmm_core::{
    Error, Result,
    bus::{Locked, LockedDevice},
    exit::{CONTINUE, Flow},
    machine::{Device, Legacy, Slot},
    persist::{Kind, StateReader, StateWriter},
};

use self::calendar::Date;

/// The registers that show the time.
const SECOND: u8 = 0x00;
const MINUTE: u8 = 0x02;
const HOUR: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const CENTURY: u8 = 0x32;
const TIME: [u8; 8] = [SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// The control registers.
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;

/// A: the time is about to change.
const A_UPDATE: u8 = 0x80;
/// A: the divider; from 110 on it is held in reset, and the clock with it.
const A_DIVIDER: u8 = 0x70;
const A_DIVIDER_HELD: u8 = 0x60;
/// A: a crystal of 32,768 Hz, and a periodic rate of 1,024 Hz as PCs have it.
const A_DEFAULT: u8 = 0x26;
/// B: the time is held for setting.
const B_SET: u8 = 0x80;
/// B: numbers are binary, not BCD.
const B_BINARY: u8 = 0x04;
/// B: hours go to 23, not to 12 twice.
const B_24_HOURS: u8 = 0x02;
/// D: RAM and time are valid.
const D_VALID: u8 = 0x80;

/// In the hour register of a clock of 12 hours.
const AFTERNOON: u8 = 0x80;

/// The address bits of the index port; bit 7 masks the NMI and is not ours.
const INDEX: u8 = 0x7f;

const SECOND_NS: i128 = 1_000_000_000;
/// How long before an update register A announces it (data sheet, "update cycle": 244
/// microseconds).
const UPDATE_NS: i128 = 244_000;

/// A real-time clock.
pub struct Rtc {
    clock: Box<dyn Fn() -> SystemTime + Send>,
    /// What the guest's time is ahead of the host's while its clock runs.
    offset_ns: i128,
    index: u8,
    /// The time registers in it are valid while the clock is held.
    ram: [u8; 128],
}

impl Rtc {
    /// A clock that shows UTC as the host has it.
    pub fn now() -> Self {
        Self::with_clock(SystemTime::now)
    }

    /// A clock that shows what `clock` says. It is called on vCPU threads and must not block.
    ///
    /// ```
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// let new_year = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    /// let rtc = vmm_devices::Rtc::with_clock(move || new_year);
    /// ```
    pub fn with_clock(clock: impl Fn() -> SystemTime + Send + 'static) -> Self {
        let mut rtc = Self { clock: Box::new(clock), offset_ns: 0, index: 0, ram: [0; 128] };
        rtc.power_on();
        rtc
    }

    /// As after the battery was changed: what one guest left is not for the next.
    fn power_on(&mut self) {
        (self.offset_ns, self.index, self.ram) = (0, 0, [0; 128]);
        self.store(A, A_DEFAULT);
        self.store(B, B_24_HOURS);
    }

    fn read_register(&self, at: u8) -> u8 {
        match at {
            A if self.is_running()
                && self.now_ns().rem_euclid(SECOND_NS) >= SECOND_NS - UPDATE_NS =>
            {
                self.stored(A) | A_UPDATE
            }
            C => 0,
            D => D_VALID,
            _ if self.is_running() && TIME.contains(&at) => self.time_register(at, self.date()),
            _ => self.stored(at),
        }
    }

    fn write_register(&mut self, at: u8, value: u8) {
        match at {
            A => self.control(A, value & !A_UPDATE),
            B => self.control(B, value),
            C | D => {}
            _ if self.is_running() && TIME.contains(&at) => {
                let fraction = self.now_ns().rem_euclid(SECOND_NS);
                self.hold();
                self.store(at, value);
                self.start(fraction);
            }
            _ => self.store(at, value),
        }
    }

    /// Sets register A or B, which may hold the clock or let it go.
    fn control(&mut self, at: u8, value: u8) {
        let was_running = self.is_running();
        if was_running {
            // In the old format; of no consequence if the clock goes on.
            self.hold();
        }
        self.store(at, value);
        if !was_running && self.is_running() {
            self.start(0);
        }
    }

    fn is_running(&self) -> bool {
        self.stored(B) & B_SET == 0 && self.stored(A) & A_DIVIDER < A_DIVIDER_HELD
    }

    /// Puts the time into its registers.
    fn hold(&mut self) {
        let date = self.date();
        for at in TIME {
            self.store(at, self.time_register(at, date));
        }
    }

    /// Lets the clock run from what its registers say, so far into the second.
    fn start(&mut self, fraction_ns: i128) {
        let set = i128::from(self.registers_date().to_seconds()) * SECOND_NS + fraction_ns;
        self.offset_ns = set - self.host_ns();
    }

    fn host_ns(&self) -> i128 {
        // A SystemTime has at most 2^64 seconds, so nanoseconds fit.
        let signed = |time: std::time::Duration| time.as_nanos() as i128;
        match (self.clock)().duration_since(UNIX_EPOCH) {
            Ok(after) => signed(after),
            Err(before) => -signed(before.duration()),
        }
    }

    fn now_ns(&self) -> i128 {
        self.host_ns() + self.offset_ns
    }

    fn date(&self) -> Date {
        // Times beyond are not worth an answer, only not worth a panic.
        const FAR: i128 = i64::MAX as i128 / 2;
        Date::from_seconds(self.now_ns().div_euclid(SECOND_NS).clamp(-FAR, FAR) as i64)
    }

    /// What a time register shows of `date`.
    fn time_register(&self, at: u8, date: Date) -> u8 {
        match at {
            SECOND => self.encode(date.second),
            MINUTE => self.encode(date.minute),
            HOUR if self.stored(B) & B_24_HOURS != 0 => self.encode(date.hour),
            HOUR => {
                let afternoon = if date.hour >= 12 { AFTERNOON } else { 0 };
                self.encode((date.hour + 11) % 12 + 1) | afternoon
            }
            WEEKDAY => self.encode(date.weekday()),
            DAY => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode(date.year.rem_euclid(100)),
            _ => self.encode(date.year.div_euclid(100).rem_euclid(100)),
        }
    }

    /// The date that the time registers say.
    fn registers_date(&self) -> Date {
        let value = |at| self.decode(self.stored(at));
        let hour = match self.stored(HOUR) {
            raw if self.stored(B) & B_24_HOURS != 0 => self.decode(raw),
            raw => self.decode(raw & !AFTERNOON) % 12 + if raw & AFTERNOON != 0 { 12 } else { 0 },
        };
        Date {
            year: value(CENTURY) * 100 + value(YEAR),
            month: value(MONTH),
            day: value(DAY),
            hour,
            minute: value(MINUTE),
            second: value(SECOND),
        }
    }

    /// A number from 0 to 99 in the format of register B.
    fn encode(&self, value: i64) -> u8 {
        let value = value as u8;
        if self.stored(B) & B_BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, raw: u8) -> i64 {
        i64::from(if self.stored(B) & B_BINARY != 0 { raw } else { (raw >> 4) * 10 + (raw & 0xf) })
    }

    fn stored(&self, at: u8) -> u8 {
        self.ram.get(usize::from(at)).copied().unwrap_or(0xff)
    }

    fn store(&mut self, at: u8, value: u8) {
        if let Some(byte) = self.ram.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
}

impl LockedDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Flow {
        for (offset, byte) in (offset..).zip(data) {
            // On a PC the index can only be written.
            *byte = if offset == 1 { self.read_register(self.index) } else { 0xff };
        }
        CONTINUE
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Flow {
        for (offset, &byte) in (offset..).zip(data) {
            match offset {
                0 => self.index = byte & INDEX,
                1 => self.write_register(self.index, byte),
                _ => {}
            }
        }
        CONTINUE
    }

    fn reset(&mut self) {
        self.power_on();
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        let Self { offset_ns, index, ram, .. } = self;
        out.put(STATE, &State { offset_ns: *offset_ns, index: *index, ram: ram.to_vec() })
    }

    /// It shows the host's time as ever, and what the guest set it forward or back.
    fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        let State { offset_ns, index, ram } = from.take(STATE)?;
        let ram = ram.try_into();
        // Farther than any clock says, and near enough to be added to it.
        let (Ok(ram), true) = (ram, offset_ns.unsigned_abs() < 1 << 96) else {
            return Err(Error::snapshot("clock"));
        };
        (self.offset_ns, self.index, self.ram) = (offset_ns, index & INDEX, ram);
        Ok(())
    }
}

const STATE: Kind = Kind { name: "rtc", version: 1 };

#[derive(Serialize, Deserialize)]
struct State {
    offset_ns: i128,
    index: u8,
    ram: Vec<u8>,
}

impl Device for Rtc {
    fn name(&self) -> &str {
        "rtc"
    }

    /// # Errors
    /// `BadConfig` if the machine has one already.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.legacy(Legacy::Rtc, |_| Arc::new(Locked::new(*self)))
    }
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Rtc");
        shown
            .field("offset_ns", &self.offset_ns)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Duration,
    };

    use proptest::prelude::*;
    use vmm_core::{bus::Bus, hv::script::Access};

    use super::*;
    use crate::testing::{self, play};

    /// 2026-03-14 15:09:26, a Saturday.
    const PI: u64 = 1_773_500_966;

    /// A clock that stands at `PI` until it is set, in milliseconds.
    fn rtc() -> (Rtc, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(PI * 1_000));
        let shown = Arc::clone(&time);
        (Rtc::with_clock(move || UNIX_EPOCH + Duration::from_millis(shown.load(Relaxed))), time)
    }

    fn set_format(rtc: &mut Rtc, format: u8) {
        rtc.write_register(B, format);
    }

    fn time(rtc: &Rtc) -> [u8; 8] {
        TIME.map(|at| rtc.read_register(at))
    }

    #[test]
    fn the_time_shows_in_each_format() {
        let (mut rtc, _) = rtc();
        assert_eq!(time(&rtc), [0x26, 0x09, 0x15, 7, 0x14, 0x03, 0x26, 0x20]);
        set_format(&mut rtc, B_BINARY | B_24_HOURS);
        assert_eq!(time(&rtc), [26, 9, 15, 7, 14, 3, 26, 20]);
        set_format(&mut rtc, B_BINARY);
        assert_eq!(rtc.read_register(HOUR), 3 | AFTERNOON);
        set_format(&mut rtc, 0);
        assert_eq!(rtc.read_register(HOUR), 0x03 | AFTERNOON);
    }

    #[test]
    fn twelve_hours_have_no_zero() {
        let (mut rtc, _) = rtc();
        set_format(&mut rtc, B_BINARY);
        let shown = [(0, 12), (1, 1), (11, 11), (12, 0x8c), (13, 0x81), (23, 0x8b)];
        for (hour, raw) in shown {
            let date = Date { hour, ..rtc.date() };
            assert_eq!(rtc.time_register(HOUR, date), raw);
            rtc.write_register(HOUR, raw);
            assert_eq!(rtc.date().hour, hour);
        }
    }

    #[test]
    fn it_is_set_as_an_operating_system_does_it() {
        let (mut rtc, time_ms) = rtc();
        rtc.write_register(B, B_SET | B_24_HOURS);
        rtc.write_register(A, A_DEFAULT | A_DIVIDER);
        let new = [0x58, 0x59, 0x23, 0, 0x28, 0x02, 0x00, 0x20];
        TIME.into_iter().zip(new).for_each(|(at, value)| rtc.write_register(at, value));
        time_ms.fetch_add(5_000, Relaxed);
        assert_eq!(time(&rtc), new, "held");
        rtc.write_register(B, B_24_HOURS);
        assert_eq!(time(&rtc), new, "the divider still holds it");
        rtc.write_register(A, A_DEFAULT);
        time_ms.fetch_add(1_999, Relaxed);
        assert_eq!(time(&rtc), [0x59, 0x59, 0x23, 2, 0x28, 0x02, 0x00, 0x20]);
        time_ms.fetch_add(1, Relaxed);
        assert_eq!(time(&rtc), [0x00, 0x00, 0x00, 3, 0x29, 0x02, 0x00, 0x20], "a leap day");
    }

    #[test]
    fn setting_one_register_of_a_running_clock_changes_nothing_else() {
        let (mut rtc, time_ms) = rtc();
        time_ms.fetch_add(700, Relaxed);
        rtc.write_register(MINUTE, 0x30);
        assert_eq!(time(&rtc), [0x26, 0x30, 0x15, 7, 0x14, 0x03, 0x26, 0x20]);
        time_ms.fetch_add(300, Relaxed);
        assert_eq!(rtc.read_register(SECOND), 0x27);
    }

    #[test]
    fn an_update_is_announced() {
        let (mut rtc, time_ms) = rtc();
        assert_eq!(rtc.read_register(A), A_DEFAULT);
        let nanoseconds = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&nanoseconds);
        let precise =
            Rtc::with_clock(move || UNIX_EPOCH + Duration::from_nanos(shown.load(Relaxed)));
        for (at, update) in [(999_755_999, 0), (999_756_000, A_UPDATE), (1_000_000_000, 0)] {
            nanoseconds.store(at, Relaxed);
            assert_eq!(precise.read_register(A) & A_UPDATE, update, "{at}");
        }
        time_ms.fetch_add(999, Relaxed);
        rtc.write_register(B, B_SET);
        assert_eq!(rtc.read_register(A) & A_UPDATE, 0);
    }

    #[test]
    fn control_registers_and_ram_keep_what_they_may() {
        let (mut rtc, _) = rtc();
        for at in [C, D, 0x0e, 0x5a, 0x7f] {
            rtc.write_register(at, 0xa5);
        }
        rtc.write_register(B, 0x7f);
        let shown = [A, B, C, D, 0x0e, 0x5a, 0x7f].map(|at| rtc.read_register(at));
        assert_eq!(shown, [A_DEFAULT, 0x7f, 0, D_VALID, 0xa5, 0xa5, 0xa5]);
    }

    #[test]
    fn a_reset_leaves_nothing_of_what_the_guest_set() {
        let (mut rtc, _) = rtc();
        rtc.write_register(0x40, 0x77);
        rtc.write_register(HOUR, 0x03);
        set_format(&mut rtc, B_SET | B_BINARY);
        rtc.reset();
        assert_eq!(time(&rtc), [0x26, 0x09, 0x15, 7, 0x14, 0x03, 0x26, 0x20]);
        assert_eq!((rtc.read_register(0x40), rtc.read_register(B)), (0, B_24_HOURS));
    }

    #[test]
    fn a_guest_reads_the_date() {
        let mut script = Vec::new();
        for at in [YEAR | 0x80, DAY] {
            script.extend([Access::port_out(0x70, &[at]), Access::port_in(0x71, 1)]);
        }
        // Index and data in one write, both ports in one read.
        script.extend([Access::port_out(0x70, &[0x40, 9]), Access::port_in(0x70, 2), Access::Halt]);
        let (_, record) = play(rtc().0, script);
        assert_eq!(record.replies, [vec![0x26], vec![0x14], vec![0xff, 9]]);
    }

    #[test]
    fn a_host_clock_far_off_does_not_panic() {
        for clock in
            [UNIX_EPOCH - Duration::from_secs(1 << 40), UNIX_EPOCH + Duration::from_secs(1 << 60)]
        {
            let mut rtc = Rtc::with_clock(move || clock);
            rtc.write_register(DAY, 0xff);
            time(&rtc);
        }
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in testing::accesses(0x70, 2)) {
            let mut bus: Bus = Bus::new();
            bus.insert(0x70, 2, Arc::new(Locked::new(rtc().0))).unwrap();
            testing::perform(&bus, &accesses);
        }

        /// No sequence of register writes panics either, wherever it lets the clock run on.
        #[test]
        fn no_write_panics(writes in prop::collection::vec((0_u8..128, any::<u8>()), 0..99)) {
            let (mut rtc, _) = rtc();
            for (at, value) in writes {
                rtc.write_register(at, value);
                (0..0x80).for_each(|at| { rtc.read_register(at); });
            }
        }

        /// A time that is set is the time that shows, whatever the format.
        #[test]
        fn what_is_set_is_shown(seconds in 0_i64..253_402_300_800, format in 0_u8..4) {
            let (mut rtc, _) = rtc();
            let format = format << 1;
            let date = Date::from_seconds(seconds);
            set_format(&mut rtc, B_SET | format);
            let registers = TIME.map(|at| rtc.time_register(at, date));
            TIME.into_iter().zip(registers).for_each(|(at, value)| rtc.write_register(at, value));
            set_format(&mut rtc, format);
            prop_assert_eq!(rtc.date(), date);
            prop_assert_eq!(time(&rtc), registers);
        }
    }
}
