//! What needs no arithmetic: comparing, and choosing the less or the greater.

use super::{DAZ, flag};
use crate::{
    flags::{CF, PF, ZF},
    vector::{Lane, Vector},
};

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Greater,
    Less,
    /// One of them is no number.
    Unordered,
}

impl Relation {
    /// As COMISD and FCOMI tell it in RFLAGS.
    pub(crate) fn flags(self) -> u64 {
        match self {
            Self::Equal => ZF,
            Self::Greater => 0,
            Self::Less => CF,
            Self::Unordered => ZF | PF | CF,
        }
    }
}

/// The bits of a binary floating-point format.
pub(crate) trait Bits: Lane {
    /// Bits of the fraction.
    const FRACTION: u32;
    const WIDTH: u32;

    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;

    /// The exponent field's greatest value: infinities and NaNs.
    fn is_special(bits: u64) -> bool {
        bits >> Self::FRACTION & Self::SPECIAL == Self::SPECIAL
    }

    const SPECIAL: u64 = (1 << (Self::WIDTH - 1 - Self::FRACTION)) - 1;

    fn is_nan(bits: u64) -> bool {
        Self::is_special(bits) && bits & ((1 << Self::FRACTION) - 1) != 0
    }

    fn is_signalling(bits: u64) -> bool {
        Self::is_nan(bits) && bits >> (Self::FRACTION - 1) & 1 == 0
    }

    fn is_denormal(bits: u64) -> bool {
        bits >> Self::FRACTION & Self::SPECIAL == 0 && Self::magnitude(bits) != 0
    }

    fn magnitude(bits: u64) -> u64 {
        bits & ((1 << (Self::WIDTH - 1)) - 1)
    }

    /// Ordered as the numbers are, both zeros alike.
    fn key(bits: u64) -> i64 {
        let magnitude = Self::magnitude(bits).cast_signed();
        if bits >> (Self::WIDTH - 1) != 0 { -magnitude } else { magnitude }
    }

    /// What the value is as an operand: with DAZ a denormal is a zero of its sign.
    fn operand(bits: u64, mxcsr: u32) -> u64 {
        let zero = mxcsr & DAZ != 0 && Self::is_denormal(bits);
        if zero { bits & 1 << (Self::WIDTH - 1) } else { bits }
    }
}

impl Bits for u32 {
    const FRACTION: u32 = 23;
    const WIDTH: u32 = 32;

    fn bits(self) -> u64 {
        self.into()
    }

    fn from_bits(bits: u64) -> Self {
        bits as Self
    }
}

impl Bits for u64 {
    const FRACTION: u32 = 52;
    const WIDTH: u32 = 64;

    fn bits(self) -> u64 {
        self
    }

    fn from_bits(bits: u64) -> Self {
        bits
    }
}

/// Compares two floating-point values, given as their bits, and says which flags that raises:
/// `signals` if a quiet NaN is invalid, too.
#[inline]
pub(crate) fn compare<B: Bits>(a: B, b: B, signals: bool, mxcsr: u32) -> (Relation, u32) {
    let (a, b) = (B::operand(a.bits(), mxcsr), B::operand(b.bits(), mxcsr));
    if B::is_nan(a) || B::is_nan(b) {
        let invalid = signals || B::is_signalling(a) || B::is_signalling(b);
        return (Relation::Unordered, if invalid { flag::IE } else { 0 });
    }
    let denormal = B::is_denormal(a) || B::is_denormal(b);
    let relation = match B::key(a).cmp(&B::key(b)) {
        std::cmp::Ordering::Less => Relation::Less,
        std::cmp::Ordering::Equal => Relation::Equal,
        std::cmp::Ordering::Greater => Relation::Greater,
    };
    (relation, if denormal { flag::DE } else { 0 })
}

/// MIN and MAX: the first operand if it compares to the second as `wanted`, else the second.
#[inline]
pub(crate) fn extreme<B: Bits>(a: B, b: B, wanted: Relation, mxcsr: u32) -> (B, u32) {
    let (relation, raised) = compare(a, b, true, mxcsr);
    let chosen = if relation == wanted { a } else { b };
    (B::from_bits(B::operand(chosen.bits(), mxcsr)), raised)
}

/// Each lane by a function that raises flags.
#[inline(always)]
pub(crate) fn lanes<L: Lane>(a: Vector, b: Vector, f: impl Fn(L, L) -> (L, u32)) -> (Vector, u32) {
    let (mut lanes, b) = (L::lanes(a), L::lanes(b));
    let mut raised = 0;
    for (lane, b) in lanes.as_mut().iter_mut().zip(b.as_ref()) {
        let (result, flags) = f(*lane, *b);
        *lane = result;
        raised |= flags;
    }
    (L::vector(lanes), raised)
}
