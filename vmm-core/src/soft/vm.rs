//! A VM of the software CPU: memory slots, doorbells, the dirty log.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use vmm_cpu::{CodeMap, Tsc};

use super::{
    MOST_SLOTS, clock::Clock, doorbell::Bells, gate::Gate, irqs::Irqs, layout::Layout,
    vcpu::SoftVcpu,
};
use crate::{
    arch::{CpuModel, VcpuId},
    error::{Error, Result},
    hv::{
        DirtyLog, Doorbells, IoAddress, Match, MemorySlot, SlotTable, Vcpu, Vm, VmConfig, record,
    },
    irq::{EventFd, IrqController},
    memory::{GuestAddress, WriteWatcher},
    persist::{StateReader, StateWriter},
    process::Owner,
};

/// The VM, as the machine holds it.
pub(super) struct SoftVm(Arc<VmState>);

/// The VM, as its vCPUs hold it too.
pub(super) struct VmState {
    pub(super) owner: Owner,
    pub(super) gate: Gate,
    pub(super) bells: Bells,
    pub(super) code: Arc<CodeMap>,
    /// Tells `code` of the host's writes to mapped regions.
    watcher: Arc<dyn WriteWatcher>,
    slots: Mutex<Slots>,
    /// How many vCPUs it can have.
    pub(super) vcpus: u32,
    /// Those that exist, a bit each.
    existing: AtomicU64,
    /// The time-stamp counter that was set last.
    tsc: Mutex<Option<Tsc>>,
    pub(super) clock: Arc<Clock>,
    pub(super) irqs: Option<Arc<Irqs>>,
}

/// The slots, twice: for the checks that all back ends share, and for the CPU.
struct Slots {
    table: SlotTable,
    layout: Arc<Layout>,
}

/// Where code was decoded, told of the host's writes.
struct Decoded(Arc<CodeMap>);

impl WriteWatcher for Decoded {
    fn written(&self, host: usize, len: usize) {
        self.0.written(host, len);
    }
}

impl SoftVm {
    pub(super) fn new(config: &VmConfig) -> Self {
        let code = Arc::new(CodeMap::new());
        let (vcpus, clock) = (config.vcpus, Arc::new(Clock::new()));
        let irqs = |irq| Arc::new(Irqs::new(irq, vcpus, Arc::clone(&clock)));
        let irqs = config.irq.as_ref().map(irqs);
        let slots = Slots { table: SlotTable::new(MOST_SLOTS), layout: Arc::default() };
        Self(Arc::new(VmState {
            owner: Owner::current(),
            gate: Gate::new(vcpus),
            bells: Bells::default(),
            watcher: Arc::new(Decoded(Arc::clone(&code))),
            code,
            slots: Mutex::new(slots),
            vcpus,
            existing: AtomicU64::new(0),
            tsc: Mutex::default(),
            clock,
            irqs,
        }))
    }
}

impl VmState {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU has been dropped.
    pub(super) fn vcpu_gone(&self, id: VcpuId) {
        self.existing.fetch_and(!(1 << id.0), SeqCst);
    }

    /// A vCPU is new: its time-stamp counter shows what the others' do.
    pub(super) fn join_time(&self, tsc: &Tsc) {
        let mut last = self.tsc.lock().unwrap_or_else(PoisonError::into_inner);
        tsc.follow(last.get_or_insert_with(|| tsc.clone()));
    }

    /// The time-stamp counter of a vCPU was set. They are set one after another; those that are less
    /// than a second apart are meant to show the same, which guests rely on.
    pub(super) fn settle_time(&self, tsc: &Tsc) {
        let second = u64::from(tsc.khz()) * 1000;
        let mut last = self.tsc.lock().unwrap_or_else(PoisonError::into_inner);
        let apart = |last: &Tsc| tsc.now().wrapping_sub(last.now()).cast_signed().unsigned_abs();
        match &*last {
            Some(last) if last.khz() == tsc.khz() && apart(last) < second => tsc.follow(last),
            _ => *last = Some(tsc.clone()),
        }
    }

    /// What the vCPU is to run with from now on.
    pub(super) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.slots().layout)
    }
}

impl Vm for SoftVm {
    fn map(&self, slot: MemorySlot) -> Result<()> {
        self.0.owner.check()?;
        slot.region.watch(&self.0.watcher);
        self.0.gate.shut(|| {
            let Slots { table, layout } = &mut *self.0.slots();
            table.insert(slot, |_, slot| {
                *layout = Arc::new(layout.with(slot));
                layout.changed();
                Ok(())
            })
        })
    }

    fn unmap(&self, at: GuestAddress) -> Result<()> {
        self.0.owner.check()?;
        self.0.gate.shut(|| {
            let Slots { table, layout } = &mut *self.0.slots();
            table.remove(at, |_, slot| {
                *layout = Arc::new(layout.without(slot));
                layout.changed();
                Ok(())
            })
        })
    }

    fn create_vcpu(&self, id: VcpuId, cpu: &CpuModel) -> Result<Box<dyn Vcpu>> {
        self.0.owner.check()?;
        if id.0 >= self.0.vcpus {
            return Err(Error::bad_config(format!("{id}: the VM has {}", self.0.vcpus)));
        }
        if self.0.existing.fetch_or(1 << id.0, SeqCst) >> id.0 & 1 != 0 {
            return Err(Error::bad_config(format!("{id} exists already")));
        }
        Ok(Box::new(SoftVcpu::new(Arc::clone(&self.0), id, cpu)?))
    }

    fn irqs(&self) -> Option<Arc<dyn IrqController>> {
        let irqs = Arc::clone(self.0.irqs.as_ref()?);
        Some(irqs)
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        self.0.owner.check()?;
        if let Some(irqs) = &self.0.irqs {
            let (irqchip, pit) = irqs.save();
            out.put(record::IRQCHIP, &irqchip)?;
            pit.map_or(Ok(()), |pit| out.put(record::PIT, &pit))?;
        }
        out.put(record::CLOCK, &self.0.clock.save())
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.0.owner.check()?;
        let irqs = self.0.irqs.as_deref();
        let irqchip = irqs.map(|_| from.take(record::IRQCHIP)).transpose()?;
        let has_pit = irqs.is_some_and(Irqs::has_pit);
        let pit = has_pit.then(|| from.take(record::PIT)).transpose()?;
        // The chips count from this.
        self.0.clock.restore(&from.take(record::CLOCK)?);
        match (irqs, irqchip) {
            (Some(irqs), Some(irqchip)) => irqs.restore(&irqchip, pit.as_ref()),
            _ => Ok(()),
        }
    }

    fn doorbells(&self) -> Option<&dyn Doorbells> {
        Some(self)
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(self)
    }
}

impl Doorbells for SoftVm {
    fn add(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        self.0.owner.check()?;
        self.0.bells.add(at, matching, event)
    }

    fn remove(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        self.0.owner.check()?;
        self.0.bells.remove(at, matching, event)
    }
}

impl DirtyLog for SoftVm {
    fn take(&self, at: GuestAddress) -> Result<Vec<u64>> {
        self.0.owner.check()?;
        self.0.gate.shut(|| {
            let Slots { table, layout } = &mut *self.0.slots();
            let (_, slot) = table.find(at)?;
            let dirty = layout.take_dirty(slot);
            // The CPU marks a page at its first store only, until it is told to do so again.
            layout.changed();
            dirty.ok_or_else(|| Error::not_found(format!("{slot} keeps no dirty log")))
        })
    }
}
