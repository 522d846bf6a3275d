//! The CPU's state, as whoever drives it gives and takes it.

use std::fmt;

use crate::{
    core::Core,
    cpu::Cpu,
    cpuid::SIGNATURE,
    exception::{Exception, Vector},
    flags, msr,
    paging::{PHYSICAL_BITS, is_canonical},
    regs::RDX,
    signal::Accepted,
    system::{
        CR0_BITS, CR0_CD, CR0_ET, CR0_NW, CR0_PE, CR0_PG, CR4_BITS, CR4_PAE, CS, DR6_BITS,
        DR6_FIXED, DR7_BITS, DR7_FIXED, EFER_BITS, EFER_LMA, EFER_LME, SS,
    },
};

/// Everything of a CPU that guest code can see, at a border of instructions. Plain data; what it
/// may hold is checked by [`Cpu::set_state`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The general-purpose registers.
    pub registers: Registers,
    /// ES, CS, SS, DS, FS, GS. The privilege level is that of SS's rights.
    pub segments: [Segment; 6],
    /// The local descriptor table.
    pub ldtr: Segment,
    /// The task-state segment.
    pub tr: Segment,
    /// The global descriptor table.
    pub gdtr: Table,
    /// The interrupt descriptor table.
    pub idtr: Table,
    /// Control register 0.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    /// The physical address of the page tables' root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// The task priority.
    pub cr8: u64,
    /// The EFER model-specific register.
    pub efer: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// The state components that are switched on.
    pub xcr0: u64,
    /// The x87 and SSE state as XSAVE stores it, in the standard format; its length is
    /// [`XSAVE_LEN`](Self::XSAVE_LEN).
    pub xsave: Vec<u8>,
    /// Model-specific registers that are not above, by number: all there are when taken; those that
    /// are to be set when given.
    pub msrs: Vec<(u32, u64)>,
    /// Interrupts are held off for one instruction, behind an STI or what has loaded SS.
    pub shadow: bool,
    /// An exception was raised and not yet delivered: its vector and error code. CR2 and DR6 have
    /// what belongs to it.
    pub exception: Option<(u8, Option<u32>)>,
    /// An interrupt from outside was accepted and not yet delivered.
    pub interrupt: Option<u8>,
    /// An NMI waits.
    pub nmi: bool,
    /// NMIs wait for IRET.
    pub nmi_blocked: bool,
}

/// The general-purpose registers, RIP and RFLAGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// The address of the next instruction.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
}

impl Default for Registers {
    /// All 0 but the bit of RFLAGS that is always set.
    fn default() -> Self {
        Self { general: [0; 16], rip: 0, rflags: 2 }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The linear base address.
    pub base: u64,
    /// The size in bytes, less one.
    pub limit: u16,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes, granularity already applied.
    pub limit: u32,
    /// Bits 8 to 23 of the descriptor's second word in bits 0 to 15 (type, S, DPL, P; AVL, L, D,
    /// G), the bits of the limit among them 0; bit 16: unusable, as with a null selector. (Intel
    /// SDM 3, table 24-2, "access rights").
    pub rights: u32,
}

/// Bits of [`Segment::rights`].
pub(crate) mod rights {
    pub(crate) const ACCESSED: u32 = 1 << 0;
    /// Data: writable. Code: readable.
    pub(crate) const WRITABLE: u32 = 1 << 1;
    pub(crate) const CONFORMING: u32 = 1 << 2;
    /// Data: offsets are above the limit.
    pub(crate) const EXPAND_DOWN: u32 = 1 << 2;
    pub(crate) const CODE: u32 = 1 << 3;
    /// Code or data, not a system segment.
    pub(crate) const USER: u32 = 1 << 4;
    pub(crate) const PRESENT: u32 = 1 << 7;
    pub(crate) const LONG: u32 = 1 << 13;
    pub(crate) const BIG: u32 = 1 << 14;
    pub(crate) const GRANULAR: u32 = 1 << 15;
    pub(crate) const UNUSABLE: u32 = 1 << 16;
    /// All that a descriptor has.
    pub(crate) const DESCRIPTOR: u32 = 0xf0ff;
}

impl Segment {
    /// 64-bit code for the privilege level `dpl`.
    pub fn code64(selector: u16, dpl: u8) -> Self {
        Self::flat(selector, rights::CODE | rights::LONG, dpl)
    }

    /// Flat 32-bit code of 4 GiB for the privilege level `dpl`.
    pub fn code32(selector: u16, dpl: u8) -> Self {
        Self::flat(selector, rights::CODE | rights::BIG, dpl)
    }

    /// Flat data of 4 GiB for the privilege level `dpl`.
    pub fn data(selector: u16, dpl: u8) -> Self {
        Self::flat(selector, rights::BIG, dpl)
    }

    /// A busy 64-bit task-state segment.
    pub fn task(selector: u16, base: u64, limit: u32) -> Self {
        Self { selector, base, limit, rights: rights::PRESENT | 0xb }
    }

    /// The rights of a data segment in real mode: present, writable, accessed.
    pub(crate) const REAL: u32 = 0x93;

    /// What a null selector loads.
    pub fn null() -> Self {
        Self { selector: 0, base: 0, limit: 0, rights: rights::UNUSABLE }
    }

    /// What SS is with a null selector.
    pub(crate) fn null_stack(cpl: u8) -> Self {
        let rights = rights::UNUSABLE | u32::from(cpl & 3) << 5;
        Self { selector: u16::from(cpl & 3), base: 0, limit: 0, rights }
    }

    fn flat(selector: u16, kind: u32, dpl: u8) -> Self {
        let present = rights::PRESENT | rights::USER | rights::GRANULAR;
        let rights = kind | present | rights::WRITABLE | rights::ACCESSED | u32::from(dpl & 3) << 5;
        Self { selector: selector & !3 | u16::from(dpl & 3), base: 0, limit: u32::MAX, rights }
    }

    /// As a descriptor of 8 bytes says (Intel SDM 3, figure 3-8).
    pub(crate) fn described(selector: u16, descriptor: u64) -> Self {
        let rights = (descriptor >> 40) as u32 & rights::DESCRIPTOR;
        let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
        let granular = rights & rights::GRANULAR != 0;
        Self { selector, base, limit: if granular { limit << 12 | 0xfff } else { limit }, rights }
    }

    pub(crate) fn dpl(&self) -> u8 {
        (self.rights >> 5) as u8 & 3
    }

    pub(crate) fn is_present(&self) -> bool {
        self.rights & rights::PRESENT != 0
    }

    pub(crate) fn is(&self, wanted: u32) -> bool {
        self.rights & wanted == wanted
    }

    /// Data, or code that can be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.is(rights::USER) && (!self.is(rights::CODE) || self.is(rights::WRITABLE))
    }

    /// Data that can be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.is(rights::USER | rights::WRITABLE) && !self.is(rights::CODE)
    }

    /// Code that runs at its caller's privilege level.
    pub(crate) fn is_conforming(&self) -> bool {
        self.is(rights::USER | rights::CODE | rights::CONFORMING)
    }

    /// 64-bit code.
    pub(crate) fn is_code64(&self) -> bool {
        self.is(rights::USER | rights::CODE | rights::LONG) && self.rights & rights::BIG == 0
    }

    /// The type of a system segment; `None` if it is code or data.
    pub(crate) fn system_type(&self) -> Option<u8> {
        (self.rights & rights::USER == 0).then_some(self.rights as u8 & 15)
    }
}

/// A state that this CPU cannot be in, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidState(String);

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidState {}

impl State {
    /// As a processor comes out of reset: real mode, 16 bytes below 4 GiB (Intel SDM 3, table 9-1).
    pub fn reset() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, rights: 0x93 };
        let code = Segment { selector: 0xf000, base: 0xffff_0000, rights: 0x9b, ..data };
        let mut general = [0; 16];
        general[usize::from(RDX)] = u64::from(SIGNATURE);
        let table = Table { base: 0, limit: 0xffff };
        Self {
            registers: Registers { general, rip: 0xfff0, rflags: 2 },
            segments: [data, code, data, data, data, data],
            ldtr: Segment { rights: 0x82, ..data },
            tr: Segment { rights: 0x8b, ..data },
            gdtr: table,
            idtr: table,
            cr0: CR0_ET | CR0_NW | CR0_CD,
            cr4: 0,
            efer: 0,
            ..Self::default()
        }
    }

    /// The length of [`xsave`](Self::xsave) in bytes.
    pub const XSAVE_LEN: usize = 576;

    fn accepted(&self) -> Option<Accepted> {
        let exception = self.exception.and_then(|(vector, code)| {
            Some(Accepted::Exception(Exception { vector: Vector::of(vector)?, code }))
        });
        exception.or(self.interrupt.map(Accepted::Interrupt))
    }

    fn check(&self) -> Result<(), InvalidState> {
        let check = |good: bool, what: &str, value: u64| match good {
            true => Ok(()),
            false => Err(InvalidState(format!("{what}: {value:#x}"))),
        };
        let (protected, paging) = (self.cr0 & CR0_PE != 0, self.cr0 & CR0_PG != 0);
        check(protected || !paging, "paging without protection, CR0", self.cr0)?;
        let (enabled, active) = (self.efer & EFER_LME != 0, self.efer & EFER_LMA != 0);
        check(active == (enabled && paging), "paging and long mode, EFER", self.efer)?;
        check(!active || self.cr4 & CR4_PAE != 0, "long mode without PAE, CR4", self.cr4)?;
        let code = u64::from(self.segments[usize::from(CS)].rights);
        let both = u64::from(rights::LONG | rights::BIG);
        check(!active || code & both != both, "code of 32 and of 64 bits, CS", code)?;
        check(self.cr0 & !CR0_BITS == 0, "no such bits in CR0", self.cr0)?;
        check(self.cr3 >> PHYSICAL_BITS == 0, "no such address in CR3", self.cr3)?;
        check(self.cr4 & !CR4_BITS == 0, "no such bits in CR4", self.cr4)?;
        check(self.cr8 < 16, "no such priority in CR8", self.cr8)?;
        check(self.efer & !EFER_BITS == 0, "no such bits in EFER", self.efer)?;
        check(self.xcr0 & !3 == 0 && self.xcr0 & 1 != 0, "no such bits in XCR0", self.xcr0)?;
        let segments = self.segments.iter().chain([&self.tr, &self.ldtr]);
        for base in segments.map(|s| s.base).chain([self.gdtr.base, self.idtr.base]) {
            check(is_canonical(base), "not canonical, the base", base)?;
        }
        let vector = self.exception.map_or(0, |(vector, _)| vector);
        check(Vector::of(vector).is_some(), "no such exception", vector.into())?;
        let both = self.exception.is_some() && self.interrupt.is_some();
        check(!both, "an interrupt beside the exception", vector.into())?;
        let len = self.xsave.len();
        check(len == Self::XSAVE_LEN, "the XSAVE image's length", len as u64)
    }
}

impl Default for State {
    /// As a loader enters 64-bit code: CPL 0, paging on with tables at 0, SSE switched on.
    fn default() -> Self {
        Core::new().state()
    }
}

impl Cpu {
    /// The general-purpose registers.
    pub fn registers(&self) -> Registers {
        self.core.registers()
    }

    /// Sets the general-purpose registers. Bits of RFLAGS that do not exist are left out.
    pub fn set_registers(&mut self, registers: &Registers) {
        let core = &mut self.core;
        registers.general.iter().zip(0..).for_each(|(value, n)| core.regs[n] = *value);
        core.rip = core.code_address(registers.rip);
        core.set_rflags(registers.rflags & flags::ALL);
    }

    /// Everything.
    pub fn state(&self) -> State {
        self.core.state()
    }

    /// Becomes what `state` says.
    ///
    /// # Errors
    /// The first thing in it that this CPU cannot be; it is as before then.
    pub fn set_state(&mut self, state: &State) -> Result<(), InvalidState> {
        state.check()?;
        self.set_msrs(&state.msrs)?;
        self.become_state(state);
        Ok(())
    }

    /// Becomes what `state` says, but for model-specific registers, unchecked.
    pub(crate) fn become_state(&mut self, state: &State) {
        let core = &mut self.core;
        state.segments.iter().zip(0..).for_each(|(segment, n)| core.set_segment(n, *segment));
        core.set_xsave_image(&state.xsave);
        let system = &mut core.system;
        let real = state.cr0 & CR0_PE == 0;
        system.cpl = if real { 0 } else { state.segments[usize::from(SS)].dpl() };
        (system.ldtr, system.tr) = (state.ldtr, state.tr);
        (system.gdtr, system.idtr) = (state.gdtr, state.idtr);
        (system.cr0, system.cr2, system.cr3) = (state.cr0, state.cr2, state.cr3);
        (system.cr4, system.cr8, system.efer) = (state.cr4, state.cr8, state.efer);
        system.dr = state.dr;
        system.dr6 = state.dr6 & DR6_BITS | DR6_FIXED;
        system.dr7 = state.dr7 & DR7_BITS | DR7_FIXED;
        system.xcr0 = state.xcr0;
        core.flush_tlb();
        core.refresh_mode();
        self.set_registers(&state.registers);
        let core = &mut self.core;
        core.signals.shadow = state.shadow.then_some(core.rip);
        core.signals.accepted = state.accepted();
        core.signals.interrupt |= core.signals.accepted.is_some();
        (core.signals.nmi, core.signals.nmi_blocked) = (state.nmi, state.nmi_blocked);
    }

    /// Sets all or none.
    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), InvalidState> {
        let system = &mut self.core.system;
        let before = (system.msrs.clone(), system.tsc.now());
        for &(index, value) in values {
            let known = msr::state().any(|n| n == index);
            if !known || self.core.write_msr(index, value).is_none() {
                let system = &mut self.core.system;
                system.msrs = before.0;
                system.tsc.set(before.1);
                let what = format!("the model-specific register {index:#x}: {value:#x}");
                return Err(InvalidState(what));
            }
        }
        Ok(())
    }
}

impl Core {
    fn registers(&self) -> Registers {
        let general = std::array::from_fn(|n| self.regs[n as u8]);
        Registers { general, rip: self.instruction_pointer(), rflags: self.rflags() }
    }

    fn state(&self) -> State {
        let system = &self.system;
        State {
            registers: self.registers(),
            segments: std::array::from_fn(|n| self.segment(n as u8)),
            ldtr: system.ldtr,
            tr: system.tr,
            gdtr: system.gdtr,
            idtr: system.idtr,
            cr0: system.cr0,
            cr2: system.cr2,
            cr3: system.cr3,
            cr4: system.cr4,
            cr8: system.cr8,
            efer: system.efer,
            dr: system.dr,
            dr6: system.dr6,
            dr7: system.dr7,
            xcr0: system.xcr0,
            xsave: self.xsave_image(),
            msrs: msr::state().filter_map(|n| Some((n, self.read_msr(n)?))).collect(),
            shadow: self.is_in_shadow(),
            exception: match self.signals.accepted {
                Some(Accepted::Exception(Exception { vector, code })) => Some((vector as u8, code)),
                _ => None,
            },
            interrupt: match self.signals.accepted {
                Some(Accepted::Interrupt(vector)) => Some(vector),
                _ => None,
            },
            nmi: self.signals.nmi,
            nmi_blocked: self.signals.nmi_blocked,
        }
    }
}
