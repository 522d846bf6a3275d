//! Which instruction codes can be put to the test.

use std::{arch::x86_64::__cpuid, sync::LazyLock};

use iced_x86::{Code, FlowControl, Mnemonic, OpCodeOperandKind};

use crate::features;

/// Why a code is left out; `None` if it is not.
pub fn why_not(code: Code) -> Option<&'static str> {
    let op = code.op_code();
    if !op.mode64() || !op.is_instruction() || op.fwait() {
        return Some("not an instruction of 64-bit mode");
    }
    if op.is_privileged() || !op.cpl3() {
        return Some("privileged");
    }
    if !op.amd_decoder64() || !op.intel_decoder64() && !is_amd() {
        return Some("this vendor does not have it in 64-bit mode");
    }
    let loads_segment = op.op_kinds().iter().take(1).any(|kind| {
        use OpCodeOperandKind as K;
        let segment = matches!(kind, K::seg_reg | K::es | K::ss | K::ds | K::fs | K::gs);
        segment && matches!(code.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
    });
    let far = matches!(
        code,
        Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
            | Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
    );
    if is_system(code.mnemonic()) || loads_segment || far {
        return Some("the system's: its result depends on tables or modes, or it leaves user code");
    }
    if code.mnemonic() == Mnemonic::Ud1 {
        return Some("not all processors fetch all of it before they say that it is none");
    }
    if is_unsteady(code.mnemonic()) {
        return Some("its result is not the same twice, or not the same on two processors");
    }
    if matches!(code.flow_control(), FlowControl::XbeginXabortXend | FlowControl::Interrupt)
        && code != Code::Int3
    {
        return Some("transactions and software interrupts");
    }
    let features = code.cpuid_features();
    if !features.iter().all(|feature| features::is_ours(*feature)) {
        return Some("the software CPU does not report it");
    }
    if !features.iter().all(|feature| features::is_the_host_s(*feature)) {
        return Some("this processor does not have it");
    }
    None
}

/// Its result depends on tables or modes, or it leaves user code.
fn is_system(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::In
            | M::Out
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Lfs
            | M::Lgs
            | M::Lss
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Sysretq
            | M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysret
            | M::Int
            | M::Int1
            | M::Cli
            | M::Sti
            | M::Monitorx
            | M::Mwaitx
            | M::Umonitor
            | M::Umwait
            | M::Tpause
            | M::Vmcall
            | M::Vmmcall
            | M::Vmfunc
            | M::Xgetbv
            | M::Enqcmd
            | M::Ptwrite
            | M::Senduipi
            | M::Clui
            | M::Stui
            | M::Testui
            | M::Uiret
            | M::Getsec
            | M::Rdpkru
            | M::Wrpkru
    )
}

/// Its result is not the same twice.
fn is_unsteady(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdrand
            | M::Rdseed
            | M::Rdpid
            | M::Rdpmc
            | M::Rdpru
            | M::Xbegin
            | M::Xabort
            | M::Xend
            | M::Xtest
    )
}

/// Whether the processor is of the vendor that the software CPU follows where vendors differ.
pub fn is_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Whether the processor has MXCSR.MM, which lets operands of 16 bytes be misaligned.
pub fn may_misalign() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| __cpuid(0x8000_0001).ecx >> 7 & 1 != 0);
    *HAS
}

/// Whether the instruction's operands can be in memory, and can be in registers alone.
pub fn forms(code: Code) -> (bool, bool) {
    use OpCodeOperandKind as K;
    let (mut memory, mut registers) = (false, true);
    if is_prefetch(code) {
        return (memory, registers);
    }
    for kind in code.op_code().op_kinds() {
        match kind {
            K::mem | K::mem_offs | K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al => {
                (memory, registers) = (true, false);
            }
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem => memory = true,
            _ => {}
        }
    }
    (memory, registers)
}

/// What is PREFETCH with an operand in memory, and has a code of its own then.
fn is_prefetch(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

/// The codes that are put to the test.
pub fn candidates() -> Vec<Code> {
    Code::values().filter(|code| why_not(*code).is_none()).collect()
}
