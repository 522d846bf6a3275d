//! From a description to a machine, in phases: check, memory, VM, board, vCPUs, image.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use super::{
    Account, Accounting, Board, Control, Device, Machine, Slot, device::Wiring, power::Power,
    reset::Origin,
};
use crate::{
    arch::CpuModel,
    boot::Loader,
    error::{Context, Error, Result},
    hv::{Hypervisor, IrqConfig, MemorySlot, VmConfig},
    memory::GuestMemory,
};

/// The description of a machine. Hypervisor, memory and something to boot must be given; the rest
/// has defaults: one vCPU, the hypervisor's processor, a PC's interrupt controllers, no devices.
#[derive(Default)]
#[must_use]
pub struct Builder {
    hypervisor: Option<Arc<dyn Hypervisor>>,
    memory: Option<Memory>,
    boot: Option<Box<dyn Loader>>,
    devices: Vec<Box<dyn Device>>,
    config: VmConfig,
    cpu: Option<CpuModel>,
    accounting: Option<Accounting>,
}

enum Memory {
    Size(u64),
    Given(GuestMemory),
}

impl Builder {
    /// What runs the vCPUs: a choice of [`host::best`](crate::host::best), a
    /// [`Kvm`](crate::kvm::Kvm), or another.
    pub fn hypervisor(mut self, hypervisor: impl Into<Arc<dyn Hypervisor>>) -> Self {
        self.hypervisor = Some(hypervisor.into());
        self
    }

    /// Zeroed RAM of `size` bytes, a multiple of 4096; what passes 3 GiB continues above 4 GiB.
    pub fn memory(mut self, size: u64) -> Self {
        self.memory = Some(Memory::Size(size));
        self
    }

    /// RAM that was made elsewhere.
    pub fn guest_memory(mut self, memory: GuestMemory) -> Self {
        self.memory = Some(Memory::Given(memory));
        self
    }

    /// The number of vCPUs; 1 unless said otherwise.
    pub fn vcpus(mut self, count: u32) -> Self {
        self.config.vcpus = count;
        self
    }

    /// The processor the guest sees; [`Caps::cpu`](crate::hv::Caps::cpu) unless said otherwise.
    pub fn cpu(mut self, cpu: CpuModel) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// The interrupt controllers; `None` for a guest that needs none, whose HLT ends the run.
    pub fn interrupts(mut self, irq: Option<IrqConfig>) -> Self {
        self.config.irq = irq;
        self
    }

    /// What to boot.
    pub fn boot(mut self, loader: impl Loader + 'static) -> Self {
        self.boot = Some(Box::new(loader));
        self
    }

    /// One more device. Devices are plugged in the order they are given.
    pub fn device(mut self, device: impl Device + 'static) -> Self {
        self.devices.push(Box::new(device));
        self
    }

    /// Keeps an account of exits and virtio devices, for [`Machine::exits`]. Costs an atomic addition or two an exit,
    /// with times two looks at the clock.
    pub fn account(mut self, accounting: Accounting) -> Self {
        self.accounting = Some(accounting);
        self
    }

    /// Makes the machine; its guest has executed nothing yet.
    ///
    /// # Errors
    /// `BadConfig` if something is missing, out of range or overlaps; `BadImage` from the loader;
    /// what a device gave, with its name; `Host` if the hypervisor fails. Nothing stays behind.
    pub fn build(self) -> Result<Machine> {
        let missing = |what| Error::bad_config(format!("machine without {what}"));
        let hypervisor = self.hypervisor.ok_or_else(|| missing("a hypervisor"))?;
        let memory = self.memory.ok_or_else(|| missing("memory"))?;
        let loader = self.boot.ok_or_else(|| missing("anything to boot"))?;
        let caps = hypervisor.caps();
        check_vcpus(self.config.vcpus, hypervisor.name(), caps.max_vcpus)?;
        if self.config.irq.is_none() && self.config.vcpus > 1 {
            // Nothing could start the others: that takes an interrupt.
            let count = self.config.vcpus;
            let why = format!("machine with {count} vCPUs and no interrupt controllers");
            return Err(Error::bad_config(why));
        }

        let memory = match memory {
            Memory::Size(size) => GuestMemory::anonymous(size).context(|| "guest memory")?,
            Memory::Given(memory) => memory,
        };
        let has_irqs = self.config.irq.is_some();
        let origin = Origin::new(hypervisor, self.config, self.cpu, loader);
        let vm = origin.create_vm()?;
        for region in memory.regions() {
            vm.map(MemorySlot::whole(region))?;
        }
        let account = self.accounting.map(|accounting| Arc::new(Account::new(accounting)));
        let mut board = Board::new(vm.irqs(), account.clone());
        let mut wiring =
            Wiring { vm: Arc::clone(&vm), control: Arc::new(Control::new()?), reactor: None };
        let power = has_irqs.then(|| Box::new(Power::default()) as Box<dyn Device>);
        for device in power.into_iter().chain(self.devices) {
            plug(device, &mut board, &memory, &mut wiring)?;
        }
        let mut vcpus = origin.create_vcpus(&*vm)?;
        if let Some(first) = vcpus.first_mut() {
            origin.load(&memory, &board, &mut **first)?;
        }
        let Wiring { control, reactor, .. } = wiring;
        control.set_kickers(vcpus.iter().map(|vcpu| vcpu.kicker()).collect());
        let vcpus = vcpus.into_iter().map(Mutex::new).collect();
        Ok(Machine { vcpus, vm, board, memory, account, control, origin, reactor })
    }
}

fn check_vcpus(count: u32, hypervisor: &str, max: u32) -> Result<()> {
    match count {
        0 => Err(Error::bad_config("machine with 0 vCPUs")),
        n if n > max => Err(Error::bad_config(format!(
            "machine with {n} vCPUs: {hypervisor} on this host has at most {max}"
        ))),
        _ => Ok(()),
    }
}

fn plug(
    device: Box<dyn Device>,
    board: &mut Board,
    memory: &GuestMemory,
    wiring: &mut Wiring,
) -> Result<()> {
    let name = device.name().to_owned();
    let plugged = device.plug(&mut Slot::new(board, memory, wiring, &name));
    plugged.context(|| format!("device '{name}'"))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<_> = self.devices.iter().map(|device| device.name()).collect();
        let mut shown = f.debug_struct("Builder");
        shown.field("config", &self.config).field("devices", &devices).finish_non_exhaustive()
    }
}
