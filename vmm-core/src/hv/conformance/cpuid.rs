//! What the guest's CPUID instruction answers, in ring 0.

use super::{
    Failure, Limit, Setup,
    guest::{Guest, Plan, Recorder},
};
use crate::{
    arch::{CpuModel, CpuidLeaf, Feature, Regs, VcpuId},
    error::Result,
};

/// The vCPU that is looked at, and how many there are: the last of two, whose place in the topology
/// is not all zeros, if there can be two.
fn place(setup: &Setup<'_>) -> (VcpuId, u32) {
    if setup.limits.contains(&Limit::SeveralVcpus) { (VcpuId(0), 1) } else { (VcpuId(1), 2) }
}

/// Features to take away, of which every processor has some. Vector registers are not among them,
/// nor what any 64-bit processor has: user-mode KVM shows these whatever it is told.
const REMOVABLE: [Feature; 4] = [Feature::FSGSBASE, Feature::LAHF64, Feature::NX, Feature::RDRAND];

/// EAX, EBX, ECX and EDX.
type Answer = [u32; 4];

/// The vendor, the processor's name and signature are the model's; the place in the topology is the
/// vCPU's own; and a hypervisor is there.
pub(super) fn cpuid_shows_the_model_and_the_vcpu(setup: &Setup<'_>) -> Result<(), Failure> {
    let cpu = &setup.hypervisor.caps().cpu;
    let mut guest = guest_with(setup, cpu)?;
    let (id, vcpus) = place(setup);
    let leaves = cpu.for_vcpu(id, vcpus);
    // Of function 1 only EAX and EBX: the others are features, some of which depend on the guest's
    // state.
    let whole = [0, 0xb, 0x8000_0002, 0x8000_0003, 0x8000_0004].map(|function| (function, 4));
    for (function, registers) in whole.into_iter().chain([(1, 2)]) {
        for leaf in leaves.iter().filter(|leaf| leaf.function == function) {
            let answer = cpuid(&mut guest, function, leaf.index)?;
            let registers = ..registers;
            ensure_eq!(
                answer.get(registers),
                leaf.regs.get(registers),
                "CPUID function {function:#x}, index {}",
                leaf.index
            );
        }
    }
    let [_, ebx, ecx, _] = cpuid(&mut guest, 1, 0)?;
    ensure_eq!(ebx >> 24, id.0, "the APIC ID in CPUID function 1");
    ensure_eq!(ecx >> 31, 1, "the hypervisor bit");
    Ok(())
}

/// A feature that was taken from the model is absent, and its neighbours are not.
pub(super) fn a_feature_taken_from_the_model_is_absent(setup: &Setup<'_>) -> Result<(), Failure> {
    let cpu = &setup.hypervisor.caps().cpu;
    let present: Vec<_> = REMOVABLE.into_iter().filter(|feature| cpu.has(*feature)).collect();
    ensure!(!present.is_empty(), "the processor has none of {REMOVABLE:?}");
    for removed in present.iter().copied() {
        let mut guest = guest_with(setup, &cpu.clone().without(removed))?;
        let seen = features(&mut guest)?;
        for feature in present.iter().copied() {
            let expected = feature != removed;
            ensure_eq!(seen.has(feature), expected, "{feature} without {removed}");
        }
    }
    Ok(())
}

/// A guest whose vCPU is the one to be looked at, made of the model.
fn guest_with(setup: &Setup<'_>, cpu: &CpuModel) -> Result<Guest, Failure> {
    let (id, vcpus) = place(setup);
    let plan = Plan { vcpus, id, cpu: Some(cpu.clone()), ..Plan::default() };
    Guest::long_as(setup, &plan, program!("state_cpuid"))
}

fn cpuid(guest: &mut Guest, function: u32, index: u32) -> Result<Answer, Failure> {
    let regs = Regs { rax: function.into(), rcx: index.into(), ..Regs::default() };
    let Regs { rax, rbx, rcx, rdx, .. } = guest.perform(&Recorder::new(), 0, regs)?;
    Ok([rax, rbx, rcx, rdx].map(|register| register as u32))
}

/// The leaves with features, as the guest sees them.
fn features(guest: &mut Guest) -> Result<CpuModel, Failure> {
    let leaves = [1, 7, 0x8000_0001].map(|function| {
        let regs = cpuid(guest, function, 0)?;
        Ok(CpuidLeaf { function, index: 0, indexed: false, regs })
    });
    Ok(CpuModel::from_leaves(leaves.into_iter().collect::<Result<_, Failure>>()?))
}
