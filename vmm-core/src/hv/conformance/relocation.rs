//! A VM that is saved to bytes, thrown away, and made again from them over the same memory.

use super::{Failure, Setup, guest::Guest};
use crate::{
    arch::{CpuState, VcpuId},
    error::{Error, Result},
    hv::{IrqConfig, MemorySlot, Vcpu, VmConfig},
    persist::{Kind, StateReader, StateWriter},
};

const VCPU: Kind = Kind { name: "state", version: 1 };

/// Moves a guest with one vCPU.
pub(super) fn relocated(
    setup: &Setup<'_>,
    guest: Guest,
    irq: Option<IrqConfig>,
) -> Result<Guest, Failure> {
    relocated_with(setup, guest, Vec::new(), irq).map(|(guest, _)| guest)
}

/// Moves a guest and its further vCPUs, none of which runs.
pub(super) fn relocated_with(
    setup: &Setup<'_>,
    guest: Guest,
    others: Vec<Box<dyn Vcpu>>,
    irq: Option<IrqConfig>,
) -> Result<(Guest, Vec<Box<dyn Vcpu>>), Failure> {
    let memory = guest.memory.clone();
    let count = 1 + others.len() as u32;
    let bytes = saved(&guest, &others)?;
    // The old VM is gone before the new one is made: nothing can be shared by mistake.
    drop((guest, others));
    let vm = setup.hypervisor.create_vm(&VmConfig { vcpus: count, irq })?;
    for region in memory.regions() {
        vm.map(MemorySlot::whole(region))?;
    }
    let cpu = &setup.hypervisor.caps().cpu;
    let vcpus = (0..count).map(|id| vm.create_vcpu(VcpuId(id), cpu));
    let mut vcpus = vcpus.collect::<Result<Vec<_>>>()?;
    let mut from = StateReader::from_bytes(&bytes)?;
    vm.restore(&mut from)?;
    for (id, vcpu) in vcpus.iter_mut().enumerate() {
        let state: CpuState = from.scope(&scope(id), |from| from.take(VCPU))?;
        vcpu.set_state(&state)?;
    }
    from.finish()?;
    let mut vcpus = vcpus.into_iter();
    let vcpu = vcpus.next().ok_or_else(|| Error::internal("a VM has a vCPU"))?;
    Ok((Guest { vm, vcpu, memory }, vcpus.collect()))
}

/// The records of the VM and its vCPUs.
fn saved(guest: &Guest, others: &[Box<dyn Vcpu>]) -> Result<Vec<u8>> {
    let mut out = StateWriter::new();
    guest.vm.save(&mut out)?;
    for (id, vcpu) in [&guest.vcpu].into_iter().chain(others).enumerate() {
        let state = vcpu.state()?;
        out.scope(&scope(id), |out| out.put(VCPU, &state))?;
    }
    out.into_bytes()
}

fn scope(id: usize) -> String {
    format!("vcpu{id}")
}
