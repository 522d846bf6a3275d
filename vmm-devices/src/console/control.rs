//! What device and driver of several ports tell each other (section 5.3.6.2).

use serde::{Deserialize, Serialize};

/// Events of control messages.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// A message of the driver's: port, event and value, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// It wants to be told of ports, or has failed.
    DeviceReady(bool),
    /// It can use the port, or cannot.
    PortReady(u32, bool),
    /// A program has opened the port, or closed it.
    PortOpen(u32, bool),
    /// What only devices send, or nobody.
    Unknown,
}

impl Request {
    pub(super) const LEN: usize = 8;

    pub(super) fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (port, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let value = u16::from_le_bytes([g, h]) != 0;
        match event {
            event::DEVICE_READY => Self::DeviceReady(value),
            event::PORT_READY => Self::PortReady(port, value),
            event::PORT_OPEN => Self::PortOpen(port, value),
            _ => Self::Unknown,
        }
    }
}

/// What the driver is still to be told of a port, the lowest bit first. A set and no queue, so that
/// a driver that asks and does not listen makes nothing grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Due(u8);

impl Due {
    /// That there is such a port.
    pub(super) const ADD: Self = Self(1);
    /// That it is a console.
    pub(super) const CONSOLE: Self = Self(2);
    pub(super) const NAME: Self = Self(4);
    /// How large the console is.
    pub(super) const SIZE: Self = Self(8);
    /// Whether someone is there.
    pub(super) const OPEN: Self = Self(16);

    pub(super) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The first of it, if there is any.
    pub(super) fn first(self) -> Option<Self> {
        (self.0 != 0).then_some(Self(self.0 & self.0.wrapping_neg()))
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(super) fn is_known(self) -> bool {
        self.0 < 2 * Self::OPEN.0
    }
}

/// What a message says beside what it is about.
pub(super) struct Facts<'a> {
    pub(super) port: u32,
    pub(super) name: &'a str,
    /// Columns and rows.
    pub(super) size: (u16, u16),
    pub(super) is_there: bool,
}

/// The message that says `due`, a single one, of a port.
pub(super) fn message(due: Due, facts: &Facts<'_>) -> Vec<u8> {
    let (columns, rows) = facts.size;
    // As the specification has it (5.3.6.2), and Debian's 6.1.0-56 reads it; older Linux took the
    // first for rows.
    let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
    let (event, value, rest) = match due {
        Due::ADD => (event::DEVICE_ADD, true, &[][..]),
        Due::CONSOLE => (event::CONSOLE_PORT, true, &[][..]),
        Due::NAME => (event::PORT_NAME, true, facts.name.as_bytes()),
        Due::SIZE => (event::RESIZE, true, &size[..]),
        _ => (event::PORT_OPEN, facts.is_there, &[][..]),
    };
    let mut message = facts.port.to_le_bytes().to_vec();
    message.extend(event.to_le_bytes());
    message.extend(u16::from(value).to_le_bytes());
    message.extend(rest);
    message
}
