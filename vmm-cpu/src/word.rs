//! The widths an instruction works in.

use crate::ram::Raw;

/// A datum of 1, 2, 4 or 8 bytes in a general-purpose register or in memory.
pub(crate) trait Word: Datum + Eq {
    /// Its size in bits.
    const BITS: u32 = Self::BYTES as u32 * 8;

    /// The low bits of `value`.
    fn of(value: u64) -> Self;

    /// Zero-extended.
    fn zext(self) -> u64;

    /// Sign-extended.
    fn sext(self) -> u64;

    /// What a register holds after this was written to the part of it that `field` names, where it
    /// was `old`.
    fn merge(self, old: u64, field: u8) -> u64;

    /// The part that `field` names of a register that holds `whole`.
    fn part(whole: u64, field: u8) -> Self;
}

/// What is loaded or stored at once: a [`Word`], or the 16 bytes of a vector register.
pub(crate) trait Datum: Raw + Copy + 'static {
    /// Its size in bytes.
    const BYTES: u64;

    /// From little-endian bytes: the first [`BYTES`](Self::BYTES) of `bytes`.
    fn from_bytes(bytes: [u8; 16]) -> Self;

    /// As little-endian bytes, the rest zero.
    fn to_bytes(self) -> [u8; 16];
}

macro_rules! datum {
    ($($type:ty),*) => {$(
        impl Datum for $type {
            const BYTES: u64 = size_of::<$type>() as u64;

            #[inline(always)]
            fn from_bytes(bytes: [u8; 16]) -> Self {
                u128::from_le_bytes(bytes) as $type
            }

            #[inline(always)]
            fn to_bytes(self) -> [u8; 16] {
                u128::from(self).to_le_bytes()
            }
        }
    )*};
}

datum!(u8, u16, u32, u64, u128);

/// In a register's field: bits 8 to 15, as AH, CH, DH and BH are.
pub(crate) const HIGH: u8 = 0x20;

macro_rules! word {
    ($type:ty, $signed:ty, $merge:expr, $part:expr) => {
        impl Word for $type {
            #[inline(always)]
            fn of(value: u64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn zext(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn sext(self) -> u64 {
                i64::from(self as $signed).cast_unsigned()
            }

            #[inline(always)]
            fn merge(self, old: u64, field: u8) -> u64 {
                $merge(u64::from(self), old, field)
            }

            #[inline(always)]
            fn part(whole: u64, field: u8) -> Self {
                $part(whole, field) as $type
            }
        }
    };
}

/// 8 for a field with [`HIGH`], else 0.
#[inline(always)]
const fn shift(field: u8) -> u32 {
    ((field & HIGH) >> 2) as u32
}

word!(
    u8,
    i8,
    |new: u64, old: u64, field| old & !(0xff << shift(field)) | new << shift(field),
    |whole: u64, field| whole >> shift(field)
);
word!(u16, i16, |new: u64, old: u64, _| old & !0xffff | new, |whole: u64, _| whole);
// Intel SDM 1-3.4.1.1: 32-bit results are zero-extended, smaller ones leave the rest alone.
word!(u32, i32, |new: u64, _, _| new, |whole: u64, _| whole);
word!(u64, i64, |new: u64, _, _| new, |whole: u64, _| whole);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_keep_what_their_width_keeps() {
        let old = 0x1122_3344_5566_7788;
        assert_eq!(0xaau8.merge(old, 0), 0x1122_3344_5566_77aa);
        assert_eq!(0xaau8.merge(old, HIGH), 0x1122_3344_5566_aa88);
        assert_eq!(0xaaaau16.merge(old, 0), 0x1122_3344_5566_aaaa);
        assert_eq!(0xaaaa_aaaau32.merge(old, 0), 0xaaaa_aaaa);
        assert_eq!(<u8 as Word>::part(old, HIGH), 0x77);
        assert_eq!(0x80u8.sext(), 0xffff_ffff_ffff_ff80);
    }
}
