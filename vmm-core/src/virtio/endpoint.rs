//! The device's end of one virtio device, whatever transport the driver reaches it by: status,
//! features, queues, configuration, reset.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use super::{
    CHAINS_A_WAKE, Cause, DeviceId, EVENT_IDX, RING_FEATURES, Sources, Traffic, VERSION_1,
    VirtioDevice, VirtioIo,
    ring::{Area, Ring},
    signals::{Signals, status},
};
use crate::{
    error::{Error, HostResult, Result},
    irq::{EventFd, IrqLine},
    memory::GuestMemory,
};

/// A device with its queues; a transport shows it to the driver.
///
/// Any thread may use it. Lock order: the device, then a queue; status and interrupts take no lock.
/// While the device is being woken, only reset and configuration wait for it.
pub struct Endpoint {
    device: Mutex<Box<dyn VirtioDevice>>,
    pub(super) rings: Vec<Arc<Ring>>,
    pub(super) signals: Arc<Signals>,
    pub(super) memory: GuestMemory,
    pub(super) id: DeviceId,
    offered: u64,
    /// What the driver has written of its features; they count from `FEATURES_OK` on.
    pub(super) accepted: AtomicU64,
    bell: EventFd,
    /// How often the bell was heard, and how often of that it was not the driver who rang.
    heard: AtomicU64,
    rung_here: AtomicU64,
    watched: OnceLock<Box<dyn Fn(usize) + Send + Sync>>,
    held: AtomicU64,
}

/// The most sources a device may have.
const MOST_SOURCES: usize = u64::BITS as usize;

impl Endpoint {
    /// The end of `device`, whose buffers lie in `memory` and whose interrupts go to `line`.
    ///
    /// # Errors
    /// `BadConfig` if a queue's size is no power of 2 up to 32,768; `Host` if no eventfd can be made.
    pub fn new(device: impl VirtioDevice, memory: &GuestMemory, line: IrqLine) -> Result<Self> {
        let signals = Arc::new(Signals::new(device.name().to_owned(), line));
        let rings = device.queues().iter().enumerate();
        let ring = |(index, &max)| Ring::new(index, max, Arc::clone(&signals)).map(Arc::new);
        let rings = rings.map(ring).collect::<Result<_>>()?;
        let bell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self {
            rings,
            signals,
            memory: memory.clone(),
            id: device.id(),
            offered: device.features() | RING_FEATURES,
            accepted: AtomicU64::new(0),
            bell: bell.host(|| "making an eventfd")?,
            heard: AtomicU64::new(0),
            rung_here: AtomicU64::new(0),
            watched: OnceLock::new(),
            held: AtomicU64::new(0),
            device: Mutex::new(Box::new(device)),
        })
    }

    pub(super) fn device(&self) -> MutexGuard<'_, Box<dyn VirtioDevice>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What kind of device it is.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// What is offered to the driver.
    pub fn offered_features(&self) -> u64 {
        self.offered
    }

    /// What the driver has accepted so far.
    pub fn accepted_features(&self) -> u64 {
        self.accepted.load(SeqCst)
    }

    /// The driver accepts `features`, if it is still asked.
    pub fn accept_features(&self, features: u64) {
        if self.status() & status::FEATURES_OK == 0 {
            self.accepted.store(features, SeqCst);
        }
    }

    /// The device status (section 2.1).
    pub fn status(&self) -> u32 {
        self.signals.status.load(SeqCst)
    }

    /// The driver writes the device status: 0 resets the device, which takes until no back end has
    /// any of its buffers, or `give_up` says that nobody waits any more.
    pub fn set_status(&self, value: u32, give_up: &dyn Fn() -> bool) {
        if value == 0 {
            self.reset(give_up);
            return;
        }
        let old = self.status();
        let mut new = value & status::DRIVERS & !old;
        let is_known = (old | new) & (status::ACKNOWLEDGE | status::DRIVER)
            == status::ACKNOWLEDGE | status::DRIVER;
        // Refused by not being set, which the driver looks for (section 3.1.1).
        if !is_known || !self.can_work_with(self.accepted_features()) {
            new &= !status::FEATURES_OK;
        }
        if (old | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        self.signals.status.fetch_or(new, SeqCst);
        if new & status::DRIVER_OK != 0 {
            self.look();
        }
    }

    pub(super) fn can_work_with(&self, features: u64) -> bool {
        features & !self.offered == 0 && features & VERSION_1 != 0
    }

    /// The interrupts the driver has not acknowledged: 1 for used buffers, 2 for a change of
    /// configuration.
    pub fn interrupt_status(&self) -> u32 {
        self.signals.interrupts.load(SeqCst)
    }

    /// The driver has seen these.
    pub fn acknowledge(&self, interrupts: u32) {
        self.signals.interrupts.fetch_and(!interrupts, SeqCst);
    }

    /// Counts changes of configuration space (section 2.5).
    pub fn config_generation(&self) -> u32 {
        self.signals.generation.load(SeqCst)
    }

    /// Reads configuration space; behind its end are zeros.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device().read_config(offset, data);
    }

    /// The driver writes configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.device().write_config(offset, data);
    }

    /// The most chains queue `queue` can hold: 0 if there is no such queue.
    pub fn queue_max_size(&self, queue: u32) -> u32 {
        self.ring(queue).map_or(0, |ring| ring.max_size().into())
    }

    pub(super) fn set_queue_size(&self, queue: u32, size: u32) {
        if let Some(ring) = self.ring(queue) {
            ring.set_size(size);
        }
    }

    pub(super) fn set_queue_address(&self, queue: u32, area: Area, high: bool, half: u32) {
        if let Some(ring) = self.ring(queue) {
            ring.set_address(area, high, half);
        }
    }

    /// Whether the device may use queue `queue`.
    pub fn is_queue_ready(&self, queue: u32) -> bool {
        self.ring(queue).is_some_and(|ring| ring.is_ready())
    }

    /// Lets the device use queue `queue`, or stops it as a reset of the device does.
    pub fn set_queue_ready(&self, queue: u32, ready: bool, give_up: &dyn Fn() -> bool) {
        let Some(ring) = self.ring(queue) else { return };
        if ready {
            // What the driver accepts may change until then.
            let is_settled = self.status() & status::FEATURES_OK != 0;
            let event_idx = self.accepted_features() & EVENT_IDX != 0;
            if is_settled {
                ring.start(&self.memory.view(), event_idx);
            }
        } else if ring.is_ready() {
            ring.reset();
            ring.wait_idle(give_up);
        }
    }

    fn ring(&self, queue: u32) -> Option<&Arc<Ring>> {
        self.rings.get(queue as usize)
    }

    /// The driver has added chains: the device is to be woken with [`Cause::Queues`].
    pub fn kick(&self) {
        // Fails only when it has rung 2^64 times unheard.
        let _ = self.bell.write(1);
    }

    /// Has the device look at its queues, without its driver having rung.
    pub(super) fn look(&self) {
        self.rung_here.fetch_add(1, Relaxed);
        self.kick();
    }

    /// What has passed between device and driver.
    pub fn traffic(&self) -> Traffic {
        // What was not heard yet was not counted yet.
        let rung_here = self.rung_here.load(Relaxed);
        let mut traffic = Traffic {
            notifications: self.heard.load(Relaxed).saturating_sub(rung_here),
            interrupts: self.signals.interrupted.load(Relaxed),
            errors: self.signals.stopped.load(Relaxed),
            ..Traffic::default()
        };
        self.rings.iter().for_each(|ring| traffic.add(&ring.traffic()));
        traffic
    }

    /// What [`kick`](Self::kick) rings; a back end may ring it too.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// What wakes the device beside the bell; to be asked once.
    ///
    /// # Errors
    /// What the device says; `BadConfig` if there are more than 64.
    pub fn sources(&self) -> Result<Vec<OwnedFd>> {
        let sources = self.device().sources()?;
        if sources.len() > MOST_SOURCES {
            let count = sources.len();
            return Err(Error::bad_config(format!("{count} sources: the most is {MOST_SOURCES}")));
        }
        Ok(sources)
    }

    /// Tells how a source that was held is watched again.
    pub fn on_resume(&self, resume: impl Fn(usize) + Send + Sync + 'static) {
        let _ = self.watched.set(Box::new(resume));
    }

    /// Whether the device wants not to be woken by that source.
    pub fn is_held(&self, source: usize) -> bool {
        source < MOST_SOURCES && self.held.load(SeqCst) >> source & 1 != 0
    }

    /// Wakes the device. The bell is silenced first.
    ///
    /// # Errors
    /// What keeps the device from ever working again.
    pub fn wake(&self, cause: Cause) -> Result<()> {
        if cause == Cause::Queues {
            // Empty if someone was faster.
            self.hear(self.bell.read().unwrap_or(0));
        }
        let mut device = self.device();
        let features = match self.signals.is_live() {
            true => self.accepted_features(),
            false => 0,
        };
        let mut io = VirtioIo {
            rings: &self.rings,
            regions: self.memory.shared_view(),
            signals: &self.signals,
            sources: self,
            features,
            left: CHAINS_A_WAKE,
            more: false,
        };
        device.wake(cause, &mut io)?;
        if io.more {
            self.look();
        }
        Ok(())
    }

    /// The bell has rung so often.
    pub(super) fn hear(&self, times: u64) {
        self.heard.fetch_add(times, Relaxed);
    }

    /// Finishes what the device has begun: when this returns `true`, no back end has any buffer of
    /// the guest's. `false` if `give_up` says so before.
    pub fn drain(&self, give_up: &dyn Fn() -> bool) -> bool {
        self.device().drain();
        self.rings.iter().all(|ring| ring.wait_idle(give_up))
    }

    /// Back to how it was made.
    fn reset(&self, give_up: &dyn Fn() -> bool) {
        {
            let mut device = self.device();
            self.rings.iter().for_each(|ring| ring.reset());
            device.reset();
        }
        // The driver may use its buffers for something else as soon as it finds the device reset.
        let is_idle = self.rings.iter().all(|ring| ring.wait_idle(give_up));
        if !is_idle {
            log::debug!("{}: reset while its back end still works", self.signals.name);
        }
        // Another processor of the guest's may have set one up meanwhile.
        self.rings.iter().for_each(|ring| ring.reset());
        self.accepted.store(0, SeqCst);
        self.signals.interrupts.store(0, SeqCst);
        self.signals.status.store(0, SeqCst);
    }
}

impl Sources for Endpoint {
    fn hold(&self, source: usize) {
        if source < MOST_SOURCES {
            self.held.fetch_or(1 << source, SeqCst);
        }
    }

    fn resume(&self, source: usize) {
        if !self.is_held(source) {
            return;
        }
        self.held.fetch_and(!(1 << source), SeqCst);
        if let Some(resume) = self.watched.get() {
            resume(source);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("signals", &self.signals).finish_non_exhaustive()
    }
}
