//! What the CPUID instruction answers: what is built, and no more.

use crate::{
    Cpu,
    paging::PHYSICAL_BITS,
    system::{CR4_OSXSAVE, System},
};

/// The answer to one function of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry, if it matters.
    pub index: Option<u32>,
    /// EAX, EBX, ECX and EDX on return.
    pub regs: [u32; 4],
}

/// The answers of a CPU.
#[derive(Clone, Debug)]
pub(crate) struct Cpuid(Vec<CpuidLeaf>);

/// The function that tells of XSAVE's state components.
const XSAVE_SIZES: u32 = 0xd;

const VENDOR: &[u8; 12] = b"AuthenticAMD";
const BRAND: &[u8; 48] = b"x86-64 in software                              ";
/// Family 17h, model 31h: what systems take for an AMD processor of these features.
pub(crate) const SIGNATURE: u32 = 0x0083_0f10;

/// A word with these bits.
const fn bits<const N: usize>(set: [u32; N]) -> u32 {
    let (mut word, mut n) = (0, 0);
    while n < N {
        word |= 1 << set[n];
        n += 1;
    }
    word
}

/// Function 1, EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, SEP, MTRR, PGE, CMOV, PAT, PSE-36, CLFSH, MMX,
/// FXSR, SSE, SSE2.
const BASIC_EDX: u32 = bits([0, 2, 3, 4, 5, 6, 8, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26]);
/// Function 1, ECX: SSE3, PCLMULQDQ, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE,
/// RDRAND, HYPERVISOR.
const BASIC_ECX: u32 = bits([0, 1, 9, 13, 19, 20, 22, 23, 25, 26, 30, 31]);
/// Function 1, EDX: a local APIC; ECX: x2APIC and TSC-deadline. They are not the CPU's own.
const APIC_EDX: u32 = bits([9]);
const APIC_ECX: u32 = bits([21, 24]);
/// Function 1, ECX, as CR4.OSXSAVE has it.
const OSXSAVE: u32 = 1 << 27;
/// Function 7, EBX: FSGSBASE, BMI1, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB.
const EXTENDED_EBX: u32 = bits([0, 3, 7, 8, 9, 18, 19, 20, 23, 24]);
/// Function 7, ECX: RDPID.
const EXTENDED_ECX: u32 = bits([22]);
/// Function 7, EDX: FSRM.
const EXTENDED_EDX: u32 = bits([4]);
/// Function 8000_0001, ECX: LAHF, LZCNT, misaligned operands of SSE, PREFETCHW.
const AMD_ECX: u32 = bits([0, 5, 7, 8]);
/// Function 8000_0001, EDX: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode; and what AMD repeats of
/// function 1.
const AMD_EDX: u32 = bits([11, 20, 26, 27, 29]) | BASIC_EDX & 0x0183_f3ff;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.iter().skip(at).take(4).rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

impl CpuidLeaf {
    const fn new(function: u32, regs: [u32; 4]) -> Self {
        Self { function, index: None, regs }
    }

    /// The answers for everything that is built.
    pub fn supported() -> Vec<Self> {
        let vendor = [0, 8, 4].map(|at| word(VENDOR, at));
        let named =
            |function, largest| Self::new(function, [largest, vendor[0], vendor[1], vendor[2]]);
        let indexed = |function, index, regs| Self { function, index: Some(index), regs };
        let brand = |n: u32| {
            let at = 16 * n as usize;
            Self::new(0x8000_0002 + n, [0, 4, 8, 12].map(|more| word(BRAND, at + more)))
        };
        vec![
            named(0, 0xd),
            // CLFLUSH works on 8 times 8 bytes.
            Self::new(1, [SIGNATURE, 8 << 8, BASIC_ECX, BASIC_EDX]),
            indexed(7, 0, [0, EXTENDED_EBX, EXTENDED_ECX, EXTENDED_EDX]),
            // x87 and SSE, in 576 bytes.
            indexed(XSAVE_SIZES, 0, [3, 576, 576, 0]),
            // XSAVEOPT.
            indexed(XSAVE_SIZES, 1, [1, 0, 0, 0]),
            named(0x8000_0000, 0x8000_0021),
            Self::new(0x8000_0001, [SIGNATURE, 0, AMD_ECX, AMD_EDX]),
            brand(0),
            brand(1),
            brand(2),
            // The TSC counts at one speed, always.
            Self::new(0x8000_0007, [0, 0, 0, 1 << 8]),
            Self::new(0x8000_0008, [48 << 8 | PHYSICAL_BITS, 0, 0, 0]),
            // A null selector clears the base of FS and GS.
            Self::new(0x8000_0021, [1 << 6, 0, 0, 0]),
        ]
    }

    /// Which of an answer's words are feature bits.
    fn features(&self) -> [bool; 4] {
        match (self.function, self.index) {
            (1, _) | (0x8000_0001, _) => [false, false, true, true],
            (7, Some(0) | None) => [false, true, true, true],
            (7, _) | (0x8000_0007 | 0x8000_0021, _) => [true; 4],
            _ => [false; 4],
        }
    }
}

impl Cpuid {
    pub(crate) fn new() -> Self {
        Self(CpuidLeaf::supported())
    }

    fn find(&self, function: u32, index: u32) -> Option<&CpuidLeaf> {
        self.0
            .iter()
            .find(|leaf| leaf.function == function && leaf.index.is_none_or(|there| there == index))
    }

    /// What CPUID leaves in EAX, EBX, ECX and EDX; zeros where there is no answer, as AMD's
    /// processors have it.
    pub(crate) fn answer(&self, function: u32, index: u32, system: &System) -> [u32; 4] {
        let mut regs = self.find(function, index).map_or([0; 4], |leaf| leaf.regs);
        if function == 1 && system.cr4 & CR4_OSXSAVE != 0 {
            regs[2] |= OSXSAVE;
        }
        regs
    }
}

impl Cpu {
    /// From now on CPUID answers this. Features that are not built are left out, but not those of a
    /// local APIC, which whoever drives the CPU may have.
    pub fn set_cpuid(&mut self, leaves: &[CpuidLeaf]) {
        let built = Cpuid::new();
        let cut = |leaf: &CpuidLeaf| {
            let mut cut = *leaf;
            let mut there =
                built.find(leaf.function, leaf.index.unwrap_or(0)).map_or([0; 4], |leaf| leaf.regs);
            if leaf.function == 1 {
                there[2] |= APIC_ECX;
                there[3] |= APIC_EDX;
            }
            if leaf.function == XSAVE_SIZES {
                // What there is to save, and how long that is, is no model's to say.
                cut.regs = match (leaf.index, leaf.regs[0]) {
                    (Some(1), features) => [features & there[0], 0, 0, 0],
                    (_, 0) => leaf.regs,
                    _ => there,
                };
                return cut;
            }
            for (n, feature) in leaf.features().into_iter().enumerate() {
                if feature {
                    cut.regs[n] &= there[n];
                }
            }
            cut
        };
        self.core.cpuid = Cpuid(leaves.iter().map(cut).collect());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{CodeMap, core::Core};

    #[test]
    fn the_vendor_is_spelled_as_processors_do() {
        let core = Core::new();
        let [_, b, c, d] = core.cpuid.answer(0, 0, &core.system);
        let name: Vec<_> = [b, d, c].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(name, VENDOR);
        assert_eq!(core.cpuid.answer(0x1234, 0, &core.system), [0; 4]);
    }

    #[test]
    fn a_model_takes_features_away_and_adds_none() {
        let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
        let leaf = CpuidLeaf::new(1, [7, 8, 1 << 0 | 1 << 28, u32::MAX]);
        cpu.set_cpuid(&[leaf]);
        let answer = cpu.core.cpuid.answer(1, 0, &cpu.core.system);
        assert_eq!(answer, [7, 8, 1, BASIC_EDX | APIC_EDX]);
        assert_eq!(cpu.core.cpuid.answer(0, 0, &cpu.core.system), [0; 4]);
    }

    #[test]
    fn a_model_cannot_add_state_components() {
        let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
        // x87, SSE and AVX; XSAVEOPT, XSAVEC, XGETBV of 1, XSAVES; where AVX's state is.
        let leaf = |index, regs| CpuidLeaf { function: 0xd, index: Some(index), regs };
        let avx = [leaf(0, [7, 832, 832, 0]), leaf(1, [15, 832, 0, 0]), leaf(2, [256, 576, 0, 0])];
        cpu.set_cpuid(&avx);
        let answer = |index| cpu.core.cpuid.answer(0xd, index, &cpu.core.system);
        assert_eq!([answer(0), answer(1), answer(2)], [[3, 576, 576, 0], [1, 0, 0, 0], [0; 4]]);
    }
}
