//! What carries messages between APICs.

use super::{
    lapic::Lapic,
    message::{Delivery, Message},
};

/// The local APICs of a VM, by number.
#[derive(Debug)]
pub(super) struct Bus(Vec<Lapic>);

impl Bus {
    pub(super) fn new(vcpus: u32) -> Self {
        Self((0..vcpus).map(Lapic::new).collect())
    }

    pub(super) fn get(&self, n: usize) -> Option<&Lapic> {
        self.0.get(n)
    }

    pub(super) fn get_mut(&mut self, n: usize) -> Option<&mut Lapic> {
        self.0.get_mut(n)
    }

    /// Takes a message to all it is for; whether one of them has accepted it.
    pub(super) fn send(&mut self, message: &Message) -> bool {
        let meant = self.0.iter_mut().filter(|lapic| lapic.matches(message.target));
        if message.delivery != Delivery::LowestPriority {
            return meant.fold(false, |any, lapic| lapic.accept(message) | any);
        }
        let Some(chosen) = meant.filter(|lapic| lapic.is_enabled()).min_by_key(|lapic| lapic.taken)
        else {
            return false;
        };
        chosen.taken = chosen.taken.wrapping_add(1);
        chosen.accept(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let mut bus = Bus::new(3);
        bus.0.iter_mut().for_each(|lapic| {
            lapic.write(0xf0, &0x1ffu32.to_le_bytes(), 0);
        });
        bus
    }

    fn waiting(bus: &Bus) -> Vec<bool> {
        bus.0.iter().map(Lapic::has_interrupt).collect()
    }

    #[test]
    fn a_message_goes_to_all_it_is_for() {
        let mut bus = bus();
        let all_but_1 = Message::of_command(3 << 18 | 0x40, 1, false);
        assert!(bus.send(&all_but_1));
        assert_eq!(waiting(&bus), [true, false, true]);
        assert!(!bus.send(&Message::of_command(9 << 56 | 0x40, 1, false)));
    }

    #[test]
    fn messages_for_one_of_several_go_around_among_those_that_are_on() {
        let mut bus = bus();
        bus.0[1].write(0xf0, &[0xff, 0, 0, 0], 0);
        let message = Message::of_command(0xff << 56 | 0x140, 0, false);
        assert!(bus.send(&message));
        assert_eq!(waiting(&bus), [true, false, false]);
        assert!(bus.send(&message));
        assert_eq!(waiting(&bus), [true, false, true]);
        let taken: Vec<_> = (0..4).map(|_| bus.send(&message)).collect();
        assert_eq!((taken, bus.0[0].taken, bus.0[2].taken), (vec![true; 4], 3, 3));
    }
}
