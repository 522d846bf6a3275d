//! The interrupt controllers as threads share them: devices reach them from any thread, vCPUs from
//! their own.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use vmm_cpu::Tsc;

use super::{
    clock::Clock,
    irqchip::{Chips, LOWEST, PINS, SavedLapic, Signals},
};
use crate::{
    arch::{self, VcpuId, irqchip::Irqchip, irqchip::Pit},
    error::{Error, Result},
    hv::{Doze, IrqConfig},
    irq::{EventFd, Gsi, IrqController, Msi},
    process::Owner,
};

/// The interrupt controllers of a VM. The lock is held for a few instructions and a write to an
/// eventfd, and no other is taken meanwhile.
pub(super) struct Irqs {
    owner: Owner,
    clock: Arc<Clock>,
    shared: Mutex<Shared>,
}

struct Shared {
    chips: Chips,
    seats: Vec<Seat>,
}

/// A vCPU's place.
#[derive(Default)]
struct Seat {
    bell: Option<Bell>,
    /// The CPU knows that it has an interrupt: it asks for it when it can.
    told: bool,
}

/// What makes a vCPU look.
#[derive(Clone)]
pub(super) struct Bell {
    /// Its CPU comes back when this is set.
    pub(super) attention: Arc<AtomicBool>,
    /// Where it waits.
    pub(super) doze: Arc<Doze>,
}

/// What a vCPU finds.
pub(super) struct Found {
    pub(super) signals: Signals,
    /// There is an interrupt to be taken, if the CPU lets any in.
    pub(super) interrupt: bool,
    /// When to look again, in nanoseconds from now.
    pub(super) due: Option<u64>,
}

impl Bell {
    fn ring(&self) {
        self.attention.store(true, SeqCst);
        self.doze.end();
    }
}

impl Irqs {
    pub(super) fn new(config: &IrqConfig, vcpus: u32, clock: Arc<Clock>) -> Self {
        let chips = Chips::new(vcpus, config.pit, clock.now());
        let seats = (0..vcpus).map(|_| Seat::default()).collect();
        Self { owner: Owner::current(), clock, shared: Mutex::new(Shared { chips, seats }) }
    }

    /// The vCPU is to be called by this from now on.
    pub(super) fn sit(&self, vcpu: VcpuId, bell: Option<Bell>) {
        if let Some(seat) = self.shared().seats.get_mut(vcpu.0 as usize) {
            *seat = Seat { bell, told: false };
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the chips at this moment, and calls the vCPUs that this is for.
    fn change<T>(&self, change: impl FnOnce(&mut Chips, u64) -> T) -> T {
        let Shared { chips, seats } = &mut *self.shared();
        let result = change(chips, self.clock.now());
        for (n, seat) in seats.iter().enumerate() {
            if (chips.has_signals(n) || !seat.told && chips.has_interrupt(n))
                && let Some(bell) = &seat.bell
            {
                bell.ring();
            }
        }
        result
    }

    /// What there is for a vCPU with this time-stamp counter. Signals are then its own.
    pub(super) fn attend(&self, vcpu: VcpuId, tsc: &Tsc) -> Found {
        let Shared { chips, seats } = &mut *self.shared();
        let (n, now) = (vcpu.0 as usize, self.clock.now());
        let left = tsc.until(chips.deadline(n)).as_nanos() as u64;
        chips.advance(n, now, left);
        let signals = chips.take_signals(n);
        let interrupt = chips.has_interrupt(n);
        if let Some(seat) = seats.get_mut(n) {
            seat.told = interrupt;
        }
        let due = chips.due(n, now, left).map(|due| due.saturating_sub(now));
        Found { signals, interrupt, due }
    }

    /// The vector of the interrupt that a vCPU takes now.
    pub(super) fn acknowledge(&self, vcpu: VcpuId) -> Option<u8> {
        let Shared { chips, seats } = &mut *self.shared();
        let vector = chips.acknowledge(vcpu.0 as usize);
        if vector.is_none()
            && let Some(seat) = seats.get_mut(vcpu.0 as usize)
        {
            seat.told = false;
        }
        vector
    }

    /// A load by a vCPU; whether a chip has answered.
    pub(super) fn load(&self, vcpu: VcpuId, at: u64, data: &mut [u8]) -> bool {
        let here = LOWEST..1 << 32;
        here.contains(&at) && self.shared().chips.load(vcpu.0 as usize, at, data, self.clock.now())
    }

    /// A store by a vCPU; whether a chip has taken it.
    pub(super) fn store(&self, vcpu: VcpuId, at: u64, data: &[u8]) -> bool {
        let here = LOWEST..1 << 32;
        here.contains(&at) && self.change(|chips, now| chips.store(vcpu.0 as usize, at, data, now))
    }

    /// IN; whether a chip has answered.
    pub(super) fn port_in(&self, port: u16, data: &mut [u8]) -> bool {
        is_chip_port(port) && self.change(|chips, now| chips.port_in(port, data, now))
    }

    /// OUT; whether a chip has taken it.
    pub(super) fn port_out(&self, port: u16, data: &[u8]) -> bool {
        is_chip_port(port) && self.change(|chips, now| chips.port_out(port, data, now))
    }

    pub(super) fn read_msr(&self, vcpu: VcpuId, index: u32) -> Option<u64> {
        self.shared().chips.read_msr(vcpu.0 as usize, index, self.clock.now())
    }

    pub(super) fn write_msr(&self, vcpu: VcpuId, index: u32, value: u64) -> Option<()> {
        self.change(|chips, now| chips.write_msr(vcpu.0 as usize, index, value, now))
    }

    pub(super) fn task_priority(&self, vcpu: VcpuId) -> u8 {
        self.shared().chips.task_priority(vcpu.0 as usize)
    }

    pub(super) fn set_task_priority(&self, vcpu: VcpuId, priority: u8) {
        self.change(|chips, _| chips.set_task_priority(vcpu.0 as usize, priority));
    }

    pub(super) fn save(&self) -> (Irqchip, Option<Pit>) {
        let shared = self.shared();
        (shared.chips.save_irqchip(), shared.chips.save_pit())
    }

    /// Whether there is a timer.
    pub(super) fn has_pit(&self) -> bool {
        self.shared().chips.save_pit().is_some()
    }

    /// # Errors
    /// `Incompatible` with chips of another kind.
    pub(super) fn restore(&self, irqchip: &Irqchip, pit: Option<&Pit>) -> Result<()> {
        self.change(|chips, now| {
            if let Some(pit) = pit {
                chips.restore_pit(pit, now);
            }
            chips.restore_irqchip(irqchip)
        })
    }

    /// The local APIC of a vCPU.
    pub(super) fn save_lapic(&self, vcpu: VcpuId) -> Option<SavedLapic> {
        self.shared().chips.save_lapic(vcpu.0 as usize, self.clock.now())
    }

    /// # Errors
    /// `Incompatible` with what is no local APIC.
    pub(super) fn restore_lapic(&self, vcpu: VcpuId, saved: &arch::Lapic, base: u64) -> Result<()> {
        let Shared { chips, seats } = &mut *self.shared();
        if let Some(seat) = seats.get_mut(vcpu.0 as usize) {
            seat.told = false;
        }
        chips.restore_lapic(vcpu.0 as usize, saved, base, self.clock.now())
    }

    fn check(&self, gsi: Gsi) -> Result<()> {
        self.owner.check()?;
        match gsi.0 {
            0..PINS => Ok(()),
            _ => Err(Error::bad_config(format!("{gsi}: the last one is {}", PINS - 1))),
        }
    }
}

/// Whether a chip may have a port of that number: most are a device's, and need not wait for the
/// lock.
fn is_chip_port(port: u16) -> bool {
    matches!(port, 0x20..=0x61 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
}

impl IrqController for Irqs {
    fn set_line(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.check(gsi)?;
        self.change(|chips, _| chips.set_line(gsi, level));
        Ok(())
    }

    fn send_msi(&self, msi: Msi) -> Result<bool> {
        self.owner.check()?;
        Ok(self.change(|chips, _| chips.send(msi)))
    }

    /// A call is as cheap: there is no kernel that it could be saved.
    fn line_event(&self, _: Gsi) -> Option<Result<EventFd>> {
        None
    }
}
