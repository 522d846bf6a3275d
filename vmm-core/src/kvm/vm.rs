//! A VM of KVM: memory slots, interrupt controllers, doorbells, the dirty log.
#![expect(unsafe_code, reason = "gives the kernel host addresses of guest RAM")]

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY,
    KVM_PMU_CAP_DISABLE, kvm_enable_cap, kvm_msi, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::{errno, eventfd::EFD_NONBLOCK};

use super::{Shared, chips, vcpu::KvmVcpu};
use crate::{
    arch::{CpuModel, VcpuId},
    error::{Error, HostResult, Result},
    hv::{
        Access, DirtyLog, Doorbells, IoAddress, Match, MemorySlot, SlotTable, Vcpu, Vm, VmConfig,
        record,
    },
    irq::{EventFd, Gsi, IrqController, Msi},
    memory::GuestAddress,
    persist::{StateReader, StateWriter},
    process::Owner,
};

/// Three pages that Intel processors without unrestricted guest need somewhere below 4 GiB, and one
/// more; no device and no RAM of ours is there.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// The pins of the I/O APIC; the first 16 are the PICs' too.
const PINS: u32 = 24;

/// The VM, as the machine holds it.
pub(super) struct KvmVm(Arc<VmState>);

/// The VM, as its vCPUs and interrupt lines hold it too.
pub(super) struct VmState {
    pub(super) fd: VmFd,
    pub(super) config: VmConfig,
    /// What is saved of each vCPU.
    pub(super) msrs: Arc<[u32]>,
    pub(super) owner: Owner,
    /// Keeps every mapped region alive.
    slots: Mutex<SlotTable>,
}

impl KvmVm {
    pub(super) fn new(shared: &Shared, config: &VmConfig) -> Result<Self> {
        let fd = create(shared)?;
        if shared.can_disable_pmu {
            disable_pmu(&fd)?;
        }
        if let Some(irq) = &config.irq {
            fd.set_tss_address(TSS_ADDRESS).host(|| "KVM_SET_TSS_ADDR")?;
            fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
                .host(|| "KVM_SET_IDENTITY_MAP_ADDR")?;
            fd.create_irq_chip().host(|| "creating the interrupt controllers")?;
            if irq.pit {
                let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
                fd.create_pit2(config).host(|| "creating the timer")?;
            }
        }
        let slots = Mutex::new(SlotTable::new(shared.max_slots));
        let (config, owner) = (config.clone(), Owner::current());
        let msrs = Arc::clone(&shared.msrs);
        Ok(Self(Arc::new(VmState { fd, config, msrs, owner, slots })))
    }

    fn has_pit(&self) -> bool {
        self.0.config.irq.as_ref().is_some_and(|irq| irq.pit)
    }
}

/// KVM_CREATE_VM, which a signal may interrupt half-way.
fn create(shared: &Shared) -> Result<VmFd> {
    loop {
        match shared.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.host(|| "creating a VM"),
        }
    }
}

fn disable_pmu(vm: &VmFd) -> Result<()> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, ..Default::default() };
    cap.args[0] = u64::from(KVM_PMU_CAP_DISABLE);
    vm.enable_cap(&cap).host(|| "switching performance counters off")
}

impl VmState {
    fn slots(&self) -> MutexGuard<'_, SlotTable> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells KVM of a slot; length 0 takes it away.
    fn set_slot(&self, number: u32, slot: &MemorySlot, len: u64) -> Result<()> {
        let read_only = if slot.access == Access::ReadOnly { KVM_MEM_READONLY } else { 0 };
        let log_dirty = if slot.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: if len == 0 { 0 } else { read_only | log_dirty },
            guest_phys_addr: slot.at.0,
            memory_size: len,
            userspace_addr: slot.region.host_address().addr() as u64 + slot.offset,
        };
        // SAFETY: the range lies in the region (`SlotTable` checked it), whose mapping the slot
        // table keeps alive until the slot is taken away or the VM, which outlives its vCPUs' use
        // of it, is closed.
        unsafe { self.fd.set_user_memory_region(region) }.host(|| format!("{slot}: KVM"))
    }
}

impl Vm for KvmVm {
    fn map(&self, slot: MemorySlot) -> Result<()> {
        self.0.owner.check()?;
        self.0.slots().insert(slot, |number, slot| self.0.set_slot(number, slot, slot.len))
    }

    fn unmap(&self, at: GuestAddress) -> Result<()> {
        self.0.owner.check()?;
        self.0.slots().remove(at, |number, slot| self.0.set_slot(number, slot, 0))
    }

    fn create_vcpu(&self, id: VcpuId, cpu: &CpuModel) -> Result<Box<dyn Vcpu>> {
        self.0.owner.check()?;
        if id.0 >= self.0.config.vcpus {
            return Err(Error::bad_config(format!("{id}: the VM has {}", self.0.config.vcpus)));
        }
        Ok(Box::new(KvmVcpu::new(Arc::clone(&self.0), id, cpu)?))
    }

    fn irqs(&self) -> Option<Arc<dyn IrqController>> {
        self.0.config.irq.as_ref()?;
        Some(Arc::new(KvmIrqs(Arc::clone(&self.0))))
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        self.0.owner.check()?;
        if self.0.config.irq.is_some() {
            out.put(record::IRQCHIP, &chips::save_irqchip(&self.0.fd)?)?;
        }
        if self.has_pit() {
            out.put(record::PIT, &chips::save_pit(&self.0.fd)?)?;
        }
        out.put(record::CLOCK, &chips::save_clock(&self.0.fd)?)
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.0.owner.check()?;
        if self.0.config.irq.is_some() {
            chips::restore_irqchip(&self.0.fd, &from.take(record::IRQCHIP)?)?;
        }
        if self.has_pit() {
            chips::restore_pit(&self.0.fd, &from.take(record::PIT)?)?;
        }
        chips::restore_clock(&self.0.fd, &from.take(record::CLOCK)?)
    }

    fn doorbells(&self) -> Option<&dyn Doorbells> {
        Some(self)
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(self)
    }
}

impl Doorbells for KvmVm {
    fn add(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        self.0.owner.check()?;
        let vm = &self.0.fd;
        let address = io_event_address(at);
        let added = match matching {
            Match::Any => vm.register_ioevent(event, &address, NoDatamatch),
            Match::U8(value) => vm.register_ioevent(event, &address, value),
            Match::U16(value) => vm.register_ioevent(event, &address, value),
            Match::U32(value) => vm.register_ioevent(event, &address, value),
            Match::U64(value) => vm.register_ioevent(event, &address, value),
        };
        added.map_err(|error| bell_error(at, matching, error))
    }

    fn remove(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        self.0.owner.check()?;
        let vm = &self.0.fd;
        let address = io_event_address(at);
        let removed = match matching {
            Match::Any => vm.unregister_ioevent(event, &address, NoDatamatch),
            Match::U8(value) => vm.unregister_ioevent(event, &address, value),
            Match::U16(value) => vm.unregister_ioevent(event, &address, value),
            Match::U32(value) => vm.unregister_ioevent(event, &address, value),
            Match::U64(value) => vm.unregister_ioevent(event, &address, value),
        };
        removed.map_err(|error| bell_error(at, matching, error))
    }
}

fn io_event_address(at: IoAddress) -> IoEventAddress {
    match at {
        IoAddress::Mmio(at) => IoEventAddress::Mmio(at.0),
        IoAddress::Port(port) => IoEventAddress::Pio(u64::from(port)),
    }
}

fn bell_error(at: impl Debug, matching: Match, error: errno::Error) -> Error {
    let what = format!("doorbell {at:?} {matching:?}");
    match error.errno() {
        libc::EEXIST => Error::bad_config(format!("{what} is taken")),
        libc::ENOENT => Error::not_found(format!("there is no {what}")),
        errno => Error::host(what, errno),
    }
}

impl DirtyLog for KvmVm {
    fn take(&self, at: GuestAddress) -> Result<Vec<u64>> {
        self.0.owner.check()?;
        let slots = self.0.slots();
        let (number, slot) = slots.find(at)?;
        if !slot.log_dirty {
            return Err(Error::not_found(format!("{slot} keeps no dirty log")));
        }
        let size = usize::try_from(slot.len).map_err(|_| Error::internal("slot size"))?;
        self.0.fd.get_dirty_log(number, size).host(|| format!("{slot}: KVM_GET_DIRTY_LOG"))
    }
}

/// The in-kernel interrupt controllers.
struct KvmIrqs(Arc<VmState>);

impl KvmIrqs {
    fn check(&self, gsi: Gsi) -> Result<()> {
        self.0.owner.check()?;
        match gsi.0 {
            0..PINS => Ok(()),
            _ => Err(Error::bad_config(format!("{gsi}: the last one is {}", PINS - 1))),
        }
    }
}

impl IrqController for KvmIrqs {
    fn set_line(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.check(gsi)?;
        self.0.fd.set_irq_line(gsi.0, level).host(|| format!("{gsi}: KVM_IRQ_LINE"))
    }

    fn send_msi(&self, msi: Msi) -> Result<bool> {
        self.0.owner.check()?;
        let kvm = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        let delivered = self.0.fd.signal_msi(kvm).host(|| format!("{msi:x?}: KVM_SIGNAL_MSI"))?;
        Ok(delivered > 0)
    }

    fn line_event(&self, gsi: Gsi) -> Option<Result<EventFd>> {
        let connect = || {
            self.check(gsi)?;
            let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).host(|| "eventfd")?;
            self.0.fd.register_irqfd(&event, gsi.0).host(|| format!("{gsi}: KVM_IRQFD"))?;
            Ok(event)
        };
        Some(connect())
    }
}
