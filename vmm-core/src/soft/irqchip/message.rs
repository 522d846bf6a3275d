//! An interrupt on its way to local APICs, and the three forms it is written in: an interrupt
//! command, an entry of the I/O APIC's redirection table, a message of a device (Intel SDM 3-11.6.1,
//! 3-11.11, 82093AA).

use crate::irq::Msi;

/// What is sent, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) vector: u8,
    pub(super) delivery: Delivery,
    pub(super) target: Target,
    pub(super) level_triggered: bool,
    /// INIT is asserted, not taken back.
    pub(super) asserted: bool,
}

/// What it does where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Fixed,
    /// As `Fixed`, to one of several.
    LowestPriority,
    Nmi,
    Init,
    Startup,
    /// The PICs have the vector.
    External,
    /// System management and what is reserved.
    Nothing,
}

/// Whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    All,
    AllBut(u32),
    Only(u32),
    /// The APIC of that ID.
    Physical(u32),
    /// Those whose logical ID it names, in the format of their own mode.
    Logical(u32),
}

/// An 8-bit destination that is for all.
const BROADCAST: u32 = 0xff;
/// The same in x2APIC mode.
const BROADCAST_X2: u32 = u32::MAX;

/// Bits of interrupt commands; up to bit 15 redirection entries and messages have the same.
const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

impl Delivery {
    /// The delivery mode in bits 8 to 10.
    pub(super) fn of(word: u32) -> Self {
        match word >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::External,
            _ => Self::Nothing,
        }
    }
}

impl Message {
    /// What the APIC of ID `from` sends when this is written to its interrupt command register;
    /// `x2` is its mode, which decides on the width of destinations.
    pub(super) fn of_command(command: u64, from: u32, x2: bool) -> Self {
        let (low, high) = (command as u32, (command >> 32) as u32);
        let target = match low >> 18 & 3 {
            0 if x2 && high == BROADCAST_X2 => Target::All,
            0 if x2 => wide(high, low & LOGICAL != 0),
            0 => narrow(high >> 24, low & LOGICAL != 0),
            1 => Target::Only(from),
            2 => Target::All,
            _ => Target::AllBut(from),
        };
        Self { asserted: low & ASSERT != 0, ..Self::of_word(low, target) }
    }

    /// What an entry of the redirection table sends.
    pub(super) fn of_redirection(entry: u64) -> Self {
        let low = entry as u32;
        Self::of_word(low, narrow((entry >> 56) as u32, low & LOGICAL != 0))
    }

    /// What a device sends.
    pub(super) fn of_msi(msi: Msi) -> Self {
        const REDIRECTED: u64 = 1 << 3;
        const LOGICAL: u64 = 1 << 2;
        let target = narrow((msi.address >> 12) as u32 & 0xff, msi.address & LOGICAL != 0);
        let mut message = Self::of_word(msi.data, target);
        if message.delivery == Delivery::Fixed && msi.address & REDIRECTED != 0 {
            message.delivery = Delivery::LowestPriority;
        }
        message
    }

    fn of_word(word: u32, target: Target) -> Self {
        let (vector, delivery) = (word as u8, Delivery::of(word));
        let level_triggered = word & LEVEL != 0;
        Self { vector, delivery, target, level_triggered, asserted: true }
    }
}

/// A destination of 8 bits.
fn narrow(destination: u32, logical: bool) -> Target {
    if destination == BROADCAST { Target::All } else { wide(destination, logical) }
}

fn wide(destination: u32, logical: bool) -> Target {
    if logical { Target::Logical(destination) } else { Target::Physical(destination) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_their_targets_in_either_width() {
        let target = |command, x2| Message::of_command(command, 3, x2).target;
        assert_eq!(target(0x02 << 56, false), Target::Physical(2));
        assert_eq!(target(0xff << 56, false), Target::All);
        assert_eq!(target(0x0f << 56 | 0x800, false), Target::Logical(15));
        assert_eq!(target(0xff << 32, true), Target::Physical(255));
        assert_eq!(target(0x1_0002 << 32 | 0x800, true), Target::Logical(0x1_0002));
        assert_eq!(target(0xffff_ffff << 32, true), Target::All);
        let shorthands = [1u64, 2, 3].map(|n| target(n << 18 | 7 << 56, false));
        assert_eq!(shorthands, [Target::Only(3), Target::All, Target::AllBut(3)]);
    }

    #[test]
    fn devices_ask_for_the_least_busy_by_delivery_mode_or_by_hint() {
        let delivery = |address, data| Message::of_msi(Msi { address, data }).delivery;
        assert_eq!(delivery(0xfee0_0000, 0x40), Delivery::Fixed);
        assert_eq!(delivery(0xfee0_0000, 0x140), Delivery::LowestPriority);
        assert_eq!(delivery(0xfee0_000c, 0x40), Delivery::LowestPriority);
        assert_eq!(delivery(0xfee0_000c, 0x440), Delivery::Nmi);
    }

    #[test]
    fn an_init_is_taken_back_without_the_assert_bit() {
        let asserted = |command| Message::of_command(command, 0, false).asserted;
        assert!(asserted(0xc500));
        assert!(!asserted(0x8500));
    }
}
