//! SSE's operations.

use super::number::{Format, Kind, Number, Rounding, Value, shorten};
use crate::{
    fp::{
        Bits, DAZ, FTZ, ROUNDING_AT, Sse,
        flag::{DE, IE, PE, UE, ZE},
    },
    vector::{Lane, Vector},
};

/// Single and double precision.
pub(super) trait Real: Bits {
    const FORMAT: Format;

    /// Takes a value apart.
    fn value(bits: u64) -> Value {
        let negative = bits >> (Self::WIDTH - 1) != 0;
        let magnitude = Self::magnitude(bits);
        let fraction = magnitude & ((1 << Self::FRACTION) - 1);
        let field = magnitude >> Self::FRACTION;
        let exponent = i32::try_from(field.max(1)).unwrap_or(0) - Self::FORMAT.highest;
        if field == Self::SPECIAL {
            return if fraction == 0 { Value::Infinite(negative) } else { Value::Nan };
        }
        let implied = if field == 0 { 0 } else { 1 << Self::FRACTION };
        match Number::integer(negative, u128::from(fraction | implied)) {
            Value::Finite(number) => {
                let exponent = number.exponent + exponent - Self::FRACTION.cast_signed();
                Value::Finite(Number { exponent, ..number })
            }
            zero => zero,
        }
    }

    fn infinity(negative: bool) -> u64 {
        Self::signed(negative, Self::SPECIAL << Self::FRACTION)
    }

    fn signed(negative: bool, magnitude: u64) -> u64 {
        u64::from(negative) << (Self::WIDTH - 1) | magnitude
    }

    /// The NaN that answers what is invalid.
    fn indefinite() -> u64 {
        Self::infinity(true) | 1 << (Self::FRACTION - 1)
    }

    fn quiet(bits: u64) -> u64 {
        bits | 1 << (Self::FRACTION - 1)
    }

    /// A finite value's bits.
    fn pack(negative: bool, kind: Kind) -> u64 {
        match kind {
            Kind::Infinite => Self::infinity(negative),
            Kind::Finite { exponent, bits } => {
                let field = (exponent - Self::FORMAT.lowest).unsigned_abs();
                // The highest bit of a normal number adds one to the exponent.
                Self::signed(negative, (u64::from(field) << Self::FRACTION) + bits as u64)
            }
        }
    }

    /// A result under MXCSR, and the flags that it raises.
    fn finish(number: Number, mxcsr: u32) -> (u64, u32) {
        let rounded = number.round(Self::FORMAT, rounding(mxcsr));
        if rounded.tiny && mxcsr & FTZ != 0 {
            return (Self::signed(number.negative, 0), UE | PE);
        }
        (Self::pack(number.negative, rounded.kind), rounded.raised)
    }
}

impl Real for u32 {
    const FORMAT: Format = Format { precision: 24, lowest: -126, highest: 127 };
}

impl Real for u64 {
    const FORMAT: Format = Format { precision: 53, lowest: -1022, highest: 1023 };
}

fn rounding(mxcsr: u32) -> Rounding {
    Rounding::of(mxcsr >> ROUNDING_AT)
}

/// A function of two lanes under MXCSR, and the flags that it raises.
type Binary = fn(u64, u64, u32) -> (u64, u32);

pub(super) fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
    match op {
        Sse::AddPd => all::<u64>(a, b, mxcsr, add::<u64>),
        Sse::AddPs => all::<u32>(a, b, mxcsr, add::<u32>),
        Sse::AddSd => low::<u64, u64>(a, b, mxcsr, add::<u64>),
        Sse::AddSs => low::<u32, u32>(a, b, mxcsr, add::<u32>),
        Sse::CvtDq2Ps => all::<u32>(a, b, mxcsr, |_, b, m| from_integer::<u32>(word(b), m)),
        Sse::CvtPd2Dq => halves(b, mxcsr, |b, m| to_integer::<u64>(b, 32, rounding(m), m)),
        Sse::CvtPd2Ps => halves(b, mxcsr, convert::<u64, u32>),
        Sse::CvtPs2Dq => {
            all::<u32>(a, b, mxcsr, |_, b, m| to_integer::<u32>(b, 32, rounding(m), m))
        }
        Sse::CvtPs2Pd => doubles(b, mxcsr, convert::<u32, u64>),
        Sse::CvtSd2Si => whole::<u64>(b, mxcsr, 32, rounding(mxcsr)),
        Sse::CvtSd2SiQ => whole::<u64>(b, mxcsr, 64, rounding(mxcsr)),
        Sse::CvtSd2Ss => low::<u64, u32>(a, b, mxcsr, |_, b, m| convert::<u64, u32>(b, m)),
        Sse::CvtSi2SdQ => {
            low::<u64, u64>(a, b, mxcsr, |_, b, m| from_integer::<u64>(b.cast_signed(), m))
        }
        Sse::CvtSi2Ss => low::<u32, u32>(a, b, mxcsr, |_, b, m| from_integer::<u32>(word(b), m)),
        Sse::CvtSi2SsQ => {
            low::<u64, u32>(a, b, mxcsr, |_, b, m| from_integer::<u32>(b.cast_signed(), m))
        }
        Sse::CvtSs2Sd => low::<u32, u64>(a, b, mxcsr, |_, b, m| convert::<u32, u64>(b, m)),
        Sse::CvtSs2Si => whole::<u32>(b, mxcsr, 32, rounding(mxcsr)),
        Sse::CvtSs2SiQ => whole::<u32>(b, mxcsr, 64, rounding(mxcsr)),
        Sse::CvttPd2Dq => halves(b, mxcsr, |b, m| to_integer::<u64>(b, 32, Rounding::Zero, m)),
        Sse::CvttPs2Dq => {
            all::<u32>(a, b, mxcsr, |_, b, m| to_integer::<u32>(b, 32, Rounding::Zero, m))
        }
        Sse::CvttSd2Si => whole::<u64>(b, mxcsr, 32, Rounding::Zero),
        Sse::CvttSd2SiQ => whole::<u64>(b, mxcsr, 64, Rounding::Zero),
        Sse::CvttSs2Si => whole::<u32>(b, mxcsr, 32, Rounding::Zero),
        Sse::CvttSs2SiQ => whole::<u32>(b, mxcsr, 64, Rounding::Zero),
        Sse::DivPd => all::<u64>(a, b, mxcsr, divide::<u64>),
        Sse::DivPs => all::<u32>(a, b, mxcsr, divide::<u32>),
        Sse::DivSd => low::<u64, u64>(a, b, mxcsr, divide::<u64>),
        Sse::DivSs => low::<u32, u32>(a, b, mxcsr, divide::<u32>),
        Sse::MulPd => all::<u64>(a, b, mxcsr, multiply::<u64>),
        Sse::MulPs => all::<u32>(a, b, mxcsr, multiply::<u32>),
        Sse::MulSd => low::<u64, u64>(a, b, mxcsr, multiply::<u64>),
        Sse::MulSs => low::<u32, u32>(a, b, mxcsr, multiply::<u32>),
        Sse::RcpPs => all::<u32>(a, b, mxcsr, |_, b, _| (estimate(b, |x| 1.0 / x), 0)),
        Sse::RcpSs => low::<u32, u32>(a, b, mxcsr, |_, b, _| (estimate(b, |x| 1.0 / x), 0)),
        Sse::RsqrtPs => all::<u32>(a, b, mxcsr, |_, b, _| (estimate(b, |x| 1.0 / x.sqrt()), 0)),
        Sse::RsqrtSs => {
            low::<u32, u32>(a, b, mxcsr, |_, b, _| (estimate(b, |x| 1.0 / x.sqrt()), 0))
        }
        Sse::SqrtPd => all::<u64>(a, b, mxcsr, |_, b, m| root::<u64>(b, m)),
        Sse::SqrtPs => all::<u32>(a, b, mxcsr, |_, b, m| root::<u32>(b, m)),
        Sse::SqrtSd => low::<u64, u64>(a, b, mxcsr, |_, b, m| root::<u64>(b, m)),
        Sse::SqrtSs => low::<u32, u32>(a, b, mxcsr, |_, b, m| root::<u32>(b, m)),
        Sse::SubPd => all::<u64>(a, b, mxcsr, subtract::<u64>),
        Sse::SubPs => all::<u32>(a, b, mxcsr, subtract::<u32>),
        Sse::SubSd => low::<u64, u64>(a, b, mxcsr, subtract::<u64>),
        Sse::SubSs => low::<u32, u32>(a, b, mxcsr, subtract::<u32>),
    }
}

fn word(bits: u64) -> i64 {
    (bits as u32).cast_signed().into()
}

/// Every lane.
fn all<B: Real>(a: Vector, b: Vector, mxcsr: u32, f: Binary) -> (Vector, u32) {
    let (mut lanes, b) = (B::lanes(a), B::lanes(b));
    let mut raised = 0;
    for (lane, b) in lanes.as_mut().iter_mut().zip(b.as_ref()) {
        let (result, flags) = f(lane.bits(), b.bits(), mxcsr);
        *lane = B::from_bits(result);
        raised |= flags;
    }
    (B::vector(lanes), raised)
}

/// The lowest lane, from one format to another; the rest is `a`'s.
fn low<S: Real, T: Real>(a: Vector, b: Vector, mxcsr: u32, f: Binary) -> (Vector, u32) {
    let mut lanes = T::lanes(a);
    let first = S::lanes(a).as_ref()[0].bits();
    let (result, raised) = f(first, S::lanes(b).as_ref()[0].bits(), mxcsr);
    lanes.as_mut()[0] = T::from_bits(result);
    (T::vector(lanes), raised)
}

/// Both lanes of 64 bits to 32, the rest is zero.
fn halves(b: Vector, mxcsr: u32, f: impl Fn(u64, u32) -> (u64, u32)) -> (Vector, u32) {
    let [low, high] = u64::lanes(b).map(|lane| f(lane, mxcsr));
    (u32::vector([low.0 as u32, high.0 as u32, 0, 0]), low.1 | high.1)
}

/// The lower lanes of 32 bits to 64.
fn doubles(b: Vector, mxcsr: u32, f: impl Fn(u64, u32) -> (u64, u32)) -> (Vector, u32) {
    let [low, high, ..] = u32::lanes(b).map(|lane| f(lane.into(), mxcsr));
    (u64::vector([low.0, high.0]), low.1 | high.1)
}

/// An integer alone.
fn whole<B: Real>(b: Vector, mxcsr: u32, width: u32, rounding: Rounding) -> (Vector, u32) {
    let (result, raised) = to_integer::<B>(B::lanes(b).as_ref()[0].bits(), width, rounding, mxcsr);
    (Vector::of(result), raised)
}

/// What the operands alone decide: one is no number. And whether one is denormal.
fn operands<B: Real>(a: u64, b: u64, mxcsr: u32) -> Result<([Value; 2], u32), (u64, u32)> {
    let [a, b] = [a, b].map(|bits| B::operand(bits, mxcsr));
    if B::is_nan(a) || B::is_nan(b) {
        let invalid = B::is_signalling(a) || B::is_signalling(b);
        let first = if B::is_nan(a) { a } else { b };
        return Err((B::quiet(first), if invalid { IE } else { 0 }));
    }
    let denormal = B::is_denormal(a) || B::is_denormal(b);
    Ok(([B::value(a), B::value(b)], if denormal { DE } else { 0 }))
}

fn add<B: Real>(a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let ([a, b], early) = match operands::<B>(a, b, mxcsr) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    sum::<B>(a, b, early, mxcsr)
}

fn subtract<B: Real>(a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let ([a, b], early) = match operands::<B>(a, b, mxcsr) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    sum::<B>(a, b.negated(), early, mxcsr)
}

fn sum<B: Real>(a: Value, b: Value, early: u32, mxcsr: u32) -> (u64, u32) {
    let down = rounding(mxcsr) == Rounding::Down;
    match (a, b) {
        (Value::Infinite(x), Value::Infinite(y)) if x != y => (B::indefinite(), IE),
        (Value::Infinite(x), _) | (_, Value::Infinite(x)) => (B::infinity(x), early),
        (Value::Zero(x), Value::Zero(y)) => (B::signed(if x == y { x } else { down }, 0), early),
        (Value::Finite(x), Value::Finite(y)) => match x.plus(y) {
            Some(sum) => with(early, B::finish(sum, mxcsr)),
            None => (B::signed(down, 0), early),
        },
        (Value::Finite(x), _) | (_, Value::Finite(x)) => with(early, B::finish(x, mxcsr)),
        _ => (B::indefinite(), IE),
    }
}

fn multiply<B: Real>(a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let ([a, b], early) = match operands::<B>(a, b, mxcsr) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Value::Infinite(_), Value::Zero(_)) | (Value::Zero(_), Value::Infinite(_)) => {
            (B::indefinite(), IE)
        }
        (Value::Infinite(_), _) | (_, Value::Infinite(_)) => (B::infinity(negative), early),
        (Value::Finite(x), Value::Finite(y)) => with(early, B::finish(x.times(y), mxcsr)),
        _ => (B::signed(negative, 0), early),
    }
}

fn divide<B: Real>(a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let ([a, b], early) = match operands::<B>(a, b, mxcsr) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Value::Infinite(_), Value::Infinite(_)) | (Value::Zero(_), Value::Zero(_)) => {
            (B::indefinite(), IE)
        }
        (Value::Infinite(_), _) => (B::infinity(negative), early),
        (Value::Finite(_), Value::Zero(_)) => (B::infinity(negative), ZE),
        (Value::Finite(x), Value::Finite(y)) => with(early, B::finish(x.over(y), mxcsr)),
        _ => (B::signed(negative, 0), early),
    }
}

fn root<B: Real>(b: u64, mxcsr: u32) -> (u64, u32) {
    let ([b, _], early) = match operands::<B>(b, b, mxcsr) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    match b {
        Value::Zero(negative) => (B::signed(negative, 0), early),
        _ if b.is_negative() => (B::indefinite(), IE),
        Value::Finite(number) => with(early, B::finish(number.root(), mxcsr)),
        _ => (B::infinity(false), early),
    }
}

/// From one format to the other.
fn convert<S: Real, T: Real>(bits: u64, mxcsr: u32) -> (u64, u32) {
    let bits = S::operand(bits, mxcsr);
    let negative = bits >> (S::WIDTH - 1) != 0;
    if S::is_nan(bits) {
        let fraction = u128::from(S::magnitude(bits)) << (127 - S::FRACTION) << 1;
        let fraction = (fraction >> (128 - T::FRACTION)) as u64;
        let nan = T::quiet(T::infinity(negative) | fraction);
        return (nan, if S::is_signalling(bits) { IE } else { 0 });
    }
    let early = if S::is_denormal(bits) { DE } else { 0 };
    match S::value(bits) {
        Value::Finite(number) => with(early, T::finish(number, mxcsr)),
        Value::Zero(negative) => (T::signed(negative, 0), early),
        _ => (T::infinity(negative), early),
    }
}

fn from_integer<B: Real>(integer: i64, mxcsr: u32) -> (u64, u32) {
    match Number::integer(integer < 0, integer.unsigned_abs().into()) {
        Value::Finite(number) => B::finish(number, mxcsr),
        _ => (0, 0),
    }
}

/// To an integer of so many bits; what has none is the lowest one.
fn to_integer<B: Real>(bits: u64, width: u32, rounding: Rounding, mxcsr: u32) -> (u64, u32) {
    let invalid = (1 << (width - 1), IE);
    match B::value(B::operand(bits, mxcsr)) {
        Value::Zero(_) => (0, 0),
        Value::Finite(number) => match number.to_integer(width, rounding) {
            Some((integer, inexact, _)) => {
                let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
                (integer.cast_unsigned() & mask, if inexact { PE } else { 0 })
            }
            None => invalid,
        },
        Value::Infinite(_) | Value::Nan => invalid,
    }
}

/// RCPPS and RSQRTPS: 12 bits of the result; denormal operands and results are zeros.
fn estimate(bits: u64, f: impl Fn(f64) -> f64) -> u64 {
    let bits = u32::operand(bits, DAZ);
    if u32::is_nan(bits) {
        return u32::quiet(bits);
    }
    let result = f(f32::from_bits(bits as u32).into()) as f32;
    if result.is_nan() {
        return u32::indefinite();
    }
    let bits = u32::operand(result.to_bits().into(), DAZ);
    // To the nearest with so many bits; infinity stays.
    if result.is_finite() { (bits + (1 << 10)) & !0x7ff } else { bits }
}

fn with(early: u32, (bits, raised): (u64, u32)) -> (u64, u32) {
    (bits, early | raised)
}

impl Value {
    pub(super) fn is_negative(self) -> bool {
        match self {
            Self::Finite(number) => number.negative,
            Self::Infinite(negative) | Self::Zero(negative) => negative,
            Self::Nan => false,
        }
    }

    pub(super) fn negated(self) -> Self {
        match self {
            Self::Finite(n) => Self::Finite(Number { negative: !n.negative, ..n }),
            Self::Infinite(negative) => Self::Infinite(!negative),
            Self::Nan => self,
            Self::Zero(negative) => Self::Zero(!negative),
        }
    }
}

impl Number {
    /// The integer of so many bits, whether it is another value, and whether its magnitude is
    /// greater. `None` if there is none.
    pub(super) fn to_integer(self, width: u32, rounding: Rounding) -> Option<(i64, bool, bool)> {
        if self.exponent >= 64 {
            return None;
        }
        // One bit before the point at least, which is zero for what is less than 1.
        let (significand, precision) = if self.exponent < 0 {
            (super::number::jam(self.significand, self.exponent.unsigned_abs()), 1)
        } else {
            (self.significand, self.exponent.unsigned_abs() + 1)
        };
        let short = shorten(significand, precision, self.negative, rounding);
        let magnitude = i128::try_from(short.bits).ok()?;
        let value = if self.negative { -magnitude } else { magnitude };
        let range = -(1_i128 << (width - 1))..1 << (width - 1);
        let integer = range.contains(&value).then(|| i64::try_from(value).ok())??;
        Some((integer, short.inexact, short.up))
    }
}
