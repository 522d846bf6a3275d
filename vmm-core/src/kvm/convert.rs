//! Between KVM's structures and ours: registers, segments, CPUID, events.

use kvm_bindings::{
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, kvm_cpuid_entry2, kvm_debugregs, kvm_dtable, kvm_mp_state,
    kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
};

use crate::{
    arch::{
        CpuidLeaf, DebugRegs, DescriptorTable, Events, Exception, Interrupt, Nmi, Regs, RunState,
        Segment, SystemRegs,
    },
    error::{Error, Result},
};

pub(super) fn cpuid_from_kvm(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf {
        function: entry.function,
        index: entry.index,
        indexed: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        regs: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    }
}

pub(super) fn cpuid_to_kvm(leaf: &CpuidLeaf) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = leaf.regs;
    kvm_cpuid_entry2 {
        function: leaf.function,
        index: leaf.index,
        flags: if leaf.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

same_fields!(regs_to_kvm, regs_from_kvm: kvm_regs <=> Regs {
    rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
});

fn segment_to_kvm(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.big.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granular.into(),
        avl: segment.avl.into(),
        unusable: segment.unusable.into(),
        padding: 0,
    }
}

fn segment_from_kvm(segment: &kvm_segment) -> Segment {
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        kind: segment.type_,
        code_or_data: segment.s != 0,
        dpl: segment.dpl,
        present: segment.present != 0,
        avl: segment.avl != 0,
        long: segment.l != 0,
        big: segment.db != 0,
        granular: segment.g != 0,
        unusable: segment.unusable != 0,
    }
}

fn table_to_kvm(table: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..Default::default() }
}

fn table_from_kvm(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

pub(super) fn system_to_kvm(regs: &SystemRegs) -> kvm_sregs {
    kvm_sregs {
        cs: segment_to_kvm(&regs.cs),
        ds: segment_to_kvm(&regs.ds),
        es: segment_to_kvm(&regs.es),
        fs: segment_to_kvm(&regs.fs),
        gs: segment_to_kvm(&regs.gs),
        ss: segment_to_kvm(&regs.ss),
        tr: segment_to_kvm(&regs.tr),
        ldt: segment_to_kvm(&regs.ldt),
        gdt: table_to_kvm(&regs.gdt),
        idt: table_to_kvm(&regs.idt),
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
        // An interrupt on its way travels with the events.
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn system_from_kvm(regs: &kvm_sregs) -> SystemRegs {
    SystemRegs {
        cs: segment_from_kvm(&regs.cs),
        ds: segment_from_kvm(&regs.ds),
        es: segment_from_kvm(&regs.es),
        fs: segment_from_kvm(&regs.fs),
        gs: segment_from_kvm(&regs.gs),
        ss: segment_from_kvm(&regs.ss),
        tr: segment_from_kvm(&regs.tr),
        ldt: segment_from_kvm(&regs.ldt),
        gdt: table_from_kvm(&regs.gdt),
        idt: table_from_kvm(&regs.idt),
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
    }
}

pub(super) fn debug_to_kvm(regs: &DebugRegs) -> kvm_debugregs {
    kvm_debugregs { db: regs.db, dr6: regs.dr6, dr7: regs.dr7, ..Default::default() }
}

pub(super) fn debug_from_kvm(regs: &kvm_debugregs) -> DebugRegs {
    DebugRegs { db: regs.db, dr6: regs.dr6, dr7: regs.dr7 }
}

pub(super) fn run_state_to_kvm(state: RunState) -> kvm_mp_state {
    let mp_state = match state {
        RunState::Running => KVM_MP_STATE_RUNNABLE,
        RunState::Halted => KVM_MP_STATE_HALTED,
        RunState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        RunState::InitReceived => KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

pub(super) fn run_state_from_kvm(state: kvm_mp_state) -> Result<RunState> {
    match state.mp_state {
        KVM_MP_STATE_RUNNABLE => Ok(RunState::Running),
        KVM_MP_STATE_HALTED => Ok(RunState::Halted),
        KVM_MP_STATE_UNINITIALIZED => Ok(RunState::Uninitialized),
        KVM_MP_STATE_INIT_RECEIVED => Ok(RunState::InitReceived),
        // SIPI_RECEIVED is not seen: reading the state makes the vCPU act on the SIPI.
        other => Err(Error::internal(format!("KVM_GET_MP_STATE gave {other}"))),
    }
}

pub(super) fn events_to_kvm(events: &Events) -> kvm_vcpu_events {
    let mut kvm = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some(exception) = &events.exception {
        kvm.exception.injected = 1;
        kvm.exception.nr = exception.vector;
        kvm.exception.has_error_code = exception.error_code.is_some().into();
        kvm.exception.error_code = exception.error_code.unwrap_or(0);
    }
    if let Some(interrupt) = &events.interrupt {
        kvm.interrupt.injected = 1;
        kvm.interrupt.nr = interrupt.vector;
        kvm.interrupt.soft = interrupt.soft.into();
    }
    kvm.interrupt.shadow = events.shadow;
    kvm.nmi.injected = events.nmi.injected.into();
    kvm.nmi.pending = events.nmi.pending;
    kvm.nmi.masked = events.nmi.masked.into();
    kvm
}

pub(super) fn events_from_kvm(kvm: &kvm_vcpu_events) -> Events {
    let exception = (kvm.exception.injected != 0).then(|| Exception {
        vector: kvm.exception.nr,
        error_code: (kvm.exception.has_error_code != 0).then_some(kvm.exception.error_code),
    });
    let interrupt = (kvm.interrupt.injected != 0)
        .then_some(Interrupt { vector: kvm.interrupt.nr, soft: kvm.interrupt.soft != 0 });
    Events {
        exception,
        interrupt,
        nmi: Nmi {
            injected: kvm.nmi.injected != 0,
            pending: kvm.nmi.pending,
            masked: kvm.nmi.masked != 0,
        },
        shadow: kvm.interrupt.shadow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_kvm_and_back() {
        let regs = Regs { rax: 1, r15: 2, rip: 3, rflags: 4, ..Regs::default() };
        assert_eq!(regs_from_kvm(&regs_to_kvm(&regs)), regs);
        let system = SystemRegs { cr2: 5, efer: 6, ..SystemRegs::real_mode() };
        assert_eq!(system_from_kvm(&system_to_kvm(&system)), system);
        let events = Events {
            exception: Some(Exception { vector: 14, error_code: Some(2) }),
            interrupt: Some(Interrupt { vector: 0x30, soft: true }),
            nmi: Nmi { injected: false, pending: 1, masked: true },
            shadow: 2,
        };
        assert_eq!(events_from_kvm(&events_to_kvm(&events)), events);
        let leaf = CpuidLeaf { function: 7, index: 1, indexed: true, regs: [1, 2, 3, 4] };
        assert_eq!(cpuid_from_kvm(&cpuid_to_kvm(&leaf)), leaf);
    }
}
