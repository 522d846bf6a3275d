//! The pair of interrupt controllers 8259A of a PC, the second one at pin 2 of the first.

use crate::arch::irqchip::Pic;

/// The pin of the first that the second is at.
const CASCADE: u8 = 2;
/// The pins whose trigger can be chosen: not those of the timer, the keyboard, the cascade, the
/// clock and the floating-point unit.
const CHOOSABLE: [u8; 2] = [0xf8, 0xde];

/// What the initialization command words have led to.
mod init {
    pub(super) const DONE: u8 = 0;
    pub(super) const VECTOR: u8 = 1;
    pub(super) const WIRING: u8 = 2;
    pub(super) const MODE: u8 = 3;
}

/// Both controllers. Their registers are kept as they are saved.
#[derive(Debug)]
pub(super) struct Pics {
    chips: [Pic; 2],
    /// The timer's interrupt, pin 0, was handled.
    timer_ended: bool,
    /// It is no longer masked.
    timer_unmasked: bool,
}

impl Pics {
    pub(super) fn new() -> Self {
        let chip = |n: usize| Pic { elcr_mask: CHOOSABLE[n], ..Pic::default() };
        Self { chips: [chip(0), chip(1)], timer_ended: false, timer_unmasked: false }
    }

    /// Whether the ports of these chips have that number.
    pub(super) fn has(port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
    }

    /// IN of a byte.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        match port {
            0x4d0 | 0x4d1 => self.chips[usize::from(port & 1)].elcr,
            _ => {
                let n = usize::from(port >> 7 & 1);
                let value = if self.chips[n].poll != 0 {
                    self.polled(n)
                } else {
                    self.chips[n].register(port & 1)
                };
                self.update();
                value
            }
        }
    }

    /// OUT of a byte.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x4d0 | 0x4d1 => {
                let chip = &mut self.chips[usize::from(port & 1)];
                chip.elcr = value & chip.elcr_mask;
            }
            _ => {
                let n = usize::from(port >> 7 & 1);
                let before = self.chips[0];
                self.chips[n].command(port & 1, value);
                self.timer_ended |= before.isr & !self.chips[0].isr & 1 != 0;
                self.timer_unmasked |= before.imr & !self.chips[0].imr & 1 != 0;
            }
        }
        self.update();
    }

    /// A pin, 0 to 15, goes high or low.
    pub(super) fn set_line(&mut self, pin: usize, high: bool) {
        if let Some(chip) = self.chips.get_mut(pin / 8) {
            chip.set_line((pin % 8) as u8, high);
            self.update();
        }
    }

    /// Whether the first one interrupts the CPU.
    pub(super) fn has_interrupt(&self) -> bool {
        self.chips[0].urgent(true).is_some()
    }

    /// The vector of the interrupt, which counts as acknowledged. One that has gone away meanwhile
    /// comes as the vector of pin 7.
    pub(super) fn acknowledge(&mut self) -> u8 {
        let [first, second] = &mut self.chips;
        let vector = match first.acknowledge(true) {
            CASCADE => second.irq_base + second.acknowledge(false),
            pin => {
                self.timer_ended |= pin == 0 && first.isr & 1 == 0;
                first.irq_base + pin
            }
        };
        self.update();
        vector
    }

    /// Whether the timer's interrupt was handled since this was last asked.
    pub(super) fn take_timer_ended(&mut self) -> bool {
        std::mem::take(&mut self.timer_ended)
    }

    /// Whether the timer's interrupt was let in again since this was last asked.
    pub(super) fn take_timer_unmasked(&mut self) -> bool {
        std::mem::take(&mut self.timer_unmasked)
    }

    /// The answer to a poll: as acknowledged by the CPU.
    fn polled(&mut self, n: usize) -> u8 {
        let chip = &mut self.chips[n];
        chip.poll = 0;
        match chip.urgent(n == 0) {
            Some(_) => 0x80 | chip.acknowledge(n == 0),
            None => 0,
        }
    }

    /// Tells the first of the second's interrupt: its output is an edge for each.
    fn update(&mut self) {
        let [first, second] = &mut self.chips;
        if second.urgent(false).is_some() {
            first.set_line(CASCADE, true);
            first.set_line(CASCADE, false);
        }
    }

    pub(super) fn save(&self) -> [Pic; 2] {
        self.chips
    }

    /// Goes on from a state that was saved, of which only what these chips can be is taken.
    pub(super) fn restore(&mut self, saved: &[Pic; 2]) {
        for ((chip, saved), choosable) in self.chips.iter_mut().zip(saved).zip(CHOOSABLE) {
            *chip = Pic {
                priority_add: saved.priority_add & 7,
                irq_base: saved.irq_base & !7,
                elcr: saved.elcr & choosable,
                elcr_mask: choosable,
                ..*saved
            };
        }
        self.update();
    }
}

/// One of them.
impl Pic {
    fn set_line(&mut self, pin: u8, high: bool) {
        let bit = 1 << pin;
        let level = self.elcr & bit != 0;
        if high && (level || self.last_irr & bit == 0) {
            self.irr |= bit;
        } else if level {
            self.irr &= !bit;
        }
        self.last_irr = if high { self.last_irr | bit } else { self.last_irr & !bit };
    }

    /// How far from the highest priority the most urgent of these pins is: 8 if there is none.
    fn distance(&self, pins: u8) -> u32 {
        pins.rotate_right(u32::from(self.priority_add)).trailing_zeros()
    }

    /// The pin at this distance.
    fn pin(&self, distance: u32) -> u8 {
        (distance as u8 + self.priority_add) & 7
    }

    /// The pin whose interrupt is more urgent than what is in service.
    fn urgent(&self, first: bool) -> Option<u8> {
        let waiting = self.distance(self.irr & !self.imr);
        let mut service = self.isr;
        if self.special_mask != 0 {
            service &= !self.imr;
        }
        if self.special_fully_nested_mode != 0 && first {
            service &= !(1 << CASCADE);
        }
        (waiting < self.distance(service)).then(|| self.pin(waiting))
    }

    /// Puts the most urgent pin's interrupt into service.
    fn acknowledge(&mut self, first: bool) -> u8 {
        let Some(pin) = self.urgent(first) else { return 7 };
        let bit = 1 << pin;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi == 0 {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi != 0 {
            self.priority_add = (pin + 1) & 7;
        }
        pin
    }

    fn register(&self, address: u16) -> u8 {
        match address {
            0 if self.read_reg_select != 0 => self.isr,
            0 => self.irr,
            _ => self.imr,
        }
    }

    fn command(&mut self, address: u16, value: u8) {
        match (address, self.init_state) {
            (0, _) if value & 0x10 != 0 => self.begin(value),
            (0, _) if value & 0x08 != 0 => self.choose(value),
            (0, _) => self.end(value),
            (_, init::VECTOR) => (self.irq_base, self.init_state) = (value & 0xf8, init::WIRING),
            (_, init::WIRING) => {
                self.init_state = if self.init4 != 0 { init::MODE } else { init::DONE };
            }
            (_, init::MODE) => {
                self.special_fully_nested_mode = value >> 4 & 1;
                self.auto_eoi = value >> 1 & 1;
                self.init_state = init::DONE;
            }
            _ => self.imr = value,
        }
    }

    /// ICW1. Lines that are level-triggered still interrupt.
    fn begin(&mut self, value: u8) {
        let ends = value & 1 == 0;
        *self = Self {
            irr: self.irr & self.elcr,
            irq_base: self.irq_base,
            init_state: init::VECTOR,
            init4: value & 1,
            auto_eoi: if ends { 0 } else { self.auto_eoi },
            special_fully_nested_mode: if ends { 0 } else { self.special_fully_nested_mode },
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
            ..Self::default()
        };
    }

    /// OCW3.
    fn choose(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = 1;
        }
        if value & 0x02 != 0 {
            self.read_reg_select = value & 1;
        }
        if value & 0x40 != 0 {
            self.special_mask = value >> 5 & 1;
        }
    }

    /// OCW2: the end of an interrupt, and priorities.
    fn end(&mut self, value: u8) {
        let named = value & 7;
        let (rotates, specific, ends) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        let pin = match self.distance(self.isr) {
            _ if specific => Some(named),
            8 => None,
            distance => Some(self.pin(distance)),
        };
        match (ends, pin) {
            (true, Some(pin)) => {
                self.isr &= !(1 << pin);
                if rotates {
                    self.priority_add = (pin + 1) & 7;
                }
            }
            (true, None) => {}
            (false, _) if specific && rotates => self.priority_add = (named + 1) & 7,
            (false, _) if specific => {}
            (false, _) => self.rotate_on_auto_eoi = u8::from(rotates),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both initialized as PCs do, from vector 0x20 on, nothing masked.
    fn ready() -> Pics {
        let mut pics = Pics::new();
        all(&mut pics, &[(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 0x04)]);
        all(&mut pics, &[(0xa1, 0x02), (0x21, 0x01), (0xa1, 0x01), (0x21, 0), (0xa1, 0)]);
        pics
    }

    fn all(pics: &mut Pics, writes: &[(u16, u8)]) {
        writes.iter().for_each(|(port, value)| pics.write(*port, *value));
    }

    fn pulse(pics: &mut Pics, pin: usize) {
        pics.set_line(pin, true);
        pics.set_line(pin, false);
    }

    fn taken(pics: &mut Pics) -> Option<u8> {
        pics.has_interrupt().then(|| pics.acknowledge())
    }

    #[test]
    fn pins_come_in_their_order_of_priority() {
        let mut pics = ready();
        [5, 12, 1, 3].iter().for_each(|pin| pulse(&mut pics, *pin));
        let order: Vec<_> = std::iter::from_fn(|| {
            let vector = taken(&mut pics)?;
            pics.write(0xa0, 0x20);
            pics.write(0x20, 0x20);
            Some(vector)
        })
        .collect();
        assert_eq!(order, [0x21, 0x2c, 0x23, 0x25]);
    }

    #[test]
    fn what_is_in_service_yields_only_to_more_urgent_pins() {
        let mut pics = ready();
        pulse(&mut pics, 4);
        assert_eq!(taken(&mut pics), Some(0x24));
        [4, 6].iter().for_each(|pin| pulse(&mut pics, *pin));
        assert_eq!(taken(&mut pics), None);
        pulse(&mut pics, 9);
        assert_eq!(taken(&mut pics), Some(0x29));
        pics.write(0x20, 0x0b);
        assert_eq!(pics.read(0x20), 1 << 4 | 1 << 2);
        pics.write(0x20, 0x0a);
        assert_eq!(pics.read(0x20), 1 << 4 | 1 << 6);
        // Specific ends: of pin 4, and of both for pin 9.
        all(&mut pics, &[(0x20, 0x64), (0xa0, 0x61), (0x20, 0x62)]);
        assert_eq!(taken(&mut pics), Some(0x24));
    }

    #[test]
    fn an_edge_waits_while_masked_and_a_level_lasts() {
        let mut pics = ready();
        pics.write(0x21, 0xff);
        pics.set_line(5, true);
        assert!(!pics.has_interrupt());
        pics.write(0x21, 0xdf);
        assert_eq!(taken(&mut pics), Some(0x25));
        pics.write(0x20, 0x20);
        assert_eq!(taken(&mut pics), None);
        pics.write(0x4d0, 0xff);
        assert_eq!(pics.read(0x4d0), 0xf8);
        pics.set_line(5, true);
        for _ in 0..2 {
            assert_eq!(taken(&mut pics), Some(0x25));
            pics.write(0x20, 0x20);
        }
        pics.set_line(5, false);
        assert_eq!(taken(&mut pics), None);
    }

    #[test]
    fn one_that_goes_away_comes_as_pin_7() {
        let mut pics = ready();
        pics.write(0x4d0, 0x20);
        pics.write(0x4d1, 0x02);
        pulse(&mut pics, 5);
        assert_eq!(pics.acknowledge(), 0x27);
        pics.set_line(9, true);
        assert!(pics.has_interrupt());
        pics.set_line(9, false);
        assert_eq!(pics.acknowledge(), 0x2f);
    }

    #[test]
    fn priorities_rotate() {
        let mut pics = ready();
        // Pin 3 is the last from now on.
        pics.write(0x20, 0xc3);
        [3, 4].iter().for_each(|pin| pulse(&mut pics, *pin));
        assert_eq!(taken(&mut pics), Some(0x24));
        // Its end makes it the last.
        pics.write(0x20, 0xa0);
        [3, 4].iter().for_each(|pin| pulse(&mut pics, *pin));
        assert_eq!(taken(&mut pics), Some(0x23));
        // So does being taken, if they end by themselves and rotate.
        let mut pics = ready();
        all(&mut pics, &[(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x20, 0x80)]);
        for vector in [0x21, 0x25, 0x21] {
            [1, 5].iter().for_each(|pin| pulse(&mut pics, *pin));
            assert_eq!(taken(&mut pics), Some(vector));
        }
    }

    #[test]
    fn a_poll_acknowledges() {
        let mut pics = ready();
        pics.write(0x20, 0x0c);
        assert_eq!(pics.read(0x20), 0);
        pulse(&mut pics, 6);
        pics.write(0x20, 0x0c);
        assert_eq!(pics.read(0x20), 0x86);
        assert!(!pics.has_interrupt());
        // Only the one read after it.
        assert_eq!(pics.read(0x20), 0);
    }

    #[test]
    fn in_special_mask_mode_what_is_masked_holds_nothing_back() {
        let mut pics = ready();
        pulse(&mut pics, 1);
        assert_eq!(taken(&mut pics), Some(0x21));
        pulse(&mut pics, 3);
        pics.write(0x21, 0x02);
        assert_eq!(taken(&mut pics), None);
        pics.write(0x20, 0x68);
        assert_eq!(taken(&mut pics), Some(0x23));
    }

    #[test]
    fn the_end_and_the_unmasking_of_the_timers_interrupt_are_noticed() {
        let mut pics = ready();
        pulse(&mut pics, 0);
        assert_eq!(taken(&mut pics), Some(0x20));
        assert!(!pics.take_timer_ended());
        pics.write(0x20, 0x20);
        assert!(pics.take_timer_ended() && !pics.take_timer_ended());
        pics.take_timer_unmasked();
        pics.write(0x21, 0xff);
        assert!(!pics.take_timer_unmasked());
        pics.write(0x21, 0xfe);
        assert!(pics.take_timer_unmasked() && !pics.take_timer_unmasked());
    }

    #[test]
    fn what_is_saved_is_restored_as_far_as_it_can_be() {
        let mut pics = ready();
        pulse(&mut pics, 4);
        taken(&mut pics);
        let saved = pics.save();
        let mut other = Pics::new();
        other.restore(&saved);
        assert_eq!(other.save(), saved);
        let mad = Pic { priority_add: 0xff, irq_base: 0xff, elcr: 0xff, irr: 0xff, ..saved[0] };
        other.restore(&[mad, mad]);
        assert_eq!(other.acknowledge(), 0xf8 + 7);
        assert_eq!(other.read(0x4d1), 0xde);
    }
}
