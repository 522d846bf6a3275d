//! The x87 unit's registers, which are MMX's as well.

use crate::vector::Vector;

/// Eight registers of 80 bits used as a stack, and what is said about them.
#[derive(Clone, Debug)]
pub(crate) struct X87 {
    /// R0 to R7, each in the low 10 bytes.
    pub(crate) registers: [Vector; 8],
    /// The control word.
    pub(crate) control: u16,
    /// The status word but for TOP.
    pub(crate) status: u16,
    /// The number of the register that is ST(0).
    pub(crate) top: u8,
    /// Bit n: Rn is not empty.
    pub(crate) full: u8,
    pub(crate) last: Last,
}

/// The last instruction that was not about control, and the last operand in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Last {
    /// The lower three bits of its first byte, and the second byte.
    pub(crate) opcode: u16,
    pub(crate) instruction: u64,
    pub(crate) code_segment: u16,
    pub(crate) operand: u64,
    pub(crate) data_segment: u16,
}

impl Last {
    /// The bits of an opcode.
    pub(crate) const OPCODE: u16 = 0x7ff;
}

/// Where TOP is in the status word.
const TOP: u16 = 11;

/// The bits of the control word that can be set, and the one that always is.
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 1 << 6;

/// The exceptions in the status word, and their masks in the control word.
const EXCEPTIONS: u16 = 0x3f;
pub(crate) const IE: u16 = 1 << 0;
pub(crate) const DE: u16 = 1 << 1;
pub(crate) const ZE: u16 = 1 << 2;
pub(crate) const OE: u16 = 1 << 3;
pub(crate) const UE: u16 = 1 << 4;
/// Those about operands, which leave everything as it was unless they are masked.
const EARLY: u16 = 7;
/// Of the status word: a stack fault.
const SF: u16 = 1 << 6;
/// An exception that is not masked is pending; B has always the same value.
const ES: u16 = 1 << 7;
const B: u16 = 1 << 15;
/// The condition codes.
pub(crate) const C0: u16 = 1 << 8;
pub(crate) const C1: u16 = 1 << 9;
pub(crate) const C2: u16 = 1 << 10;
pub(crate) const C3: u16 = 1 << 14;

/// The NaN that answers what is invalid.
pub(crate) const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

impl Default for X87 {
    /// As after FNINIT (Intel SDM 1-8.1.1).
    fn default() -> Self {
        let registers = [Vector::default(); 8];
        Self { registers, control: 0x37f, status: 0, top: 0, full: 0, last: Last::default() }
    }
}

impl X87 {
    /// The status word.
    pub(crate) fn status_word(&self) -> u16 {
        self.status | u16::from(self.top & 7) << TOP
    }

    pub(crate) fn set_status_word(&mut self, word: u16) {
        self.top = (word >> TOP & 7) as u8;
        self.status = word & !(7 << TOP);
        self.summarize();
    }

    /// Sets the control word, of which some bits are fixed.
    pub(crate) fn set_control(&mut self, word: u16) {
        self.control = word & CONTROL_BITS | CONTROL_FIXED;
        self.summarize();
    }

    /// ES and B follow from the rest.
    fn summarize(&mut self) {
        self.status &= !(ES | B);
        if self.status & EXCEPTIONS & !self.control != 0 {
            self.status |= ES | B;
        }
    }

    /// Whether the next instruction that waits is to be #MF.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        self.status & ES != 0
    }

    /// FNINIT; the registers stay.
    pub(crate) fn initialize(&mut self) {
        *self = Self { registers: self.registers, ..Self::default() };
    }

    /// FNCLEX.
    pub(crate) fn clear_exceptions(&mut self) {
        self.status &= !(EXCEPTIONS | SF | ES | B);
    }

    /// The number of the register that is ST(i).
    #[inline(always)]
    pub(crate) fn number(&self, i: u8) -> usize {
        usize::from(self.top.wrapping_add(i) & 7)
    }

    /// What is in the register that is ST(i), empty or not.
    pub(crate) fn st(&self, i: u8) -> Vector {
        self.registers[self.number(i)]
    }

    /// ST(i), unless it is empty.
    pub(crate) fn get(&self, i: u8) -> Option<Vector> {
        (self.full >> self.number(i) & 1 != 0).then(|| self.st(i))
    }

    pub(crate) fn set(&mut self, i: u8, value: Vector) {
        let number = self.number(i);
        self.registers[number] = value;
        self.full |= 1 << number;
    }

    /// Marks ST(i) as empty.
    pub(crate) fn free(&mut self, i: u8) {
        self.full &= !(1 << self.number(i));
    }

    pub(crate) fn pop(&mut self) {
        self.free(0);
        self.rotate(1);
    }

    /// Adds to TOP.
    pub(crate) fn rotate(&mut self, by: u8) {
        self.top = self.top.wrapping_add(by) & 7;
    }

    /// Pushes a value. If there is no room it is the indefinite one; or, with that not masked,
    /// there is nothing pushed and the answer is false.
    pub(crate) fn push(&mut self, value: Vector) -> bool {
        let value = if self.get(7).is_none() {
            value
        } else {
            if !self.stack_fault(C1) {
                return false;
            }
            Vector::of(INDEFINITE)
        };
        self.rotate(7);
        self.set(0, value);
        true
    }

    /// An empty register was to be read, or a full one to be pushed to: C1 tells which. False if
    /// that is not masked.
    pub(crate) fn stack_fault(&mut self, c1: u16) -> bool {
        self.raise(IE | SF | c1)
    }

    /// Notes exceptions and C1. False if nothing else is to be changed: what is wrong with operands
    /// comes before there is a result to tell of.
    pub(crate) fn raise(&mut self, status: u16) -> bool {
        let early = status & EARLY & !self.control != 0;
        let status = if early && status & SF == 0 { status & EARLY } else { status };
        self.status = self.status & !C1 | status & (EXCEPTIONS | SF | C1);
        self.summarize();
        !early
    }

    /// Replaces some condition codes.
    pub(crate) fn set_codes(&mut self, codes: u16, which: u16) {
        self.status = self.status & !which | codes & which;
    }

    /// The tag word (Intel SDM 1-8.1.7).
    pub(crate) fn tag_word(&self) -> u16 {
        (0..8).rev().fold(0, |word, number| word << 2 | self.tag(number))
    }

    fn tag(&self, number: usize) -> u16 {
        let bits: u128 = self.registers[number].low();
        let (exponent, significand) = (bits >> 64 & 0x7fff, bits as u64);
        match (self.full >> number & 1, exponent, significand) {
            (0, _, _) => 3,
            (_, 0, 0) => 1,
            (_, 0 | 0x7fff, _) => 2,
            _ if significand >> 63 == 0 => 2,
            _ => 0,
        }
    }

    pub(crate) fn set_tag_word(&mut self, word: u16) {
        self.full = (0..8).filter(|n| word >> (2 * n) & 3 != 3).fold(0, |full, n| full | 1 << n);
    }
}
