//! Endpoint and registers as saved state.

use std::sync::atomic::Ordering::SeqCst;

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::{Endpoint, Mmio, mmio::Selected, signals::status};
use crate::{
    error::{Error, Result},
    persist::{Kind, StateReader, StateWriter},
};

const ENDPOINT: Kind = Kind { name: "virtio", version: 1 };
const MMIO: Kind = Kind { name: "virtio-mmio", version: 1 };

#[derive(Serialize, Deserialize)]
struct EndpointRecord {
    id: u32,
    status: u32,
    interrupts: u32,
    generation: u32,
    accepted: u64,
    queues: Vec<QueueRecord>,
}

#[derive(Serialize, Deserialize)]
struct QueueRecord {
    max_size: u16,
    size: u16,
    ready: bool,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
}

#[derive(Serialize, Deserialize)]
struct MmioRecord {
    device_features: u32,
    driver_features: u32,
    queue: u32,
}

impl Endpoint {
    /// Saves it with its device, which must be [drained](Self::drain) and not be woken meanwhile.
    ///
    /// # Errors
    /// `WrongState` if a chain is out; what the device says.
    pub fn save(&self, out: &mut StateWriter) -> Result<()> {
        let device = self.device();
        let queues = self.rings.iter().map(|ring| ring.save().map(QueueRecord::from));
        let queues = queues.collect::<Option<_>>().ok_or_else(|| {
            let name = &self.signals.name;
            Error::wrong_state(format!("{name}: saved while its back end has buffers"))
        })?;
        let record = EndpointRecord {
            id: self.id.0,
            status: self.status(),
            interrupts: self.interrupt_status(),
            generation: self.config_generation(),
            accepted: self.accepted_features(),
            queues,
        };
        out.put(ENDPOINT, &record)?;
        device.save(out)
    }

    /// Becomes what was saved, which is not trusted. Then every queue is looked at once, and what
    /// interrupts the driver has not acknowledged come again.
    ///
    /// # Errors
    /// `Incompatible` if it was another kind of device, or one that offered more; `Snapshot` if it
    /// cannot have been saved here; what the device says.
    pub fn restore(&self, from: &mut StateReader) -> Result<()> {
        let record: EndpointRecord = from.take(ENDPOINT)?;
        let name = &self.signals.name;
        let incompatible = |why| Err(Error::incompatible(format!("{name}: {why}")));
        if record.id != self.id.0 {
            return incompatible(format!("the saved device is of kind {}", record.id));
        }
        if record.queues.len() != self.rings.len() {
            return incompatible(format!("the saved device has {} queues", record.queues.len()));
        }
        let settled = record.status & status::FEATURES_OK != 0;
        if settled && !self.can_work_with(record.accepted) {
            return incompatible(format!("features {:#x} are not offered", record.accepted));
        }
        let unknown = record.status & !(status::DRIVERS | status::NEEDS_RESET);
        if unknown != 0 || record.status & status::DRIVER_OK != 0 && !settled {
            let why = format!("{name}: status {:#x}", record.status);
            return Err(Error::snapshot(why));
        }
        let mut device = self.device();
        let regions = self.memory.view();
        for (ring, queue) in self.rings.iter().zip(record.queues) {
            if !ring.restore(queue.into(), &regions) {
                return Err(Error::snapshot(format!("{name}: queue {}", ring.index())));
            }
        }
        device.restore(from)?;
        self.signals.status.store(record.status, SeqCst);
        self.signals.interrupts.store(record.interrupts & 3, SeqCst);
        self.signals.generation.store(record.generation, SeqCst);
        self.accepted.store(record.accepted, SeqCst);
        drop(device);
        self.look();
        self.signals.repeat();
        Ok(())
    }
}

impl Mmio {
    /// Saves the registers and what is behind them, as [`Endpoint::save`].
    ///
    /// # Errors
    /// As for that.
    pub fn save(&self, out: &mut StateWriter) -> Result<()> {
        let Selected { device_features, driver_features, queue } = *self.selected();
        out.put(MMIO, &MmioRecord { device_features, driver_features, queue })?;
        self.endpoint().save(out)
    }

    /// Becomes what was saved, as [`Endpoint::restore`].
    ///
    /// # Errors
    /// As for that.
    pub fn restore(&self, from: &mut StateReader) -> Result<()> {
        let MmioRecord { device_features, driver_features, queue } = from.take(MMIO)?;
        self.endpoint().restore(from)?;
        *self.selected() = Selected { device_features, driver_features, queue };
        Ok(())
    }
}

impl From<QueueState> for QueueRecord {
    fn from(state: QueueState) -> Self {
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_avail: state.next_avail,
            next_used: state.next_used,
            descriptors: state.desc_table,
            driver: state.avail_ring,
            device: state.used_ring,
        }
    }
}

impl From<QueueRecord> for QueueState {
    fn from(record: QueueRecord) -> Self {
        Self {
            max_size: record.max_size,
            size: record.size,
            ready: record.ready,
            event_idx_enabled: record.event_idx,
            next_avail: record.next_avail,
            next_used: record.next_used,
            desc_table: record.descriptors,
            avail_ring: record.driver,
            used_ring: record.device,
        }
    }
}
