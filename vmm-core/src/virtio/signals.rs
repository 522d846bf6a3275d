//! What device and driver tell each other beside the rings: status, interrupts, changes.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
};

use crate::irq::IrqLine;

/// Bits of the device status (section 2.1).
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u32 = 1;
    pub(in super::super) const DRIVER: u32 = 2;
    pub(in super::super) const DRIVER_OK: u32 = 4;
    pub(in super::super) const FEATURES_OK: u32 = 8;
    pub(in super::super) const NEEDS_RESET: u32 = 64;
    pub(in super::super) const FAILED: u32 = 128;
    /// Those a driver sets.
    pub(in super::super) const DRIVERS: u32 =
        ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Bits of the interrupt status: used buffers, and a change of configuration.
const USED: u32 = 1;
const CONFIG: u32 = 2;

/// Read and written without any lock, by vCPUs, the reactor and back ends.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) name: String,
    pub(super) status: AtomicU32,
    pub(super) interrupts: AtomicU32,
    pub(super) generation: AtomicU32,
    /// How often it interrupted, and how often its driver stopped it by a mistake.
    pub(super) interrupted: AtomicU64,
    pub(super) stopped: AtomicU64,
    line: IrqLine,
    /// A misuse has been logged: what a guest can cause is not logged more than once.
    complained: AtomicBool,
}

impl Signals {
    pub(super) fn new(name: String, line: IrqLine) -> Self {
        let (status, interrupts, generation) = Default::default();
        let (interrupted, stopped, complained) = Default::default();
        Self { name, status, interrupts, generation, interrupted, stopped, line, complained }
    }

    /// Whether the driver is ready and has made no mistake.
    pub(super) fn is_live(&self) -> bool {
        self.status.load(SeqCst) & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// There are used buffers the driver wants to know of.
    pub(super) fn used(&self) {
        self.interrupt(USED);
    }

    pub(super) fn config_changed(&self) {
        self.generation.fetch_add(1, SeqCst);
        if self.status.load(SeqCst) & status::DRIVER_OK != 0 {
            self.interrupt(CONFIG);
        }
    }

    pub(super) fn need_reset(&self, why: &dyn fmt::Display) {
        let old = self.status.fetch_or(status::NEEDS_RESET, SeqCst);
        if old & status::NEEDS_RESET == 0 {
            self.stopped.fetch_add(1, Relaxed);
            if !self.complained.swap(true, SeqCst) {
                log::warn!("{}: stopped until the driver resets it: {why}", self.name);
            }
            if old & status::DRIVER_OK != 0 {
                self.interrupt(CONFIG);
            }
        }
    }

    /// Interrupts again for what the driver has not acknowledged.
    pub(super) fn repeat(&self) {
        if self.interrupts.load(SeqCst) != 0 {
            self.pulse();
        }
    }

    fn interrupt(&self, why: u32) {
        // Set before the edge: the driver that sees the edge finds the reason.
        self.interrupts.fetch_or(why, SeqCst);
        self.pulse();
    }

    fn pulse(&self) {
        self.interrupted.fetch_add(1, Relaxed);
        self.line.pulse();
    }
}
