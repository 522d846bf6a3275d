//! Virtio: rings, negotiation and the transport over MMIO, for devices that are state machines.
//!
//! A [`VirtioDevice`] is woken by the machine's reactor when its driver has added buffers or a
//! descriptor of the host is ready; it [pops](VirtioIo::pop) chains of buffers and
//! [completes](Chain::complete) them, at once or later and on any thread, for a [`Chain`] is owned.
//! Everything else is done here: what the driver negotiates, what it may write when, which chains
//! are sound, whether it wants an interrupt. Whatever implements `VirtioDevice` can be given to a
//! machine's builder; the guest finds it by ACPI.
//!
//! A driver's mistake is its own: the device stops and asks to be reset (`DEVICE_NEEDS_RESET`), the
//! host sees no error. After a reset, what is completed late is dropped. Section numbers are those
//! of *Virtual I/O Device (VIRTIO) Version 1.2*, OASIS.
//!
//! ```
//! use vmm_core::{Result, virtio::{Cause, DeviceId, VirtioDevice, VirtioIo}};
//!
//! /// Gives back what it gets, turned round.
//! struct Mirror;
//!
//! impl VirtioDevice for Mirror {
//!     fn name(&self) -> &str {
//!         "mirror"
//!     }
//!
//!     fn id(&self) -> DeviceId {
//!         DeviceId(42)
//!     }
//!
//!     fn queues(&self) -> &[u16] {
//!         &[64]
//!     }
//!
//!     fn wake(&mut self, _: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
//!         while let Some(chain) = io.pop(0) {
//!             let mut data = vec![0; chain.readable().len().min(4096) as usize];
//!             chain.readable().read(0, &mut data);
//!             data.reverse();
//!             let written = chain.writable().write(0, &data);
//!             chain.complete(written as u32);
//!         }
//!         Ok(())
//!     }
//! }
//! ```

mod chain;
mod endpoint;
mod mmio;
mod ring;
mod signals;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod traffic;
mod view;
mod worker;

use std::{fmt, os::fd::OwnedFd, sync::Arc};

pub use chain::{Chain, Readable, Writable};
pub use endpoint::Endpoint;
pub use mmio::Mmio;
pub use traffic::Traffic;
pub use worker::Worker;

use self::{ring::Ring, signals::Signals};
use crate::{
    error::Result,
    memory::Regions,
    persist::{StateReader, StateWriter},
};

/// What kind of device it is (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// A block device (section 5.2).
    pub const BLOCK: Self = Self(2);
    /// A console (section 5.3).
    pub const CONSOLE: Self = Self(3);
    /// An entropy device (section 5.4).
    pub const ENTROPY: Self = Self(4);
}

/// Why a device is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The driver may have added chains to any queue; also once it is ready.
    Queues,
    /// The descriptor of [`VirtioDevice::sources`] with this index can be read.
    Source(usize),
}

/// A virtio device: a state machine without thread, address or interrupt number.
///
/// Each method is called with the device locked and does a bounded amount of work without waiting:
/// `wake` on the machine's reactor, while the machine runs; `read_config`, `write_config` and
/// `reset` on the thread of the vCPU whose driver asks. What may wait is handed to a [`Worker`] or
/// a back end, with the chain. A panic, or an error, ends the run with the device's name.
pub trait VirtioDevice: Send + 'static {
    /// What errors and statistics call it, such as `block`.
    fn name(&self) -> &str;

    /// What kind of device it is.
    fn id(&self) -> DeviceId;

    /// How many queues it has, and the most chains that each can hold: powers of 2 up to 32,768.
    fn queues(&self) -> &[u16];

    /// Works on what is there, until [`VirtioIo::pop`] has no more.
    ///
    /// # Errors
    /// What keeps the device from ever working again; a driver's mistakes never do.
    fn wake(&mut self, cause: Cause, io: &mut VirtioIo<'_>) -> Result<()>;

    /// The feature bits of this kind of device that it offers, 0 to 23 and 50 to 63; those of rings
    /// and transport are added here.
    fn features(&self) -> u64 {
        0
    }

    /// Copies configuration space from `offset` on; `data` comes filled with zeros and behind the
    /// end of it stays so.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    /// The driver writes to configuration space.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Descriptors that wake the device when they can be read, or will never be; asked for once.
    ///
    /// # Errors
    /// That one cannot be had, which keeps the machine from being built.
    fn sources(&mut self) -> Result<Vec<OwnedFd>> {
        Ok(Vec::new())
    }

    /// The driver resets the device, or the machine is reset. Chains that it keeps are void: it
    /// drops them, and forgets what it knows of the driver.
    fn reset(&mut self) {}

    /// The machine is about to be paused. The device completes what chains it keeps for something
    /// that may never come; those at work in a back end are waited for.
    fn drain(&mut self) {}

    /// Saves what a device like this one needs to go on where this one stood, once it is drained.
    ///
    /// # Errors
    /// What the writer says.
    fn save(&self, _out: &mut StateWriter) -> Result<()> {
        Ok(())
    }

    /// Becomes what was saved, which may come from elsewhere and is not trusted.
    ///
    /// # Errors
    /// `Incompatible` or `Snapshot` with what does not fit.
    fn restore(&mut self, _from: &mut StateReader) -> Result<()> {
        Ok(())
    }
}

/// What a device is lent while it is woken.
pub struct VirtioIo<'a> {
    rings: &'a [Arc<Ring>],
    regions: Arc<Regions>,
    signals: &'a Signals,
    sources: &'a dyn Sources,
    features: u64,
    /// How many chains may still be popped.
    left: u32,
    /// There may be more than that.
    more: bool,
}

/// Where the watching of a device's sources is changed.
trait Sources {
    fn hold(&self, source: usize);
    fn resume(&self, source: usize);
}

/// The most chains a device is given each time it is woken, so that others get their turn.
const CHAINS_A_WAKE: u32 = 256;

impl VirtioIo<'_> {
    /// Takes the next chain that the driver has added to queue `queue`: `None` if there is none, or
    /// the driver is not ready, or it is time for other devices, after whom this one is woken again
    /// by itself.
    ///
    /// The driver of a queue that was found empty rings when it adds a chain.
    pub fn pop(&mut self, queue: usize) -> Option<Chain> {
        if !self.signals.is_live() {
            return None;
        }
        let ring = self.rings.get(queue)?;
        if self.left == 0 {
            self.more = true;
            return None;
        }
        match ring.pop(&self.regions) {
            Ok(chain) => {
                self.left -= 1;
                chain
            }
            Err(misuse) => {
                self.signals.need_reset(&format_args!("queue {queue}: {misuse}"));
                None
            }
        }
    }

    /// The features that were negotiated, this module's own among them; 0 before that.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Tells the driver that configuration space has changed.
    pub fn config_changed(&self) {
        self.signals.config_changed();
    }

    /// The driver has done what no driver may: nothing more is done for it until it resets the
    /// device.
    pub fn need_reset(&self, why: &str) {
        self.signals.need_reset(&why);
    }

    /// The source of that index does not wake the device any more, until
    /// [`resume`](Self::resume).
    pub fn hold(&self, source: usize) {
        self.sources.hold(source);
    }

    /// The source of that index wakes the device again.
    pub fn resume(&self, source: usize) {
        self.sources.resume(source);
    }
}

impl fmt::Debug for VirtioIo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioIo").field("features", &self.features).finish_non_exhaustive()
    }
}

/// `VIRTIO_F_INDIRECT_DESC`: a descriptor may refer to a table of further ones.
const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: both sides say when they want to be told.
const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: not a legacy device.
const VERSION_1: u64 = 1 << 32;
/// What every device here offers; all of it concerns rings.
const RING_FEATURES: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
