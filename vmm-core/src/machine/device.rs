//! What a device is to a machine, and what a machine grants it.
//!
//! A [`Device`] is plugged into a [`Slot`] while the machine is built. The slot hands out places on
//! the buses, interrupt lines and memory; the device keeps what it is given and is passive from
//! then on. Where a device sits is the board's to decide: devices of a PC ask for their [`Legacy`]
//! place, others for any window.

use std::{fmt, sync::Arc};

use super::{
    board::{Board, Legacy},
    control::Control,
    reactor::{EventLoop, Reactor},
};
use crate::{
    boot::{BoardDevice, is_hardware_id},
    bus::BusDevice,
    error::{Error, Result},
    hv::{IoAddress, Match, Vm},
    irq::{EventFd, Gsi, IrqLine},
    memory::{GuestAddress, GuestMemory},
    virtio::Endpoint,
};

/// A device to be plugged into a machine.
pub trait Device: Send {
    /// What errors and statistics call it, such as `serial`.
    fn name(&self) -> &str;

    /// Takes its places in the machine. Called once, while the machine is built.
    ///
    /// # Errors
    /// What the slot gave, or that the device cannot work here.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()>;
}

/// What a machine grants the device that is being plugged.
pub struct Slot<'a> {
    board: &'a mut Board,
    memory: &'a GuestMemory,
    wiring: &'a mut Wiring,
    name: Arc<str>,
}

/// What slots share beside the board.
pub(super) struct Wiring {
    pub(super) vm: Arc<dyn Vm>,
    pub(super) control: Arc<Control>,
    /// Made for the first device that asks.
    pub(super) reactor: Option<EventLoop>,
}

/// A place on the MMIO or the port bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<A> {
    /// Wherever there is room.
    Any,
    /// From this address on.
    At(A),
}

impl<'a> Slot<'a> {
    pub(super) fn new(
        board: &'a mut Board,
        memory: &'a GuestMemory,
        wiring: &'a mut Wiring,
        name: &str,
    ) -> Self {
        Self { board, memory, wiring, name: name.into() }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        self.memory
    }

    /// What tells whether the machine is called to a pause or its end, and whoever is at work shall
    /// step back.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.wiring.control
    }

    /// Has the account of the machine, if one is kept, tell of this device's traffic.
    pub(super) fn account(&self, endpoint: &Arc<Endpoint>) {
        if let Some(account) = self.board.account() {
            account.add_virtio(&self.name, endpoint);
        }
    }

    /// Puts `device` on the port bus from port `start` on, for `len` ports.
    ///
    /// # Errors
    /// `BadConfig` if the window is empty, passes port 0xFFFF or overlaps another.
    pub fn ports(&mut self, start: u16, len: u16, device: Arc<dyn BusDevice>) -> Result<()> {
        self.board.add_ports(&self.name, u64::from(start), u64::from(len), 0, device)
    }

    /// Puts `device` on the MMIO bus for `len` bytes; returns where.
    ///
    /// # Errors
    /// `BadConfig` if the window is empty, overlaps another or RAM, or there is no room.
    pub fn mmio(
        &mut self,
        place: Place<GuestAddress>,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<GuestAddress> {
        self.board.add_mmio(&self.name, place, len, self.memory, device)
    }

    /// An interrupt line of the device's own, edge-triggered.
    ///
    /// # Errors
    /// `BadConfig` if the line is taken or out of range, or none is free; `Unsupported` if the
    /// machine has no interrupt controllers.
    pub fn irq(&mut self, place: Place<Gsi>) -> Result<IrqLine> {
        self.board.add_irq(&self.name, place)
    }

    /// Takes a window of `len` bytes on the MMIO bus and an interrupt line, which the guest is told
    /// of by ACPI under the hardware ID `hid`, such as `LNRO0005` for virtio over MMIO; `make` gets
    /// the line and makes the device.
    ///
    /// # Errors
    /// `BadConfig` if there is no room, or no line is free, or `hid` is no hardware ID;
    /// `Unsupported` if the machine has no interrupt controllers; what `make` says.
    pub fn platform(
        &mut self,
        hid: &'static str,
        len: u32,
        make: impl FnOnce(IrqLine) -> Result<Arc<dyn BusDevice>>,
    ) -> Result<GuestAddress> {
        if !is_hardware_id(hid) {
            return Err(Error::bad_config(format!("{}: hardware ID '{hid}'", self.name)));
        }
        let line = self.irq(Place::Any)?;
        let irq = Some(line.gsi().0);
        let at = self.mmio(Place::Any, len.into(), make(line)?)?;
        // Windows for `Any` are below 4 GiB.
        let mmio = u32::try_from(at.0).ok().map(|at| (at, len));
        self.board.describe(BoardDevice { hid, mmio, irq, ..BoardDevice::default() });
        Ok(at)
    }

    /// From now on a matching store to `at` adds 1 to `event` instead of reaching a device, and the
    /// guest goes on at once. `false` if the hypervisor cannot do that: stores then reach the device
    /// whose window it is.
    ///
    /// # Errors
    /// `BadConfig` if the address and match are taken, `Host` if the back end refuses.
    pub fn doorbell(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<bool> {
        match self.wiring.vm.doorbells() {
            Some(bells) => bells.add(at, matching, event).map(|()| true),
            None => Ok(false),
        }
    }

    /// The reactor, which wakes the device when a descriptor of the host is ready. From the first
    /// device that asks, each run of the machine has one thread more.
    ///
    /// # Errors
    /// `Host` if the host lacks the means.
    pub fn reactor(&mut self) -> Result<Reactor> {
        let reactor = match &mut self.wiring.reactor {
            Some(reactor) => reactor,
            none => none.insert(EventLoop::new(&self.wiring.control)?),
        };
        Ok(reactor.handle(&self.name))
    }

    /// Takes a place that a PC has for such a device: `make` gets the interrupt line and makes the
    /// device.
    ///
    /// On a machine without interrupt controllers the line is not connected.
    ///
    /// # Errors
    /// `BadConfig` if all such places are taken.
    pub fn legacy(
        &mut self,
        legacy: Legacy,
        make: impl FnOnce(IrqLine) -> Arc<dyn BusDevice>,
    ) -> Result<()> {
        let (windows, irq) = self.board.take_legacy(legacy).ok_or_else(|| {
            Error::bad_config(format!("{}: the board's places for {legacy} are taken", self.name))
        })?;
        let line = match irq {
            Some(gsi) if self.board.has_irqs() => self.irq(Place::At(gsi))?,
            _ => IrqLine::unconnected(),
        };
        let device = make(line);
        let base = windows.first().map_or(0, |(start, _)| *start);
        windows.iter().try_for_each(|&(start, len)| {
            let (offset, device) = (u64::from(start - base), Arc::clone(&device));
            self.board.add_ports(&self.name, start.into(), len.into(), offset, device)
        })
    }
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("board", &self.board).finish_non_exhaustive()
    }
}
