//! The CPU in software (`vmm-cpu`) as a hypervisor: guests run on any host, without `/dev/kvm`.
//!
//! Slower than a processor, and the same everywhere. What is built: vCPUs in any mode but
//! virtual-8086 mode, with or without the interrupt controllers of a PC.
//!
//! A thread runs each vCPU and nothing else: timers are looked at between instructions, and HLT
//! waits for the next one. A foreign signal ends `run` only while it waits: no system call tells that
//! one was handled, and to block signals and look for them would keep the caller's handlers from
//! running at once.

mod clock;
mod convert;
mod doorbell;
mod gate;
mod irqchip;
mod irqs;
mod layout;
mod local;
mod pvclock;
mod vcpu;
mod vm;

use std::sync::Arc;

use self::vm::SoftVm;
use crate::{
    arch::{CpuModel, Feature},
    error::{Error, Result},
    hv::{Caps, Hypervisor, Vm, VmConfig},
};

/// The most memory slots of a VM: looked up in a sorted list, so that this is no limit of principle.
const MOST_SLOTS: u32 = 512;

/// The software CPU as a hypervisor.
#[derive(Debug)]
pub struct Soft {
    caps: Caps,
}

impl Soft {
    /// The software CPU of this build; there is nothing to be opened.
    ///
    /// # Errors
    /// `Unsupported` if the library was built without it.
    pub fn new() -> Result<Self> {
        let leaves = vmm_cpu::CpuidLeaf::supported();
        let leaves = leaves.iter().map(convert::leaf_from_soft).chain(pvclock::leaves());
        let cpu = CpuModel::from_leaves(leaves.collect());
        let apic = [Feature::APIC, Feature::X2APIC, Feature::TSC_DEADLINE];
        Ok(Self {
            caps: Caps {
                max_vcpus: gate::MOST_VCPUS,
                max_slots: MOST_SLOTS,
                irq: true,
                doorbells: true,
                dirty_log: true,
                read_only: true,
                cpu: apic.into_iter().fold(cpu, CpuModel::with),
            },
        })
    }
}

impl Hypervisor for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        let (count, most) = (config.vcpus, self.caps.max_vcpus);
        if !(1..=most).contains(&count) {
            return Err(Error::bad_config(format!("VM with {count} vCPUs: soft has 1 to {most}")));
        }
        Ok(Arc::new(SoftVm::new(config)))
    }
}

impl From<Soft> for Arc<dyn Hypervisor> {
    fn from(soft: Soft) -> Self {
        Arc::new(soft)
    }
}
