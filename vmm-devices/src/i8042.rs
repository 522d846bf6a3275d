//! The keyboard controller of a PC, without a keyboard: how guests reset themselves.
//!
//! A guest that probes it gets an answer to each command at once, the ones of a working controller
//! with nothing attached; what is sent to the keyboard is answered as hardware does when that stays
//! silent, without the wait. Commands: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device
//! Controller".

use std::{ops::ControlFlow, sync::Arc};

use serde::{Deserialize, Serialize};
use vmm_core::{
    Result,
    bus::{Locked, LockedDevice},
    exit::{CONTINUE, Flow, VcpuExit},
    irq::IrqLine,
    machine::{Device, Legacy, Slot},
    persist::{Kind, StateReader, StateWriter},
};

/// The offset of the status and command port from the data port.
const COMMAND: u64 = 4;

/// Status: a reply waits.
const STATUS_REPLY: u8 = 0x01;
/// Status: the last write was a command.
const STATUS_COMMAND: u8 = 0x08;
/// Status: no key locks the keyboard.
const STATUS_UNLOCKED: u8 = 0x10;
/// Status: the reply stands for a device that did not answer.
const STATUS_TIMEOUT: u8 = 0x40;

/// Configuration: a reply interrupts.
const CONFIG_INTERRUPT: u8 = 0x01;
/// Configuration, and the same bit of the status: the self-test was passed.
const CONFIG_PASSED: u8 = 0x04;
/// Configuration: the port for the keyboard is off; the one for an auxiliary device (a mouse) is.
const CONFIG_KEYBOARD_OFF: u8 = 0x10;
const CONFIG_AUX_OFF: u8 = 0x20;
/// Configuration: translate scan codes.
const CONFIG_TRANSLATE: u8 = 0x40;

/// The output port: its bit 0 is the reset line, active low; bit 1 is gate A20.
const OUTPUT_NOT_RESET: u8 = 0x01;
const OUTPUT_DEFAULT: u8 = 0xcf;

/// What a keyboard says to a byte it did not understand, and a controller for one that does not
/// answer.
const RESEND: u8 = 0xfe;

/// A keyboard controller whose only effect is
/// [`Outcome::Reset`](vmm_core::machine::Outcome::Reset): by command 0xFE, or another that pulses
/// the reset line.
#[derive(Clone, Copy, Debug, Default)]
pub struct I8042(());

impl I8042 {
    /// A keyboard controller.
    pub fn new() -> Self {
        Self(())
    }
}

impl Device for I8042 {
    fn name(&self) -> &str {
        "i8042"
    }

    /// # Errors
    /// `BadConfig` if the machine has one already.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.legacy(Legacy::Keyboard, |line| Arc::new(Locked::new(Controller::new(line))))
    }
}

#[derive(Debug)]
struct Controller {
    line: IrqLine,
    config: u8,
    output_port: u8,
    reply: Option<Reply>,
    /// A command that waits for its data byte.
    pending: Option<u8>,
    last_was_command: bool,
}

/// A byte in the output buffer.
#[derive(Clone, Copy, Debug)]
struct Reply {
    byte: u8,
    timeout: bool,
}

impl Controller {
    fn new(line: IrqLine) -> Self {
        Self {
            line,
            config: CONFIG_PASSED | CONFIG_AUX_OFF | CONFIG_TRANSLATE,
            output_port: OUTPUT_DEFAULT,
            reply: None,
            pending: None,
            last_was_command: false,
        }
    }

    fn status(&self) -> u8 {
        let reply = match self.reply {
            None => 0,
            Some(Reply { timeout: false, .. }) => STATUS_REPLY,
            Some(Reply { timeout: true, .. }) => STATUS_REPLY | STATUS_TIMEOUT,
        };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        STATUS_UNLOCKED | self.config & CONFIG_PASSED | command | reply
    }

    fn command(&mut self, command: u8) -> Flow {
        self.last_was_command = true;
        self.pending = None;
        match command {
            0x20 => self.answer(self.config),
            // Write the configuration or the output port, loop a byte back, send one to the
            // auxiliary device.
            0x60 | 0xd1 | 0xd3 | 0xd4 => self.pending = Some(command),
            0xa7 => self.config |= CONFIG_AUX_OFF,
            0xa8 => self.config &= !CONFIG_AUX_OFF,
            // Test of the auxiliary port: its clock line is stuck, as there is none.
            0xa9 => self.answer(0x01),
            0xaa => {
                self.config |= CONFIG_PASSED;
                self.answer(0x55);
            }
            // Test of the keyboard port: no fault.
            0xab => self.answer(0x00),
            0xad => self.config |= CONFIG_KEYBOARD_OFF,
            0xae => self.config &= !CONFIG_KEYBOARD_OFF,
            0xd0 => self.answer(self.output_port),
            // Pulse low those lines of the output port whose bit is 0.
            0xf0..=0xff if command & OUTPUT_NOT_RESET == 0 => return RESET,
            _ => {}
        }
        CONTINUE
    }

    fn data(&mut self, byte: u8) -> Flow {
        self.last_was_command = false;
        match self.pending.take() {
            Some(0x60) => self.config = byte,
            Some(0xd1) if byte & OUTPUT_NOT_RESET == 0 => return RESET,
            Some(0xd1) => self.output_port = byte,
            // Linux takes a loop that comes back as from the keyboard for "no auxiliary port", at
            // once.
            Some(0xd3) => self.answer(byte),
            _ => self.set_reply(Reply { byte: RESEND, timeout: true }),
        }
        CONTINUE
    }

    fn answer(&mut self, byte: u8) {
        self.set_reply(Reply { byte, timeout: false });
    }

    fn set_reply(&mut self, reply: Reply) {
        self.reply = Some(reply);
        if self.config & CONFIG_INTERRUPT != 0 {
            self.line.pulse();
        }
    }

    fn take_reply(&mut self) -> u8 {
        self.reply.take().map_or(0, |reply| reply.byte)
    }
}

const RESET: Flow = ControlFlow::Break(VcpuExit::Reset);

impl LockedDevice for Controller {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Flow {
        for (offset, byte) in (offset..).zip(data) {
            *byte = match offset {
                0 => self.take_reply(),
                COMMAND => self.status(),
                _ => 0xff,
            };
        }
        CONTINUE
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Flow {
        (offset..).zip(data).try_for_each(|(offset, &byte)| match offset {
            0 => self.data(byte),
            COMMAND => self.command(byte),
            _ => CONTINUE,
        })
    }

    fn reset(&mut self) {
        *self = Self::new(self.line.clone());
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        let Self { config, output_port, pending, last_was_command, .. } = *self;
        let reply = self.reply.map(|Reply { byte, timeout }| (byte, timeout));
        out.put(STATE, &State { config, output_port, reply, pending, last_was_command })
    }

    fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        let State { config, output_port, reply, pending, last_was_command } = from.take(STATE)?;
        (self.config, self.output_port) = (config, output_port);
        (self.pending, self.last_was_command) = (pending, last_was_command);
        self.reply = None;
        if let Some((byte, timeout)) = reply {
            self.set_reply(Reply { byte, timeout });
        }
        Ok(())
    }
}

const STATE: Kind = Kind { name: "i8042", version: 1 };

#[derive(Serialize, Deserialize)]
struct State {
    config: u8,
    output_port: u8,
    reply: Option<(u8, bool)>,
    pending: Option<u8>,
    last_was_command: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_core::{bus::Bus, hv::script::Access, irq::Gsi, machine::Outcome};

    use super::*;
    use crate::testing::{self, play};

    fn controller() -> Controller {
        Controller::new(IrqLine::unconnected())
    }

    /// Sends a command and reads what the output buffer has then, if anything.
    fn ask(controller: &mut Controller, command: u8) -> Option<u8> {
        assert!(controller.command(command).is_continue(), "{command:#x}");
        (controller.status() & STATUS_REPLY != 0).then(|| controller.take_reply())
    }

    #[test]
    fn commands_answer_at_once() {
        let answers = [
            (0x20, Some(0x64)),
            (0xa7, None),
            (0xa9, Some(1)),
            (0xaa, Some(0x55)),
            (0xab, Some(0)),
            (0xad, None),
            (0xd0, Some(OUTPUT_DEFAULT)),
            (0xff, None),
            (0x99, None),
        ];
        for (command, answer) in answers {
            assert_eq!(ask(&mut controller(), command), answer, "{command:#x}");
        }
    }

    #[test]
    fn the_configuration_is_kept_and_ports_switch_in_it() {
        let mut controller = controller();
        assert_eq!(ask(&mut controller, 0x60), None);
        assert!(controller.data(0x47).is_continue());
        assert_eq!(ask(&mut controller, 0x20), Some(0x47));
        for (command, config) in [(0xad, 0x57), (0xa7, 0x77), (0xae, 0x67), (0xa8, 0x47)] {
            assert_eq!(ask(&mut controller, command), None);
            assert_eq!(ask(&mut controller, 0x20), Some(config), "{command:#x}");
        }
    }

    #[test]
    fn a_reset_forgets_what_the_guest_set() {
        let mut controller = controller();
        assert_eq!(ask(&mut controller, 0x60), None);
        assert!(controller.data(0x47).is_continue());
        assert!(controller.command(0x20).is_continue());
        controller.reset();
        assert_eq!(controller.status(), 0x14, "no reply waits");
        assert_eq!(ask(&mut controller, 0x20), Some(0x64));
    }

    #[test]
    fn a_keyboard_that_is_not_there_times_out() {
        let mut controller = controller();
        assert!(controller.data(0xff).is_continue());
        assert_eq!(controller.status(), 0x55);
        assert_eq!((controller.take_reply(), controller.status()), (RESEND, 0x14));
    }

    #[test]
    fn every_way_to_pull_the_reset_line_resets() {
        for command in 0..=0xff {
            let expected = command >= 0xf0 && command & 1 == 0;
            assert_eq!(controller().command(command).is_break(), expected, "{command:#x}");
        }
        let mut controller = controller();
        assert_eq!(ask(&mut controller, 0xd1), None);
        assert!(controller.data(0xdf).is_continue(), "only gate A20");
        assert_eq!(ask(&mut controller, 0xd0), Some(0xdf));
        assert_eq!(ask(&mut controller, 0xd1), None);
        assert!(matches!(controller.data(0xfe), ControlFlow::Break(VcpuExit::Reset)));
    }

    #[test]
    fn a_guest_resets_itself() {
        let script = [
            Access::port_out(0x64, &[0x60]),
            Access::port_out(0x60, &[0x05]),
            Access::port_in(0x64, 1),
            Access::port_out(0x64, &[0xaa]),
            Access::port_in(0x64, 1),
            Access::port_in(0x60, 4),
            Access::port_out(0x64, &[0xfe]),
            Access::Spin,
        ];
        let (outcome, record) = play(I8042::new(), script);
        assert_eq!(outcome, Outcome::Reset);
        assert_eq!(record.replies, [vec![0x14], vec![0x1d], vec![0x55, 0xff, 0xff, 0xff]]);
        assert_eq!(record.lines, [(Gsi(1), true), (Gsi(1), false)]);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in testing::accesses(0x60, 5)) {
            let mut bus: Bus = Bus::new();
            let device = Arc::new(Locked::new(controller()));
            bus.insert(0x60, 1, device.clone()).unwrap();
            bus.insert_at_offset(0x64, 1, COMMAND, device).unwrap();
            testing::perform(&bus, &accesses);
        }
    }
}
