//! The memory that cases see, at the same addresses on both sides: code, and pages of data with
//! every neighbourhood that a page border can have.
//!
//! Nothing else lies in the first 4 GiB of either side, so that a stray access faults.

/// The size of a page.
pub const PAGE: u64 = 4096;

/// Where code lies: two pages that may be executed and read; behind them is nothing.
pub const CODE: u64 = 0x1000_0000;
/// The size of the code pages.
pub const CODE_SIZE: u64 = 2 * PAGE;

/// Where data lies.
pub const DATA: u64 = 0x2000_0000;
/// The size of the data pages.
pub const DATA_SIZE: u64 = PAGES.len() as u64 * PAGE;

/// What may be done with a page of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// It is not there.
    Nothing,
    /// It may be read.
    Read,
    /// It may be read and written.
    Write,
}

/// The pages of data.
pub const PAGES: [Rights; 9] = {
    use Rights::{Nothing, Read, Write};
    [Nothing, Write, Write, Nothing, Read, Write, Nothing, Read, Nothing]
};

/// What the byte at `offset` of the data is when no case has put anything there.
pub fn blank(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// All data as it is when no case has put anything there.
pub fn blank_data() -> Vec<u8> {
    (0..DATA_SIZE).map(blank).collect()
}

/// The kernel's half of all addresses, and the last page of the user's: to user code they are
/// present and forbidden, as Linux says of them whatever is there.
pub fn is_forbidden(address: u64) -> bool {
    address >= 0xffff_8000_0000_0000 || address >> 12 == LAST_USER_PAGE >> 12
}

/// Linux leaves the last page below the hole unused.
pub const LAST_USER_PAGE: u64 = 0x7fff_ffff_f000;

/// Whether user code may be let loose on this address: if it does not lie in the arena, an access
/// faults on both sides.
pub fn is_safe(address: u64) -> bool {
    let low = address < 1 << 32 && !(CODE - PAGE..CODE + CODE_SIZE + PAGE).contains(&address);
    let canonical = (address << 16).cast_signed() >> 16 == address.cast_signed();
    low || !canonical || is_forbidden(address)
}
