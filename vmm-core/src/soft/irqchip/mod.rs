//! The interrupt controllers and the timer of a PC, as KVM has them: a local APIC for each vCPU, an
//! I/O APIC, two PICs, an 8254.
//!
//! State machines: they know no thread, no clock and no CPU. Time is told to them, in nanoseconds
//! of the VM's clock; what they have for a vCPU, it asks for. Pins 0 to 15 are wired to the PICs
//! and to the I/O APIC, those from 16 on to the latter, the PICs to LINT0 of every local APIC, and
//! the timer to pin 0.

mod bus;
mod ioapic;
mod lapic;
mod message;
mod pic;
mod pit;
mod timer;

pub(super) use self::lapic::Signals;
use self::{
    bus::Bus,
    ioapic::Ioapic,
    lapic::{Effect, Lapic},
    message::Message,
    pic::Pics,
    pit::Pit,
};
use crate::{
    arch::{self, irqchip},
    error::{Error, Result},
    irq::{Gsi, Msi},
};

/// Where the chips are: no address below is one of theirs.
pub(super) const LOWEST: u64 = ioapic::BASE;
/// The pins of the I/O APIC.
pub(super) const PINS: u32 = irqchip::Ioapic::PINS as u32;
/// The pin that the timer is wired to.
const TIMER: usize = 0;
/// Numbers of registers: the APIC base, the timer's deadline, those of the x2APIC.
const APIC_BASE: u32 = arch::msr::APIC_BASE;
const TSC_DEADLINE: u32 = arch::msr::TSC_DEADLINE;
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// A local APIC as it is saved, with what belongs to it.
#[derive(Debug)]
pub(super) struct SavedLapic {
    pub(super) lapic: arch::Lapic,
    /// The time-stamp that its timer waits for, or 0.
    pub(super) deadline: u64,
    /// What the vCPU does not know yet.
    pub(super) signals: Signals,
}

/// The chips of a VM. vCPUs are known by their numbers.
#[derive(Debug)]
pub(super) struct Chips {
    bus: Bus,
    ioapic: Ioapic,
    pics: Pics,
    pit: Option<Pit>,
}

impl Chips {
    /// As after power-on.
    pub(super) fn new(vcpus: u32, pit: bool, now: u64) -> Self {
        Self {
            bus: Bus::new(vcpus),
            ioapic: Ioapic::new(),
            pics: Pics::new(),
            pit: pit.then(|| Pit::new(now)),
        }
    }

    /// A wire from outside goes high or low.
    pub(super) fn set_line(&mut self, gsi: Gsi, high: bool) {
        let pin = gsi.0 as usize;
        self.pics.set_line(pin, high);
        self.ioapic.set_line(pin, high, &mut self.bus);
    }

    /// A device's message; whether a local APIC has taken it.
    pub(super) fn send(&mut self, msi: Msi) -> bool {
        self.bus.send(&Message::of_msi(msi))
    }

    /// A load by a vCPU; whether it was from one of these chips.
    pub(super) fn load(&self, vcpu: usize, at: u64, data: &mut [u8], now: u64) -> bool {
        if let Some(lapic) = self.bus.get(vcpu).filter(|lapic| lapic.window() == Some(at & !0xfff))
        {
            lapic.read(at & 0xfff, data, now);
            return true;
        }
        let offset = at.wrapping_sub(ioapic::BASE);
        if offset < ioapic::LEN {
            self.ioapic.read(offset, data);
        }
        offset < ioapic::LEN
    }

    /// A store by a vCPU; whether it was to one of these chips.
    pub(super) fn store(&mut self, vcpu: usize, at: u64, data: &[u8], now: u64) -> bool {
        let lapic = self.bus.get_mut(vcpu);
        if let Some(lapic) = lapic.filter(|lapic| lapic.window() == Some(at & !0xfff)) {
            let effect = lapic.write(at & 0xfff, data, now);
            self.carry_out(effect);
            return true;
        }
        let offset = at.wrapping_sub(ioapic::BASE);
        if offset < ioapic::LEN && self.ioapic.write(offset, data, &mut self.bus) == Some(TIMER) {
            self.pit.iter_mut().for_each(Pit::unmasked);
        }
        offset < ioapic::LEN
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Send(message) => {
                self.bus.send(&message);
            }
            Effect::Ended { vector, level_triggered } => {
                let pins = self.ioapic.ended(vector, level_triggered, &mut self.bus);
                if pins >> TIMER & 1 != 0 {
                    self.timer_ended();
                }
            }
        }
    }

    /// IN by a vCPU; whether the port is one of these chips'. They have registers of a byte.
    pub(super) fn port_in(&mut self, port: u16, data: &mut [u8], now: u64) -> bool {
        let byte = data.len() == 1;
        let value = match &mut self.pit {
            _ if Pics::has(port) => byte.then(|| self.pics.read(port)),
            Some(pit) if Pit::has(port) => byte.then(|| pit.read(port, now)),
            _ => return false,
        };
        data.fill(value.unwrap_or(0));
        self.watch_pics();
        true
    }

    /// OUT by a vCPU; whether the port is one of these chips'.
    pub(super) fn port_out(&mut self, port: u16, data: &[u8], now: u64) -> bool {
        let byte = if let [byte] = *data { Some(byte) } else { None };
        match (&mut self.pit, byte) {
            (_, Some(byte)) if Pics::has(port) => self.pics.write(port, byte),
            (Some(pit), Some(byte)) if Pit::has(port) => {
                pit.write(port, byte, now);
                // The first vCPU minds the timer.
                self.bus.get_mut(0).into_iter().for_each(Lapic::note_timer);
            }
            (pit, _) => return Pics::has(port) || pit.is_some() && Pit::has(port),
        }
        self.watch_pics();
        true
    }

    /// RDMSR by a vCPU of a register that its APIC may have.
    pub(super) fn read_msr(&self, vcpu: usize, index: u32, now: u64) -> Option<u64> {
        let lapic = self.bus.get(vcpu)?;
        match index {
            APIC_BASE => Some(lapic.base()),
            TSC_DEADLINE => Some(lapic.deadline()),
            index if X2APIC.contains(&index) => lapic.read_msr(index, now),
            _ => None,
        }
    }

    /// WRMSR by a vCPU to a register that its APIC may have.
    pub(super) fn write_msr(
        &mut self,
        vcpu: usize,
        index: u32,
        value: u64,
        now: u64,
    ) -> Option<()> {
        let lapic = self.bus.get_mut(vcpu)?;
        match index {
            APIC_BASE => lapic.set_base(value)?,
            TSC_DEADLINE => lapic.set_deadline(value),
            index if X2APIC.contains(&index) => {
                let effect = lapic.write_msr(index, value, now)?;
                self.carry_out(effect);
            }
            _ => return None,
        }
        Some(())
    }

    /// The time-stamp that a vCPU's timer waits for.
    pub(super) fn deadline(&self, vcpu: usize) -> u64 {
        self.bus.get(vcpu).map_or(0, Lapic::deadline)
    }

    /// Lets the timers that a vCPU minds interrupt if it is time; `left` is how far its
    /// [`deadline`](Self::deadline) is from `now`.
    pub(super) fn advance(&mut self, vcpu: usize, now: u64, left: u64) {
        if let Some(lapic) = self.bus.get_mut(vcpu) {
            lapic.expire(now, left);
        }
        if vcpu == 0 && self.pit.as_mut().is_some_and(|pit| pit.expire(now)) {
            self.pulse_timer();
        }
    }

    /// When a vCPU is to advance the next time.
    pub(super) fn due(&self, vcpu: usize, now: u64, left: u64) -> Option<u64> {
        let lapic = self.bus.get(vcpu).and_then(|lapic| lapic.due(now, left));
        let pit = self.pit.as_ref().filter(|_| vcpu == 0).and_then(Pit::due);
        lapic.into_iter().chain(pit).min()
    }

    fn pulse_timer(&mut self) {
        self.set_line(Gsi(TIMER as u32), true);
        self.set_line(Gsi(TIMER as u32), false);
    }

    /// The guest has handled the timer's interrupt.
    fn timer_ended(&mut self) {
        if self.pit.as_mut().is_some_and(Pit::ended) {
            self.pulse_timer();
        }
    }

    fn watch_pics(&mut self) {
        if self.pics.take_timer_unmasked() {
            self.pit.iter_mut().for_each(Pit::unmasked);
        }
        if self.pics.take_timer_ended() {
            self.timer_ended();
        }
    }

    /// Whether a vCPU is to take an interrupt, if it lets any in.
    pub(super) fn has_interrupt(&self, vcpu: usize) -> bool {
        let Some(lapic) = self.bus.get(vcpu) else { return false };
        lapic.has_interrupt() || lapic.passes_external() && self.pics.has_interrupt()
    }

    /// Hands a vCPU the vector of its interrupt, which counts as acknowledged.
    pub(super) fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        let lapic = self.bus.get_mut(vcpu)?;
        if lapic.passes_external() && self.pics.has_interrupt() {
            let vector = self.pics.acknowledge();
            self.watch_pics();
            return Some(vector);
        }
        lapic.acknowledge()
    }

    /// Whether something beside interrupts has come for a vCPU.
    pub(super) fn has_signals(&self, vcpu: usize) -> bool {
        self.bus.get(vcpu).is_some_and(Lapic::has_signals)
    }

    /// What that is; it is the vCPU's then. INIT has reset its local APIC.
    pub(super) fn take_signals(&mut self, vcpu: usize) -> Signals {
        let Some(lapic) = self.bus.get_mut(vcpu) else { return Signals::default() };
        let signals = lapic.take_signals();
        if signals.init {
            lapic.reset();
        }
        signals
    }

    /// A vCPU's task priority, 0 to 15.
    pub(super) fn task_priority(&self, vcpu: usize) -> u8 {
        self.bus.get(vcpu).map_or(0, Lapic::task_priority)
    }

    pub(super) fn set_task_priority(&mut self, vcpu: usize, priority: u8) {
        if let Some(lapic) = self.bus.get_mut(vcpu) {
            lapic.set_task_priority(priority);
        }
    }

    pub(super) fn save_irqchip(&self) -> irqchip::Irqchip {
        irqchip::Irqchip { pics: self.pics.save(), ioapic: self.ioapic.save() }
    }

    /// # Errors
    /// `Incompatible` with chips of another kind.
    pub(super) fn restore_irqchip(&mut self, saved: &irqchip::Irqchip) -> Result<()> {
        self.pics.restore(&saved.pics);
        if self.ioapic.restore(&saved.ioapic, &mut self.bus) {
            return Ok(());
        }
        let pins = saved.ioapic.redirections.len();
        Err(Error::incompatible(format!("an I/O APIC with {pins} pins, not {PINS}")))
    }

    /// The timer, if there is one.
    pub(super) fn save_pit(&self) -> Option<irqchip::Pit> {
        self.pit.as_ref().map(Pit::save)
    }

    pub(super) fn restore_pit(&mut self, saved: &irqchip::Pit, now: u64) {
        if let Some(pit) = &mut self.pit {
            pit.restore(saved, now);
        }
        self.bus.get_mut(0).into_iter().for_each(Lapic::note_timer);
    }

    /// A vCPU's local APIC.
    pub(super) fn save_lapic(&self, vcpu: usize, now: u64) -> Option<SavedLapic> {
        let lapic = self.bus.get(vcpu)?;
        let (signals, deadline) = (lapic.signals(), lapic.deadline());
        Some(SavedLapic { lapic: lapic.save(now), signals, deadline })
    }

    /// # Errors
    /// `Incompatible` with what is no local APIC.
    pub(super) fn restore_lapic(
        &mut self,
        vcpu: usize,
        saved: &arch::Lapic,
        base: u64,
        now: u64,
    ) -> Result<()> {
        if self.bus.get_mut(vcpu).is_some_and(|lapic| lapic.restore(saved, base, now)) {
            return Ok(());
        }
        let count = saved.regs.len();
        Err(Error::incompatible(format!("a local APIC of {count} registers")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAPIC: u64 = 0xfee0_0000;

    /// Chips of two vCPUs, whose local APICs are on.
    fn chips() -> Chips {
        let mut chips = Chips::new(2, true, 0);
        (0..2).for_each(|vcpu| store(&mut chips, vcpu, LAPIC + 0xf0, 0x1ff));
        chips
    }

    fn store(chips: &mut Chips, vcpu: usize, at: u64, value: u32) {
        assert!(chips.store(vcpu, at, &value.to_le_bytes(), 0));
    }

    /// Pin `pin` of the I/O APIC gets this entry.
    fn direct(chips: &mut Chips, pin: u32, entry: u64) {
        for (half, n) in [(entry >> 32) as u32, entry as u32].into_iter().zip([1, 0]) {
            store(chips, 0, ioapic::BASE, 0x10 + 2 * pin + n);
            store(chips, 0, ioapic::BASE + 0x10, half);
        }
    }

    #[test]
    fn each_vcpu_sees_its_own_local_apic() {
        let mut chips = chips();
        let mut ids = [0; 2];
        for (vcpu, id) in ids.iter_mut().enumerate() {
            let mut word = [0; 4];
            assert!(chips.load(vcpu, LAPIC + 0x20, &mut word, 0));
            *id = u32::from_le_bytes(word) >> 24;
        }
        assert_eq!(ids, [0, 1]);
        // From 1 to 0 and no other.
        store(&mut chips, 1, LAPIC + 0x300, 0x4040);
        assert_eq!([0, 1].map(|vcpu| chips.has_interrupt(vcpu)), [true, false]);
        assert!(!chips.load(0, 0xfec0_0100, &mut [0; 4], 0));
        assert!(!chips.store(0, 0xfee0_1000, &[0; 4], 0));
    }

    #[test]
    fn an_init_resets_the_apic_and_a_startup_names_a_page() {
        let mut chips = chips();
        store(&mut chips, 0, LAPIC + 0x310, 1 << 24);
        store(&mut chips, 0, LAPIC + 0x300, 0xc500);
        store(&mut chips, 0, LAPIC + 0x300, 0x8500);
        store(&mut chips, 0, LAPIC + 0x300, 0x4699);
        assert!(chips.has_signals(1) && !chips.has_signals(0));
        let signals = chips.take_signals(1);
        assert_eq!((signals.init, signals.startup), (true, Some(0x99)));
        assert!(!chips.send(Msi { address: LAPIC | 1 << 12, data: 0x40 }));
        assert!(chips.send(Msi { address: LAPIC, data: 0x40 }));
    }

    #[test]
    fn the_pics_reach_the_first_vcpu_through_lint0() {
        let mut chips = chips();
        chips.set_line(Gsi(4), true);
        assert!(chips.has_interrupt(0) && !chips.has_interrupt(1));
        // Masked at LINT0.
        store(&mut chips, 0, LAPIC + 0x350, 0x1_0700);
        assert!(!chips.has_interrupt(0));
        store(&mut chips, 0, LAPIC + 0x350, 0x700);
        assert_eq!(chips.acknowledge(0), Some(4));
        assert_eq!(chips.acknowledge(0), None);
    }

    #[test]
    fn the_timer_interrupts_at_pin_0_of_both() {
        let mut chips = chips();
        direct(&mut chips, 0, 0x40);
        for (port, byte) in [(0x43, 0x34), (0x40, 0), (0x40, 1)] {
            assert!(chips.port_out(port, &[byte], 0));
        }
        let due = chips.due(0, 0, 0).unwrap();
        assert_eq!(chips.due(1, 0, 0), None);
        chips.advance(0, due * 3, 0);
        assert_eq!((chips.acknowledge(0), chips.acknowledge(0)), (Some(0), Some(0x40)));
        // What was missed comes when this one is handled.
        assert_eq!(chips.acknowledge(0), None);
        store(&mut chips, 0, LAPIC + 0xb0, 0);
        assert_eq!(chips.acknowledge(0), Some(0x40));
    }

    /// As Linux finds it: the timer has run since power-on, and nobody took its interrupts.
    #[test]
    fn interrupts_that_were_masked_do_not_stop_the_timer() {
        for unmask in [0, 1] {
            let mut chips = chips();
            for (port, byte) in [(0x21, 0xff), (0x43, 0x34), (0x40, 0), (0x40, 1)] {
                assert!(chips.port_out(port, &[byte], 0));
            }
            let period = chips.due(0, 0, 0).unwrap();
            (1..5).for_each(|n| chips.advance(0, n * period, 0));
            assert!(!chips.has_interrupt(0));
            match unmask {
                0 => direct(&mut chips, 0, 0x40),
                _ => assert!(chips.port_out(0x21, &[0xfe], 0)),
            }
            while chips.acknowledge(0).is_some() {}
            store(&mut chips, 0, LAPIC + 0xb0, 0);
            assert!(chips.port_out(0x20, &[0x20], 0));
            chips.advance(0, 5 * period, 0);
            assert!(chips.has_interrupt(0));
        }
    }

    #[test]
    fn ports_are_of_a_byte() {
        let mut chips = chips();
        assert!(chips.port_out(0x21, &[0xfe], 0) && chips.port_out(0x21, &[0, 0], 0));
        let (mut byte, mut word) = ([0], [0xff; 2]);
        assert!(chips.port_in(0x21, &mut byte, 0) && chips.port_in(0x21, &mut word, 0));
        assert_eq!((byte, word), ([0xfe], [0, 0]));
        assert!(!chips.port_out(0x80, &[0], 0) && !chips.port_in(0x60, &mut byte, 0));
        let mut without = Chips::new(1, false, 0);
        assert!(!without.port_out(0x40, &[0], 0) && !without.port_in(0x61, &mut byte, 0));
    }

    /// Something that a guest or a device does.
    fn anything() -> impl Strategy<Value = (u8, u64, u64, u8)> {
        (any::<u8>(), any::<u64>(), any::<u64>(), 0..4u8)
    }

    /// Does it to the chips at the time `now`.
    fn act(chips: &mut Chips, (what, at, value, width): (u8, u64, u64, u8), now: u64) {
        let vcpu = usize::from(what >> 4 & 3);
        let mut data = value.to_le_bytes();
        let data = &mut data[..1 << width];
        let ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61];
        let port = ports[at as usize % ports.len()];
        let (page, select_or_window) = (LAPIC + at % 0x1000, ioapic::BASE + (at & 1) * 0x10);
        match what & 15 {
            0 => drop(chips.load(vcpu, page, data, now)),
            1 => drop(chips.store(vcpu, page, data, now)),
            2 => drop(chips.store(vcpu, page & !15, &value.to_le_bytes()[..4], now)),
            3 => drop(chips.load(vcpu, ioapic::BASE + at % ioapic::LEN, data, now)),
            4 | 5 => drop(chips.store(vcpu, select_or_window, data, now)),
            6 => drop(chips.port_in(port, data, now)),
            7 | 8 => drop(chips.port_out(port, &data[..1], now)),
            9 => drop(chips.read_msr(vcpu, 0x800 + at as u32 % 0x50, now)),
            10 => drop(chips.write_msr(vcpu, 0x800 + at as u32 % 0x50, value, now)),
            11 => drop(chips.write_msr(vcpu, APIC_BASE, LAPIC | value & 0xfff, now)),
            12 => chips.set_line(Gsi(at as u32 % 32), value & 1 != 0),
            13 => drop(chips.send(Msi { address: at, data: value as u32 })),
            14 => drop(chips.take_signals(vcpu)),
            _ => {
                chips.advance(vcpu, now, at);
                chips.acknowledge(vcpu);
                chips.due(vcpu, now, at);
            }
        }
    }

    proptest! {
        /// Whatever they are told, chips go on, and can be saved and restored.
        #[test]
        fn nothing_that_is_written_breaks_a_chip(
            steps in proptest::collection::vec((anything(), 0..10_000_000u64), 1..400)
        ) {
            let (mut chips, mut now) = (chips(), 0);
            for (step, time) in steps {
                now += time;
                act(&mut chips, step, now);
            }
            let mut other = Chips::new(2, true, 0);
            other.restore_irqchip(&chips.save_irqchip()).unwrap();
            other.restore_pit(&chips.save_pit().unwrap(), 0);
            for vcpu in 0..2 {
                let saved = chips.save_lapic(vcpu, now).unwrap();
                let base = chips.read_msr(vcpu, APIC_BASE, now).unwrap();
                other.restore_lapic(vcpu, &saved.lapic, base, 0).unwrap();
                let again = other.save_lapic(vcpu, 0).unwrap();
                prop_assert_eq!(other.read_msr(vcpu, APIC_BASE, 0), Some(base));
                prop_assert_eq!(again.lapic.regs.len(), saved.lapic.regs.len());
            }
            let once = other.save_irqchip().pics;
            other.restore_irqchip(&other.save_irqchip()).unwrap();
            prop_assert_eq!(other.save_irqchip().pics, once);
        }
    }
}
