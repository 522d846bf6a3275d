//! One split virtqueue (section 2.7), device side: `virtio-queue`'s rings, and who has which chain.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
    time::Duration,
};

use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{
    Chain, Traffic,
    chain::{Malformed, Segments},
    signals::Signals,
    view::View,
};
use crate::{
    error::{Error, Result},
    memory::Regions,
};

/// A queue, shared with the chains that were popped from it.
///
/// Its lock is the last of all: with it held only the interrupt line is touched.
#[derive(Debug)]
pub(super) struct Ring {
    index: usize,
    signals: Arc<Signals>,
    /// Grows with each reset: chains of an earlier one are not given back.
    epoch: AtomicU64,
    state: Mutex<State>,
    /// Notified when the last chain has come back.
    idle: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Chains the device has, of whatever epoch.
    out: usize,
    /// Those of this epoch.
    lent: u16,
    /// Room for the buffers of chains: none is made for a chain once there is one.
    spare: Vec<Segments>,
    traffic: Traffic,
}

/// What a driver has done wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misuse {
    #[error("{0}")]
    Chain(#[from] Malformed),
    #[error("descriptor {0} of a queue of {1}")]
    Head(u16, u16),
    #[error("more chains than it can hold")]
    Overfull,
    #[error("{0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("an index that goes back and forth")]
    Unsteady,
}

/// What the device makes of a chain.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) written: u32,
    pub(super) has_failed: bool,
    /// The room that its buffers were listed in.
    pub(super) segments: Segments,
}

/// What the driver sets up of a queue before it is ready (section 4.2.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Area {
    Descriptors,
    Driver,
    Device,
}

impl Ring {
    pub(super) fn new(index: usize, max: u16, signals: Arc<Signals>) -> Result<Self> {
        let queue = Queue::new(max).map_err(|_| {
            Error::bad_config(format!("queue {index} of {max}: not a power of 2 up to 32768"))
        })?;
        let state = Mutex::new(State {
            queue,
            out: 0,
            lent: 0,
            spare: Vec::new(),
            traffic: Traffic::default(),
        });
        Ok(Self { index, signals, epoch: AtomicU64::new(0), state, idle: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub(super) fn max_size(&self) -> u16 {
        self.state().queue.max_size()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state().queue.ready()
    }

    /// What has passed by it.
    pub(super) fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// The next chain; if there is none, the driver rings for the next one it adds.
    pub(super) fn pop(self: &Arc<Self>, regions: &Arc<Regions>) -> Result<Option<Chain>, Misuse> {
        let mut state = self.state();
        let State { queue, spare, lent, .. } = &mut *state;
        if !queue.ready() {
            return Ok(None);
        }
        let view = View(regions);
        let Some(chain) = next(queue, &view)? else { return Ok(None) };
        let head = chain.head_index();
        let mut segments = spare.pop().unwrap_or_default();
        if let Err(misuse) = check(head, *lent, queue.size())
            .and_then(|()| segments.fill(chain, view).map_err(Misuse::from))
        {
            spare.push(segments);
            // It stays available: what is saved now is a queue of which no chain is out.
            queue.set_next_avail(queue.next_avail().wrapping_sub(1));
            return Err(misuse);
        }
        state.traffic.requests += 1;
        state.traffic.read_bytes += segments.readable_len();
        state.lent += 1;
        state.out += 1;
        Ok(Some(Chain::new(Arc::clone(self), Arc::clone(regions), head, self.epoch(), segments)))
    }

    /// Takes back what `pop` gave: into the used ring, unless the queue was reset since.
    pub(super) fn give_back(&self, regions: &Regions, head: u16, epoch: u64, answer: Answer) {
        let mut state = self.state();
        let State { queue, spare, lent, out, traffic } = &mut *state;
        let Answer { written, has_failed, segments } = answer;
        spare.push(segments);
        *out -= 1;
        traffic.errors += u64::from(has_failed);
        if self.epoch() == epoch {
            *lent -= 1;
            traffic.written_bytes += u64::from(written);
            // The interrupt comes before anyone can find the queue idle: what is saved then has it.
            match publish(queue, &View(regions), head, written) {
                Ok(true) => self.signals.used(),
                Ok(false) => {}
                Err(error) => self.signals.need_reset(&error),
            }
        }
        if *out == 0 {
            self.idle.notify_all();
        }
    }

    /// Forgets what the driver has set up; what is out comes back without effect.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        self.epoch.fetch_add(1, Release);
        state.lent = 0;
        state.queue.reset();
    }

    /// Waits until every chain has come back; `false` if `give_up` says so before.
    pub(super) fn wait_idle(&self, give_up: &dyn Fn() -> bool) -> bool {
        const LOOK: Duration = Duration::from_millis(5);
        let mut state = self.state();
        while state.out > 0 {
            if give_up() {
                return false;
            }
            let waited = self.idle.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Sets the size, if the driver may and it is one.
    pub(super) fn set_size(&self, size: u32) {
        let mut state = self.state();
        if !state.queue.ready() {
            // A driver that goes on with another size than it wrote harms itself alone.
            let _ = u16::try_from(size).map(|size| state.queue.try_set_size(size));
        }
    }

    /// Sets half of an address; one that is not aligned is found when the queue is to be ready.
    pub(super) fn set_address(&self, area: Area, high: bool, half: u32) {
        let mut state = self.state();
        let queue = &mut state.queue;
        if queue.ready() {
            return;
        }
        let old = match area {
            Area::Descriptors => queue.desc_table(),
            Area::Driver => queue.avail_ring(),
            Area::Device => queue.used_ring(),
        };
        let new = GuestAddress(match high {
            true => old & 0xffff_ffff | u64::from(half) << 32,
            false => old >> 32 << 32 | u64::from(half),
        });
        let set = match area {
            Area::Descriptors => queue.try_set_desc_table_address(new),
            Area::Driver => queue.try_set_avail_ring_address(new),
            Area::Device => queue.try_set_used_ring_address(new),
        };
        if set.is_err() {
            drop(state);
            self.signals.need_reset(&format_args!("queue {}: address {:#x}", self.index, new.0));
        }
    }

    /// Lets the device use the queue, if all of it is RAM.
    pub(super) fn start(&self, regions: &Regions, event_idx: bool) {
        let mut state = self.state();
        let queue = &mut state.queue;
        if queue.ready() {
            return;
        }
        if is_in_ram(queue, regions) {
            queue.set_event_idx(event_idx);
            queue.set_ready(true);
            return;
        }
        drop(state);
        self.signals.need_reset(&format_args!("queue {}: not all of it is RAM", self.index));
    }

    /// What there is to save; `None` while a chain is out.
    pub(super) fn save(&self) -> Option<QueueState> {
        let state = self.state();
        (state.out == 0).then(|| state.queue.state())
    }

    /// Becomes what was saved, if it is sound: `false` if it is not.
    pub(super) fn restore(&self, saved: QueueState, regions: &Regions) -> bool {
        let mut state = self.state();
        let max_size = state.queue.max_size();
        let Ok(queue) = Queue::try_from(QueueState { max_size, ..saved }) else { return false };
        let is_sound = saved.max_size == max_size
            && queue.next_avail() == queue.next_used()
            && (!queue.ready() || is_in_ram(&queue, regions));
        if is_sound {
            self.epoch.fetch_add(1, Release);
            (state.queue, state.lent) = (queue, 0);
        }
        is_sound
    }
}

/// Whether a queue of `size` chains, of which the device has `lent`, can have one at `head`.
fn check(head: u16, lent: u16, size: u16) -> Result<(), Misuse> {
    if head >= size {
        return Err(Misuse::Head(head, size));
    }
    // A driver that makes available what it has not got back would have the device hold ever more.
    if lent >= size {
        return Err(Misuse::Overfull);
    }
    Ok(())
}

/// The next chain of `queue`. Where there is none, the driver is asked to ring, and one that came
/// meanwhile is found.
fn next<'a>(
    queue: &mut Queue,
    view: &'a View<'a>,
) -> Result<Option<virtio_queue::DescriptorChain<&'a View<'a>>>, Misuse> {
    for _ in 0..2 {
        if let Some(chain) = queue.iter(view)?.next() {
            return Ok(Some(chain));
        }
        if !queue.enable_notification(view)? {
            return Ok(None);
        }
    }
    Err(Misuse::Unsteady)
}

/// Gives a chain back; whether the driver wants an interrupt for it.
fn publish(
    queue: &mut Queue,
    view: &View<'_>,
    head: u16,
    written: u32,
) -> Result<bool, virtio_queue::Error> {
    const NO_INTERRUPT: u16 = 1;
    queue.add_used(view, head, written)?;
    let wanted = queue.needs_notification(view)?;
    if wanted && !queue.event_idx_enabled() {
        // `virtio-queue` does not look at the flag (section 2.7.7).
        let flags = view.load::<u16>(GuestAddress(queue.avail_ring()), Relaxed);
        return Ok(
            u16::from_le(flags.map_err(virtio_queue::Error::GuestMemory)?) & NO_INTERRUPT == 0
        );
    }
    Ok(wanted)
}

/// Whether the whole queue lies in RAM (section 2.7: the sizes of its parts). `Queue::is_valid`
/// would log what is not, each time a guest wants.
fn is_in_ram(queue: &Queue, regions: &Regions) -> bool {
    let size = usize::from(queue.size());
    let has = |at, len| View(regions).has(GuestAddress(at), len);
    // At address 0 `virtio-queue` takes the driver's area for none.
    queue.avail_ring() != 0
        && has(queue.desc_table(), 16 * size)
        && has(queue.avail_ring(), 6 + 2 * size)
        && has(queue.used_ring(), 6 + 8 * size)
}
