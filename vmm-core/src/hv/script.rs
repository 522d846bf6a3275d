//! A hypervisor without a CPU: its vCPU plays a list of accesses.
//!
//! For testing devices, machines and language bindings anywhere, and for measuring a bus without a
//! guest. RAM accesses go to the mapped slots, everything else to [`GuestIo`]; doorbells, the dirty
//! log and the interrupt controller are there and record what reaches them. Only vCPU 0 plays; the
//! others wait for a kick.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use vm_memory::{Bytes, MemoryRegionAddress};

use super::{
    Access as SlotAccess, CallPort, Caps, DirtyLog, Doorbells, Entry, GuestIo, Hypervisor,
    IoAddress, KickTarget, Kicker, Match, MemorySlot, SlotTable, Vcpu, Vm, VmConfig,
};
use crate::{
    arch::{
        CpuModel, CpuState, Regs, SystemRegs, VcpuId,
        msr::{self, MsrValue},
    },
    error::{Error, Result},
    exit::{CONTINUE, Fault, FaultKind, Flow, VcpuExit},
    irq::{EventFd, Gsi, IrqController, Msi},
    memory::{GuestAddress, PAGE_SIZE},
    persist::{Kind, StateReader, StateWriter},
    process::Owner,
};

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// HLT: ends `run` without interrupt controllers, is passed over with them.
    Halt,
    /// A load of this many bytes, 1 to 8.
    Load(GuestAddress, usize),
    /// An IN of this many bytes: 1, 2 or 4.
    PortIn(u16, usize),
    /// An OUT.
    PortOut(u16, Vec<u8>),
    /// A store of 1 to 8 bytes.
    Store(GuestAddress, Vec<u8>),
    /// Executes for ever, until kicked.
    Spin,
}

impl Access {
    /// A store.
    pub fn store(at: u64, data: &[u8]) -> Self {
        Self::Store(GuestAddress(at), data.to_vec())
    }

    /// A load.
    pub fn load(at: u64, len: usize) -> Self {
        Self::Load(GuestAddress(at), len)
    }

    /// An OUT.
    pub fn port_out(port: u16, data: &[u8]) -> Self {
        Self::PortOut(port, data.to_vec())
    }

    /// An IN.
    pub fn port_in(port: u16, len: usize) -> Self {
        Self::PortIn(port, len)
    }
}

/// The hypervisor, and the record of what its VMs did; cheap to clone.
#[derive(Clone, Debug)]
pub struct Script(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    accesses: Vec<Access>,
    caps: Caps,
    record: Mutex<Record>,
}

/// What happened while a script was played.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What each load and IN gave, in order.
    pub replies: Vec<Vec<u8>>,
    /// Each change of an interrupt line, in order.
    pub lines: Vec<(Gsi, bool)>,
    /// Each message-signalled interrupt, in order.
    pub messages: Vec<Msi>,
}

impl Script {
    /// A hypervisor each of whose VMs plays `accesses` once. Behind the last one the guest faults.
    pub fn new(accesses: impl Into<Vec<Access>>) -> Self {
        let caps = Caps {
            max_vcpus: 64,
            max_slots: 64,
            irq: true,
            doorbells: true,
            dirty_log: true,
            read_only: true,
            cpu: CpuModel::default(),
        };
        Self(Arc::new(Shared { accesses: accesses.into(), caps, record: Mutex::default() }))
    }

    /// What has happened so far.
    pub fn record(&self) -> Record {
        self.0.record().clone()
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Script> for Arc<dyn Hypervisor> {
    fn from(script: Script) -> Self {
        Arc::new(script)
    }
}

impl Hypervisor for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn caps(&self) -> &Caps {
        &self.0.caps
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(ScriptVm(Arc::new(VmState {
            script: Arc::clone(&self.0),
            config: config.clone(),
            slots: Mutex::new(SlotTable::new(self.0.caps.max_slots)),
            dirty: Mutex::default(),
            bells: Mutex::default(),
            owner: Owner::current(),
        }))))
    }
}

struct ScriptVm(Arc<VmState>);

type Bell = (IoAddress, Match, EventFd);

struct VmState {
    script: Arc<Shared>,
    config: VmConfig,
    slots: Mutex<SlotTable>,
    /// The pages written since the last harvest, by the start of their slot.
    dirty: Mutex<BTreeMap<u64, Vec<u64>>>,
    bells: Mutex<Vec<Bell>>,
    owner: Owner,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The whole state of a script VM is which lines it has seen, which is the record's; so its own
/// record is empty.
const STATE: Kind = Kind { name: "script", version: 1 };

impl Vm for ScriptVm {
    fn map(&self, slot: MemorySlot) -> Result<()> {
        lock(&self.0.slots).insert(slot, |_, _| Ok(()))
    }

    fn unmap(&self, at: GuestAddress) -> Result<()> {
        lock(&self.0.dirty).remove(&at.0);
        lock(&self.0.slots).remove(at, |_, _| Ok(()))
    }

    fn create_vcpu(&self, id: VcpuId, _: &CpuModel) -> Result<Box<dyn Vcpu>> {
        if id.0 >= self.0.config.vcpus {
            return Err(Error::bad_config(format!("{id}: the VM has {}", self.0.config.vcpus)));
        }
        let vm = Arc::clone(&self.0);
        let step = AtomicUsize::new(0);
        let (regs, system, call) = (Regs::default(), None, None);
        let (deadline, kick) = (None, KickTarget::polled());
        Ok(Box::new(ScriptVcpu { id, vm, step, regs, system, call, deadline, kick }))
    }

    fn irqs(&self) -> Option<Arc<dyn IrqController>> {
        self.0.config.irq.as_ref()?;
        Some(Arc::new(ScriptIrqs(Arc::clone(&self.0))))
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        out.put(STATE, &())
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        from.take(STATE)
    }

    fn doorbells(&self) -> Option<&dyn Doorbells> {
        Some(self)
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(self)
    }
}

impl Doorbells for ScriptVm {
    fn add(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        let mut bells = lock(&self.0.bells);
        if bells.iter().any(|(a, m, _)| (*a, *m) == (at, matching)) {
            return Err(Error::bad_config(format!("doorbell {at:?} {matching:?} is taken")));
        }
        let event = event.try_clone().map_err(|error| {
            Error::host("copying an event", error.raw_os_error().unwrap_or(libc::EMFILE))
        })?;
        bells.push((at, matching, event));
        Ok(())
    }

    fn remove(&self, at: IoAddress, matching: Match, _: &EventFd) -> Result<()> {
        let mut bells = lock(&self.0.bells);
        let found = bells.iter().position(|(a, m, _)| (*a, *m) == (at, matching));
        let found =
            found.ok_or_else(|| Error::not_found(format!("no doorbell {at:?} {matching:?}")))?;
        bells.swap_remove(found);
        Ok(())
    }
}

impl DirtyLog for ScriptVm {
    fn take(&self, at: GuestAddress) -> Result<Vec<u64>> {
        let slots = lock(&self.0.slots);
        let (_, slot) = slots.find(at)?;
        if !slot.log_dirty {
            return Err(Error::not_found(format!("{slot} keeps no dirty log")));
        }
        let words = (slot.len / PAGE_SIZE).div_ceil(64) as usize;
        Ok(lock(&self.0.dirty).remove(&at.0).unwrap_or_else(|| vec![0; words]))
    }
}

struct ScriptIrqs(Arc<VmState>);

impl IrqController for ScriptIrqs {
    fn set_line(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.0.script.record().lines.push((gsi, level));
        Ok(())
    }

    fn send_msi(&self, msi: Msi) -> Result<bool> {
        self.0.script.record().messages.push(msi);
        Ok(true)
    }

    fn line_event(&self, _: Gsi) -> Option<Result<EventFd>> {
        None
    }
}

impl VmState {
    /// Loads from the slot that has all of the range; `false` if none has.
    fn load(&self, at: GuestAddress, data: &mut [u8]) -> bool {
        self.in_slot(at, data.len(), |slot, offset| slot.region.read_slice(data, offset).is_ok())
    }

    /// Stores to the writable slot that has all of the range.
    fn store(&self, at: GuestAddress, data: &[u8]) -> bool {
        self.in_slot(at, data.len(), |slot, offset| {
            if slot.access == SlotAccess::ReadOnly {
                return false;
            }
            if slot.log_dirty {
                self.mark_dirty(slot, at, data.len() as u64);
            }
            slot.region.write_slice(data, offset).is_ok()
        })
    }

    fn in_slot(
        &self,
        at: GuestAddress,
        len: usize,
        access: impl FnOnce(&MemorySlot, MemoryRegionAddress) -> bool,
    ) -> bool {
        let slots = lock(&self.slots);
        let slot = slots.slots.iter().flatten().find(|slot| {
            at.0 >= slot.at.0 && at.0.saturating_add(len as u64) <= slot.at.0 + slot.len
        });
        slot.is_some_and(|slot| access(slot, MemoryRegionAddress(slot.offset + (at.0 - slot.at.0))))
    }

    fn mark_dirty(&self, slot: &MemorySlot, at: GuestAddress, len: u64) {
        let mut dirty = lock(&self.dirty);
        let words = (slot.len / PAGE_SIZE).div_ceil(64) as usize;
        let pages = dirty.entry(slot.at.0).or_insert_with(|| vec![0; words]);
        let first = at.0 - slot.at.0;
        for page in first / PAGE_SIZE..=(first + len.max(1) - 1) / PAGE_SIZE {
            if let Some(word) = pages.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
    }

    fn ring(&self, at: IoAddress, data: &[u8]) -> bool {
        let bells = lock(&self.bells);
        let mut rung = bells.iter().filter(|(a, m, _)| *a == at && matches(*m, data)).peekable();
        let any = rung.peek().is_some();
        rung.for_each(|(.., event)| {
            if let Err(error) = event.write(1) {
                log::error!("ringing the doorbell at {at:?}: {error}");
            }
        });
        any
    }
}

fn matches(matching: Match, data: &[u8]) -> bool {
    match matching {
        Match::Any => true,
        Match::U8(value) => data == value.to_le_bytes(),
        Match::U16(value) => data == value.to_le_bytes(),
        Match::U32(value) => data == value.to_le_bytes(),
        Match::U64(value) => data == value.to_le_bytes(),
    }
}

struct ScriptVcpu {
    id: VcpuId,
    vm: Arc<VmState>,
    step: AtomicUsize,
    regs: Regs,
    system: Option<SystemRegs>,
    call: Option<CallPort>,
    deadline: Option<Instant>,
    kick: Arc<KickTarget>,
}

impl ScriptVcpu {
    fn play(&self, io: &dyn GuestIo) -> VcpuExit {
        if self.id.0 > 0 {
            return self.spin();
        }
        loop {
            if self.kick.is_pending() {
                return VcpuExit::Kicked;
            }
            if self.has_expired() {
                return VcpuExit::Expired;
            }
            let Some(access) = self.vm.script.accesses.get(self.step.load(Relaxed)) else {
                let why = FaultKind::Other("the script is at its end".into());
                return VcpuExit::Fault(Box::new(Fault::new(why, None)));
            };
            if *access == Access::Spin {
                return self.spin();
            }
            self.step.fetch_add(1, Relaxed);
            if let ControlFlow::Break(exit) = self.perform(access, io) {
                return exit;
            }
        }
    }

    fn spin(&self) -> VcpuExit {
        loop {
            if self.kick.is_pending() {
                return VcpuExit::Kicked;
            }
            if self.has_expired() {
                return VcpuExit::Expired;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn has_expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn perform(&self, access: &Access, io: &dyn GuestIo) -> Flow {
        match access {
            Access::Halt if self.vm.config.irq.is_none() => ControlFlow::Break(VcpuExit::Halted),
            Access::Halt | Access::Spin => CONTINUE,
            Access::Load(at, len) => self.reply(*len, |data| match self.vm.load(*at, data) {
                true => CONTINUE,
                false => io.mmio_read(*at, data),
            }),
            Access::PortIn(port, len) => self.reply(*len, |data| io.port_in(*port, data)),
            Access::PortOut(port, _) if self.call.is_some_and(|call| call.port == *port) => {
                ControlFlow::Break(VcpuExit::HostCall)
            }
            Access::PortOut(port, data) => match self.vm.ring(IoAddress::Port(*port), data) {
                true => CONTINUE,
                false => io.port_out(*port, data),
            },
            Access::Store(at, data) => {
                match self.vm.store(*at, data) || self.vm.ring(IoAddress::Mmio(*at), data) {
                    true => CONTINUE,
                    false => io.mmio_write(*at, data),
                }
            }
        }
    }

    fn reply(&self, len: usize, fill: impl FnOnce(&mut [u8]) -> Flow) -> Flow {
        let mut data = [0; 8];
        let data = &mut data[..len.clamp(1, 8)];
        let flow = fill(data);
        self.vm.script.record().replies.push(data.to_vec());
        flow
    }
}

impl Vcpu for ScriptVcpu {
    fn run(&mut self, io: &dyn GuestIo) -> Result<VcpuExit> {
        self.vm.owner.check()?;
        let Entry::Go(running) = self.kick.enter() else { return Ok(VcpuExit::Kicked) };
        let exit = self.play(io);
        running.leave(matches!(exit, VcpuExit::Kicked));
        Ok(exit)
    }

    fn kicker(&self) -> Kicker {
        self.kick.kicker()
    }

    fn regs(&self) -> Result<Regs> {
        Ok(self.regs)
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        self.regs = *regs;
        Ok(())
    }

    fn set_call_port(&mut self, call: CallPort) -> Result<()> {
        self.call = Some(call);
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Option<Instant>) -> Result<()> {
        self.deadline = deadline;
        Ok(())
    }

    fn system_regs(&self) -> Result<SystemRegs> {
        Ok(self.system.clone().unwrap_or_else(SystemRegs::real_mode))
    }

    fn set_system_regs(&mut self, regs: &SystemRegs) -> Result<()> {
        self.system = Some(regs.clone());
        Ok(())
    }

    /// The time-stamp counter of a script's vCPU counts the steps it has played.
    fn state(&self) -> Result<CpuState> {
        let value = self.step.load(Relaxed) as u64;
        let msrs = vec![MsrValue { index: msr::TSC, value }];
        let (regs, system) = (self.regs, self.system_regs()?);
        Ok(CpuState { regs, system, msrs, ..CpuState::default() })
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        let [MsrValue { index: msr::TSC, value }] = state.msrs[..] else {
            return Err(Error::incompatible("not the state of a script's vCPU"));
        };
        let step = usize::try_from(value);
        *self.step.get_mut() = step.map_err(|_| Error::incompatible(format!("step {value}")))?;
        self.regs = state.regs;
        self.system = Some(state.system.clone());
        Ok(())
    }
}

impl Drop for ScriptVcpu {
    fn drop(&mut self) {
        self.kick.close();
    }
}
