//! The address of a memory operand: how it is lowered, and outside 64-bit code checked against its
//! segment (Intel SDM 3-5.3, 3-5.5).
//!
//! Most are one sum of base, index and displacement, which every operation works out itself. What
//! such a sum has above 32 bits where addresses have no more is cut off when the TLB misses.

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use crate::{
    access::address,
    core::{Core, World},
    decode::{Lowering, field_of},
    exception::{Exception, Vector},
    isa::Done,
    op::{Op, Stop, exec},
    regs::{BASES, FS_BASE, GS_BASE, NONE, SIGN, TEMP},
    state::{Segment, rights},
    system::{SS, mode},
    word::Word,
};

impl Lowering<'_> {
    /// Whether it is 64-bit code.
    pub(crate) fn is_long(&self) -> bool {
        self.mode & (mode::CODE_32 | mode::CODE_16) == 0
    }

    /// Whether accesses by way of CS, DS, ES and SS are to be checked.
    pub(crate) fn is_segmented(&self) -> bool {
        self.mode & mode::SEGMENTED != 0
    }

    /// Sets the address of the memory operand; an operation before works it out if one sum does not
    /// say it.
    pub(crate) fn address(&mut self, op: &mut Op) {
        self.address_plus(op, self.segment(), NONE, 0);
    }

    /// The register with the base of the memory operand's segment, if that matters.
    pub(crate) fn segment(&self) -> u8 {
        match self.instruction.memory_segment() {
            Register::FS => FS_BASE,
            Register::GS => GS_BASE,
            segment if self.is_segmented() => field_of(segment),
            _ => NONE,
        }
    }

    /// As [`address`](Self::address) in this segment, with a register and a number added inside of
    /// it.
    pub(crate) fn address_plus(&mut self, op: &mut Op, segment: u8, register: u8, number: u64) {
        let i = self.instruction;
        let base = i.memory_base();
        if segment == NONE && matches!(base.full_register(), Register::RSP | Register::RBP) {
            op.scale |= Op::STACK;
        }
        if !self.is_long() {
            return self.short_address(op, segment, register, number);
        }
        let short = width(i) == 4;
        let [base, index] = fields(i);
        let mut fields = [base, index];
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let disp = i.memory_displacement64().wrapping_add(number);
        let fits = i32::try_from(disp.cast_signed()).ok().filter(|_| !short && register == NONE);
        // The segment's base can take the place of an operand that is not there.
        let mut left = segment;
        if fits.is_some() {
            for field in fields.iter_mut().filter(|field| **field == NONE) {
                *field = std::mem::replace(&mut left, NONE);
            }
        }
        let [base, index] = fields;
        if left == NONE
            && let Some(disp) = fits
        {
            (op.base, op.index, op.disp) = (base, index, disp);
            op.scale |= scale;
            return;
        }
        let exec = if short { exec!(offset::<u32>) } else { exec!(offset::<u64>) };
        let before = Op { src: register, third: segment, imm: disp, ..self.bare(exec) };
        self.push_before(Op { base, index, scale, ..before });
        op.base = TEMP;
    }

    /// An address outside 64-bit code.
    fn short_address(&mut self, op: &mut Op, segment: u8, register: u8, number: u64) {
        let i = self.instruction;
        let [mut base, mut index] = fields(i);
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let disp = i.memory_displacement64().wrapping_add(number) as u32;
        let narrow = width(i) == 2;
        if segment == NONE && register == NONE && !narrow {
            // Displacements are sign-extended. One that is negative is a distance if there is a
            // register it can be from, and not too far; else an address, where that is undone.
            let alone = base == NONE && index == NONE;
            if disp >> 31 != 0 && (alone || disp < 0xff00_0000) {
                match (base, index) {
                    (NONE, _) => base = SIGN,
                    (_, NONE) => index = SIGN,
                    _ => {}
                }
            }
            (op.base, op.index, op.disp) = (base, index, disp.cast_signed());
            op.scale |= scale;
            return;
        }
        let before = self.bare(exec!(offset::<u32>));
        let before = Op { src: register, third: segment, imm: disp.into(), ..before };
        let before = Op { base, index, scale, ..before };
        let access = (i.memory_size().size() as u64, segment != NONE && writes(i));
        self.work_out(before, if narrow { 2 } else { 4 }, access);
        op.base = TEMP;
    }

    /// Sets the address to that in a register, as wide as `width`, at which `len` bytes are stored:
    /// for what does not name its memory operand.
    pub(crate) fn address_in(&mut self, op: &mut Op, base: u8, width: usize, len: u64) {
        let segment = self.segment();
        if width == 8 || width == 4 && !self.is_long() && segment == NONE {
            (op.base, op.index) = (base, segment);
            return;
        }
        let before = Op { base, third: segment, ..self.bare(exec!(offset::<u32>)) };
        if self.is_long() {
            self.push_before(before);
        } else {
            self.work_out(before, width, (len, true));
        }
        op.base = TEMP;
    }

    /// Adds the operation before that works an address outside 64-bit code out, for an access to so
    /// many bytes, and perhaps a store.
    fn work_out(&mut self, before: Op, width: usize, (len, write): (u64, bool)) {
        if before.third == NONE {
            let exec = if width == 2 { exec!(offset::<u16>) } else { exec!(offset::<u32>) };
            return self.push_before(Op { exec, ..before });
        }
        let exec = match (width, write) {
            (2, false) => exec!(checked::<u16, false>),
            (2, true) => exec!(checked::<u16, true>),
            (_, false) => exec!(checked::<u32, false>),
            (_, true) => exec!(checked::<u32, true>),
        };
        self.push_load(Op { exec, imm: before.imm | len << 32, ..before });
    }
}

/// The registers of a memory operand.
fn fields(i: &Instruction) -> [u8; 2] {
    [i.memory_base(), i.memory_index()].map(|register| match register {
        Register::None => NONE,
        register => field_of(register),
    })
}

/// How many bytes the address has; a displacement alone tells its width itself.
fn width(i: &Instruction) -> usize {
    match (i.memory_base(), i.memory_index()) {
        (Register::None, Register::None) => i.memory_displ_size() as usize,
        (Register::None, index) => index.size(),
        (base, _) => base.size(),
    }
}

/// Whether the memory operand is stored to.
fn writes(i: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(i);
    (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Memory).any(|n| {
        use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
        matches!(info.op_access(n), CondWrite | ReadCondWrite | ReadWrite | Write)
    })
}

/// The offset in its segment.
fn sum<W: Word>(core: &Core, op: &Op) -> u64 {
    let sum = address(&core.regs, op).wrapping_add(op.imm).wrapping_add(core.regs[op.src]);
    W::of(sum).zext()
}

/// An address of which base, index and displacement are not all, or which is short.
fn offset<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.regs[TEMP] = sum::<W>(core, op).wrapping_add(core.regs[op.third]);
    Ok(())
}

/// An address that is checked against its segment.
fn checked<W: Word, const WRITE: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    // What of the length is in the displacement is cut off.
    let (offset, len) = (sum::<W>(core, op), op.imm >> 32);
    core.regs[TEMP] = core.segment_address(op.third.wrapping_sub(BASES), offset, len, WRITE)?;
    Ok(())
}

impl Segment {
    /// The linear address of `offset`, at which `len` bytes are to be accessed; `None` if the
    /// segment does not let them.
    pub(crate) fn reach(&self, offset: u64, len: u64, write: bool) -> Option<u64> {
        let allowed = if write { self.is_writable() } else { self.is_readable() };
        if !allowed || self.rights & rights::UNUSABLE != 0 {
            return None;
        }
        let last = offset + len.max(1) - 1;
        let limit = u64::from(self.limit);
        let kind = rights::CODE | rights::EXPAND_DOWN;
        let within = if self.rights & kind == rights::EXPAND_DOWN {
            let end = if self.rights & rights::BIG != 0 { u64::from(u32::MAX) } else { 0xffff };
            offset > limit && last <= end
        } else {
            // In a segment of 4 GiB, what goes beyond begins anew.
            last <= limit || self.limit == u32::MAX
        };
        within.then(|| self.base.wrapping_add(offset) & u64::from(u32::MAX))
    }
}

impl Core {
    /// The linear address of an offset in a segment, outside 64-bit code; #SS(0) or #GP(0) if it
    /// cannot be accessed so.
    pub(crate) fn segment_address(
        &mut self,
        number: u8,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Stop> {
        match self.segment(number).reach(offset, len, write) {
            Some(linear) => Ok(linear),
            None if number == SS => Err(self.raise(Exception::with_code(Vector::Stack, 0))),
            None => Err(self.general_protection(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_reach_to_their_limits() {
        let data = |limit, more| Segment { selector: 8, base: 0x1000, limit, rights: 0x93 | more };
        let up = data(0xfff, 0);
        assert_eq!(up.reach(0xffc, 4, true), Some(0x1ffc));
        assert_eq!(up.reach(0xffd, 4, true), None);
        let down = data(0xfff, rights::EXPAND_DOWN);
        assert_eq!(down.reach(0xfff, 1, true), None);
        assert_eq!(down.reach(0x1000, 4, true), Some(0x2000));
        assert_eq!(down.reach(0xfffe, 4, true), None);
        let big = data(0xfff, rights::EXPAND_DOWN | rights::BIG);
        assert_eq!(big.reach(0xfffe, 4, true), Some(0x10ffe));
        assert_eq!(big.reach(0xffff_fffe, 4, true), None);
        let whole = data(u32::MAX, 0);
        assert_eq!(whole.reach(0xffff_fffe, 4, true), Some(0xffe));
        let code = Segment { rights: 0x9b, ..up };
        assert_eq!((code.reach(0, 1, false), code.reach(0, 1, true)), (Some(0x1000), None));
        let hidden = Segment { rights: 0x99, ..up };
        assert_eq!(hidden.reach(0, 1, false), None);
        assert_eq!(Segment::null().reach(0, 1, false), None);
    }
}
