//! Virtio over MMIO (section 4.2), version 2: registers of 32 bits, then configuration space.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Endpoint, ring::Area};
use crate::{
    bus::BusDevice,
    error::Result,
    exit::{CONTINUE, Flow},
    persist::{StateReader, StateWriter},
};

/// The registers of one device, as a device on the bus.
///
/// Stores to [`QUEUE_NOTIFY`](Self::QUEUE_NOTIFY) may go past it, to the endpoint's
/// [bell](Endpoint::bell).
pub struct Mmio {
    endpoint: Arc<Endpoint>,
    selected: Mutex<Selected>,
    give_up: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What the registers that come in banks show: the driver's alone to order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Selected {
    pub(super) device_features: u32,
    pub(super) driver_features: u32,
    pub(super) queue: u32,
}

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Whose device it is; no driver cares. "vmm ".
const VENDOR: u32 = 0x206d_6d76;
const CONFIG: u64 = 0x100;
/// The length of a shared memory region that does not exist.
const NO_REGION: u32 = u32::MAX;

impl Mmio {
    /// The size of the window on the bus.
    pub const LEN: u32 = 0x1000;
    /// The hardware ID by which ACPI tells guests of such a window.
    pub const HID: &str = "LNRO0005";
    /// The offset of the register that a driver rings.
    pub const QUEUE_NOTIFY: u64 = 0x50;

    /// The registers of `endpoint`. A driver's reset waits until no back end has any of its buffers,
    /// on the thread of the vCPU, or `give_up` says that the vCPU is wanted elsewhere.
    pub fn new(
        endpoint: Arc<Endpoint>,
        give_up: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { endpoint, selected: Mutex::default(), give_up: Box::new(give_up) }
    }

    /// The device's end.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn selected(&self) -> MutexGuard<'_, Selected> {
        self.selected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, offset: u64) -> u32 {
        let endpoint = &self.endpoint;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => endpoint.id().0,
            0x0c => VENDOR,
            0x10 => half(endpoint.offered_features(), self.selected().device_features),
            0x34 => endpoint.queue_max_size(self.selected().queue),
            0x44 => endpoint.is_queue_ready(self.selected().queue).into(),
            0x60 => endpoint.interrupt_status(),
            0x70 => endpoint.status(),
            0xb0..=0xbc => NO_REGION,
            0xfc => endpoint.config_generation(),
            _ => 0,
        }
    }

    fn set_register(&self, offset: u64, value: u32) {
        let endpoint = &self.endpoint;
        let queue = || self.selected().queue;
        let address = |area, high| endpoint.set_queue_address(queue(), area, high, value);
        match offset {
            0x14 => self.selected().device_features = value,
            0x20 => {
                let bank = self.selected().driver_features;
                endpoint.accept_features(with_half(endpoint.accepted_features(), bank, value));
            }
            0x24 => self.selected().driver_features = value,
            0x30 => self.selected().queue = value,
            0x38 => endpoint.set_queue_size(queue(), value),
            0x44 => endpoint.set_queue_ready(queue(), value & 1 != 0, &*self.give_up),
            Self::QUEUE_NOTIFY => endpoint.kick(),
            0x64 => endpoint.acknowledge(value),
            0x70 => {
                if value == 0 {
                    *self.selected() = Selected::default();
                }
                endpoint.set_status(value, &*self.give_up);
            }
            0x80 => address(Area::Descriptors, false),
            0x84 => address(Area::Descriptors, true),
            0x90 => address(Area::Driver, false),
            0x94 => address(Area::Driver, true),
            0xa0 => address(Area::Device, false),
            0xa4 => address(Area::Device, true),
            _ => {}
        }
    }
}

fn half(value: u64, bank: u32) -> u32 {
    match bank {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn with_half(value: u64, bank: u32, half: u32) -> u64 {
    match bank {
        0 => value >> 32 << 32 | u64::from(half),
        1 => value & 0xffff_ffff | u64::from(half) << 32,
        // No such features are offered, so a driver that accepts any is to be refused.
        _ if half != 0 => u64::MAX,
        _ => value,
    }
}

/// Registers take accesses of 32 bits and no others: those read as ones and are dropped.
impl BusDevice for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.endpoint.read_config(offset, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
        CONTINUE
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.endpoint.write_config(offset, data);
        } else if let Ok(value) = data.try_into()
            && offset.is_multiple_of(4)
        {
            self.set_register(offset, u32::from_le_bytes(value));
        }
        CONTINUE
    }

    /// Waits for what a back end still does, however long: memory is about to be made anew.
    fn reset(&self) {
        *self.selected() = Selected::default();
        self.endpoint.set_status(0, &|| false);
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        Self::save(self, out)
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        Self::restore(self, from)
    }
}

impl fmt::Debug for Mmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmio").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
