//! KVM's clock for guests: a page in which they find how to make nanoseconds of their time-stamp
//! counter (Linux' `Documentation/virt/kvm/x86/msr.rst`). Linux measures no clock where it has this
//! one, and its time is right from the first moment on.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
        fence,
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use vmm_cpu::Tsc;

use super::{clock::Clock, layout::Layout};
use crate::arch::{CpuidLeaf, msr::MsrValue};

/// The registers that say where the guest wants what: new numbers, and those of before.
const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const OLD_WALL_CLOCK: u32 = 0x11;
const OLD_SYSTEM_TIME: u32 = 0x12;

/// In the register of the system time: switched on.
const ENABLED: u64 = 1;
/// In the page: all processors have the same time.
const STABLE: u8 = 1;
/// Features of KVM that guests find here: its clock, by either number, which all processors share;
/// port 0x80 need not be waited for.
const FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// What CPUID tells a guest of them.
pub(super) fn leaves() -> [CpuidLeaf; 2] {
    let leaf = |function, regs| CpuidLeaf { function, index: 0, indexed: false, regs };
    let [b, c, d] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    [leaf(0x4000_0000, [0x4000_0001, b, c, d]), leaf(0x4000_0001, [FEATURES, 0, 0, 0])]
}

/// A vCPU's part of the clock: where the guest wants it.
#[derive(Debug, Default)]
pub(super) struct ClockPage {
    wall: AtomicU64,
    system: AtomicU64,
}

impl ClockPage {
    /// RDMSR.
    pub(super) fn read_msr(&self, index: u32) -> Option<u64> {
        self.register(index).map(|register| register.load(Relaxed))
    }

    /// WRMSR; [`write`](Self::write) is to follow.
    pub(super) fn write_msr(&self, index: u32, value: u64) -> Option<()> {
        self.register(index).map(|register| register.store(value, Relaxed))
    }

    fn register(&self, index: u32) -> Option<&AtomicU64> {
        match index {
            WALL_CLOCK | OLD_WALL_CLOCK => Some(&self.wall),
            SYSTEM_TIME | OLD_SYSTEM_TIME => Some(&self.system),
            _ => None,
        }
    }

    /// The registers, as they are saved.
    pub(super) fn save(&self) -> [MsrValue; 2] {
        let msr = |index, register: &AtomicU64| MsrValue { index, value: register.load(Relaxed) };
        [msr(WALL_CLOCK, &self.wall), msr(SYSTEM_TIME, &self.system)]
    }

    /// Nobody wants it.
    pub(super) fn reset(&self) {
        self.wall.store(0, Relaxed);
        self.system.store(0, Relaxed);
    }

    /// Tells the guest the time, after WRMSR to `index`, or `None`: after the clock or the counter
    /// was set.
    pub(super) fn write(&self, index: Option<u32>, ram: &Layout, clock: &Clock, tsc: &Tsc) {
        if matches!(index, Some(WALL_CLOCK | OLD_WALL_CLOCK)) {
            write_wall(self.wall.load(Relaxed), ram, clock);
            return;
        }
        let system = self.system.load(Relaxed);
        if system & ENABLED != 0 {
            write_system(system & !ENABLED, ram, clock, tsc);
        }
    }
}

/// The time of day at which the clock was at 0: version, seconds, nanoseconds.
fn write_wall(at: u64, ram: &Layout, clock: &Clock) {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = today.as_nanos().saturating_sub(clock.now().into());
    let (seconds, rest) = (begin / 1_000_000_000, begin % 1_000_000_000);
    let version = next_version(at, ram);
    let words = [version, seconds as u32, rest as u32];
    ram.write(at, words.map(u32::to_le_bytes).as_flattened());
}

/// The time at a time-stamp, and how it goes on. Guests take it that all vCPUs have the same: it is
/// the time of one moment by both clocks, so that all pages are about one line.
fn write_system(at: u64, ram: &Layout, clock: &Clock, tsc: &Tsc) {
    let moment = Instant::now();
    let version = next_version(at, ram);
    let mut page = [0; 32];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &tsc.at(moment).to_le_bytes());
    put(16, &clock.at(moment).to_le_bytes());
    let (multiplier, shift) = scale(tsc.khz());
    put(24, &multiplier.to_le_bytes());
    put(28, &[shift.cast_unsigned(), STABLE]);
    // Any vCPU may be reading: the version is odd meanwhile.
    ram.write(at, &version.wrapping_sub(1).to_le_bytes());
    fence(SeqCst);
    ram.write(at + 4, &page[4..]);
    fence(SeqCst);
    ram.write(at, &version.to_le_bytes());
}

/// How a cycle becomes nanoseconds: shifted to the left (or to the right, if that is negative) it is
/// at least half of one and less than one, which the multiplier says as a fraction of 2^32.
fn scale(khz: u32) -> (u32, i8) {
    // Nanoseconds of 2^64 cycles: below 2^64 once they are shifted.
    let mut fraction = (1_000_000_u128 << 64) / u128::from(khz.max(1));
    let mut shift = 0;
    while fraction >= 1 << 64 {
        (fraction, shift) = (fraction >> 1, shift + 1);
    }
    while fraction < 1 << 63 {
        (fraction, shift) = (fraction << 1, shift - 1);
    }
    ((fraction >> 32) as u32, shift)
}

/// The next even version: those of what is complete are.
fn next_version(at: u64, ram: &Layout) -> u32 {
    let mut version = [0; 4];
    ram.read(at, &mut version);
    (u32::from_le_bytes(version) & !1).wrapping_add(2)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn a_cycle_of_any_speed_becomes_nanoseconds() {
        assert_eq!(scale(1_000_000), (1 << 31, 1));
        assert_eq!(scale(2_000_000), (1 << 31, 0));
        for khz in [1, 999, 19_200, 999_999, 1_000_001, 2_445_406, 5_000_000, u32::MAX] {
            let (multiplier, shift) = scale(khz);
            // As guests do: a second's cycles.
            let cycles = u128::from(khz) * 1000;
            let shifted = match shift {
                0.. => cycles << shift,
                _ => cycles >> -shift,
            };
            let nanoseconds = (shifted * u128::from(multiplier)) >> 32;
            assert!(
                nanoseconds.abs_diff(1_000_000_000) <= 2_000_000_000 / 1000,
                "{khz}: {nanoseconds}"
            );
        }
    }
}
