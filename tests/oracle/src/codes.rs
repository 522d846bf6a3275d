//! Which instruction codes can be put to the test.

use std::{arch::x86_64::__cpuid, sync::LazyLock};

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind};

/// Why a code is left out; `None` if it is not.
pub fn why_not(code: Code) -> Option<&'static str> {
    let op = code.op_code();
    if !op.mode64() || !op.is_instruction() || op.fwait() {
        return Some("not an instruction of 64-bit mode");
    }
    if !matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return Some("EVEX, XOP and the like are not built");
    }
    if op.is_privileged() || !op.cpl3() {
        return Some("privileged");
    }
    if op.intel_decoder64() != op.amd_decoder64() {
        return Some("only one vendor has it in 64-bit mode");
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
    if is_unsteady(code.mnemonic()) {
        return Some("its result is not the same twice, or not the same on two processors");
    }
    if matches!(code.flow_control(), FlowControl::XbeginXabortXend | FlowControl::Interrupt)
        && code != Code::Int3
    {
        return Some("transactions and software interrupts");
    }
    if !code.cpuid_features().iter().all(|feature| host_has(*feature)) {
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

/// Whether the processor has this feature. Those the software CPU will not have are not asked for.
fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
        F::FPU | F::FPU287 | F::FPU387 | F::MULTIBYTENOP | F::PAUSE | F::CMOV | F::CPUID => true,
        F::MMX | F::FXSR | F::SSE | F::SSE2 | F::CLFSH | F::CX8 => true,
        F::SSE3 => is_x86_feature_detected!("sse3"),
        F::SSSE3 => is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        F::SSE4A => is_x86_feature_detected!("sse4a"),
        F::POPCNT => is_x86_feature_detected!("popcnt"),
        F::LZCNT => is_x86_feature_detected!("lzcnt"),
        F::BMI1 => is_x86_feature_detected!("bmi1"),
        F::BMI2 => is_x86_feature_detected!("bmi2"),
        F::ADX => is_x86_feature_detected!("adx"),
        F::MOVBE => is_x86_feature_detected!("movbe"),
        F::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        F::XSAVE => is_x86_feature_detected!("xsave"),
        F::XSAVEOPT => is_x86_feature_detected!("xsaveopt"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        // FSGSBASE needs the kernel's leave, which FS and GS of the runner need as well.
        F::FSGSBASE | F::PREFETCHW => true,
        // LAHF and SAHF in 64-bit mode: all but the first processors.
        _ => false,
    }
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

/// The codes that are put to the test, if they are built.
pub fn candidates() -> Vec<Code> {
    Code::values().filter(|code| why_not(*code).is_none()).collect()
}
