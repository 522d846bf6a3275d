//! The I/O APIC (82093AA): 24 pins, each with an entry that says what message its interrupts are.
//! The polarity of pins is not looked at: lines are given as asserted or not.

use super::{bus::Bus, message::Message};
use crate::arch::irqchip::Ioapic as Saved;

/// Where it is mapped, and how much of it.
pub(super) const BASE: u64 = 0xfec0_0000;
pub(super) const LEN: u64 = 0x100;

/// The offsets of its two registers: which one is meant, and that one.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Registers by their number.
const ID: u32 = 0;
const VERSION: u32 = 1;
const ARBITRATION: u32 = 2;
const REDIRECTIONS: u32 = 0x10;

/// Version 1.1, and the number of the last pin.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;
const PINS: usize = Saved::PINS;

/// Bits of an entry.
const REMOTE_IRR: u64 = 1 << 14;
/// It and the delivery status, which is never to be seen.
const READ_ONLY: u64 = REMOTE_IRR | 1 << 12;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// The I/O APIC.
#[derive(Debug)]
pub(super) struct Ioapic {
    select: u32,
    id: u32,
    /// Lines that are asserted.
    lines: u32,
    /// Those of them that are edge-triggered and have interrupted.
    delivered: u32,
    entries: [u64; PINS],
}

impl Ioapic {
    /// As after power-on: all pins masked.
    pub(super) fn new() -> Self {
        Self { select: 0, id: 0, lines: 0, delivered: 0, entries: [MASKED; PINS] }
    }

    /// A load from an offset; whole words are what there is.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let word = match offset & !15 {
            SELECT => self.select,
            WINDOW => self.register(),
            _ => 0,
        };
        data.fill(0);
        data.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    /// A store to an offset. Interrupts that wait may go out by it. Returns the pin that is no
    /// longer masked, if there is one.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], bus: &mut Bus) -> Option<usize> {
        let word = match *data {
            [byte] => u32::from(byte),
            [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        };
        match offset & !15 {
            SELECT => self.select = word & 0xff,
            WINDOW => return self.set_register(word, bus),
            _ => {}
        }
        None
    }

    fn register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id << 24,
            VERSION => VERSION_VALUE,
            _ => match self.half() {
                Some((pin, shift)) => (self.entries[pin] >> shift) as u32,
                None => u32::MAX,
            },
        }
    }

    fn set_register(&mut self, word: u32, bus: &mut Bus) -> Option<usize> {
        if self.select == ID {
            self.id = word >> 24 & 15;
        }
        let (pin, shift) = self.half()?;
        let entry = &mut self.entries[pin];
        let was_masked = *entry & MASKED != 0;
        let kept = 0xffff_ffff_0000_0000_u64.rotate_left(shift) | READ_ONLY;
        *entry = *entry & kept | u64::from(word) << shift & !READ_ONLY;
        let unmasked = was_masked && *entry & MASKED == 0;
        if *entry & LEVEL == 0 {
            // How systems get rid of one that is stuck.
            *entry &= !REMOTE_IRR;
        } else if self.lines >> pin & 1 != 0 {
            self.service(pin, bus);
        }
        unmasked.then_some(pin)
    }

    /// The pin, and which half of its entry, that is selected.
    fn half(&self) -> Option<(usize, u32)> {
        let n = self.select.checked_sub(REDIRECTIONS)?;
        let pin = (n / 2) as usize;
        (pin < PINS).then_some((pin, n % 2 * 32))
    }

    /// A pin is asserted, or no longer.
    pub(super) fn set_line(&mut self, pin: usize, asserted: bool, bus: &mut Bus) {
        let Some(entry) = self.entries.get(pin) else { return };
        let bit = 1 << pin;
        let again = self.lines & bit != 0 && entry & LEVEL == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if asserted && !again {
            self.delivered &= !bit;
            self.service(pin, bus);
        }
    }

    /// Sends the interrupt of a pin, unless it is masked or the last one is not handled.
    fn service(&mut self, pin: usize, bus: &mut Bus) {
        let entry = &mut self.entries[pin];
        if *entry & (MASKED | REMOTE_IRR) != 0 {
            return;
        }
        let taken = bus.send(&Message::of_redirection(*entry));
        match *entry & LEVEL {
            0 => self.delivered |= 1 << pin,
            // One that nobody has taken nobody will end.
            _ if taken => *entry |= REMOTE_IRR,
            _ => {}
        }
    }

    /// The interrupt of a vector was handled by a CPU. Returns the pins that have this vector, a bit
    /// each; those that are level-triggered and still asserted interrupt again.
    pub(super) fn ended(&mut self, vector: u8, level_triggered: bool, bus: &mut Bus) -> u32 {
        let of_vector = |pin: &usize| self.entries[*pin] as u8 == vector;
        let pins = (0..PINS).filter(of_vector).fold(0, |pins, pin| pins | 1 << pin);
        for pin in (0..PINS).filter(|pin| level_triggered && pins >> pin & 1 != 0) {
            let entry = &mut self.entries[pin];
            *entry &= !REMOTE_IRR;
            if *entry & LEVEL != 0 && self.lines >> pin & 1 != 0 {
                self.service(pin, bus);
            }
        }
        pins
    }

    /// Its state; edges that have interrupted are no longer in it.
    pub(super) fn save(&self) -> Saved {
        Saved {
            base_address: BASE,
            ioregsel: self.select,
            id: self.id,
            irr: self.lines & !self.delivered,
            redirections: self.entries.to_vec(),
        }
    }

    /// Goes on from a state that was saved, and sends the interrupts that wait in it; false if it
    /// is that of another chip.
    pub(super) fn restore(&mut self, saved: &Saved, bus: &mut Bus) -> bool {
        let Ok(entries) = <[u64; PINS]>::try_from(saved.redirections.as_slice()) else {
            return false;
        };
        let (select, id) = (saved.ioregsel & 0xff, saved.id & 15);
        *self = Self { select, id, lines: 0, delivered: 0, entries };
        let waiting = (0..PINS).filter(|pin| saved.irr >> pin & 1 != 0);
        waiting.for_each(|pin| self.set_line(pin, true, bus));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: u64 = 0x40;

    /// An I/O APIC with this entry at pin 20, and a local APIC that is on.
    fn chips(entry: u64) -> (Ioapic, Bus) {
        let (mut ioapic, mut bus) = (Ioapic::new(), Bus::new(1));
        bus.get_mut(0).unwrap().write(0xf0, &0x1ffu32.to_le_bytes(), 0);
        put(&mut ioapic, 0x39, (entry >> 32) as u32, &mut bus);
        put(&mut ioapic, 0x38, entry as u32, &mut bus);
        (ioapic, bus)
    }

    fn put(ioapic: &mut Ioapic, register: u8, value: u32, bus: &mut Bus) {
        ioapic.write(SELECT, &[register], bus);
        ioapic.write(WINDOW, &value.to_le_bytes(), bus);
    }

    fn get(ioapic: &mut Ioapic, register: u8, bus: &mut Bus) -> u32 {
        ioapic.write(SELECT, &[register], bus);
        let mut word = [0; 4];
        ioapic.read(WINDOW, &mut word);
        u32::from_le_bytes(word)
    }

    /// Acknowledges what has come.
    fn taken(bus: &mut Bus) -> Option<u8> {
        bus.get_mut(0).unwrap().acknowledge()
    }

    /// The end of what was acknowledged.
    fn end(ioapic: &mut Ioapic, level: bool, bus: &mut Bus) -> u32 {
        bus.get_mut(0).unwrap().write(0xb0, &[0; 4], 0);
        ioapic.ended(VECTOR as u8, level, bus)
    }

    #[test]
    fn registers_are_those_of_version_1_1() {
        let (mut ioapic, mut bus) = chips(0xab00_0000_0001_a940);
        assert_eq!(get(&mut ioapic, 1, &mut bus), 0x17_0011);
        assert_eq!(get(&mut ioapic, 0x38, &mut bus), 0x1_a940);
        assert_eq!(get(&mut ioapic, 0x39, &mut bus), 0xab00_0000);
        put(&mut ioapic, 0, 0xff00_0000, &mut bus);
        assert_eq!(get(&mut ioapic, 0, &mut bus), 0x0f00_0000);
        assert_eq!(get(&mut ioapic, 0x10, &mut bus), MASKED as u32);
        // Beyond the last pin.
        put(&mut ioapic, 0x40, 0, &mut bus);
        assert_eq!(get(&mut ioapic, 0x40, &mut bus), u32::MAX);
        // What the chip alone sets.
        put(&mut ioapic, 0x10, u32::MAX, &mut bus);
        assert_eq!(get(&mut ioapic, 0x10, &mut bus), !0x5000);
    }

    #[test]
    fn an_edge_interrupts_once_until_the_line_falls() {
        let (mut ioapic, mut bus) = chips(VECTOR);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(taken(&mut bus), Some(0x40));
        end(&mut ioapic, false, &mut bus);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(taken(&mut bus), None);
        ioapic.set_line(20, false, &mut bus);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(taken(&mut bus), Some(0x40));
        ioapic.set_line(24, true, &mut bus);
    }

    #[test]
    fn a_level_interrupts_again_when_it_is_ended_as_long_as_it_lasts() {
        let (mut ioapic, mut bus) = chips(VECTOR | LEVEL | MASKED);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(taken(&mut bus), None);
        put(&mut ioapic, 0x38, (VECTOR | LEVEL) as u32, &mut bus);
        assert_eq!(taken(&mut bus), Some(0x40));
        assert_eq!(get(&mut ioapic, 0x38, &mut bus), (VECTOR | LEVEL | REMOTE_IRR) as u32);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(end(&mut ioapic, true, &mut bus), 1 << 20);
        assert_eq!(taken(&mut bus), Some(0x40));
        ioapic.set_line(20, false, &mut bus);
        end(&mut ioapic, true, &mut bus);
        assert_eq!(taken(&mut bus), None);
        assert_eq!(get(&mut ioapic, 0x38, &mut bus), (VECTOR | LEVEL) as u32);
    }

    #[test]
    fn a_level_that_nobody_took_can_come_again() {
        let (mut ioapic, mut bus) = chips(VECTOR | LEVEL);
        bus.get_mut(0).unwrap().write(0xf0, &[0xff, 0, 0, 0], 0);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(get(&mut ioapic, 0x38, &mut bus), (VECTOR | LEVEL) as u32);
        bus.get_mut(0).unwrap().write(0xf0, &[0xff, 1, 0, 0], 0);
        ioapic.set_line(20, true, &mut bus);
        assert_eq!(taken(&mut bus), Some(0x40));
    }

    #[test]
    fn making_a_pin_edge_triggered_frees_one_that_is_stuck() {
        let (mut ioapic, mut bus) = chips(VECTOR | LEVEL);
        ioapic.set_line(20, true, &mut bus);
        put(&mut ioapic, 0x38, VECTOR as u32, &mut bus);
        put(&mut ioapic, 0x38, (VECTOR | LEVEL | MASKED) as u32, &mut bus);
        assert_eq!(get(&mut ioapic, 0x38, &mut bus), (VECTOR | LEVEL | MASKED) as u32);
    }

    #[test]
    fn what_waits_is_saved_and_sent_when_restored() {
        let (mut ioapic, mut bus) = chips(VECTOR);
        ioapic.set_line(20, true, &mut bus);
        ioapic.set_line(3, true, &mut bus);
        let saved = ioapic.save();
        assert_eq!((saved.irr, saved.redirections.len()), (1 << 3, PINS));
        let (mut other, mut bus) = chips(MASKED);
        let mut unmasked = saved.clone();
        unmasked.redirections[3] = VECTOR;
        assert!(other.restore(&unmasked, &mut bus));
        assert_eq!(taken(&mut bus), Some(0x40));
        assert!(!other.restore(&Saved { redirections: vec![0; 23], ..saved }, &mut bus));
    }
}
