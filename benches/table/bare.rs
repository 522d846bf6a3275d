//! The floor: the same system calls as `vmm-core` makes, with nothing around them.
#![expect(unsafe_code, reason = "the floor is the bare ioctl")]

use std::os::raw::c_void;

use kvm_bindings::{
    CpuId, KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_core::{
    arch::VcpuId,
    boot::{BoardInfo, Flat, Loader},
    hv::Hypervisor,
    memory::GuestMemory,
};

/// An open KVM and the CPUID every vCPU is given, like a `vmm_core::kvm::Kvm`.
pub(crate) struct Bare {
    kvm: Kvm,
    cpuid: CpuId,
}

/// A VM with one vCPU.
pub(crate) struct BareVm {
    pub(crate) vcpu: VcpuFd,
    vm: VmFd,
    pub(crate) memory: GuestMemory,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let model = vmm_core::kvm::Kvm::open().unwrap().caps().cpu.clone();
        let entries: Vec<_> = model
            .for_vcpu(VcpuId(0), 1)
            .iter()
            .map(|leaf| kvm_bindings::kvm_cpuid_entry2 {
                function: leaf.function,
                index: leaf.index,
                flags: u32::from(leaf.indexed),
                eax: leaf.regs[0],
                ebx: leaf.regs[1],
                ecx: leaf.regs[2],
                edx: leaf.regs[3],
                ..Default::default()
            })
            .collect();
        Self { kvm: Kvm::new().unwrap(), cpuid: CpuId::from_entries(&entries).unwrap() }
    }

    /// A VM with `size` bytes of RAM and a flat image in it, ready to run.
    pub(crate) fn vm(&self, size: u64, irqchip: bool, image: &Flat) -> BareVm {
        let vm = self.kvm.create_vm().unwrap();
        if irqchip {
            vm.set_tss_address(0xfffb_d000).unwrap();
            vm.set_identity_map_address(0xfffb_c000).unwrap();
            vm.create_irq_chip().unwrap();
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            vm.create_pit2(pit).unwrap();
        }
        let memory = GuestMemory::anonymous(size).unwrap();
        // SAFETY: the memory lives as long as the VM, in the same structure.
        unsafe { vm.set_user_memory_region(slot(&memory, 0)) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&self.cpuid).unwrap();
        let entry = image.load(&memory, &BoardInfo::new(1)).unwrap();
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector, sregs.cr0) = (0, 0, entry.system.cr0);
        vcpu.set_sregs(&sregs).unwrap();
        let mut regs = vcpu.get_regs().unwrap();
        (regs.rip, regs.rsp, regs.rflags) = (entry.regs.rip, entry.regs.rsp, entry.regs.rflags);
        vcpu.set_regs(&regs).unwrap();
        BareVm { vcpu, vm, memory }
    }
}

fn slot(memory: &GuestMemory, flags: u32) -> kvm_userspace_memory_region {
    let region = &memory.regions()[0];
    let host: *mut c_void = region.host_address().cast();
    kvm_userspace_memory_region {
        slot: 0,
        flags,
        guest_phys_addr: 0,
        memory_size: memory.size(),
        userspace_addr: host.addr() as u64,
    }
}

/// What a program can change of a vCPU.
pub(crate) struct Registers {
    general: kvm_regs,
    system: kvm_sregs,
    vectors: kvm_xsave,
    events: kvm_vcpu_events,
}

impl BareVm {
    /// Which pages are written is noted from now on.
    pub(crate) fn log(&self) {
        let slot = slot(&self.memory, KVM_MEM_LOG_DIRTY_PAGES);
        // SAFETY: as before; only what is noted of the slot changes.
        unsafe { self.vm.set_user_memory_region(slot) }.unwrap();
    }

    /// The numbers of the pages that were written since this was asked last.
    pub(crate) fn written(&self) -> impl Iterator<Item = u64> {
        let words = self.vm.get_dirty_log(0, self.memory.size() as usize).unwrap();
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 != 0);
        let all = words.into_iter().zip(0_u64..).filter(|(word, _)| *word != 0);
        all.flat_map(move |(word, n)| bits(word).map(move |bit| 64 * n + bit))
    }

    pub(crate) fn registers(&self) -> Registers {
        Registers {
            general: self.vcpu.get_regs().unwrap(),
            system: self.vcpu.get_sregs().unwrap(),
            vectors: self.vcpu.get_xsave().unwrap(),
            events: self.vcpu.get_vcpu_events().unwrap(),
        }
    }

    pub(crate) fn set_registers(&self, to: &Registers) {
        self.vcpu.set_regs(&to.general).unwrap();
        self.vcpu.set_sregs(&to.system).unwrap();
        // SAFETY: the kernel reads as much as it has given, for no feature with more was asked for.
        unsafe { self.vcpu.set_xsave(&to.vectors) }.unwrap();
        self.vcpu.set_vcpu_events(&to.events).unwrap();
    }
}
