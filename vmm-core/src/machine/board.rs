//! The board: which device sits where, and who answers an access.
//!
//! Two buses, the interrupt lines, and the address map of a PC as far as it is fixed. While the
//! machine runs the board is only read. A device that panics is cut off here: `run` ends with its
//! name, and from then on its windows read as ones.

use std::{
    any::Any,
    collections::BTreeSet,
    fmt,
    ops::{ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{
    Place,
    account::{Account, Counter, Reason},
};
use crate::{
    boot::BoardDevice,
    bus::{Bus, BusDevice},
    error::{Context, Error, ErrorKind, Result},
    exit::{CONTINUE, Flow, VcpuExit},
    hv::GuestIo,
    irq::{Gsi, IrqController, IrqLine},
    memory::{GuestAddress, GuestMemory, HOLE_START},
    persist::{StateReader, StateWriter},
};

/// Where windows for devices are taken from: the hole below 4 GiB, less what the chips at its top
/// need.
const MMIO: Range<u64> = HOLE_START.0 + (256 << 20)..HOLE_START.0 + (768 << 20);

/// What the chips of a machine with interrupt controllers answer themselves, so that no device
/// there is ever asked: PICs, timer, its speaker port, level control; and all from the I/O APIC on.
const CHIP_PORTS: [(u64, u64); 5] = [(0x20, 2), (0x40, 4), (0x61, 1), (0xa0, 2), (0x4d0, 2)];
const CHIPS: u64 = 0xfec0_0000;
/// The timer's line, and the one that joins the PICs.
const CHIP_GSIS: [Gsi; 2] = [Gsi(0), Gsi(2)];

/// The lines a device may be given, best first: those the PICs and PC devices do not use, then
/// those PCs leave to add-in cards.
const FREE_GSIS: [u32; 16] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 13, 14, 15];
/// Pins of the IOAPIC.
const GSIS: u32 = 24;

/// A device that has its fixed place on a PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Legacy {
    /// The port that ends the machine with an exit code: 0xF4, 4 ports.
    DebugExit,
    /// The keyboard controller: ports 0x60 (offset 0) and 0x64 (offset 4), IRQ 1.
    Keyboard,
    /// The real-time clock: ports 0x70 and 0x71, IRQ 8.
    Rtc,
    /// A serial port: COM1 to COM4 (0x3F8, 0x2F8, 0x3E8, 0x2E8), IRQ 4 and 3; the later two have no
    /// line.
    Serial,
}

/// Some ports of a legacy device: the first one, and how many.
pub(super) type PortWindow = (u16, u16);

/// One place a legacy device can take: its windows and its line.
type LegacyPlace = (&'static [PortWindow], Option<Gsi>);

impl Legacy {
    fn places(self) -> &'static [LegacyPlace] {
        match self {
            Self::DebugExit => &[(&[(0xf4, 4)], None)],
            Self::Keyboard => &[(&[(0x60, 1), (0x64, 1)], Some(Gsi(1)))],
            Self::Rtc => &[(&[(0x70, 2)], Some(Gsi(8)))],
            Self::Serial => &[
                (&[(0x3f8, 8)], Some(Gsi(4))),
                (&[(0x2f8, 8)], Some(Gsi(3))),
                (&[(0x3e8, 8)], None),
                (&[(0x2e8, 8)], None),
            ],
        }
    }
}

impl Legacy {
    /// The hardware ID that ACPI has for it.
    fn hid(self) -> Option<&'static str> {
        match self {
            Self::DebugExit => None,
            Self::Keyboard => Some("PNP0303"),
            Self::Rtc => Some("PNP0B00"),
            Self::Serial => Some("PNP0501"),
        }
    }
}

impl fmt::Display for Legacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DebugExit => "a debug-exit port",
            Self::Keyboard => "a keyboard controller",
            Self::Rtc => "a real-time clock",
            Self::Serial => "a serial port",
        })
    }
}

/// Both buses and the interrupt lines of one machine.
pub(super) struct Board {
    ports: Bus<Guard>,
    mmio: Bus<Guard>,
    /// Every device with a window, once, in the order they were plugged.
    guards: Vec<Arc<Guard>>,
    /// The first device that panicked.
    panicked: Arc<OnceLock<Arc<str>>>,
    used_lines: BTreeSet<Gsi>,
    /// Devices as the guest's tables describe them.
    described: Vec<BoardDevice>,
    irqs: Option<Arc<dyn IrqController>>,
    account: Option<Arc<Account>>,
}

impl Board {
    pub(super) fn new(irqs: Option<Arc<dyn IrqController>>, account: Option<Arc<Account>>) -> Self {
        let (ports, mmio) = (Bus::new(), Bus::new());
        Self {
            ports,
            mmio,
            guards: Vec::new(),
            panicked: Arc::default(),
            used_lines: BTreeSet::new(),
            described: Vec::new(),
            irqs,
            account,
        }
    }

    pub(super) fn has_irqs(&self) -> bool {
        self.irqs.is_some()
    }

    /// The first place of this kind whose ports are free; the guest will be told of it.
    pub(super) fn take_legacy(&mut self, legacy: Legacy) -> Option<LegacyPlace> {
        let free = |&(start, len): &PortWindow| self.ports.is_free(start.into(), len.into());
        let mut places = legacy.places().iter();
        let (ports, irq) = *places.find(|(windows, _)| windows.iter().all(free))?;
        if let Some(hid) = legacy.hid() {
            let irq = irq.map(|gsi| gsi.0);
            self.describe(BoardDevice { hid, ports, irq, ..BoardDevice::default() });
        }
        Some((ports, irq))
    }

    /// Lets the guest's tables say this of a device.
    pub(super) fn describe(&mut self, device: BoardDevice) {
        self.described.push(device);
    }

    /// What the guest's tables say of devices.
    pub(super) fn described(&self) -> Vec<BoardDevice> {
        self.described.clone()
    }

    pub(super) fn add_ports(
        &mut self,
        name: &Arc<str>,
        start: u64,
        len: u64,
        offset: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<()> {
        if start + len > 0x1_0000 {
            return Err(Error::bad_config(format!(
                "{name}: {len} ports from {start:#x} pass port 0xffff"
            )));
        }
        let taken = |chip: &&(u64, u64)| start < chip.0 + chip.1 && chip.0 < start + len;
        if let Some((chip, _)) = CHIP_PORTS.iter().find(taken).filter(|_| self.has_irqs()) {
            return Err(Error::bad_config(format!(
                "{name}: {len} ports from {start:#x}: the machine's own chips answer at {chip:#x}"
            )));
        }
        let guard = self.guard(name, device);
        self.ports.insert_at_offset(start, len, offset, guard).context(|| format!("{name}: ports"))
    }

    pub(super) fn add_mmio(
        &mut self,
        name: &Arc<str>,
        place: Place<GuestAddress>,
        len: u64,
        memory: &GuestMemory,
        device: Arc<dyn BusDevice>,
    ) -> Result<GuestAddress> {
        let at = match place {
            Place::At(at) => at,
            Place::Any => self.find_mmio(len).context(|| name)?,
        };
        if let Some(region) = memory
            .regions()
            .iter()
            .find(|r| at.0 < r.start().0 + r.len() && r.start().0 < at.0.saturating_add(len))
        {
            return Err(Error::bad_config(format!(
                "{name}: device window at {:#x}, {len:#x} bytes: overlaps RAM at {region}",
                at.0
            )));
        }
        if self.has_irqs() && at.0 < 1 << 32 && at.0.saturating_add(len) > CHIPS {
            return Err(Error::bad_config(format!(
                "{name}: device window at {:#x}, {len:#x} bytes: the machine's own chips are from \
                 {CHIPS:#x} on",
                at.0
            )));
        }
        let guard = self.guard(name, device);
        self.mmio.insert(at.0, len, guard).context(|| format!("{name}: MMIO"))?;
        Ok(at)
    }

    fn find_mmio(&self, len: u64) -> Result<GuestAddress> {
        let align = len.max(0x1000).checked_next_power_of_two();
        let found = align.and_then(|align| self.mmio.find_free(MMIO, len, align));
        found.map(GuestAddress).ok_or_else(|| {
            let (start, end) = (MMIO.start, MMIO.end);
            Error::bad_config(format!("no room for {len:#x} bytes in {start:#x}..{end:#x}"))
        })
    }

    pub(super) fn add_irq(&mut self, name: &Arc<str>, place: Place<Gsi>) -> Result<IrqLine> {
        let Some(irqs) = &self.irqs else {
            let why = format!("{name}: this machine was built without interrupt controllers");
            return Err(Error::unsupported(why));
        };
        let is_free = |gsi: &Gsi| !self.used_lines.contains(gsi);
        let gsi = match place {
            Place::Any => FREE_GSIS.map(Gsi).into_iter().find(is_free).ok_or_else(|| {
                let limit = FREE_GSIS.len();
                Error::bad_config(format!(
                    "{name}: all {limit} interrupt lines for devices are taken"
                ))
            })?,
            Place::At(gsi) if gsi.0 >= GSIS => {
                return Err(Error::bad_config(format!(
                    "{name}: {gsi}: the last one is {}",
                    GSIS - 1
                )));
            }
            Place::At(gsi) if is_free(&gsi) && !CHIP_GSIS.contains(&gsi) => gsi,
            Place::At(gsi) => return Err(Error::bad_config(format!("{name}: {gsi} is taken"))),
        };
        self.used_lines.insert(gsi);
        Ok(IrqLine::new(Arc::clone(irqs), gsi))
    }

    pub(super) fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// The guard of a device; its windows share it.
    fn guard(&mut self, name: &Arc<str>, device: Arc<dyn BusDevice>) -> Arc<Guard> {
        let is_same =
            |guard: &&Arc<Guard>| ptr::addr_eq(Arc::as_ptr(&guard.device), Arc::as_ptr(&device));
        if let Some(known) = self.guards.iter().find(is_same) {
            return Arc::clone(known);
        }
        let guard = Arc::new(Guard {
            name: Arc::clone(name),
            device,
            poisoned: AtomicBool::new(false),
            panicked: Arc::clone(&self.panicked),
            counter: self.account.as_ref().map(|account| account.device(name)),
        });
        self.guards.push(Arc::clone(&guard));
        guard
    }

    /// Resets every device, in the order they were plugged.
    pub(super) fn reset(&self) -> Result<()> {
        let reset = || self.guards.iter().for_each(|guard| guard.reset());
        catch_unwind(AssertUnwindSafe(reset)).map_err(|payload| self.blame(&*payload))
    }

    /// The names of devices, in the order they were plugged.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.guards.iter().map(|guard| &*guard.name)
    }

    /// Saves every device, in the order they were plugged.
    pub(super) fn save(&self, out: &mut StateWriter) -> Result<()> {
        self.each(|guard, scope| out.scope(scope, |out| guard.device.save(out)))
    }

    /// Puts every device back.
    pub(super) fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.each(|guard, scope| from.scope(scope, |from| guard.device.restore(from)))
    }

    /// Does something with every device, by the name of its records.
    fn each(&self, mut work: impl FnMut(&Guard, &str) -> Result<()>) -> Result<()> {
        let mut guards = self.guards.iter().enumerate();
        let all = || {
            guards.try_for_each(|(n, guard)| {
                let fuse = Fuse(guard);
                let done = work(guard, &format!("device{n}"));
                std::mem::forget(fuse);
                done.context(|| format!("device '{}'", guard.name))
            })
        };
        let done = catch_unwind(AssertUnwindSafe(all));
        done.unwrap_or_else(|payload| Err(self.blame(&*payload)))
    }

    /// The error that a panic below the board stands for.
    pub(super) fn blame(&self, payload: &(dyn Any + Send)) -> Error {
        let why = panic_message(payload);
        match self.panicked.get() {
            Some(name) => {
                Error::new(ErrorKind::Poisoned, format!("device '{name}' panicked: {why}"))
            }
            None => Error::internal(format!("a vCPU thread panicked: {why}")),
        }
    }
}

/// What an access does when exits are accounted; out of the way of those that are not.
#[cold]
fn accounted(account: &Account, reason: Reason, answer: impl FnOnce() -> Flow) -> Flow {
    account.reason(reason).around(answer)
}

impl GuestIo for Board {
    fn mmio_read(&self, at: GuestAddress, data: &mut [u8]) -> Flow {
        match &self.account {
            None => self.mmio.read(at.0, data),
            Some(account) => accounted(account, Reason::MmioRead, || self.mmio.read(at.0, data)),
        }
    }

    fn mmio_write(&self, at: GuestAddress, data: &[u8]) -> Flow {
        match &self.account {
            None => self.mmio.write(at.0, data),
            Some(account) => accounted(account, Reason::MmioWrite, || self.mmio.write(at.0, data)),
        }
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> Flow {
        let port = u64::from(port);
        match &self.account {
            None => self.ports.read(port, data),
            Some(account) => accounted(account, Reason::PortIn, || self.ports.read(port, data)),
        }
    }

    fn port_out(&self, port: u16, data: &[u8]) -> Flow {
        let port = u64::from(port);
        match &self.account {
            None => self.ports.write(port, data),
            Some(account) => accounted(account, Reason::PortOut, || self.ports.write(port, data)),
        }
    }
}

/// A device on a bus, with what happens if it fails.
struct Guard {
    name: Arc<str>,
    device: Arc<dyn BusDevice>,
    poisoned: AtomicBool,
    panicked: Arc<OnceLock<Arc<str>>>,
    counter: Option<Arc<Counter>>,
}

impl Guard {
    fn watch(&self, access: impl FnOnce() -> Flow) -> Flow {
        if self.poisoned.load(Relaxed) {
            return CONTINUE;
        }
        // Catching the panic here would cost each access an indirect call; a guard that is only
        // dropped by a panic costs nothing.
        let fuse = Fuse(self);
        let flow = match &self.counter {
            None => access(),
            Some(counter) => counter.around(access),
        };
        std::mem::forget(fuse);
        match flow {
            ControlFlow::Break(VcpuExit::Failed(error)) => self.fail(&error),
            flow => flow,
        }
    }

    fn reset(&self) {
        let fuse = Fuse(self);
        self.device.reset();
        std::mem::forget(fuse);
    }

    #[cold]
    fn fail(&self, error: &Error) -> Flow {
        self.poisoned.store(true, Relaxed);
        let message = format!("device '{}': {error}", self.name);
        ControlFlow::Break(VcpuExit::Failed(Error::new(ErrorKind::Poisoned, message)))
    }
}

/// Dropped only while a device's panic unwinds.
struct Fuse<'a>(&'a Guard);

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        self.0.poisoned.store(true, Relaxed);
        // The first one to panic is to blame.
        let _ = self.0.panicked.set(Arc::clone(&self.0.name));
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl BusDevice for Guard {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        self.watch(|| self.device.read(offset, data))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        self.watch(|| self.device.write(offset, data))
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Board");
        shown.field("ports", &self.ports).field("mmio", &self.mmio).finish_non_exhaustive()
    }
}
