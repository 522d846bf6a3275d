//! Virtio devices as devices of a machine: a window and an interrupt that ACPI tells the guest of,
//! a doorbell that goes past the vCPU, and the reactor that wakes them.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{Device, Interest, Next, Reactor, Slot, Wake, Watch};
use crate::{
    bus::BusDevice,
    error::{Error, Result},
    exit::Flow,
    hv::{IoAddress, Match},
    memory::GuestAddress,
    persist::{StateReader, StateWriter},
    virtio::{Cause, Endpoint, Mmio, VirtioDevice},
};

impl<D: VirtioDevice> Device for D {
    fn name(&self) -> &str {
        VirtioDevice::name(self)
    }

    /// # Errors
    /// As [`Slot::platform`], [`Slot::reactor`] and [`Endpoint::new`].
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let (memory, control) = (slot.memory().clone(), Arc::clone(slot.control()));
        let reactor = slot.reactor()?;
        let mut made = None;
        let at = slot.platform(Mmio::HID, Mmio::LEN, |line| {
            let endpoint = Arc::new(Endpoint::new(*self, &memory, line)?);
            let watches = watch(&endpoint, &reactor)?;
            made = Some(Arc::clone(&endpoint));
            let registers = Mmio::new(endpoint, move || control.is_called());
            Ok(Arc::new(Plugged { registers, _watches: watches }))
        })?;
        if let Some(endpoint) = made {
            let notify = IoAddress::Mmio(GuestAddress(at.0 + Mmio::QUEUE_NOTIFY));
            slot.doorbell(notify, Match::Any, endpoint.bell())?;
            slot.account(&endpoint);
        }
        Ok(())
    }
}

/// What is on the bus: the registers, and what wakes the device as long as they are there.
struct Plugged {
    registers: Mmio,
    _watches: Vec<Arc<Watch>>,
}

impl BusDevice for Plugged {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        self.registers.read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        self.registers.write(offset, data)
    }

    fn reset(&self) {
        self.registers.reset();
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        // Nobody works on it any more if the machine was paused in a run; else that is waited for.
        let start = Instant::now();
        if !self.registers.endpoint().drain(&|| start.elapsed() > PATIENCE) {
            return Err(Error::host("waiting for its back end", libc::ETIMEDOUT));
        }
        self.registers.save(out)
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.registers.restore(from)
    }
}

/// How long a back end may take when the device is saved.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has the bell and the device's own sources watched.
fn watch(endpoint: &Arc<Endpoint>, reactor: &Reactor) -> Result<Vec<Arc<Watch>>> {
    let waker = |cause| Waker { endpoint: Arc::downgrade(endpoint), cause };
    let bell = reactor.watch_event(endpoint.bell(), waker(Cause::Queues))?;
    let mut watches = Vec::new();
    for (source, fd) in endpoint.sources()?.into_iter().enumerate() {
        let watch = reactor.watch(fd, Interest::Readable, waker(Cause::Source(source)))?;
        watches.push(Arc::new(watch));
    }
    let sources = watches.clone();
    endpoint.on_resume(move |source| sources.get(source).into_iter().for_each(|w| w.resume()));
    watches.push(Arc::new(bell));
    Ok(watches)
}

/// The reactor's end of a bell or a source.
struct Waker {
    endpoint: Weak<Endpoint>,
    cause: Cause,
}

impl Wake for Waker {
    fn wake(&mut self) -> Result<Next> {
        let Some(endpoint) = self.endpoint.upgrade() else { return Ok(Next::Never) };
        endpoint.wake(self.cause)?;
        match self.cause {
            Cause::Source(source) if endpoint.is_held(source) => Ok(Next::Wait),
            _ => Ok(Next::Again),
        }
    }

    fn drain(&mut self, give_up: &dyn Fn() -> bool) {
        if self.cause == Cause::Queues
            && let Some(endpoint) = self.endpoint.upgrade()
        {
            endpoint.drain(give_up);
        }
    }
}
