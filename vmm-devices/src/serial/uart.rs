//! The registers of a 16550: vm-superio's, with a queue before the receiver and a level of
//! interrupt identification that a driver can rely on.
//!
//! vm-superio forgets at a read of IIR whatever was pending, received data that is still there
//! included, and names two causes at once with the code of a third. So IIR is answered here, from
//! the conditions themselves: PC16550D data sheet, section 8.5 and table IV.

use std::{collections::VecDeque, convert::Infallible, sync::OnceLock};

use serde::{Deserialize, Serialize};
use vm_superio::{Trigger, serial::NoEvents, serial::SerialState};
use vmm_core::{
    Error, Result,
    irq::IrqLine,
    persist::{Kind, StateReader, StateWriter},
};

/// Register offsets: interrupt enable, interrupt identification, line control, line status.
const IER: u8 = 1;
const IIR: u8 = 2;
const LCR: u8 = 3;
const LSR: u8 = 5;

/// IER: interrupt when data was received; when there is nothing left to send.
const IER_RECEIVED: u8 = 0x01;
const IER_SENT: u8 = 0x02;
/// IIR: FIFOs are on; and the cause, of which there is one at a time.
const IIR_FIFO: u8 = 0xc0;
const IIR_NONE: u8 = 0x01;
const IIR_SENT: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
/// LCR: offsets 0 and 1 are the baud rate.
const LCR_DIVISOR: u8 = 0x80;
/// MCR: what is sent is received.
const MCR_LOOP: u8 = 0x10;
/// LSR: there is something to receive.
const LSR_DATA_READY: u8 = 0x01;

/// The most input that waits for a guest.
pub(super) const QUEUE: usize = 64 << 10;

/// What the guest sees of a serial port, and the input that waits for it.
pub(super) struct Uart {
    /// Sends into the `Vec`, from where each byte is taken at once.
    chip: vm_superio::Serial<Line, NoEvents, Vec<u8>>,
    interrupts: u8,
    /// "All sent" happened and was not yet read from IIR.
    sent: bool,
    queue: VecDeque<u8>,
}

impl Uart {
    pub(super) fn new() -> Self {
        let chip = vm_superio::Serial::new(Line::default(), Vec::new());
        Self { chip, interrupts: 0, sent: false, queue: VecDeque::new() }
    }

    /// Gives the interrupt line, once there is one.
    pub(super) fn connect(&self, line: IrqLine) {
        let first = self.chip.interrupt_evt().0.set(line).is_ok();
        debug_assert!(first, "a device is plugged once");
    }

    /// Back to power-on; what was received and not read is received anew.
    pub(super) fn reset(&mut self) {
        let state = self.chip.state();
        // What was looped back did not come from outside.
        let unread = if state.modem_control & MCR_LOOP == 0 { state.in_buffer } else { Vec::new() };
        let line = self.chip.interrupt_evt().0.get().cloned();
        let mut queue = std::mem::take(&mut self.queue);
        unread.into_iter().rev().for_each(|byte| queue.push_front(byte));
        *self = Self { queue, ..Self::new() };
        if let Some(line) = line {
            self.connect(line);
        }
        self.refill();
    }

    pub(super) fn save(&self, out: &mut StateWriter) -> Result<()> {
        let chip = self.chip.state();
        let registers = [
            chip.baud_divisor_low,
            chip.baud_divisor_high,
            chip.interrupt_enable,
            chip.interrupt_identification,
            chip.line_control,
            chip.line_status,
            chip.modem_control,
            chip.modem_status,
            chip.scratch,
            self.interrupts,
        ];
        let queue = self.queue.iter().copied().collect();
        out.put(STATE, &State { registers, received: chip.in_buffer, sent: self.sent, queue })
    }

    /// Becomes what was saved, and interrupts once if it may have to.
    pub(super) fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        let State { registers, received, sent, queue } = from.take(STATE)?;
        let [low, high, enable, identification, line_control, line_status, rest @ ..] = registers;
        let [modem_control, modem_status, scratch, interrupts] = rest;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: received,
        };
        let line = self.chip.interrupt_evt().0.get().cloned();
        let chip = vm_superio::Serial::from_state(&state, Line::default(), NoEvents, Vec::new());
        self.chip = chip.map_err(|error| Error::snapshot(format!("serial port: {error:?}")))?;
        (self.interrupts, self.sent) = (interrupts, sent);
        queue.into_iter().rev().for_each(|byte| self.queue.push_front(byte));
        if let Some(line) = line {
            if interrupts != 0 {
                line.pulse();
            }
            self.connect(line);
        }
        self.refill();
        Ok(())
    }

    pub(super) fn read(&mut self, offset: u8) -> u8 {
        let value = match offset {
            IIR => self.identify(),
            _ => self.chip.read(offset),
        };
        self.refill();
        value
    }

    /// Writes a register; gives the byte that goes out, if one does.
    pub(super) fn write(&mut self, offset: u8, value: u8) -> Option<u8> {
        if offset == IER && self.chip.read(LCR) & LCR_DIVISOR == 0 {
            self.interrupts = value;
        }
        // Neither the line nor a Vec can fail.
        let _ = self.chip.write(offset, value);
        // The chip takes no input in loop-back mode; this may have been the way out of it.
        self.refill();
        self.chip.writer_mut().pop()
    }

    /// Takes as much of `input` as there is room for; gives how much.
    pub(super) fn receive(&mut self, input: &[u8]) -> usize {
        let room = QUEUE.saturating_sub(self.queue.len());
        let taken = input.get(..room).unwrap_or(input);
        self.receive_all(taken);
        taken.len()
    }

    /// Takes `input` whether there is room or not.
    pub(super) fn receive_all(&mut self, input: &[u8]) {
        self.queue.extend(input);
        self.refill();
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < QUEUE
    }

    /// The cause of the interrupt; received data goes first, and stays a cause until all is read.
    fn identify(&mut self) -> u8 {
        self.sent |= self.chip.read(IIR) & IIR_SENT != 0;
        let cause = if self.interrupts & IER_RECEIVED != 0 && self.is_data_ready() {
            IIR_RECEIVED
        } else if self.interrupts & IER_SENT != 0 && self.sent {
            self.sent = false;
            IIR_SENT
        } else {
            IIR_NONE
        };
        IIR_FIFO | cause
    }

    fn is_data_ready(&mut self) -> bool {
        self.chip.read(LSR) & LSR_DATA_READY != 0
    }

    /// Moves input into the receiver. Only once that is empty: an interrupt for each full one, not
    /// for each byte.
    fn refill(&mut self) {
        if self.queue.is_empty() || self.is_data_ready() {
            return;
        }
        // The queue is a ring, so its front may take two goes. A full receiver is an error here, a
        // looped-back one takes 0.
        while let Ok(moved @ 1..) = self.chip.enqueue_raw_bytes(self.queue.as_slices().0) {
            self.queue.drain(..moved);
        }
    }
}

const STATE: Kind = Kind { name: "serial", version: 1 };

#[derive(Serialize, Deserialize)]
struct State {
    /// Those of the chip in the order of its data sheet, then IER as it was last written.
    registers: [u8; 10],
    /// What is in the receiver.
    received: Vec<u8>,
    sent: bool,
    queue: Vec<u8>,
}

/// The interrupt line as vm-superio wants it.
#[derive(Default)]
struct Line(OnceLock<IrqLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        if let Some(line) = self.0.get() {
            line.pulse();
        }
        Ok(())
    }
}
