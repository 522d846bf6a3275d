//! Control registers, segments and what else is the system's.

use crate::{
    core::Core,
    paging::{CR0_WP, CR4_SMEP, EFER_NXE},
    regs::BASES,
    state::{Segment, Table},
    time::Tsc,
};

pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_MP: u64 = 1 << 1;
pub(crate) const CR0_EM: u64 = 1 << 2;
pub(crate) const CR0_TS: u64 = 1 << 3;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_NE: u64 = 1 << 5;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_NW: u64 = 1 << 29;
pub(crate) const CR0_CD: u64 = 1 << 30;
pub(crate) const CR0_PG: u64 = 1 << 31;
/// What CR0 has; its other bits read as 0, and those above bit 31 cannot be set.
pub(crate) const CR0_BITS: u64 = CR0_PE
    | CR0_MP
    | CR0_EM
    | CR0_TS
    | CR0_ET
    | CR0_NE
    | CR0_WP
    | CR0_AM
    | CR0_NW
    | CR0_CD
    | CR0_PG;

pub(crate) const CR4_TSD: u64 = 1 << 2;
pub(crate) const CR4_DE: u64 = 1 << 3;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_PCE: u64 = 1 << 8;
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
/// What CR4 has; no other bit can be set.
pub(crate) const CR4_BITS: u64 = CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT
    | CR4_FSGSBASE
    | CR4_OSXSAVE
    | CR4_SMEP;

pub(crate) const EFER_SCE: u64 = 1 << 0;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
/// What EFER has; no other bit can be set.
pub(crate) const EFER_BITS: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

/// What code is decoded for, beside its bytes: bits of [`System::mode`].
pub(crate) mod mode {
    /// CPL 3.
    pub(crate) const USER: u32 = 1 << 0;
    /// CR0.MP.
    pub(crate) const MONITOR: u32 = 1 << 1;
    /// CR0.EM.
    pub(crate) const EMULATE: u32 = 1 << 2;
    /// CR0.TS.
    pub(crate) const SWITCHED: u32 = 1 << 3;
    /// CR4.OSFXSR.
    pub(crate) const FXSR: u32 = 1 << 4;
    /// CR4.OSXSAVE.
    pub(crate) const XSAVE: u32 = 1 << 5;
}

/// The numbers of segment registers, as instructions have them.
pub(crate) const ES: u8 = 0;
pub(crate) const CS: u8 = 1;
pub(crate) const SS: u8 = 2;
pub(crate) const DS: u8 = 3;
pub(crate) const FS: u8 = 4;
pub(crate) const GS: u8 = 5;

/// A segment register but for its base, which is among the [`Regs`](crate::regs::Regs).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cached {
    pub(crate) selector: u16,
    pub(crate) limit: u32,
    /// As in [`Segment::rights`].
    pub(crate) rights: u32,
}

/// The registers that only the system changes.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) cr8: u64,
    pub(crate) efer: u64,
    /// The state components that XSAVE is for.
    pub(crate) xcr0: u64,
    /// The current privilege level.
    pub(crate) cpl: u8,
    /// ES, CS, SS, DS, FS, GS; two more so that a masked number is always within.
    pub(crate) segments: [Cached; 8],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: Table,
    pub(crate) idtr: Table,
    pub(crate) dr: [u64; 4],
    pub(crate) dr6: u64,
    pub(crate) dr7: u64,
    pub(crate) msrs: crate::msr::Msrs,
    pub(crate) tsc: Tsc,
}

impl System {
    /// What code is decoded for, beside its bytes.
    pub(crate) fn mode(&self) -> u16 {
        let bit = |on: bool, bit: u32| if on { bit as u16 } else { 0 };
        bit(self.cpl == 3, mode::USER)
            | bit(self.cr0 & CR0_MP != 0, mode::MONITOR)
            | bit(self.cr0 & CR0_EM != 0, mode::EMULATE)
            | bit(self.cr0 & CR0_TS != 0, mode::SWITCHED)
            | bit(self.cr4 & CR4_OSFXSR != 0, mode::FXSR)
            | bit(self.cr4 & CR4_OSXSAVE != 0, mode::XSAVE)
    }
}

impl Default for System {
    /// 64-bit mode at CPL 0 with flat segments, as in [`State`](crate::State)'s default.
    fn default() -> Self {
        let cached = |segment: Segment| Cached {
            selector: segment.selector,
            limit: segment.limit,
            rights: segment.rights,
        };
        let mut segments = [cached(Segment::data(0x18, 0)); 8];
        segments[usize::from(CS)] = cached(Segment::code64(0x10, 0));
        Self {
            cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
            cr2: 0,
            cr3: 0,
            cr4: CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT,
            cr8: 0,
            efer: EFER_LME | EFER_LMA,
            xcr0: 1,
            cpl: 0,
            segments,
            ldtr: Segment::null(),
            tr: Segment::task(0, 0, 0x67),
            gdtr: Table::default(),
            idtr: Table::default(),
            dr: [0; 4],
            dr6: DR6_FIXED,
            dr7: DR7_FIXED,
            msrs: crate::msr::Msrs::default(),
            tsc: Tsc::new(),
        }
    }
}

/// The bits of DR6 that are always set (Intel SDM 3-17.2.3).
pub(crate) const DR6_FIXED: u64 = 0xffff_0ff0;
/// Those that can be: B0 to B3, BD, BS, BT.
pub(crate) const DR6_BITS: u64 = 0xe00f;
/// DR6.BD: a debug register was accessed while DR7.GD was set.
pub(crate) const DR6_BD: u64 = 1 << 13;
/// The bit of DR7 that is always set.
pub(crate) const DR7_FIXED: u64 = 1 << 10;
/// Those that can be (Intel SDM 3-17.2.4).
pub(crate) const DR7_BITS: u64 = 0xffff_23ff;
/// DR7.GD: the next access to a debug register is #DB.
pub(crate) const DR7_GD: u64 = 1 << 13;

impl Core {
    /// A segment register, by its number.
    pub(crate) fn segment(&self, number: u8) -> Segment {
        let Cached { selector, limit, rights } = self.system.segments[usize::from(number & 7)];
        Segment { selector, base: self.regs[BASES + (number & 7)], limit, rights }
    }

    /// Sets a segment register, base and all, unchecked.
    pub(crate) fn set_segment(&mut self, number: u8, segment: Segment) {
        let Segment { selector, base, limit, rights } = segment;
        self.regs[BASES + (number & 7)] = base;
        self.system.segments[usize::from(number & 7)] = Cached { selector, limit, rights };
    }

    /// From now on this is the current privilege level.
    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.system.cpl = cpl;
        self.refresh_mode();
    }

    /// Makes the accesses of `work` the system's, whatever the CPL: those to descriptor tables and
    /// task-state segments are (Intel SDM 3-4.6.1, "implicit supervisor-mode accesses").
    pub(crate) fn as_system<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let user = self.tlb.is_user();
        self.tlb.set_user(false);
        let result = work(self);
        self.tlb.set_user(user);
        result
    }
}
