//! The seam between a machine and what runs its CPUs.
//!
//! A [`Hypervisor`] makes VMs, a [`Vm`] maps memory and makes vCPUs, a [`Vcpu`] runs guest code on
//! the calling thread until only the caller can decide. Accesses outside RAM do not come back as
//! exits; they are answered on the way by the [`GuestIo`] that `run` was lent. What not every back
//! end can do is an optional power, asked for with a method that returns an `Option`.
//!
//! [`script`] is a back end that plays a list of accesses, for testing devices without a CPU. The
//! `conformance` module (feature of that name) holds the bodies each back end is tested with.

#[cfg(feature = "conformance")]
pub mod conformance;
mod doze;
mod kick;
pub mod script;

use std::{fmt, sync::Arc, time::Instant};

#[cfg(feature = "soft")]
pub(crate) use doze::Doze;
pub use kick::{DEFAULT_KICK_SIGNAL, Kicker, Listening, block_other_signals, set_kick_signal};
pub(crate) use kick::{Entry, KickTarget, Woken, kick_signal, listen, wait_readable};

use crate::{
    arch::{CpuModel, CpuState, Regs, SystemRegs, VcpuId},
    error::{Error, Result},
    exit::{Flow, VcpuExit},
    irq::{EventFd, IrqController},
    memory::{GuestAddress, RamRegion},
    persist::{StateReader, StateWriter},
};

/// Something that can make VMs: KVM, or a script.
///
/// Implemented by the back ends of this crate. Others may wrap these; they cannot make a
/// [`Kicker`] of their own.
pub trait Hypervisor: Send + Sync {
    /// A short name, such as `kvm`.
    fn name(&self) -> &'static str;

    /// What its VMs can have.
    fn caps(&self) -> &Caps;

    /// Makes an empty VM.
    ///
    /// # Errors
    /// `BadConfig` for a configuration outside [`caps`](Self::caps), `Host` if the host refuses.
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>>;
}

/// What the VMs of a hypervisor can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// The most vCPUs of one VM.
    pub max_vcpus: u32,
    /// The most memory slots of one VM.
    pub max_slots: u32,
    /// Interrupt controllers: [`VmConfig::irq`] may be given.
    pub irq: bool,
    /// [`Vm::doorbells`] answers.
    pub doorbells: bool,
    /// [`Vm::dirty_log`] answers.
    pub dirty_log: bool,
    /// [`Access::ReadOnly`] memory slots.
    pub read_only: bool,
    /// The processor, as far as its state can be saved: every feature a guest can be offered.
    pub cpu: CpuModel,
}

/// What a VM is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// How many vCPUs it will have; their IDs are 0 to `vcpus - 1`.
    pub vcpus: u32,
    /// Its interrupt controllers, or `None`: then HLT ends `run` with [`VcpuExit::Halted`].
    pub irq: Option<IrqConfig>,
}

impl Default for VmConfig {
    /// One vCPU, with the interrupt controllers and the timer of a PC.
    fn default() -> Self {
        Self { vcpus: 1, irq: Some(IrqConfig::default()) }
    }
}

/// The interrupt controllers of a PC: local APICs, an I/O APIC, two PICs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrqConfig {
    /// With an 8254 timer at ports 0x40-0x43 and 0x61.
    pub pit: bool,
}

impl Default for IrqConfig {
    fn default() -> Self {
        Self { pit: true }
    }
}

/// The records of a VM's chips, the same in every back end.
pub(crate) mod record {
    use crate::persist::Kind;

    /// An [`Irqchip`](crate::arch::irqchip::Irqchip), if there are interrupt controllers.
    pub(crate) const IRQCHIP: Kind = Kind { name: "irqchip", version: 1 };
    /// A [`Pit`](crate::arch::irqchip::Pit), if there is a timer.
    pub(crate) const PIT: Kind = Kind { name: "pit", version: 1 };
    /// A [`Clock`](crate::arch::irqchip::Clock).
    pub(crate) const CLOCK: Kind = Kind { name: "clock", version: 1 };
}

/// A virtual machine: an address space, interrupt controllers, vCPUs. Every method may be called
/// from any thread.
pub trait Vm: Send + Sync {
    /// Maps RAM into the guest. The region stays mapped, and alive, until it is unmapped or the VM
    /// is gone.
    ///
    /// # Errors
    /// `BadConfig` if the slot is unaligned, empty, outside its region, or overlaps another.
    fn map(&self, slot: MemorySlot) -> Result<()>;

    /// Takes away the slot that starts at `at`; accesses go to [`GuestIo`] from then on.
    ///
    /// # Errors
    /// `NotFound` if no slot starts there.
    fn unmap(&self, at: GuestAddress) -> Result<()>;

    /// Makes a vCPU: number 0 is about to execute at the reset vector, the others wait for INIT and
    /// SIPI. Without interrupt controllers, all are ready to run.
    ///
    /// # Errors
    /// `BadConfig` if the number is not below [`VmConfig::vcpus`] or taken.
    fn create_vcpu(&self, id: VcpuId, cpu: &CpuModel) -> Result<Box<dyn Vcpu>>;

    /// The interrupt controllers, if the VM was made with them.
    fn irqs(&self) -> Option<Arc<dyn IrqController>>;

    /// Saves interrupt chips and clock. No vCPU may run.
    ///
    /// # Errors
    /// `Host` if the back end does not give them.
    fn save(&self, out: &mut StateWriter) -> Result<()>;

    /// Puts back what [`save`](Self::save) of this or another back end wrote. No vCPU may run.
    ///
    /// # Errors
    /// `NotFound`, `Incompatible` or `Snapshot` for a record that is missing or does not fit,
    /// `Host` if refused.
    fn restore(&self, from: &mut StateReader) -> Result<()>;

    /// Stores that become events without leaving `run`, if the back end has them.
    fn doorbells(&self) -> Option<&dyn Doorbells> {
        None
    }

    /// The record of pages the guest has written, if the back end keeps one.
    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        None
    }
}

/// A piece of a RAM region, and where the guest sees it.
#[derive(Clone, Debug)]
pub struct MemorySlot {
    /// The guest address; a multiple of the page size.
    pub at: GuestAddress,
    /// The region.
    pub region: RamRegion,
    /// Where in the region the slot starts, in bytes; a multiple of the page size.
    pub offset: u64,
    /// The length in bytes; a multiple of the page size.
    pub len: u64,
    /// What the guest may do with it.
    pub access: Access,
    /// Keep the [`DirtyLog`] of it.
    pub log_dirty: bool,
}

impl MemorySlot {
    /// A whole region, read-write, at its own address.
    pub fn whole(region: RamRegion) -> Self {
        Self {
            at: region.start(),
            offset: 0,
            len: region.len(),
            region,
            access: Access::ReadWrite,
            log_dirty: false,
        }
    }
}

/// What a guest may do with a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and execute; writes go to [`GuestIo`].
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// One virtual CPU. It runs on whichever thread calls [`run`](Self::run); moving it between threads
/// is allowed.
pub trait Vcpu: Send {
    /// Runs the guest until there is something only the caller can decide. Accesses outside RAM are
    /// answered by `io` on this thread.
    ///
    /// Whatever the exit, the last instruction is complete or not begun: registers can be read and
    /// state saved. ([`HostCall`](VcpuExit::HostCall) is the one exception, which shows only to who
    /// sets RIP back to the OUT.)
    ///
    /// # Errors
    /// `Host` if the back end fails, `WrongProcess` after `fork()`. The guest's faults are an exit,
    /// not an error.
    fn run(&mut self, io: &dyn GuestIo) -> Result<VcpuExit>;

    /// What makes [`run`](Self::run) return from elsewhere.
    fn kicker(&self) -> Kicker;

    /// The general-purpose registers.
    ///
    /// # Errors
    /// `Host` if the back end fails.
    fn regs(&self) -> Result<Regs>;

    /// Sets the general-purpose registers.
    ///
    /// # Errors
    /// `Host` if the back end refuses them.
    fn set_regs(&mut self, regs: &Regs) -> Result<()>;

    /// Tells a guest that asked to know that it is about to stand still: its watchdogs will not take
    /// the time for its own. Where there is no such thing, nothing happens.
    fn note_pause(&mut self) {}

    /// From now on an OUT to this port ends [`run`](Self::run) with [`VcpuExit::HostCall`], and the
    /// general registers are cheap to read and set. The fastest way between guest and host: nothing
    /// but the registers moves.
    ///
    /// The caller names the address behind the OUT because back ends stop before or behind it; a
    /// guest that calls from elsewhere goes on there all the same.
    ///
    /// # Errors
    /// `Unsupported` if the back end cannot.
    fn set_call_port(&mut self, call: CallPort) -> Result<()>;

    /// From then on [`run`](Self::run), on the thread that called this, returns
    /// [`VcpuExit::Expired`]; with `None`, no longer. It may come a few milliseconds late.
    ///
    /// No thread is needed for it. Where the back end uses a signal it is the kick signal, and a
    /// system call of the host's that waits may be interrupted by it too.
    ///
    /// # Errors
    /// `Host` if the host has no timer to give.
    fn set_deadline(&mut self, deadline: Option<Instant>) -> Result<()>;

    /// Segment, table and control registers.
    ///
    /// # Errors
    /// `Host` if the back end fails.
    fn system_regs(&self) -> Result<SystemRegs>;

    /// Sets segment, table and control registers.
    ///
    /// # Errors
    /// `Host` if the back end refuses them.
    fn set_system_regs(&mut self, regs: &SystemRegs) -> Result<()>;

    /// Everything the vCPU carries.
    ///
    /// # Errors
    /// `Host` if the back end fails.
    fn state(&self) -> Result<CpuState>;

    /// Becomes what `state` says, which may come from another process or back end.
    ///
    /// # Errors
    /// `Incompatible` with the name of what does not fit; the vCPU is then in no defined state.
    fn set_state(&mut self, state: &CpuState) -> Result<()>;

    /// Sets as much of a state as code in ring 3 can have changed since the vCPU was in it: general,
    /// segment, table, control and vector registers, and events on their way. The rest, which takes
    /// system calls of the host's too, is as it was.
    ///
    /// # Errors
    /// As for [`set_state`](Self::set_state).
    fn set_program_state(&mut self, state: &CpuState) -> Result<()> {
        self.set_state(&CpuState { msrs: Vec::new(), ..state.clone() })
    }
}

/// How a guest calls its host: an OUT to `port`, at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPort {
    /// The port; its accesses do not reach [`GuestIo`].
    pub port: u16,
    /// The address behind the OUT, where the guest goes on.
    pub resume: u64,
}

/// Who answers a guest's accesses outside RAM. Called on vCPU threads, several at once.
///
/// `data` is 1 to 8 bytes, little-endian; reads fill it. Port accesses are 1, 2 or 4 bytes; a
/// string instruction comes as one call for each element.
pub trait GuestIo: Sync {
    /// A load from `at`.
    fn mmio_read(&self, at: GuestAddress, data: &mut [u8]) -> Flow;
    /// A store to `at`.
    fn mmio_write(&self, at: GuestAddress, data: &[u8]) -> Flow;
    /// An IN instruction.
    fn port_in(&self, port: u16, data: &mut [u8]) -> Flow;
    /// An OUT instruction.
    fn port_out(&self, port: u16, data: &[u8]) -> Flow;
}

/// Where a store that rings a doorbell goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoAddress {
    /// A physical address outside RAM.
    Mmio(GuestAddress),
    /// A port.
    Port(u16),
}

/// Which stores to a doorbell's address ring it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// All, of any width.
    Any,
    /// Those one byte wide, of this value.
    U8(u8),
    /// Those two bytes wide, of this value.
    U16(u16),
    /// Those four bytes wide, of this value.
    U32(u32),
    /// Those eight bytes wide, of this value.
    U64(u64),
}

/// Stores that become events: the guest goes on at once, [`GuestIo`] does not see them.
pub trait Doorbells {
    /// From now on a matching store to `at` adds 1 to `event`.
    ///
    /// # Errors
    /// `BadConfig` if the address and match are taken, `Host` if the back end refuses.
    fn add(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()>;

    /// Undoes [`add`](Self::add), with the same arguments.
    ///
    /// # Errors
    /// `NotFound` if there is no such doorbell.
    fn remove(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()>;
}

/// The record of pages the guest has written, for slots mapped with [`MemorySlot::log_dirty`].
pub trait DirtyLog {
    /// The pages of the slot at `at` written by the guest since it was mapped or last taken: bit `n
    /// % 64` of word `n / 64` is page `n`. Writes by the host are not in it.
    ///
    /// # Errors
    /// `NotFound` if no slot starts there or it is not logged.
    fn take(&self, at: GuestAddress) -> Result<Vec<u64>>;
}

/// The slots of a VM, with the checks all back ends share.
#[derive(Debug)]
pub(crate) struct SlotTable {
    slots: Vec<Option<MemorySlot>>,
    max: usize,
}

impl SlotTable {
    pub(crate) fn new(max: u32) -> Self {
        Self { slots: Vec::new(), max: max as usize }
    }

    /// Checks `slot` and gives it a number; `commit` tells the back end.
    pub(crate) fn insert(
        &mut self,
        slot: MemorySlot,
        commit: impl FnOnce(u32, &MemorySlot) -> Result<()>,
    ) -> Result<()> {
        check_slot(&slot)?;
        if let Some(other) = self.slots.iter().flatten().find(|other| overlap(&slot, other)) {
            return Err(Error::bad_config(format!("{slot} overlaps {other}")));
        }
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= self.max {
            return Err(Error::bad_config(format!("{slot}: no more than {} slots", self.max)));
        }
        commit(free as u32, &slot)?;
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(slot);
        Ok(())
    }

    /// Forgets the slot at `at` once `commit` has told the back end.
    pub(crate) fn remove(
        &mut self,
        at: GuestAddress,
        commit: impl FnOnce(u32, &MemorySlot) -> Result<()>,
    ) -> Result<()> {
        let (number, slot) = self.find(at)?;
        commit(number, slot)?;
        self.slots[number as usize] = None;
        Ok(())
    }

    /// The slot that starts at `at`, and its number.
    pub(crate) fn find(&self, at: GuestAddress) -> Result<(u32, &MemorySlot)> {
        let mut slots = self.slots.iter().zip(0..);
        let found = slots.find_map(|(slot, n)| Some((n, slot.as_ref().filter(|s| s.at == at)?)));
        found.ok_or_else(|| Error::not_found(format!("no memory slot starts at {:#x}", at.0)))
    }
}

fn check_slot(slot: &MemorySlot) -> Result<()> {
    use crate::memory::PAGE_SIZE;
    let aligned = [slot.at.0, slot.offset, slot.len].iter().all(|n| n.is_multiple_of(PAGE_SIZE));
    if !aligned || slot.len == 0 {
        return Err(Error::bad_config(format!("{slot}: empty or not on page boundaries")));
    }
    let end = slot.offset.checked_add(slot.len);
    if end.is_none_or(|end| end > slot.region.len()) || slot.at.0.checked_add(slot.len).is_none() {
        return Err(Error::bad_config(format!("{slot}: leaves its region or the address space")));
    }
    Ok(())
}

fn overlap(a: &MemorySlot, b: &MemorySlot) -> bool {
    a.at.0 < b.at.0 + b.len && b.at.0 < a.at.0 + a.len
}

impl fmt::Display for MemorySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory slot of {:#x} bytes at {:#x}", self.len, self.at.0)
    }
}
