//! Back to power-on, in place: what a machine is reset with.
//!
//! What a back end makes of a new vCPU and new chips is known best by making them: the first reset
//! makes a VM like this one, without memory, and keeps what it saves of it. Building a machine
//! costs nothing more for it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Machine, board::Board};
use crate::{
    arch::{CpuModel, CpuState, SystemRegs, VcpuId},
    boot::{BoardInfo, Loader},
    error::{Context, Error, Result},
    hv::{Hypervisor, Vcpu, Vm, VmConfig},
    memory::GuestMemory,
    persist::{StateReader, StateWriter},
};

/// Where a machine came from.
pub(super) struct Origin {
    hypervisor: Arc<dyn Hypervisor>,
    config: VmConfig,
    /// `None` for the hypervisor's own.
    cpu: Option<CpuModel>,
    loader: Mutex<Box<dyn Loader>>,
    power_on: Mutex<Option<PowerOn>>,
}

/// The state of a VM that has executed nothing.
struct PowerOn {
    vm: Vec<u8>,
    vcpus: Vec<CpuState>,
}

impl Origin {
    pub(super) fn new(
        hypervisor: Arc<dyn Hypervisor>,
        config: VmConfig,
        cpu: Option<CpuModel>,
        loader: Box<dyn Loader>,
    ) -> Self {
        let (loader, power_on) = (Mutex::new(loader), Mutex::default());
        Self { hypervisor, config, cpu, loader, power_on }
    }

    pub(super) fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        self.hypervisor.create_vm(&self.config)
    }

    pub(super) fn create_vcpus(&self, vm: &dyn Vm) -> Result<Vec<Box<dyn Vcpu>>> {
        let cpu = self.cpu.as_ref().unwrap_or(&self.hypervisor.caps().cpu);
        let create = |id| vm.create_vcpu(VcpuId(id), cpu).context(|| VcpuId(id));
        (0..self.config.vcpus).map(create).collect()
    }

    /// Loads the image and puts the first vCPU at its entry.
    pub(super) fn load(
        &self,
        memory: &GuestMemory,
        board: &Board,
        first: &mut dyn Vcpu,
    ) -> Result<()> {
        let mut info = BoardInfo::new(self.config.vcpus);
        info.devices = board.described();
        let loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = loader.load(memory, &info)?;
        let made = first.system_regs()?;
        let system = SystemRegs { cr8: made.cr8, apic_base: made.apic_base, ..entry.system };
        first.set_system_regs(&system).context(|| "entry state")?;
        first.set_regs(&entry.regs).context(|| "entry state")
    }

    fn power_on(&self) -> Result<PowerOn> {
        let vm = self.create_vm()?;
        let vcpus = self.create_vcpus(&*vm)?;
        let mut state = StateWriter::new();
        vm.save(&mut state)?;
        let vcpus = vcpus.iter().map(|vcpu| vcpu.state()).collect::<Result<_>>()?;
        Ok(PowerOn { vm: state.into_bytes()?, vcpus })
    }
}

impl Machine {
    /// Puts the machine back to power-on: as [`build`](super::Builder::build) made it, ready to
    /// run.
    ///
    /// RAM is zeroed, also RAM that the caller gave; the image is loaded again, from its file if
    /// that is where it came from; vCPUs, interrupt controllers, clock and devices start anew. What
    /// lies outside the machine stays: exit counts, output that was captured, input that waits. Far
    /// cheaper than building another; the first time costs a VM more than the others.
    ///
    /// For a guest that asked for it ([`Outcome::Reset`](super::Outcome::Reset)), powered off or
    /// faulted, and for one that is [paused](super::Handle::pause), which then goes on from
    /// power-on when it is resumed.
    ///
    /// # Errors
    /// `WrongState` if the machine is running, was stopped or is being reset; `InCallback` from one
    /// of its own devices; `Poisoned` and others as the machine ended with, if that was an error,
    /// as it can then not be relied on; what the loader says of the image. If a reset fails
    /// half-way, the machine has ended with that error.
    ///
    /// ```
    /// # use vmm_core::{Machine, boot::Flat, hv::script::{Access, Script}, machine::Outcome};
    /// # fn main() -> vmm_core::Result<()> {
    /// # let guest = Script::new([Access::port_out(0x608, &[1])]);
    /// # let builder = Machine::builder().hypervisor(guest).memory(1 << 20);
    /// # let builder = builder.boot(Flat::real_mode([0xf4]));
    /// let machine = builder.build()?;
    /// for _ in 0..3 {
    ///     assert_eq!(machine.run()?, Outcome::Reset);
    ///     machine.reset()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn reset(&self) -> Result<()> {
        let resetting = self.control.begin_reset()?;
        let done = self.power_on();
        resetting.finish(done)
    }

    /// What `reset` does while nobody else does anything.
    fn power_on(&self) -> Result<()> {
        let mut known = self.origin.power_on.lock().unwrap_or_else(PoisonError::into_inner);
        let power_on = match &mut *known {
            Some(power_on) => power_on,
            empty => empty.insert(self.origin.power_on()?),
        };
        self.board.reset()?;
        self.vm.restore(&mut StateReader::from_bytes(&power_on.vm)?)?;
        for (vcpu, state) in self.vcpus.iter().zip(&power_on.vcpus) {
            super::lock(vcpu).set_state(state)?;
        }
        self.memory.clear()?;
        let first = self.vcpus.first().ok_or_else(|| Error::internal("machine without vCPUs"))?;
        self.origin.load(&self.memory, &self.board, &mut **super::lock(first))
    }
}
