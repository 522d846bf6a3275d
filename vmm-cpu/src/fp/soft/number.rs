//! Binary floating-point numbers of any format taken apart, worked with, and rounded.

use crate::fp::flag::{OE, PE, UE};

/// A finite number other than zero: `significand * 2^(exponent - 127)`, the significand's highest
/// bit set. Its lowest bit also stands for all that was shifted out below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

/// What bits stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Finite(Number),
    /// Negative or not.
    Infinite(bool),
    Nan,
    /// Negative or not.
    Zero(bool),
}

/// How far a format reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Bits of the significand.
    pub(super) precision: u32,
    /// The exponents of normal numbers.
    pub(super) lowest: i32,
    pub(super) highest: i32,
}

/// As MXCSR and the x87 control word number them (Intel SDM 1-4.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    pub(super) fn of(field: u32) -> Self {
        [Self::Nearest, Self::Down, Self::Up, Self::Zero][(field & 3) as usize]
    }

    /// What is beyond a format's highest number becomes infinite, or that number.
    fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Self::Nearest => true,
            Self::Down => negative,
            Self::Up => !negative,
            Self::Zero => false,
        }
    }
}

/// A significand rounded to some bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    /// It can have one bit more, and then is a power of two.
    pub(super) bits: u128,
    pub(super) inexact: bool,
    /// It is greater than it was.
    pub(super) up: bool,
}

/// The highest `precision` bits of a significand, at most 126, by the rest.
pub(super) fn shorten(
    significand: u128,
    precision: u32,
    negative: bool,
    rounding: Rounding,
) -> Short {
    const HALF: u128 = 1 << 127;
    let kept = significand.checked_shr(128 - precision).unwrap_or(0);
    let rest = significand << precision;
    let up = match rounding {
        Rounding::Nearest => rest > HALF || rest == HALF && kept & 1 != 0,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::Zero => false,
    };
    Short { bits: kept + u128::from(up), inexact: rest != 0, up }
}

/// Shifts right; what is lost leaves its trace in the lowest bit.
pub(super) fn jam(bits: u128, by: u32) -> u128 {
    match bits.checked_shr(by) {
        Some(shifted) => shifted | u128::from(shifted << by != bits),
        None => u128::from(bits != 0),
    }
}

/// A number rounded to a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounded {
    pub(super) kind: Kind,
    /// Flags that this raises with all exceptions masked.
    pub(super) raised: u32,
    /// Its magnitude is greater than that of the number.
    pub(super) up: bool,
    /// It is less than the format's normal numbers, whether that makes it inexact or not.
    pub(super) tiny: bool,
}

/// What a number became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of so many bits as the format has; the highest is clear if the number is denormal. Zero has
    /// no bits and the lowest exponent.
    Finite {
        exponent: i32,
        bits: u128,
    },
    Infinite,
}

impl Number {
    /// From an integer.
    pub(super) fn integer(negative: bool, magnitude: u128) -> Value {
        if magnitude == 0 {
            return Value::Zero(negative);
        }
        let zeros = magnitude.leading_zeros();
        let exponent = 127 - zeros.cast_signed();
        Value::Finite(Self { negative, exponent, significand: magnitude << zeros })
    }

    /// Normalized again.
    fn of(negative: bool, exponent: i32, significand: u128) -> Self {
        let zeros = significand.leading_zeros();
        let exponent = exponent - zeros.cast_signed();
        Self { negative, exponent, significand: significand << zeros }
    }

    /// The sum; `None` if it is zero. Operands have at most 64 bits.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let (large, small) =
            if (self.exponent, self.significand) >= (other.exponent, other.significand) {
                (self, other)
            } else {
                (other, self)
            };
        // A bit of room above.
        let by = large.exponent.abs_diff(small.exponent);
        let (a, b) = (large.significand >> 1, jam(small.significand >> 1, by));
        let sum = if large.negative == small.negative { a + b } else { a - b };
        (sum != 0).then(|| Self::of(large.negative, large.exponent + 1, sum))
    }

    /// The product. Operands have at most 64 bits.
    pub(super) fn times(self, other: Self) -> Self {
        let product = (self.significand >> 64) * (other.significand >> 64);
        let negative = self.negative != other.negative;
        Self::of(negative, self.exponent + other.exponent + 1, product)
    }

    /// The quotient. Operands have at most 64 bits.
    pub(super) fn over(self, other: Self) -> Self {
        let divisor = other.significand >> 64;
        let high = self.significand >> 1;
        let (first, rest) = (high / divisor, high % divisor);
        let (second, rest) = ((rest << 63) / divisor, (rest << 63) % divisor);
        let quotient = first << 63 | second;
        let negative = self.negative != other.negative;
        // `first` has 63 or 64 bits, of which 63 are behind the point.
        let quotient = quotient | u128::from(rest != 0);
        Self::of(negative, self.exponent - other.exponent + 1, quotient)
    }

    /// The square root of a number that is not negative and has at most 64 bits.
    pub(super) fn root(self) -> Self {
        // Half of the exponent has to be an integer.
        let by = if self.exponent & 1 == 0 { 1 } else { 0 };
        let square = self.significand >> by;
        let root = square.isqrt();
        let rest = square - root * root;
        // The next bit, and whether there are more.
        let bits = root << 2 | u128::from(rest > root) << 1 | u128::from(rest != 0);
        Self::of(false, (self.exponent - 127 + by) / 2 + 125, bits)
    }

    /// The number in a format.
    pub(super) fn round(self, format: Format, rounding: Rounding) -> Rounded {
        let Self { negative, exponent, significand } = self;
        let Format { precision, lowest, highest } = format;
        let short = shorten(significand, precision, negative, rounding);
        let carried = u32::from(short.bits >> precision != 0);
        let (raised_to, bits) = (exponent + carried.cast_signed(), short.bits >> carried);
        let finite = |exponent, bits| Kind::Finite { exponent, bits };
        if raised_to > highest {
            let infinite = rounding.overflows_to_infinity(negative);
            let most = finite(highest, (1 << precision) - 1);
            let kind = if infinite { Kind::Infinite } else { most };
            return Rounded { kind, raised: OE | PE, up: infinite, tiny: false };
        }
        if exponent >= lowest {
            let raised = if short.inexact { PE } else { 0 };
            return Rounded { kind: finite(raised_to, bits), raised, up: short.up, tiny: false };
        }
        // Whether it is tiny is seen once it is rounded (Intel SDM 1-4.9.1.5).
        let tiny = raised_to < lowest;
        let shifted = jam(significand, lowest.abs_diff(exponent));
        let short = shorten(shifted, precision, negative, rounding);
        let raised = match (short.inexact, tiny) {
            (true, true) => UE | PE,
            (true, false) => PE,
            _ => 0,
        };
        Rounded { kind: finite(lowest, short.bits), raised, up: short.up, tiny }
    }
}
