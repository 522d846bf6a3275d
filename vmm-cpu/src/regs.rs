//! The register file: what an operation's fields number.

use std::ops::{Index, IndexMut};

/// The first 16 are RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15, as instructions number them.
/// The rest let every address be one sum, whatever it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Regs([u64; 32]);

impl Default for Regs {
    fn default() -> Self {
        let mut regs = [0; 32];
        regs[usize::from(SIGN)] = 1 << 32;
        Self(regs)
    }
}

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;
pub(crate) const R11: u8 = 11;

/// Always 0: no base, no index.
pub(crate) const NONE: u8 = 16;
/// The linear address of the page that the current block's code is in: the base of RIP-relative
/// addresses, for a block may run at several.
pub(crate) const PAGE: u8 = 17;
/// The address that an operation before worked out, where one sum of base, index and displacement
/// does not say it.
pub(crate) const TEMP: u8 = 18;
/// What an operation before has loaded or worked out for the one that does the instruction.
pub(crate) const VALUE: u8 = 25;
/// Always 2 to the 32nd: what makes up for the sign extension of a displacement.
pub(crate) const SIGN: u8 = 26;
/// The bases of ES, CS, SS, DS, FS and GS.
pub(crate) const BASES: u8 = 19;
pub(crate) const FS_BASE: u8 = BASES + 4;
pub(crate) const GS_BASE: u8 = BASES + 5;

impl Index<u8> for Regs {
    type Output = u64;

    #[inline(always)]
    fn index(&self, field: u8) -> &u64 {
        &self.0[usize::from(field & 31)]
    }
}

impl IndexMut<u8> for Regs {
    #[inline(always)]
    fn index_mut(&mut self, field: u8) -> &mut u64 {
        &mut self.0[usize::from(field & 31)]
    }
}
