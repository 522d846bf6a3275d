//! What instructions work on: registers, system state, the way to memory.

use std::collections::BTreeMap;

use crate::{
    code::CodeMap,
    cpuid::Cpuid,
    debug::Debug,
    exception::Exception,
    flags::{Flags, STATUS},
    io::Io,
    ram::Ram,
    regs::Regs,
    signal::Signals,
    system::System,
    tlb::Tlb,
    vector::Vectors,
    word::Word,
};

/// What a run is lent, and what it shares.
pub(crate) struct World<'a> {
    pub(crate) ram: &'a dyn Ram,
    pub(crate) io: &'a dyn Io,
    pub(crate) code_map: &'a CodeMap,
}

/// Everything of a CPU but what it has decoded.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) regs: Regs,
    pub(crate) flags: Flags,
    /// RFLAGS without what `flags` holds.
    pub(crate) other_flags: u64,
    /// The linear address where the next block begins; inside a block it is behind, see
    /// [`Op::offset`](crate::op::Op).
    pub(crate) rip: u64,
    /// The base of the code segment; 0 in 64-bit code.
    pub(crate) code_base: u64,
    /// The last offset in the code segment; any is in 64-bit code.
    pub(crate) code_limit: u64,
    /// How many operations of the chain come after the one that stopped it.
    pub(crate) left: usize,
    /// Counts what makes remembered jumps void; its low bits are the [mode](Self::mode).
    pub(crate) stamp: u64,
    pub(crate) tlb: Tlb,
    /// The RAM's when the TLB was last emptied for it.
    pub(crate) generation: Option<u64>,
    pub(crate) vectors: Vectors,
    pub(crate) system: System,
    pub(crate) signals: Signals,
    pub(crate) cpuid: Cpuid,
    pub(crate) debug: Debug,
    /// The current instruction is executed on its own: it may reach devices and overwrite code.
    pub(crate) careful: bool,
    /// Somebody wished that the run end.
    pub(crate) leave: bool,
    /// To be delivered, after [`Stop::Fault`](crate::op::Stop).
    pub(crate) fault: Option<Exception>,
    /// What is not built and would be needed, after [`Stop::Refuse`](crate::op::Stop).
    pub(crate) refused: Option<&'static str>,
    /// What CR2 becomes if `fault` is a page fault.
    pub(crate) fault_address: u64,
    /// The code map's epoch up to which its notes are known here.
    pub(crate) epoch: u64,
    /// The word of the marks of code that was overwritten here last.
    pub(crate) overwrote: Option<usize>,
    /// How often PAUSE was executed.
    pub(crate) pauses: u32,
    /// How many instructions were executed.
    pub(crate) instructions: u64,
    /// How many of them end the run.
    pub(crate) limit: u64,
    /// How often instructions were met that are not built, by [`iced_x86::Code`].
    pub(crate) unknown: BTreeMap<u16, u64>,
}

/// The low bits of [`Core::stamp`] that are the mode.
const MODE_BITS: u32 = 16;

impl Core {
    pub(crate) fn new() -> Self {
        let mut flags = Flags::default();
        flags.set(0);
        Self {
            regs: Regs::default(),
            flags,
            other_flags: 2,
            rip: 0,
            code_base: 0,
            code_limit: u64::MAX,
            left: 0,
            stamp: 0,
            tlb: Tlb::new(),
            generation: None,
            vectors: Vectors::default(),
            system: System::default(),
            signals: Signals::default(),
            cpuid: Cpuid::new(),
            debug: Debug::default(),
            careful: false,
            leave: false,
            fault: None,
            refused: None,
            fault_address: 0,
            epoch: 0,
            overwrote: None,
            pauses: 0,
            instructions: 0,
            limit: u64::MAX,
            unknown: BTreeMap::new(),
        }
    }

    /// The part of a general-purpose register that `field` names.
    #[inline(always)]
    pub(crate) fn reg<W: Word>(&self, field: u8) -> W {
        W::part(self.regs[field], field)
    }

    /// Sets the part of a general-purpose register that `field` names.
    #[inline(always)]
    pub(crate) fn set_reg<W: Word>(&mut self, field: u8, value: W) {
        let register = &mut self.regs[field];
        *register = value.merge(*register, field);
    }

    /// RFLAGS.
    pub(crate) fn rflags(&self) -> u64 {
        self.other_flags | self.flags.image()
    }

    /// Sets all of RFLAGS, unchecked.
    pub(crate) fn set_rflags(&mut self, image: u64) {
        self.flags.set(image);
        self.other_flags = image & !STATUS | 2;
    }

    /// The mode that code is decoded for: what else than its bytes decides on its operations.
    pub(crate) fn mode(&self) -> u32 {
        self.stamp as u32 & ((1 << MODE_BITS) - 1)
    }

    pub(crate) fn set_mode(&mut self, mode: u16) {
        self.stamp = self.stamp & !((1 << MODE_BITS) - 1) | u64::from(mode);
    }

    /// What remembered jumps lead to may be somewhere else now.
    pub(crate) fn forget_jumps(&mut self) {
        self.stamp = self.stamp.wrapping_add(1 << MODE_BITS);
    }

    /// Forgets all translations.
    pub(crate) fn flush_tlb(&mut self) {
        self.tlb.flush();
        self.forget_jumps();
    }

    /// Forgets the translation of the page of `linear`.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        if self.tlb.flush_page(linear) {
            self.forget_jumps();
        }
    }
}
