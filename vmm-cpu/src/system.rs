//! Control registers, segments and what else is the system's.

use crate::{
    core::Core,
    flags::AC,
    paging::{CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE},
    regs::{BASES, RSP},
    state::{Segment, Table, rights},
    time::Tsc,
    tlb::View,
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
    | CR4_SMAP
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
    /// Code of 32 bits.
    pub(crate) const CODE_32: u32 = 1 << 6;
    /// Code of 16 bits; without either it is 64-bit code.
    pub(crate) const CODE_16: u32 = 1 << 7;
    /// Outside 64-bit code: CS, DS, ES and SS are not all flat segments of 4 GiB, SS with ESP.
    pub(crate) const SEGMENTED: u32 = 1 << 8;
    /// Real mode.
    pub(crate) const REAL: u32 = 1 << 9;
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
    /// Whether paging is that of long mode: 64-bit code, or compatibility mode.
    pub(crate) fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether segments are those of real mode.
    pub(crate) fn is_real(&self) -> bool {
        self.cr0 & CR0_PE == 0
    }

    /// Whether the current code is 64-bit code.
    pub(crate) fn is_64_bit(&self) -> bool {
        self.is_long() && self.segments[usize::from(CS)].rights & rights::LONG != 0
    }

    /// The part of the mode that is the size of code.
    fn code_size(&self) -> u32 {
        match self.segments[usize::from(CS)].rights & rights::BIG != 0 {
            _ if self.is_64_bit() => 0,
            true => mode::CODE_32,
            false => mode::CODE_16,
        }
    }

    /// What code is decoded for, beside its bytes and whether segments are flat.
    pub(crate) fn mode(&self) -> u16 {
        let bit = |on: bool, bit: u32| if on { bit as u16 } else { 0 };
        bit(self.cpl == 3, mode::USER)
            | bit(self.cr0 & CR0_MP != 0, mode::MONITOR)
            | bit(self.cr0 & CR0_EM != 0, mode::EMULATE)
            | bit(self.cr0 & CR0_TS != 0, mode::SWITCHED)
            | bit(self.cr4 & CR4_OSFXSR != 0, mode::FXSR)
            | bit(self.cr4 & CR4_OSXSAVE != 0, mode::XSAVE)
            | bit(self.is_real(), mode::REAL)
            | self.code_size() as u16
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
/// DR6.BS: an instruction was executed with TF set.
pub(crate) const DR6_BS: u64 = 1 << 14;
/// DR6.BD: a debug register was accessed while DR7.GD was set.
pub(crate) const DR6_BD: u64 = 1 << 13;
/// The bit of DR7 that is always set.
pub(crate) const DR7_FIXED: u64 = 1 << 10;
/// Those that can be (Intel SDM 3-17.2.4).
pub(crate) const DR7_BITS: u64 = 0xffff_23ff;
/// The bits of DR7 that arm breakpoints, locally and globally.
pub(crate) const DR7_ENABLED: u64 = 0xff;
/// DR7.GD: the next access to a debug register is #DB.
pub(crate) const DR7_GD: u64 = 1 << 13;

impl Core {
    /// A segment register, by its number.
    pub(crate) fn segment(&self, number: u8) -> Segment {
        let Cached { selector, limit, rights } = self.system.segments[usize::from(number & 7)];
        Segment { selector, base: self.regs[BASES + (number & 7)], limit, rights }
    }

    /// Sets a segment register, base and all, unchecked. Outside 64-bit code the mode is to be
    /// refreshed after it.
    pub(crate) fn set_segment(&mut self, number: u8, segment: Segment) {
        let Segment { selector, base, limit, rights } = segment;
        self.regs[BASES + (number & 7)] = base;
        self.system.segments[usize::from(number & 7)] = Cached { selector, limit, rights };
    }

    /// Makes the accesses of `work` the system's, whatever the CPL: those to descriptor tables and
    /// task-state segments are (Intel SDM 3-4.6.1, "implicit supervisor-mode accesses").
    pub(crate) fn as_system<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.tlb.view();
        self.tlb.set_view(View { short: !self.system.is_long(), ..View::SYSTEM });
        let result = work(self);
        self.tlb.set_view(before);
        result
    }

    /// Whether CS, DS, ES and SS are as if there were no segments.
    fn is_flat(&self) -> bool {
        const DATA: u32 = rights::PRESENT | rights::USER | rights::WRITABLE;
        let flat = |number: u8, wanted: u32| {
            let Cached { limit, rights, .. } = self.system.segments[usize::from(number)];
            let kind = wanted | rights::UNUSABLE | rights::CODE | rights::EXPAND_DOWN;
            self.regs[BASES + number] == 0 && limit == u32::MAX && rights & kind == wanted
        };
        let code = self.system.segments[usize::from(CS)];
        let flat_code = self.regs[BASES + CS] == 0 && code.limit == u32::MAX;
        flat_code && flat(DS, DATA) && flat(ES, DATA) && flat(SS, DATA | rights::BIG)
    }

    /// To be called when something has changed that modes tell apart, or the code segment.
    pub(crate) fn refresh_mode(&mut self) {
        let mut mode = self.system.mode();
        let long = u32::from(mode) & (mode::CODE_32 | mode::CODE_16) == 0;
        let limit = u64::from(self.system.segments[usize::from(CS)].limit);
        let (base, limit) = if long { (0, u64::MAX) } else { (self.regs[BASES + CS], limit) };
        if !long && !self.is_flat() {
            mode |= mode::SEGMENTED as u16;
        }
        if limit != self.code_limit {
            // Where jumps lead was compared with the other one.
            self.forget_jumps();
        }
        (self.code_base, self.code_limit) = (base, limit);
        self.refresh_view();
        self.set_mode(mode);
    }

    /// To be called when RFLAGS.AC has changed, which is no part of the mode.
    pub(crate) fn refresh_view(&mut self) {
        let user = self.system.cpl == 3;
        let allowed = self.system.cr4 & CR4_SMAP != 0 && self.other_flags & AC != 0;
        let (short, reaches) = (!self.system.is_64_bit(), allowed && !user);
        self.tlb.set_view(View { user, short, reaches });
    }

    /// How much of RSP there is: 16 bits in a stack segment that is not big, 64 in 64-bit code.
    pub(crate) fn stack_mask(&self) -> u64 {
        match self.system.segments[usize::from(SS)].rights & rights::BIG != 0 {
            _ if self.system.is_64_bit() => u64::MAX,
            true => u64::from(u32::MAX),
            false => 0xffff,
        }
    }

    /// Sets as much of RSP as there is; of SP alone, the rest stays.
    pub(crate) fn set_stack_pointer(&mut self, pointer: u64) {
        let mask = self.stack_mask();
        let kept = if mask == 0xffff { self.regs[RSP] & !mask } else { 0 };
        self.regs[RSP] = kept | pointer & mask;
    }

    /// The instruction pointer as code knows it: relative to its segment.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        self.within(self.rip.wrapping_sub(self.code_base))
    }

    /// How many bytes of the code segment there are from the next instruction on.
    pub(crate) fn code_room(&self) -> u64 {
        self.code_limit.saturating_add(1).saturating_sub(self.instruction_pointer())
    }

    /// The linear address of an instruction of the current code segment.
    pub(crate) fn code_address(&self, pointer: u64) -> u64 {
        self.within(self.code_base.wrapping_add(pointer))
    }

    /// A linear address as the current view has it: without what is above 32 bits outside 64-bit
    /// code.
    #[inline(always)]
    pub(crate) fn within(&self, linear: u64) -> u64 {
        if self.tlb.view().short { linear & u64::from(u32::MAX) } else { linear }
    }
}
