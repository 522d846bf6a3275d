//! Model-specific registers: which there are, and what may be written to them.

use crate::{
    core::Core,
    paging::{EFER_NXE, PHYSICAL_BITS, is_canonical},
    regs::{FS_BASE, GS_BASE},
    system::{CR0_PG, EFER_BITS, EFER_LMA, EFER_LME},
};

pub(crate) const TSC: u32 = 0x10;
const PATCH_LEVEL: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS: u32 = 0xc000_0100;
const GS: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// The registers that nothing but RDMSR and WRMSR, or the state's owner, looks at. Caches are not
/// modelled, so whatever says how memory is cached is among them.
const PLAIN: [(u32, Rule, u64); 34] = {
    use Rule::{Address, Any, Fixed, MtrrDefault, Pat, PhysBase, PhysMask, Short};
    const PAIR: [Rule; 2] = [PhysBase, PhysMask];
    let mut table = [(0, Any, 0); 34];
    let single = [
        (0x174, Short, 0),                   // SYSENTER_CS
        (0x175, Address, 0),                 // SYSENTER_ESP
        (0x176, Address, 0),                 // SYSENTER_EIP
        (0x1a0, Any, 1),                     // MISC_ENABLE: fast strings
        (0x277, Pat, 0x0007_0406_0007_0406), // PAT
        (0x2ff, MtrrDefault, 0xc06),         // MTRR_DEF_TYPE: on, write-back
        (0xc001_0015, Any, 1 << 24),         // HWCR: the TSC counts at one speed
    ];
    let fixed = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
    let mut n = 0;
    while n < single.len() {
        table[n] = single[n];
        n += 1;
    }
    let mut i = 0;
    while i < fixed.len() {
        table[n] = (fixed[i], Fixed, 0x0606_0606_0606_0606);
        (i, n) = (i + 1, n + 1);
    }
    i = 0;
    while i < 16 {
        table[n] = (0x200 + i as u32, PAIR[i % 2], 0);
        (i, n) = (i + 1, n + 1);
    }
    table
};

/// What a register may hold.
#[derive(Clone, Copy)]
enum Rule {
    /// A canonical address.
    Address,
    Any,
    /// Eight memory types, as MTRRs have them.
    Fixed,
    MtrrDefault,
    /// Eight memory types, as the PAT has them.
    Pat,
    PhysBase,
    PhysMask,
    /// 32 bits.
    Short,
}

impl Rule {
    fn allows(self, value: u64) -> bool {
        let physical = (1 << PHYSICAL_BITS) - 1;
        match self {
            Self::Address => is_canonical(value),
            Self::Any => true,
            Self::Fixed => value.to_le_bytes().into_iter().all(is_mtrr_type),
            Self::MtrrDefault => value & !0xcff == 0 && is_mtrr_type(value as u8),
            Self::Pat => value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
            Self::PhysBase => value & !physical & 0xf00 == 0 && is_mtrr_type(value as u8),
            Self::PhysMask => value & (!physical | 0x7ff) == 0,
            Self::Short => value >> 32 == 0,
        }
    }
}

fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

/// The registers that are nowhere else.
#[derive(Clone, Debug)]
pub(crate) struct Msrs {
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) tsc_aux: u64,
    pub(crate) cstar: u64,
    plain: [u64; PLAIN.len()],
}

impl Msrs {
    /// SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    pub(crate) fn sysenter(&self) -> [u64; 3] {
        [self.plain[0], self.plain[1], self.plain[2]]
    }
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            cstar: 0,
            plain: PLAIN.map(|(_, _, reset)| reset),
        }
    }
}

/// The registers that are part of a CPU's state and nowhere else in it, in ascending order.
pub(crate) fn state() -> impl Iterator<Item = u32> {
    let named = [TSC, STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX];
    let mut all: Vec<_> = PLAIN.iter().map(|(index, ..)| *index).chain(named).collect();
    all.sort_unstable();
    all.into_iter()
}

impl Core {
    /// What RDMSR reads; `None` if there is no such register.
    pub(crate) fn read_msr(&self, index: u32) -> Option<u64> {
        let msrs = &self.system.msrs;
        Some(match index {
            TSC => self.system.tsc.now(),
            // There is no microcode to be patched.
            PATCH_LEVEL => 0,
            // Eight variable ranges, the fixed ones, write combining.
            MTRR_CAP => 0x508,
            EFER => self.system.efer,
            STAR => msrs.star,
            LSTAR => msrs.lstar,
            CSTAR => msrs.cstar,
            FMASK => msrs.fmask,
            FS => self.regs[FS_BASE],
            GS => self.regs[GS_BASE],
            KERNEL_GS_BASE => msrs.kernel_gs_base,
            TSC_AUX => msrs.tsc_aux,
            _ => msrs.plain[plain(index)?],
        })
    }

    /// Writes as WRMSR does; `None`, and nothing is changed, if there is no such register or it
    /// cannot hold the value.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64) -> Option<()> {
        let msrs = &mut self.system.msrs;
        match index {
            TSC => self.system.tsc.set(value),
            // Some clear it, to see whether CPUID sets it.
            PATCH_LEVEL => {}
            EFER => return self.write_efer(value),
            STAR => msrs.star = value,
            LSTAR => msrs.lstar = allowed(Rule::Address, value)?,
            CSTAR => msrs.cstar = allowed(Rule::Address, value)?,
            FMASK => msrs.fmask = allowed(Rule::Short, value)?,
            FS => self.regs[FS_BASE] = allowed(Rule::Address, value)?,
            GS => self.regs[GS_BASE] = allowed(Rule::Address, value)?,
            KERNEL_GS_BASE => msrs.kernel_gs_base = allowed(Rule::Address, value)?,
            TSC_AUX => msrs.tsc_aux = allowed(Rule::Short, value)?,
            _ => {
                let number = plain(index)?;
                msrs.plain[number] = allowed(PLAIN[number].1, value)?;
            }
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        let old = self.system.efer;
        // LME cannot change while paging is on, LMA never by a write (Intel SDM 3-10.8.5).
        let paging = self.system.cr0 & CR0_PG != 0;
        if value & !EFER_BITS != 0 || (value ^ old) & EFER_LME != 0 && paging {
            return None;
        }
        self.system.efer = value & !EFER_LMA | old & EFER_LMA;
        if (value ^ old) & EFER_NXE != 0 {
            self.flush_tlb();
        }
        Some(())
    }
}

fn allowed(rule: Rule, value: u64) -> Option<u64> {
    rule.allows(value).then_some(value)
}

fn plain(index: u32) -> Option<usize> {
    PLAIN.iter().position(|(there, ..)| *there == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_of_the_state_is_there_once() {
        let core = Core::new();
        let all: Vec<_> = state().collect();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:x?}");
        assert!(all.iter().all(|index| core.read_msr(*index).is_some()), "{all:x?}");
    }

    #[test]
    fn what_a_register_cannot_hold_is_refused_and_changes_nothing() {
        let mut core = Core::new();
        let bad = [
            (LSTAR, 1 << 47),
            (EFER, 0),
            (EFER, EFER_LME | EFER_LMA | 1 << 1),
            (0x277, 2),
            (0x2ff, 0x1000),
            (0x201, 1 << 48),
            (MTRR_CAP, 0),
            (0xdead_beef, 0),
        ];
        for (index, value) in bad {
            let before = core.read_msr(index);
            assert_eq!(core.write_msr(index, value), None, "{index:#x}");
            assert_eq!(core.read_msr(index), before, "{index:#x}");
        }
        assert_eq!(core.write_msr(EFER, EFER_LME | EFER_NXE), Some(()));
        assert_eq!(core.read_msr(EFER), Some(EFER_LME | EFER_LMA | EFER_NXE));
    }
}
