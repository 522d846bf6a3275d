//! Model-specific registers: their numbers, and which of them are a vCPU's state.

use serde::{Deserialize, Serialize};

/// One register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MsrValue {
    /// The register's number.
    pub index: u32,
    /// Its 64 bits.
    pub value: u64,
}

/// The time-stamp counter.
pub const TSC: u32 = 0x10;
/// The local APIC's base address.
pub const APIC_BASE: u32 = 0x1b;
/// The deadline of the local APIC's timer.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// SYSCALL's segment selectors.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL's 64-bit entry point.
pub const LSTAR: u32 = 0xc000_0082;
/// The flags that SYSCALL clears.
pub const FMASK: u32 = 0xc000_0084;

/// Every register that is part of a vCPU's saved state, in the order it is restored in.
///
/// A back end saves those of them that it has. EFER, FS/GS base and APIC base travel with the
/// system registers. What is not here (performance counters, trace, SGX, CET, nested
/// virtualization) is also not offered to the guest: see
/// [`CpuModel::restrict`](super::CpuModel::restrict). The TSC comes early and its deadline last,
/// because arming the timer compares the two.
pub const STATE: &[u32] = &[
    TSC,
    0x3a,  // FEATURE_CONTROL
    0x3b,  // TSC_ADJUST
    0x48,  // SPEC_CTRL
    0xe1,  // UMWAIT_CONTROL
    0x122, // TSX_CTRL
    0x140, // MISC_FEATURES_ENABLES
    0x174, // SYSENTER_CS
    0x175, // SYSENTER_ESP
    0x176, // SYSENTER_EIP
    0x17a, // MCG_STATUS
    0x1a0, // MISC_ENABLE
    0x1c4, // XFD
    0x1c5, // XFD_ERR
    0x1d9, // DEBUGCTL
    0x200, // MTRR_PHYSBASE0 and PHYSMASK0, and so on
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
    0x250, // MTRR_FIX64K_00000
    0x258, // MTRR_FIX16K_80000
    0x259, // MTRR_FIX16K_A0000
    0x268, // MTRR_FIX4K_C0000 to F8000
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    0x277, // PAT
    0x2ff, // MTRR_DEF_TYPE
    0xda0, // XSS
    STAR,
    LSTAR,
    0xc000_0083, // CSTAR
    FMASK,
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0xc001_0015, // HWCR
    0xc001_011f, // VIRT_SPEC_CTRL
    0x11,        // KVM_WALL_CLOCK and KVM_SYSTEM_TIME, old and new
    0x12,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02, // KVM_ASYNC_PF_EN
    0x4b56_4d03, // KVM_STEAL_TIME
    0x4b56_4d04, // KVM_PV_EOI_EN
    0x4b56_4d05, // KVM_POLL_CONTROL
    0x4b56_4d06, // KVM_ASYNC_PF_INT
    0x4b56_4d08, // KVM_MIGRATION_CONTROL
    TSC_DEADLINE,
];

/// Whether this register says how memory is cached (Intel SDM volume 3, 12.11).
pub fn is_mtrr(index: u32) -> bool {
    matches!(index, 0x200..=0x20f | 0x250..=0x26f | 0x2ff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_listed_twice_and_the_deadline_is_last() {
        let unique: std::collections::BTreeSet<_> = STATE.iter().collect();
        assert_eq!(unique.len(), STATE.len());
        assert_eq!(STATE.first(), Some(&TSC));
        assert_eq!(STATE.last(), Some(&TSC_DEADLINE));
    }
}
