//! What the guest's CPUID instruction answers.
//!
//! A [`CpuModel`] starts as what a hypervisor supports, is [restricted](CpuModel::restrict) to what
//! can be saved and restored, and is cut to each vCPU's place in the topology only when that vCPU
//! is made. Two models can be compared, which is how a snapshot is checked against a host.

use std::{
    arch::x86_64::{__cpuid, __cpuid_count},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::VcpuId;

/// The answer to one CPUID function and index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry.
    pub index: u32,
    /// Whether the index matters for this function.
    pub indexed: bool,
    /// EAX, EBX, ECX and EDX on return.
    pub regs: [u32; 4],
}

/// A processor as CPUID describes it, without a place in any topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuModel {
    leaves: Vec<CpuidLeaf>,
}

/// Beyond what any field here can number.
const MOST_VCPUS: u32 = 1 << 16;

/// A register of a CPUID answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Ebx = 1,
    Ecx = 2,
    Edx = 3,
}

/// A feature bit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    name: &'static str,
    function: u32,
    index: u32,
    reg: Reg,
    bit: u32,
}

macro_rules! features {
    ($($name:ident = $function:literal, $index:literal, $reg:ident, $bit:literal;)*) => {
        #[expect(missing_docs, reason = "the manuals' names")]
        impl Feature {
            $(pub const $name: Self = Self {
                name: stringify!($name),
                function: $function,
                index: $index,
                reg: Reg::$reg,
                bit: $bit,
            };)*
            /// Every feature this crate has a name for.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

features! {
    SSE3 = 1, 0, Ecx, 0;
    PCLMULQDQ = 1, 0, Ecx, 1;
    DTES64 = 1, 0, Ecx, 2;
    MONITOR = 1, 0, Ecx, 3;
    DS_CPL = 1, 0, Ecx, 4;
    VMX = 1, 0, Ecx, 5;
    SMX = 1, 0, Ecx, 6;
    EIST = 1, 0, Ecx, 7;
    TM2 = 1, 0, Ecx, 8;
    SSSE3 = 1, 0, Ecx, 9;
    FMA = 1, 0, Ecx, 12;
    CMPXCHG16B = 1, 0, Ecx, 13;
    PDCM = 1, 0, Ecx, 15;
    PCID = 1, 0, Ecx, 17;
    SSE4_1 = 1, 0, Ecx, 19;
    SSE4_2 = 1, 0, Ecx, 20;
    X2APIC = 1, 0, Ecx, 21;
    MOVBE = 1, 0, Ecx, 22;
    POPCNT = 1, 0, Ecx, 23;
    TSC_DEADLINE = 1, 0, Ecx, 24;
    AES = 1, 0, Ecx, 25;
    XSAVE = 1, 0, Ecx, 26;
    AVX = 1, 0, Ecx, 28;
    F16C = 1, 0, Ecx, 29;
    RDRAND = 1, 0, Ecx, 30;
    HYPERVISOR = 1, 0, Ecx, 31;
    FPU = 1, 0, Edx, 0;
    TSC = 1, 0, Edx, 4;
    MSR = 1, 0, Edx, 5;
    PAE = 1, 0, Edx, 6;
    MCE = 1, 0, Edx, 7;
    CX8 = 1, 0, Edx, 8;
    APIC = 1, 0, Edx, 9;
    MCA = 1, 0, Edx, 14;
    CMOV = 1, 0, Edx, 15;
    CLFLUSH = 1, 0, Edx, 19;
    DS = 1, 0, Edx, 21;
    MMX = 1, 0, Edx, 23;
    FXSR = 1, 0, Edx, 24;
    SSE = 1, 0, Edx, 25;
    SSE2 = 1, 0, Edx, 26;
    HTT = 1, 0, Edx, 28;
    FSGSBASE = 7, 0, Ebx, 0;
    SGX = 7, 0, Ebx, 2;
    BMI1 = 7, 0, Ebx, 3;
    HLE = 7, 0, Ebx, 4;
    AVX2 = 7, 0, Ebx, 5;
    SMEP = 7, 0, Ebx, 7;
    BMI2 = 7, 0, Ebx, 8;
    ERMS = 7, 0, Ebx, 9;
    INVPCID = 7, 0, Ebx, 10;
    RTM = 7, 0, Ebx, 11;
    MPX = 7, 0, Ebx, 14;
    AVX512F = 7, 0, Ebx, 16;
    RDSEED = 7, 0, Ebx, 18;
    ADX = 7, 0, Ebx, 19;
    SMAP = 7, 0, Ebx, 20;
    CLFLUSHOPT = 7, 0, Ebx, 23;
    PROCESSOR_TRACE = 7, 0, Ebx, 25;
    SHA = 7, 0, Ebx, 29;
    UMIP = 7, 0, Ecx, 2;
    PKU = 7, 0, Ecx, 3;
    WAITPKG = 7, 0, Ecx, 5;
    SHADOW_STACK = 7, 0, Ecx, 7;
    LA57 = 7, 0, Ecx, 16;
    RDPID = 7, 0, Ecx, 22;
    SGX_LC = 7, 0, Ecx, 30;
    PKS = 7, 0, Ecx, 31;
    FSRM = 7, 0, Edx, 4;
    UINTR = 7, 0, Edx, 5;
    ARCH_LBR = 7, 0, Edx, 19;
    IBT = 7, 0, Edx, 20;
    SYSCALL = 0x8000_0001, 0, Edx, 11;
    NX = 0x8000_0001, 0, Edx, 20;
    PAGE_1G = 0x8000_0001, 0, Edx, 26;
    RDTSCP = 0x8000_0001, 0, Edx, 27;
    LONG_MODE = 0x8000_0001, 0, Edx, 29;
    LAHF64 = 0x8000_0001, 0, Ecx, 0;
    SVM = 0x8000_0001, 0, Ecx, 2;
    LZCNT = 0x8000_0001, 0, Ecx, 5;
    IBS = 0x8000_0001, 0, Ecx, 10;
    PERFCTR_CORE = 0x8000_0001, 0, Ecx, 23;
    INVARIANT_TSC = 0x8000_0007, 0, Edx, 8;
}

/// Features whose state is not saved, so no guest is told of them.
const NOT_SAVED: &[Feature] = &[
    Feature::ARCH_LBR,
    Feature::DS,
    Feature::DS_CPL,
    Feature::DTES64,
    Feature::IBS,
    Feature::IBT,
    Feature::LA57,
    Feature::MCA,
    Feature::MCE,
    Feature::MPX,
    Feature::PDCM,
    Feature::PERFCTR_CORE,
    Feature::PKS,
    Feature::PROCESSOR_TRACE,
    Feature::SGX,
    Feature::SGX_LC,
    Feature::SHADOW_STACK,
    Feature::SMX,
    Feature::SVM,
    Feature::UINTR,
    Feature::VMX,
];

/// Whole functions that describe what [`NOT_SAVED`] switches off: performance monitoring, SGX,
/// trace, last-branch records, SVM, AMD performance monitoring.
const NOT_SAVED_FUNCTIONS: &[u32] = &[0xa, 0x12, 0x14, 0x1c, 0x8000_000a, 0x8000_001b, 0x8000_0022];

/// The words of feature bits that matter to programs: function, index, and which bits of EAX, EBX,
/// ECX and EDX. Left out is what only a kernel can use, and what only makes things faster.
const PROGRAM_FEATURES: &[(u32, u32, [u32; 4])] = &[
    (1, 0, [0, 0, 0x76d8_3203, 0x0788_8111]),
    (7, 0, [0, 0xfdaf_4939, 0x3a40_5f63, 0x01c0_412c]),
    (7, 1, [0x00a0_00bf, 0, 0, 0x0028_4530]),
    (0xd, 1, [0x0000_0007, 0, 0, 0]),
    (0x8000_0001, 0, [0, 0, 0x2021_09e1, 0xe840_0800]),
    (0x8000_0008, 0, [0, 0x0000_0111, 0, 0]),
];

/// The function of XSAVE's state components; they are numbered 0 to 62.
const STATE_COMPONENTS: u32 = 0xd;

impl CpuModel {
    /// The processor of this host, as far as programs can use it: its features, and where XSAVE
    /// keeps its registers.
    pub fn of_host() -> Self {
        let most = |function: u32| __cpuid(function & 0x8000_0000).eax;
        let components = (0..63).map(|index| (STATE_COMPONENTS, index));
        let words = PROGRAM_FEATURES.iter().map(|(function, index, _)| (*function, *index));
        let words = words.filter(|(function, _)| *function != STATE_COMPONENTS).chain(components);
        let there = words.filter(|(function, _)| *function <= most(*function));
        let leaves = there.map(|(function, index)| {
            let answer = __cpuid_count(function, index);
            let regs = [answer.eax, answer.ebx, answer.ecx, answer.edx];
            CpuidLeaf { function, index, indexed: [7, STATE_COMPONENTS].contains(&function), regs }
        });
        Self { leaves: leaves.filter(|leaf| leaf.regs != [0; 4]).collect() }
    }

    /// The features of this processor that programs can use and `other` lacks, by name.
    ///
    /// A program that has seen them cannot go on where they are missing.
    pub fn program_features_missing_in(&self, other: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for (function, index, mask) in PROGRAM_FEATURES {
            let (own, others) = (self.regs(*function, *index), other.regs(*function, *index));
            for (reg, mask) in mask.iter().enumerate() {
                let bits = own[reg] & !others[reg] & mask;
                let bits = (0..32).filter(|bit| bits >> bit & 1 == 1);
                missing.extend(bits.map(|bit| feature_name((*function, *index), reg, bit)));
            }
        }
        missing
    }

    /// What programs can use of both processors; all else is this one's.
    #[must_use]
    pub fn common_with(mut self, other: &Self) -> Self {
        let held = other.regs(STATE_COMPONENTS, 0);
        // A model may come from a file, with an index that no component has.
        let is_held = |index| {
            let all = u64::from(held[3]) << 32 | u64::from(held[0]);
            all.checked_shr(index).is_some_and(|bits| bits & 1 == 1)
        };
        for leaf in &mut self.leaves {
            let index = if leaf.indexed { leaf.index } else { 0 };
            if leaf.function == STATE_COMPONENTS && index == 0 {
                (leaf.regs[0], leaf.regs[3]) = (leaf.regs[0] & held[0], leaf.regs[3] & held[3]);
            } else if leaf.function == STATE_COMPONENTS && index > 1 && !is_held(index) {
                leaf.regs = [0; 4];
            }
            let others = other.regs(leaf.function, index);
            let words =
                PROGRAM_FEATURES.iter().find(|word| (word.0, word.1) == (leaf.function, index));
            for (reg, mask) in words.into_iter().flat_map(|word| word.2.iter().enumerate()) {
                leaf.regs[reg] &= others[reg] | !mask;
            }
        }
        self
    }

    /// What programs can use of either; all else is this one's.
    #[must_use]
    pub fn joined_with(mut self, other: &Self) -> Self {
        for leaf in &other.leaves {
            let own = self.leaves.iter_mut().find(|own| {
                own.function == leaf.function && (!own.indexed || own.index == leaf.index)
            });
            let Some(own) = own else {
                self.leaves.push(*leaf);
                continue;
            };
            let word =
                |word: &&(u32, u32, [u32; 4])| (word.0, word.1) == (leaf.function, leaf.index);
            for (_, _, mask) in PROGRAM_FEATURES.iter().filter(word) {
                (0..4).for_each(|reg| own.regs[reg] |= leaf.regs[reg] & mask[reg]);
            }
        }
        self
    }

    /// Where XSAVE keeps a state component: its size, and its offset. Both 0 if there is none.
    pub fn state_component(&self, number: u32) -> (u32, u32) {
        match number {
            0 | 1 => (0, 0),
            number => {
                let [size, offset, ..] = self.regs(STATE_COMPONENTS, number);
                (size, offset)
            }
        }
    }

    fn regs(&self, function: u32, index: u32) -> [u32; 4] {
        self.leaf(function, index).map_or([0; 4], |leaf| leaf.regs)
    }

    /// A model of exactly these answers.
    pub fn from_leaves(leaves: Vec<CpuidLeaf>) -> Self {
        Self { leaves }
    }

    /// The answers, in no particular order.
    pub fn leaves(&self) -> &[CpuidLeaf] {
        &self.leaves
    }

    /// The answers, without the model around them.
    pub fn into_leaves(self) -> Vec<CpuidLeaf> {
        self.leaves
    }

    /// The answer to one function and index.
    pub fn leaf(&self, function: u32, index: u32) -> Option<&CpuidLeaf> {
        self.leaves.iter().find(|l| l.function == function && (!l.indexed || l.index == index))
    }

    /// Whether a feature bit is set.
    pub fn has(&self, feature: Feature) -> bool {
        let Feature { function, index, reg, bit, .. } = feature;
        self.leaf(function, index).is_some_and(|leaf| leaf.regs[reg as usize] >> bit & 1 == 1)
    }

    /// The same processor with one feature bit cleared.
    #[must_use]
    pub fn without(self, feature: Feature) -> Self {
        self.with_bit(feature, false)
    }

    /// The same processor with one feature bit set. The back end refuses or ignores what it cannot
    /// do.
    #[must_use]
    pub fn with(self, feature: Feature) -> Self {
        self.with_bit(feature, true)
    }

    fn with_bit(mut self, feature: Feature, on: bool) -> Self {
        let Feature { function, index, reg, bit, .. } = feature;
        for leaf in &mut self.leaves {
            if leaf.function == function && (!leaf.indexed || leaf.index == index) {
                let word = &mut leaf.regs[reg as usize];
                *word = *word & !(1 << bit) | u32::from(on) << bit;
            }
        }
        self
    }

    /// The same processor without the features whose state is not saved and restored.
    #[must_use]
    pub fn restrict(self) -> Self {
        let mut model = NOT_SAVED.iter().fold(self, |model, feature| model.without(*feature));
        for leaf in &mut model.leaves {
            if NOT_SAVED_FUNCTIONS.contains(&leaf.function) {
                leaf.regs = [0; 4];
            }
        }
        model
    }

    /// The named features that this processor has and `other` lacks.
    ///
    /// A guest that was started on this model may have used them, so it cannot go on where they are
    /// missing.
    pub fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Feature> + 'a {
        Feature::ALL.iter().copied().filter(|f| self.has(*f) && !other.has(*f))
    }

    /// The answers for `vcpu` of `count` in one package, one thread a core.
    pub fn for_vcpu(&self, vcpu: VcpuId, count: u32) -> Vec<CpuidLeaf> {
        let count = count.clamp(1, MOST_VCPUS);
        let mut leaves: Vec<_> = self.leaves.iter().filter(|l| !is_topology(l)).copied().collect();
        if self.leaf(0, 0).is_some_and(|leaf| leaf.regs[0] >= 0xb) {
            leaves.extend(extended_topology(0xb, vcpu, count));
        }
        if self.leaf(0, 0).is_some_and(|leaf| leaf.regs[0] >= 0x1f) {
            leaves.extend(extended_topology(0x1f, vcpu, count));
        }
        leaves.iter_mut().for_each(|leaf| place(leaf, vcpu, count));
        leaves
    }
}

/// A feature's name in the manuals, or where its bit is.
fn feature_name((function, index): (u32, u32), reg: usize, bit: u32) -> String {
    let known = Feature::ALL.iter().find(|feature| {
        (feature.function, feature.index, feature.reg as usize, feature.bit)
            == (function, index, reg, bit)
    });
    let reg = ["EAX", "EBX", "ECX", "EDX"].get(reg).unwrap_or(&"");
    known.map_or_else(|| format!("CPUID {function:x}.{index}:{reg}.{bit}"), Feature::to_string)
}

fn is_topology(leaf: &CpuidLeaf) -> bool {
    matches!(leaf.function, 0xb | 0x1f | 0x8000_0026)
}

/// Puts the vCPU's place in the package into an answer that has room for it.
fn place(leaf: &mut CpuidLeaf, vcpu: VcpuId, count: u32) {
    let [eax, ebx, ecx, edx] = &mut leaf.regs;
    match leaf.function {
        1 => {
            *ebx = *ebx & 0xffff | (vcpu.0 & 0xff) << 24 | count.min(0xff) << 16;
            *edx = *edx & !(1 << Feature::HTT.bit) | u32::from(count > 1) << Feature::HTT.bit;
        }
        // Cache parameters: each cache is private to a core, the package has `count` cores.
        4 | 0x8000_001d if *eax & 0x1f != 0 => {
            let cores = if leaf.function == 4 { (count - 1).min(0x3f) << 26 } else { 0 };
            *eax = *eax & 0x3fff | cores;
        }
        0x8000_0008 => *ecx = *ecx & !0xf0ff | (count - 1).min(0xff) | width(count) << 12,
        0x8000_001e => (*eax, *ebx, *ecx) = (vcpu.0, vcpu.0 & 0xff, 0),
        _ => {}
    }
}

/// Functions 0xB and 0x1F: a thread level of one, a core level of `count`, and the end.
fn extended_topology(function: u32, vcpu: VcpuId, count: u32) -> [CpuidLeaf; 3] {
    let level = |index, shift, number, kind: u32| CpuidLeaf {
        function,
        index,
        indexed: true,
        regs: [shift, number, kind << 8 | index, vcpu.0],
    };
    [level(0, 0, 1, 1), level(1, width(count), count, 2), level(2, 0, 0, 0)]
}

/// The bits that number `count` things.
fn width(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

impl fmt::Debug for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> CpuModel {
        let leaf = |function, regs| CpuidLeaf { function, index: 0, indexed: false, regs };
        CpuModel::from_leaves(vec![
            leaf(0, [0x1f, 0, 0, 0]),
            leaf(1, [0, 0x0800, u32::MAX, u32::MAX]),
            CpuidLeaf {
                function: 7,
                index: 0,
                indexed: true,
                regs: [1, u32::MAX, u32::MAX, u32::MAX],
            },
            CpuidLeaf { function: 7, index: 1, indexed: true, regs: [u32::MAX; 4] },
            leaf(0xa, [7; 4]),
        ])
    }

    #[test]
    fn restricting_takes_away_what_is_not_saved_and_nothing_else() {
        let whole = model();
        let restricted = whole.clone().restrict();
        let lost: Vec<_> = whole.missing_in(&restricted).collect();
        assert!(
            lost.contains(&Feature::VMX) && lost.contains(&Feature::PROCESSOR_TRACE),
            "{lost:?}"
        );
        assert!(lost.iter().all(|f| NOT_SAVED.contains(f)), "{lost:?}");
        assert_eq!(restricted.leaf(0xa, 0).unwrap().regs, [0; 4]);
        assert_eq!(restricted.leaf(7, 1).unwrap().regs, [u32::MAX; 4]);
        assert_eq!(restricted.missing_in(&whole).count(), 0);
    }

    #[test]
    fn what_programs_can_use_is_compared_by_bit() {
        let whole = model();
        let less = whole.clone().without(Feature::AVX2).without(Feature::SMEP);
        assert_eq!(whole.program_features_missing_in(&less), ["AVX2"]);
        assert!(less.program_features_missing_in(&whole).is_empty());
        let nothing = CpuModel::default();
        let all = whole.program_features_missing_in(&nothing);
        assert!(
            ["SSE2", "AES", "CPUID 7.0:ECX.9"].iter().all(|name| all.contains(&(*name).into()))
        );
        assert!(!all.iter().any(|name| ["SMEP", "ERMS", "VMX", "HYPERVISOR"].contains(&&**name)));
        assert_eq!(
            whole.clone().common_with(&less).leaf(7, 0),
            less.clone().with(Feature::SMEP).leaf(7, 0)
        );
        assert_eq!(less.joined_with(&whole).leaf(7, 0), whole.without(Feature::SMEP).leaf(7, 0));
    }

    #[test]
    fn state_components_that_are_not_common_or_not_there_are_taken_away() {
        let component = |index| CpuidLeaf {
            function: STATE_COMPONENTS,
            index,
            indexed: true,
            regs: [if index == 0 { 7 } else { 64 }, 576, 0, 2],
        };
        let model = CpuModel::from_leaves([0, 2, 3, 33, 40, 99, u32::MAX].map(component).to_vec());
        let common = model.clone().common_with(&model);
        let left = [2, 3, 33, 40, 99, u32::MAX].map(|number| common.state_component(number).0 > 0);
        assert_eq!(left, [true, false, true, false, false, false]);
    }

    #[test]
    fn the_host_has_what_every_x86_64_processor_has() {
        let host = CpuModel::of_host();
        assert!([Feature::SSE2, Feature::FXSR, Feature::CMOV].iter().all(|f| host.has(*f)));
        assert!(host.program_features_missing_in(&host).is_empty());
        let avx = host.has(Feature::AVX).then_some((256, 576));
        assert!(avx.is_none_or(|avx| host.state_component(2) == avx));
    }

    #[test]
    fn each_vcpu_finds_itself_in_the_topology() {
        let leaves = model().for_vcpu(VcpuId(2), 3);
        let find = |f, i| leaves.iter().find(|l| l.function == f && l.index == i).unwrap().regs;
        assert_eq!(find(1, 0)[1], 2 << 24 | 3 << 16 | 0x0800);
        assert_eq!(find(0xb, 0), [0, 1, 0x100, 2]);
        assert_eq!(find(0xb, 1), [2, 3, 0x201, 2]);
        assert_eq!(find(0x1f, 2), [0, 0, 2, 2]);
        let alone = model().for_vcpu(VcpuId(0), 1);
        let htt = alone.iter().find(|l| l.function == 1).unwrap().regs[3] >> 28 & 1;
        assert_eq!(htt, 0);
    }
}
