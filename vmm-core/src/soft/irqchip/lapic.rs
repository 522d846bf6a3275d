//! A local APIC (Intel SDM 3-11): a state machine without a thread and without a CPU. Its registers
//! are kept as the page that they are read from and saved as.

use super::{
    message::{Delivery, Message, Target},
    timer::{Mode, Timer},
};
use crate::arch::Lapic as Saved;

/// Where APICs are mapped after a reset.
const BASE: u64 = 0xfee0_0000;
/// Bits of the APIC base register.
const BOOTSTRAP: u64 = 1 << 8;
const X2: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// The highest address that a base may have.
const PHYSICAL_BITS: u32 = 40;

/// Registers by their number: their offset in the page in units of 16 bytes, and of their MSR from
/// [`MSRS`].
mod reg {
    pub(super) const ID: usize = 0x02;
    pub(super) const VERSION: usize = 0x03;
    pub(super) const TPR: usize = 0x08;
    pub(super) const PPR: usize = 0x0a;
    pub(super) const EOI: usize = 0x0b;
    pub(super) const LDR: usize = 0x0d;
    pub(super) const DFR: usize = 0x0e;
    pub(super) const SVR: usize = 0x0f;
    pub(super) const ISR: usize = 0x10;
    pub(super) const TMR: usize = 0x18;
    pub(super) const IRR: usize = 0x20;
    pub(super) const ESR: usize = 0x28;
    pub(super) const ICR: usize = 0x30;
    pub(super) const ICR_HIGH: usize = 0x31;
    pub(super) const LVT_TIMER: usize = 0x32;
    pub(super) const LVT_THERMAL: usize = 0x33;
    pub(super) const LVT_COUNTERS: usize = 0x34;
    pub(super) const LVT_LINT0: usize = 0x35;
    pub(super) const LVT_LINT1: usize = 0x36;
    pub(super) const LVT_ERROR: usize = 0x37;
    pub(super) const TIMER_INITIAL: usize = 0x38;
    pub(super) const TIMER_CURRENT: usize = 0x39;
    pub(super) const TIMER_DIVIDE: usize = 0x3e;
    pub(super) const SELF_IPI: usize = 0x3f;
}

/// The numbers that MSRs of the x2APIC begin at.
const MSRS: u32 = 0x800;

/// An integrated APIC with six entries in its local vector table.
const VERSION: u32 = 0x14 | 5 << 16;
/// In the spurious vector register: switched on.
const SOFTWARE_ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
/// What entries of the local vector table have: vector, delivery status, mask; delivery mode;
/// polarity, remote IRR and trigger mode of pins; the timer's mode.
const LVT: u32 = 0x1_10ff;
const LVT_MODE: u32 = LVT | 0x700;
const LVT_PIN: u32 = LVT_MODE | 0xe000;
const LVT_TIMER: u32 = LVT | 3 << 17;
/// In an interrupt command: pending, which it never is for long; asserted; for the sender.
const PENDING: u32 = 1 << 12;
const ASSERT: u64 = 1 << 14;
const SELF: u64 = 1 << 18;

/// What a write to a register does outside of its APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Send(Message),
    /// The interrupt of this vector is handled.
    Ended {
        vector: u8,
        level_triggered: bool,
    },
}

/// What has come for a CPU beside interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Signals {
    pub(in super::super) nmi: bool,
    /// INIT, before what else is here.
    pub(in super::super) init: bool,
    /// The page a CPU is to start at.
    pub(in super::super) startup: Option<u8>,
    /// A timer was set.
    pub(in super::super) timer: bool,
}

/// A local APIC.
#[derive(Debug)]
pub(super) struct Lapic {
    id: u32,
    base: u64,
    regs: [u32; Saved::LEN],
    timer: Timer,
    signals: Signals,
    /// How many messages for one of several it has taken: they go around.
    pub(super) taken: u32,
}

impl Lapic {
    /// As after power-on; number 0 is the bootstrap processor's.
    pub(super) fn new(id: u32) -> Self {
        let bootstrap = if id == 0 { BOOTSTRAP } else { 0 };
        let mut lapic = Self {
            id,
            base: BASE | ENABLED | bootstrap,
            regs: [0; Saved::LEN],
            timer: Timer::default(),
            signals: Signals::default(),
            taken: 0,
        };
        lapic.reset();
        lapic
    }

    /// As INIT leaves it (Intel SDM 3-11.4.7). The bootstrap processor's takes the interrupts of
    /// the PICs, as firmware would have set it up.
    pub(super) fn reset(&mut self) {
        self.regs = [0; Saved::LEN];
        self.regs[reg::VERSION] = VERSION;
        self.regs[reg::DFR] = u32::MAX;
        self.regs[reg::SVR] = 0xff;
        self.regs[reg::LVT_TIMER..=reg::LVT_ERROR].fill(MASKED);
        if self.base & BOOTSTRAP != 0 {
            self.regs[reg::LVT_LINT0] = 0x700;
        }
        self.timer = Timer::default();
        self.identify();
    }

    /// Sets the registers that follow from ID and mode.
    fn identify(&mut self) {
        if self.is_x2() {
            self.regs[reg::ID] = self.id;
            self.regs[reg::LDR] = (self.id >> 4) << 16 | 1 << (self.id & 15);
        } else {
            self.regs[reg::ID] = self.id << 24;
        }
    }

    fn is_x2(&self) -> bool {
        self.base & (ENABLED | X2) == ENABLED | X2
    }

    /// Whether the processor has it switched on.
    pub(super) fn is_present(&self) -> bool {
        self.base & ENABLED != 0
    }

    /// Whether it takes interrupts.
    pub(super) fn is_enabled(&self) -> bool {
        self.is_present() && self.regs[reg::SVR] & SOFTWARE_ENABLED != 0
    }

    /// The APIC base register.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Sets the APIC base register; `None`, and nothing is changed, if that cannot be (Intel SDM
    /// 3-11.12.5).
    pub(super) fn set_base(&mut self, base: u64) -> Option<()> {
        const MODE: u64 = ENABLED | X2;
        let known = BOOTSTRAP | MODE | ((1 << PHYSICAL_BITS) - 1) & !0xfff;
        let (from, to) = (self.base & MODE, base & MODE);
        let possible = from == to || to == ENABLED && from == 0 || from == ENABLED || to == 0;
        if base & !known != 0 || to == X2 || !possible {
            return None;
        }
        self.base = base;
        if from != to {
            if to == 0 {
                self.reset();
            }
            self.identify();
        }
        Some(())
    }

    /// Where its registers are mapped, if they are.
    pub(super) fn window(&self) -> Option<u64> {
        (self.is_present() && !self.is_x2()).then_some(self.base & !0xfff)
    }

    /// A load from the page of registers.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], now: u64) {
        data.fill(0);
        let (register, within) = ((offset >> 4) as usize & 0xff, offset as usize & 15);
        if register < Saved::LEN && within + data.len() <= 4 {
            let bytes = self.register(register, now).to_le_bytes();
            data.copy_from_slice(&bytes[within..within + data.len()]);
        }
    }

    /// A store to the page of registers: aligned words count.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], now: u64) -> Effect {
        let register = (offset >> 4) as usize & 0xff;
        match data.try_into() {
            Ok(word) if offset & 15 == 0 && register < reg::SELF_IPI => {
                self.set_register(register, u32::from_le_bytes(word), now)
            }
            _ => Effect::Nothing,
        }
    }

    /// RDMSR of an x2APIC's register; `None` if there is none (Intel SDM 3, table 11-6).
    pub(super) fn read_msr(&self, index: u32, now: u64) -> Option<u64> {
        let register = index.checked_sub(MSRS)? as usize;
        let exists = matches!(register,
            reg::ID | reg::VERSION | reg::TPR | reg::PPR | reg::LDR | reg::SVR
            | reg::ISR..=reg::ESR | reg::ICR | reg::LVT_TIMER..=reg::TIMER_CURRENT
            | reg::TIMER_DIVIDE);
        if !self.is_x2() || !exists {
            return None;
        }
        let high = if register == reg::ICR { u64::from(self.regs[reg::ICR_HIGH]) << 32 } else { 0 };
        Some(high | u64::from(self.register(register, now)))
    }

    /// WRMSR to an x2APIC's register; `None`, and nothing is changed, if it does not take that.
    pub(super) fn write_msr(&mut self, index: u32, value: u64, now: u64) -> Option<Effect> {
        let register = index.checked_sub(MSRS)? as usize;
        let allowed = match register {
            reg::ICR => u64::MAX,
            reg::EOI | reg::ESR => 0,
            reg::SELF_IPI | reg::TPR => 0xff,
            reg::SVR | reg::LVT_TIMER..=reg::TIMER_INITIAL | reg::TIMER_DIVIDE => 0xffff_ffff,
            _ => return None,
        };
        if !self.is_x2() || value & !allowed != 0 {
            return None;
        }
        Some(match register {
            reg::ICR => self.command(value),
            reg::SELF_IPI => self.send(value | SELF | ASSERT),
            _ => self.set_register(register, value as u32, now),
        })
    }

    /// What a register reads as.
    fn register(&self, register: usize, now: u64) -> u32 {
        match register {
            reg::PPR => u32::from(self.processor_priority()),
            reg::TIMER_CURRENT => (self.timer.left(self.mode(), now) / self.cycle()) as u32,
            // What is written is gone.
            reg::EOI => 0,
            _ => self.regs[register],
        }
    }

    fn set_register(&mut self, register: usize, value: u32, now: u64) -> Effect {
        match register {
            reg::TPR => self.regs[reg::TPR] = value & 0xff,
            reg::EOI => return self.end(),
            reg::LDR if !self.is_x2() => self.regs[reg::LDR] = value & 0xff00_0000,
            reg::DFR if !self.is_x2() => self.regs[reg::DFR] = value | 0x0fff_ffff,
            reg::SVR => self.set_spurious(value),
            reg::ICR => {
                return self.command(u64::from(self.regs[reg::ICR_HIGH]) << 32 | u64::from(value));
            }
            reg::ICR_HIGH => self.regs[reg::ICR_HIGH] = value & 0xff00_0000,
            reg::LVT_TIMER => self.set_timer_entry(value),
            reg::LVT_THERMAL | reg::LVT_COUNTERS => self.set_entry(register, value & LVT_MODE),
            reg::LVT_LINT0 | reg::LVT_LINT1 => self.set_entry(register, value & LVT_PIN),
            reg::LVT_ERROR => self.set_entry(register, value & LVT),
            reg::TIMER_INITIAL if self.mode() != Mode::Deadline => {
                self.regs[reg::TIMER_INITIAL] = value;
                self.start_timer(value, now);
            }
            reg::TIMER_DIVIDE => {
                let before = self.cycle();
                self.regs[reg::TIMER_DIVIDE] = value & 0xb;
                let (cycle, mode) = (self.cycle(), self.mode());
                self.timer.rescale(before, cycle, mode, now);
                self.signals.timer = true;
            }
            _ => {}
        }
        Effect::Nothing
    }

    fn set_spurious(&mut self, value: u32) {
        self.regs[reg::SVR] = value & 0x3ff;
        if value & SOFTWARE_ENABLED == 0 {
            self.regs[reg::LVT_TIMER..=reg::LVT_ERROR].iter_mut().for_each(|lvt| *lvt |= MASKED);
        }
    }

    /// Sets an entry of the local vector table; those of an APIC that is switched off stay masked.
    fn set_entry(&mut self, register: usize, value: u32) {
        let off = self.regs[reg::SVR] & SOFTWARE_ENABLED == 0;
        self.regs[register] = value & !PENDING | if off { MASKED } else { 0 };
    }

    fn set_timer_entry(&mut self, value: u32) {
        let (before, after) = (self.mode(), Mode::of(value));
        self.set_entry(reg::LVT_TIMER, value & LVT_TIMER);
        if (before == Mode::Deadline) != (after == Mode::Deadline) {
            self.regs[reg::TIMER_INITIAL] = 0;
            self.timer = Timer::default();
        }
    }

    fn command(&mut self, command: u64) -> Effect {
        self.regs[reg::ICR] = command as u32 & !PENDING;
        self.regs[reg::ICR_HIGH] = (command >> 32) as u32;
        self.send(command)
    }

    fn send(&self, command: u64) -> Effect {
        Effect::Send(Message::of_command(command, self.id, self.is_x2()))
    }

    /// The interrupt in service is handled.
    fn end(&mut self) -> Effect {
        let Some(vector) = self.highest(reg::ISR) else { return Effect::Nothing };
        self.set_bit(reg::ISR, vector, false);
        Effect::Ended { vector, level_triggered: self.bit(reg::TMR, vector) }
    }

    /// Whether a message to `target` is for this one (Intel SDM 3-11.6.2).
    pub(super) fn matches(&self, target: Target) -> bool {
        let logical = self.regs[reg::LDR];
        self.is_present()
            && match target {
                Target::All => true,
                Target::AllBut(id) => self.id != id,
                Target::Only(id) | Target::Physical(id) => self.id == id,
                Target::Logical(destination) if self.is_x2() => {
                    logical >> 16 == destination >> 16 && logical & destination & 0xffff != 0
                }
                Target::Logical(destination) => {
                    let (logical, destination) = (logical >> 24, destination & 0xff);
                    match self.regs[reg::DFR] >> 28 {
                        0xf => logical & destination != 0,
                        0 => logical >> 4 == destination >> 4 && logical & destination & 15 != 0,
                        _ => false,
                    }
                }
            }
    }

    /// Takes a message that is for this one; false if it has to be dropped.
    pub(super) fn accept(&mut self, message: &Message) -> bool {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if !self.is_enabled() {
                    return false;
                }
                self.set_bit(reg::TMR, message.vector, message.level_triggered);
                self.set_bit(reg::IRR, message.vector, true);
            }
            Delivery::Nmi => self.signals.nmi = true,
            Delivery::Init if message.asserted => {
                self.signals = Signals { init: true, timer: true, ..Signals::default() };
            }
            Delivery::Startup => self.signals.startup = Some(message.vector),
            // A PIC's interrupt needs no message, it is found when one is asked for.
            Delivery::Init | Delivery::External | Delivery::Nothing => return false,
        }
        true
    }

    /// What has come beside interrupts, which is then the CPU's.
    pub(super) fn take_signals(&mut self) -> Signals {
        std::mem::take(&mut self.signals)
    }

    pub(super) fn has_signals(&self) -> bool {
        self.signals != Signals::default()
    }

    pub(super) fn signals(&self) -> Signals {
        self.signals
    }

    /// Whether interrupts of the PICs, which are wired to LINT0, reach the CPU.
    pub(super) fn passes_external(&self) -> bool {
        let entry = self.regs[reg::LVT_LINT0];
        !self.is_present() || entry & MASKED == 0 && Delivery::of(entry) == Delivery::External
    }

    /// Whether an interrupt waits that is more urgent than what the CPU does.
    pub(super) fn has_interrupt(&self) -> bool {
        self.urgent().is_some()
    }

    /// Hands over the most urgent interrupt, if it is more urgent than what the CPU does.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.urgent()?;
        self.set_bit(reg::IRR, vector, false);
        self.set_bit(reg::ISR, vector, true);
        Some(vector)
    }

    fn urgent(&self) -> Option<u8> {
        let vector = self.highest(reg::IRR).filter(|_| self.is_enabled())?;
        (vector & 0xf0 > self.processor_priority() & 0xf0).then_some(vector)
    }

    /// Intel SDM 3-11.8.3.1.
    fn processor_priority(&self) -> u8 {
        let task = self.regs[reg::TPR] as u8;
        let service = self.highest(reg::ISR).unwrap_or(0) & 0xf0;
        if task & 0xf0 >= service { task } else { service }
    }

    /// The task priority, as CR8 has it.
    pub(super) fn task_priority(&self) -> u8 {
        self.regs[reg::TPR] as u8 >> 4
    }

    pub(super) fn set_task_priority(&mut self, priority: u8) {
        self.regs[reg::TPR] = u32::from(priority & 15) << 4;
    }

    fn highest(&self, first: usize) -> Option<u8> {
        let words = self.regs[first..first + 8].iter().zip(0u32..8);
        let (word, n) = words.rev().find(|(word, _)| **word != 0)?;
        Some((n * 32 + word.ilog2()) as u8)
    }

    fn bit(&self, first: usize, vector: u8) -> bool {
        self.regs[first + usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    fn set_bit(&mut self, first: usize, vector: u8, on: bool) {
        let word = &mut self.regs[first + usize::from(vector >> 5)];
        *word = *word & !(1 << (vector & 31)) | u32::from(on) << (vector & 31);
    }

    fn mode(&self) -> Mode {
        Mode::of(self.regs[reg::LVT_TIMER])
    }

    /// How long the timer takes to count one down.
    fn cycle(&self) -> u64 {
        let divide = self.regs[reg::TIMER_DIVIDE];
        1 << (((divide & 3 | divide >> 1 & 4) + 1) & 7)
    }

    /// Counts down from `count`, then, if it is periodic, from what the guest has said.
    fn start_timer(&mut self, count: u32, now: u64) {
        let period = u64::from(self.regs[reg::TIMER_INITIAL]) * self.cycle();
        match period {
            0 => self.timer = Timer::default(),
            _ => self.timer.start(u64::from(count) * self.cycle(), period, now),
        }
        self.signals.timer = true;
    }

    /// Tells the CPU that when it is to look again has changed.
    pub(super) fn note_timer(&mut self) {
        self.signals.timer = true;
    }

    /// The deadline that the time-stamp counter is compared with.
    pub(super) fn deadline(&self) -> u64 {
        self.timer.deadline()
    }

    /// Without effect in the timer's other modes (Intel SDM 3-11.5.4.1).
    pub(super) fn set_deadline(&mut self, deadline: u64) {
        if self.mode() == Mode::Deadline {
            self.timer.set_deadline(deadline);
            self.signals.timer = true;
        }
    }

    /// Interrupts if the timer has expired; whether it did.
    pub(super) fn expire(&mut self, now: u64, left: u64) -> bool {
        let expired = self.timer.expire(self.mode(), now, left);
        let entry = self.regs[reg::LVT_TIMER];
        if expired && entry & MASKED == 0 && self.is_enabled() {
            self.set_bit(reg::TMR, entry as u8, false);
            self.set_bit(reg::IRR, entry as u8, true);
        }
        expired
    }

    /// When the timer expires next, also if it is masked.
    pub(super) fn due(&self, now: u64, left: u64) -> Option<u64> {
        self.timer.due(self.mode(), now, left)
    }

    /// The registers as they are saved. An INIT that waits counts as done.
    pub(super) fn save(&self, now: u64) -> Saved {
        if self.signals.init {
            let mut after = Self { base: self.base, ..Self::new(self.id) };
            after.reset();
            return after.save(now);
        }
        let mut regs = self.regs;
        for register in [reg::PPR, reg::TIMER_CURRENT] {
            regs[register] = self.register(register, now);
        }
        // Saved in the place it has outside x2APIC mode, as by KVM.
        regs[reg::ID] = self.id << 24;
        Saved { regs: regs.to_vec() }
    }

    /// Goes on from registers that were saved, and the APIC base that was. Whatever they are, the ID
    /// stays; bits that do not exist are left out. False if there are too many or too few.
    pub(super) fn restore(&mut self, saved: &Saved, base: u64, now: u64) -> bool {
        let Ok(regs) = <[u32; Saved::LEN]>::try_from(saved.regs.as_slice()) else { return false };
        self.base = base & (ENABLED | X2 | BOOTSTRAP | ((1 << PHYSICAL_BITS) - 1) & !0xfff);
        self.regs = regs;
        self.regs[reg::VERSION] = VERSION;
        self.regs[reg::SVR] &= 0x3ff;
        self.regs[reg::TPR] &= 0xff;
        self.regs[reg::TIMER_DIVIDE] &= 0xb;
        self.identify();
        self.signals = Signals::default();
        // A timer that had expired but not interrupted yet does so now.
        self.start_timer(self.regs[reg::TIMER_CURRENT], now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Switched on, in its reset state otherwise.
    fn enabled(id: u32) -> Lapic {
        let mut lapic = Lapic::new(id);
        lapic.write(0xf0, &0x1ffu32.to_le_bytes(), 0);
        lapic
    }

    fn store(lapic: &mut Lapic, offset: u64, value: u32) -> Effect {
        lapic.write(offset, &value.to_le_bytes(), 0)
    }

    fn load(lapic: &Lapic, offset: u64, now: u64) -> u32 {
        let mut word = [0xee; 4];
        lapic.read(offset, &mut word, now);
        u32::from_le_bytes(word)
    }

    fn fixed(vector: u8) -> Message {
        Message::of_command(u64::from(vector), 0, false)
    }

    #[test]
    fn reset_values_are_the_manuals() {
        let values = [0x20, 0x30, 0x80, 0xd0, 0xe0, 0xf0, 0x320, 0x350, 0x360, 0x380, 0x3e0];
        let read = |lapic: Lapic| values.map(|offset| load(&lapic, offset, 0));
        let rest = |lint0| [0, 0, !0, 0xff, MASKED, lint0, MASKED, 0, 0];
        let (id, version) = (2 << 24, 0x5_0014);
        assert_eq!(read(Lapic::new(2)), [&[id, version][..], &rest(MASKED)].concat()[..]);
        assert_eq!(read(Lapic::new(0)), [&[0, version][..], &rest(0x700)].concat()[..]);
        assert_eq!((Lapic::new(0).base(), Lapic::new(1).base()), (0xfee0_0900, 0xfee0_0800));
    }

    #[test]
    fn only_more_urgent_classes_interrupt_what_is_in_service() {
        let mut lapic = enabled(0);
        assert!(lapic.accept(&fixed(0x40)));
        assert_eq!(lapic.acknowledge(), Some(0x40));
        [0x30, 0x40, 0x4f, 0x50].iter().for_each(|v| assert!(lapic.accept(&fixed(*v))));
        assert_eq!((load(&lapic, 0xa0, 0), lapic.acknowledge()), (0x40, Some(0x50)));
        assert_eq!(lapic.acknowledge(), None);
        let ended = |vector| Effect::Ended { vector, level_triggered: false };
        assert_eq!(store(&mut lapic, 0xb0, 0), ended(0x50));
        assert_eq!(lapic.acknowledge(), None);
        assert_eq!(store(&mut lapic, 0xb0, 0), ended(0x40));
        let rest: Vec<_> = std::iter::from_fn(|| {
            let vector = lapic.acknowledge()?;
            store(&mut lapic, 0xb0, 0);
            Some(vector)
        })
        .collect();
        assert_eq!(rest, [0x4f, 0x40, 0x30]);
        assert_eq!(store(&mut lapic, 0xb0, 0), Effect::Nothing);
    }

    #[test]
    fn the_task_priority_holds_back_its_class_and_those_below() {
        let mut lapic = enabled(0);
        lapic.accept(&fixed(0x5a));
        store(&mut lapic, 0x80, 0x50);
        assert!(!lapic.has_interrupt());
        assert_eq!((lapic.task_priority(), load(&lapic, 0xa0, 0)), (5, 0x50));
        lapic.set_task_priority(4);
        assert!(lapic.has_interrupt());
        // Vectors below 16 are not interrupts.
        let mut lapic = enabled(0);
        lapic.accept(&fixed(15));
        assert!(!lapic.has_interrupt());
    }

    #[test]
    fn an_apic_that_is_off_takes_nothing_and_masks_its_table() {
        let mut lapic = enabled(0);
        store(&mut lapic, 0x320, 0x50);
        store(&mut lapic, 0xf0, 0xff);
        assert_eq!(load(&lapic, 0x320, 0), MASKED | 0x50);
        store(&mut lapic, 0x320, 0x51);
        assert_eq!(load(&lapic, 0x320, 0), MASKED | 0x51);
        assert!(!lapic.accept(&fixed(0x40)) && !lapic.has_interrupt());
        let nmi = Message::of_command(0x400, 0, false);
        assert!(lapic.accept(&nmi) && lapic.take_signals().nmi && !lapic.has_signals());
    }

    #[test]
    fn destinations_are_matched_in_each_format() {
        let mut lapic = enabled(5);
        let physical = [0, 5, 6].map(|id| lapic.matches(Target::Physical(id)));
        assert_eq!(physical, [false, true, false]);
        store(&mut lapic, 0xd0, 0x24 << 24);
        let logical = |lapic: &Lapic, all: [u32; 4]| all.map(|d| lapic.matches(Target::Logical(d)));
        assert_eq!(logical(&lapic, [0x04, 0x20, 0x10, 0x3c]), [true, true, false, true]);
        store(&mut lapic, 0xe0, 0x0fff_ffff);
        assert_eq!(logical(&lapic, [0x24, 0x2c, 0x34, 0x22]), [true, true, false, false]);
        assert_eq!(lapic.set_base(BASE | ENABLED | X2), Some(()));
        assert_eq!(
            logical(&lapic, [1 << 5, 1 << 6, 1 << 16 | 1 << 5, 0xff]),
            [true, false, false, true]
        );
        assert!(lapic.matches(Target::AllBut(4)) && !lapic.matches(Target::AllBut(5)));
        assert_eq!(lapic.set_base(BASE), Some(()));
        assert!(!lapic.matches(Target::All));
    }

    #[test]
    fn modes_change_as_the_manual_allows() {
        let mut lapic = enabled(1);
        let base = |mode| BASE | mode;
        assert_eq!(lapic.set_base(base(X2)), None);
        assert_eq!(lapic.set_base(base(ENABLED | X2)), Some(()));
        assert_eq!((lapic.window(), lapic.read_msr(0x802, 0)), (None, Some(1)));
        assert_eq!(lapic.read_msr(0x80d, 0), Some(1 << 1));
        assert_eq!(lapic.set_base(base(ENABLED)), None);
        assert_eq!(lapic.set_base(base(0)), Some(()));
        assert_eq!(lapic.set_base(base(ENABLED | X2)), None);
        assert_eq!(lapic.set_base(base(ENABLED)), Some(()));
        assert_eq!((lapic.window(), lapic.read_msr(0x802, 0)), (Some(BASE), None));
        assert_eq!(lapic.set_base(base(ENABLED) | 1 << 50), None);
        assert_eq!(lapic.set_base(base(ENABLED) | 1), None);
    }

    #[test]
    fn x2apic_registers_refuse_what_the_manual_does() {
        let mut lapic = enabled(0);
        lapic.set_base(BASE | ENABLED | X2 | BOOTSTRAP);
        let refused = [
            (0x802, 1),
            (0x803, 0),
            (0x80b, 1),
            (0x80d, 1),
            (0x80e, 0),
            (0x808, 0x100),
            (0x80f, 1 << 32),
            (0x831, 0),
            (0x83f, 0x140),
            (0x839, 0),
            (0x840, 0),
            (0x7ff, 0),
        ];
        for (index, value) in refused {
            assert_eq!(lapic.write_msr(index, value, 0), None, "{index:#x}");
        }
        for index in [0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x80c] {
            assert_eq!(lapic.read_msr(index, 0), None, "{index:#x}");
        }
        let sent = lapic.write_msr(0x830, 7 << 32 | 0x4041, 0);
        let Some(Effect::Send(Message { vector, target, .. })) = sent else { panic!("{sent:?}") };
        assert_eq!((vector, target), (0x41, Target::Physical(7)));
        assert_eq!(lapic.read_msr(0x830, 0), Some(7 << 32 | 0x4041));
        let sent = lapic.write_msr(0x83f, 0x42, 0);
        assert!(matches!(sent, Some(Effect::Send(Message { target: Target::Only(0), .. }))));
    }

    #[test]
    fn the_timer_counts_by_its_divider_and_interrupts() {
        let mut lapic = enabled(0);
        store(&mut lapic, 0x3e0, 0x3);
        store(&mut lapic, 0x320, 0x50);
        store(&mut lapic, 0x380, 1000);
        assert_eq!(load(&lapic, 0x390, 1600), 900);
        assert_eq!(lapic.due(0, 0), Some(16_000));
        assert!(!lapic.expire(15_999, 0) && lapic.expire(16_000, 0));
        assert_eq!((load(&lapic, 0x390, 16_000), lapic.acknowledge()), (0, Some(0x50)));
        store(&mut lapic, 0x380, 0);
        assert_eq!(lapic.due(0, 0), None);
        // A deadline needs its mode, and goes with it.
        lapic.set_deadline(7);
        assert_eq!(lapic.deadline(), 0);
        store(&mut lapic, 0x320, 0x4_0050);
        lapic.set_deadline(7);
        assert_eq!((lapic.deadline(), lapic.due(100, 2)), (7, Some(102)));
        store(&mut lapic, 0x320, 0x50);
        assert_eq!((lapic.deadline(), lapic.due(100, 2)), (0, None));
    }

    #[test]
    fn what_is_saved_is_restored() {
        let mut lapic = enabled(3);
        lapic.accept(&fixed(0x40));
        lapic.accept(&fixed(0x41));
        lapic.acknowledge();
        store(&mut lapic, 0x320, 0x2_0050);
        store(&mut lapic, 0x380, 1000);
        let saved = lapic.save(700);
        assert_eq!((saved.regs.len(), saved.regs[Saved::ID]), (Saved::LEN, 3 << 24));
        let mut other = Lapic::new(3);
        assert!(other.restore(&saved, lapic.base(), 5_000));
        assert_eq!(other.save(5_000), saved);
        assert_eq!(other.due(5_000, 0), Some(5_000 + 1_300));
        assert_eq!(
            store(&mut other, 0xb0, 0),
            Effect::Ended { vector: 0x41, level_triggered: false }
        );
        assert_eq!(other.acknowledge(), Some(0x40));
        assert!(!other.restore(&Saved { regs: vec![0; 63] }, BASE, 0));
    }
}
