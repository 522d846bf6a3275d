//! What CPUID says for each feature that instructions belong to, of either side.

use std::{arch::x86_64::__cpuid_count, sync::LazyLock};

use iced_x86::CpuidFeature;
use vmm_cpu::CpuidLeaf;

/// Where CPUID tells of a feature: function, index, register (EAX is 0), bit.
pub type Bit = (u32, u32, usize, u32);

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Where CPUID tells of a feature of `iced-x86`.
enum Told {
    /// No processor with 64-bit mode is without it.
    Always,
    By(Bit),
    /// Nobody asks: the software CPU will not have it, or only processors of the past do.
    Never,
}

/// Whether the software CPU reports this feature.
pub fn is_ours(feature: CpuidFeature) -> bool {
    static LEAVES: LazyLock<Vec<CpuidLeaf>> = LazyLock::new(CpuidLeaf::supported);
    is_there(feature, |function, index| {
        let asked =
            |leaf: &&CpuidLeaf| leaf.function == function && leaf.index.unwrap_or(index) == index;
        LEAVES.iter().find(asked).map_or([0; 4], |leaf| leaf.regs)
    })
}

/// Whether this processor reports it.
pub fn is_the_host_s(feature: CpuidFeature) -> bool {
    // FSGSBASE needs the kernel's leave, which FS and GS of the runner need as well.
    is_there(feature, |function, index| {
        let leaf = __cpuid_count(function, index);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    })
}

fn is_there(feature: CpuidFeature, answer: impl Fn(u32, u32) -> [u32; 4]) -> bool {
    match told(feature) {
        Told::Always => true,
        Told::By((function, index, register, bit)) => {
            answer(function, index)[register] >> bit & 1 != 0
        }
        Told::Never => false,
    }
}

fn told(feature: CpuidFeature) -> Told {
    use CpuidFeature as F;
    let bit = match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 => {
            return Told::Always;
        }
        F::CPUID | F::FPU287 | F::FPU387 | F::MULTIBYTENOP | F::PAUSE | F::RDPMC | F::X64 => {
            return Told::Always;
        }
        F::FPU => (1, 0, EDX, 0),
        F::TSC => (1, 0, EDX, 4),
        F::MSR => (1, 0, EDX, 5),
        F::CX8 => (1, 0, EDX, 8),
        F::SEP => (1, 0, EDX, 11),
        F::CMOV => (1, 0, EDX, 15),
        F::CLFSH => (1, 0, EDX, 19),
        F::MMX => (1, 0, EDX, 23),
        F::FXSR => (1, 0, EDX, 24),
        F::SSE => (1, 0, EDX, 25),
        F::SSE2 => (1, 0, EDX, 26),
        F::SSE3 => (1, 0, ECX, 0),
        F::PCLMULQDQ => (1, 0, ECX, 1),
        F::MONITOR => (1, 0, ECX, 3),
        F::SSSE3 => (1, 0, ECX, 9),
        F::CMPXCHG16B => (1, 0, ECX, 13),
        F::SSE4_1 => (1, 0, ECX, 19),
        F::SSE4_2 => (1, 0, ECX, 20),
        F::MOVBE => (1, 0, ECX, 22),
        F::POPCNT => (1, 0, ECX, 23),
        F::AES => (1, 0, ECX, 25),
        F::XSAVE => (1, 0, ECX, 26),
        F::RDRAND => (1, 0, ECX, 30),
        F::FSGSBASE => (7, 0, EBX, 0),
        F::BMI1 => (7, 0, EBX, 3),
        F::BMI2 => (7, 0, EBX, 8),
        F::INVPCID => (7, 0, EBX, 10),
        F::RDSEED => (7, 0, EBX, 18),
        F::ADX => (7, 0, EBX, 19),
        F::SMAP => (7, 0, EBX, 20),
        F::CLFLUSHOPT => (7, 0, EBX, 23),
        F::CLWB => (7, 0, EBX, 24),
        F::RDPID => (7, 0, ECX, 22),
        F::XSAVEOPT => (0xd, 1, EAX, 0),
        F::XSAVEC => (0xd, 1, EAX, 1),
        F::XSAVES => (0xd, 1, EAX, 3),
        F::LZCNT => (0x8000_0001, 0, ECX, 5),
        F::SSE4A => (0x8000_0001, 0, ECX, 6),
        F::PREFETCHW => (0x8000_0001, 0, ECX, 8),
        F::SYSCALL => (0x8000_0001, 0, EDX, 11),
        F::RDTSCP => (0x8000_0001, 0, EDX, 27),
        _ => return Told::Never,
    };
    Told::By(bit)
}

/// Where CPUID tells of the features that `iced-x86` knows instructions of.
pub fn bits() -> impl Iterator<Item = Bit> {
    CpuidFeature::values().filter_map(|feature| match told(feature) {
        Told::By(bit) => Some(bit),
        Told::Always | Told::Never => None,
    })
}

/// Bits that tell of something other than instructions.
pub const WITHOUT_INSTRUCTIONS: &[(&str, Bit)] = &[
    ("1 GiB pages", (0x8000_0001, 0, EDX, 26)),
    ("32-bit page tables may lead beyond 4 GiB", (1, 0, EDX, 17)),
    ("INT3 and its like are told in DR6", (1, 0, EDX, 2)),
    ("LAHF in 64-bit mode, which iced-x86 has no name for", (0x8000_0001, 0, ECX, 0)),
    ("MTRRs", (1, 0, EDX, 12)),
    ("PAT", (1, 0, EDX, 16)),
    ("REP MOVSB and STOSB are fast", (7, 0, EBX, 9)),
    ("REP MOVSB is fast for short ones, too", (7, 0, EDX, 4)),
    ("SMEP", (7, 0, EBX, 7)),
    ("SSE operands may be misaligned", (0x8000_0001, 0, ECX, 7)),
    ("a null selector clears the base", (0x8000_0021, 0, EAX, 6)),
    ("a program runs on no hardware", (1, 0, ECX, 31)),
    ("global pages", (1, 0, EDX, 13)),
    ("large pages", (1, 0, EDX, 3)),
    ("long mode", (0x8000_0001, 0, EDX, 29)),
    ("pages without execution", (0x8000_0001, 0, EDX, 20)),
    ("tables of 64-bit entries", (1, 0, EDX, 6)),
    ("the TSC counts at one speed", (0x8000_0007, 0, EDX, 8)),
];
