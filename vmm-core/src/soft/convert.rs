//! The software CPU's structures to ours and back.

use vmm_cpu::{Registers, State, Table};

use crate::{
    arch::{
        CpuState, CpuidLeaf, DebugRegs, DescriptorTable, Events, Exception, Interrupt, Nmi, Regs,
        RunState, Segment, SystemRegs, msr::MsrValue,
    },
    error::{Error, Result},
};

/// Where an XSAVE image says which components it holds, and the components there are.
const XSTATE_BV: usize = 512;
const COMPONENTS: u64 = 3;

pub(super) fn leaf_from_soft(leaf: &vmm_cpu::CpuidLeaf) -> CpuidLeaf {
    CpuidLeaf {
        function: leaf.function,
        index: leaf.index.unwrap_or(0),
        indexed: leaf.index.is_some(),
        regs: leaf.regs,
    }
}

pub(super) fn leaf_to_soft(leaf: &CpuidLeaf) -> vmm_cpu::CpuidLeaf {
    let index = leaf.indexed.then_some(leaf.index);
    vmm_cpu::CpuidLeaf { function: leaf.function, index, regs: leaf.regs }
}

pub(super) fn regs_from_soft(soft: &Registers) -> Regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
        soft.general;
    Regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: soft.rip,
        rflags: soft.rflags,
    }
}

pub(super) fn regs_to_soft(regs: &Regs) -> Registers {
    let Regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, .. } = *regs;
    let Regs { r14, r15, rip, rflags, .. } = *regs;
    let general = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    Registers { general, rip, rflags }
}

fn segment_from_soft(soft: &vmm_cpu::Segment) -> Segment {
    let bit = |n: u32| soft.rights >> n & 1 == 1;
    Segment {
        selector: soft.selector,
        base: soft.base,
        limit: soft.limit,
        kind: soft.rights as u8 & 15,
        code_or_data: bit(4),
        dpl: (soft.rights >> 5) as u8 & 3,
        present: bit(7),
        avl: bit(12),
        long: bit(13),
        big: bit(14),
        granular: bit(15),
        unusable: bit(16),
    }
}

fn segment_to_soft(segment: &Segment) -> vmm_cpu::Segment {
    let bit = |on: bool, n: u32| u32::from(on) << n;
    let rights = u32::from(segment.kind & 15)
        | bit(segment.code_or_data, 4)
        | u32::from(segment.dpl & 3) << 5
        | bit(segment.present, 7)
        | bit(segment.avl, 12)
        | bit(segment.long, 13)
        | bit(segment.big, 14)
        | bit(segment.granular, 15)
        | bit(segment.unusable, 16);
    let Segment { selector, base, limit, .. } = *segment;
    vmm_cpu::Segment { selector, base, limit, rights }
}

pub(super) fn system_from_soft(soft: &State, apic_base: u64) -> SystemRegs {
    let [es, cs, ss, ds, fs, gs] = soft.segments.map(|segment| segment_from_soft(&segment));
    let table = |table: Table| DescriptorTable { base: table.base, limit: table.limit };
    SystemRegs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment_from_soft(&soft.tr),
        ldt: segment_from_soft(&soft.ldtr),
        gdt: table(soft.gdtr),
        idt: table(soft.idtr),
        cr0: soft.cr0,
        cr2: soft.cr2,
        cr3: soft.cr3,
        cr4: soft.cr4,
        cr8: soft.cr8,
        efer: soft.efer,
        apic_base,
    }
}

pub(super) fn system_to_soft(regs: &SystemRegs, soft: &mut State) {
    let table = |table: DescriptorTable| Table { base: table.base, limit: table.limit };
    let segments = [regs.es, regs.cs, regs.ss, regs.ds, regs.fs, regs.gs];
    soft.segments = segments.map(|segment| segment_to_soft(&segment));
    (soft.tr, soft.ldtr) = (segment_to_soft(&regs.tr), segment_to_soft(&regs.ldt));
    (soft.gdtr, soft.idtr) = (table(regs.gdt), table(regs.idt));
    (soft.cr0, soft.cr2, soft.cr3) = (regs.cr0, regs.cr2, regs.cr3);
    (soft.cr4, soft.cr8, soft.efer) = (regs.cr4, regs.cr8, regs.efer);
}

pub(super) fn state_from_soft(soft: &State, apic_base: u64, tsc_khz: u32) -> CpuState {
    let msr = |&(index, value)| MsrValue { index, value };
    CpuState {
        run_state: RunState::Running,
        regs: regs_from_soft(&soft.registers),
        system: system_from_soft(soft, apic_base),
        xcr0: Some(soft.xcr0),
        xsave: soft.xsave.clone(),
        debug: DebugRegs { db: soft.dr, dr6: soft.dr6, dr7: soft.dr7 },
        lapic: None,
        tsc_khz: Some(tsc_khz),
        msrs: soft.msrs.iter().map(msr).collect(),
        events: events_from_soft(soft),
    }
}

fn events_from_soft(soft: &State) -> Events {
    let exception = |(vector, error_code)| Exception { vector, error_code };
    Events {
        exception: soft.exception.map(exception),
        interrupt: soft.interrupt.map(|vector| Interrupt { vector, soft: false }),
        nmi: Nmi { injected: false, pending: soft.nmi.into(), masked: soft.nmi_blocked },
        shadow: soft.shadow.into(),
    }
}

/// Whether a register has the value of power-on.
fn is_untouched(msr: &MsrValue) -> bool {
    /// KVM_POLL_CONTROL: the host may poll in HLT.
    const POLL_CONTROL: u32 = 0x4b56_4d05;
    msr.value == u64::from(msr.index == POLL_CONTROL)
}

/// # Errors
/// `Incompatible` with what the software CPU does not have.
pub(super) fn state_to_soft(state: &CpuState) -> Result<State> {
    let refuse = |what: &str| Err(Error::incompatible(format!("{what}: not on the software CPU")));
    if state.run_state != RunState::Running {
        return refuse("a vCPU that waits");
    }
    if state.lapic.is_some() {
        return refuse("a local APIC");
    }
    let Events { exception, interrupt, nmi, shadow } = state.events;
    if interrupt.is_some_and(|interrupt| interrupt.soft) {
        return refuse("an INT instruction on its way");
    }
    if state.tsc_khz == Some(0) {
        return refuse("a time-stamp counter that stands still");
    }
    let fresh = State::default();
    // A register of other hypervisors that nobody has touched need not be there.
    let known = |msr: &&MsrValue| {
        !is_untouched(msr) || fresh.msrs.iter().any(|(index, _)| *index == msr.index)
    };
    let mut soft = State {
        registers: regs_to_soft(&state.regs),
        xcr0: state.xcr0.unwrap_or(1),
        dr: state.debug.db,
        dr6: state.debug.dr6,
        dr7: state.debug.dr7,
        msrs: state.msrs.iter().filter(known).map(|msr| (msr.index, msr.value)).collect(),
        shadow: shadow != 0,
        exception: exception.map(|exception| (exception.vector, exception.error_code)),
        interrupt: interrupt.map(|interrupt| interrupt.vector),
        // One on its way has not arrived yet.
        nmi: nmi.pending != 0 || nmi.injected,
        nmi_blocked: nmi.masked && !nmi.injected,
        ..fresh
    };
    system_to_soft(&state.system, &mut soft);
    let held = state.xsave.get(XSTATE_BV..XSTATE_BV + 8);
    let held = held.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    match held {
        Some(held) if held & !COMPONENTS == 0 => {}
        Some(held) => return refuse(&format!("state components {held:#x}")),
        None => return refuse("an XSAVE image without a header"),
    }
    soft.xsave =
        state.xsave.iter().copied().chain([0; State::XSAVE_LEN]).take(State::XSAVE_LEN).collect();
    Ok(soft)
}
