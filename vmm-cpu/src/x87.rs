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
}

/// Where TOP is in the status word.
const TOP: u16 = 11;

/// The bits of the control word that can be set, and the one that always is.
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 1 << 6;

impl Default for X87 {
    /// As after FNINIT (Intel SDM 1-8.1.1).
    fn default() -> Self {
        Self { registers: [Vector::default(); 8], control: 0x37f, status: 0, top: 0, full: 0 }
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
    }

    /// Sets the control word, of which some bits are fixed.
    pub(crate) fn set_control(&mut self, word: u16) {
        self.control = word & CONTROL_BITS | CONTROL_FIXED;
    }

    /// The number of the register that is ST(i).
    #[inline(always)]
    pub(crate) fn number(&self, i: u8) -> usize {
        usize::from(self.top.wrapping_add(i) & 7)
    }

    /// ST(i).
    pub(crate) fn st(&self, i: u8) -> Vector {
        self.registers[self.number(i)]
    }
}
