//! The x87 unit's operations.

use super::{
    function,
    long::{Control, Long, finish, infinity, invalid, plain, screen, shortened, zero},
    number::{Number, Rounding, Value},
    sse::Real,
};
use crate::{
    fp::{Answer, X87, flag},
    vector::Vector,
    x87::{C0, C1, C2, C3, DE, IE, INDEFINITE, ZE},
};

const PE: u16 = flag::PE as u16;

pub(super) fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer {
    let control = Control::of(control);
    let (raw, b) = (a, Long::of(b));
    let a = Long::of(a);
    match op {
        X87::Add => binary(a, b, control, sum),
        X87::Compare => compare(a, b, true),
        X87::Cos => function::angle(a, control, |angle| [angle.cos(); 2]),
        X87::Div => binary(a, b, control, quotient),
        X87::Exp2Minus1 => function::exponential(a, control),
        X87::Extract => extract(a),
        X87::FromBcd => from_bcd(raw),
        X87::FromF32 => from_real::<u32>(raw),
        X87::FromF64 => from_real::<u64>(raw),
        X87::FromI64 => {
            let integer = raw.low::<u64>().cast_signed();
            let value = Number::integer(integer < 0, integer.unsigned_abs().into());
            let value = if integer == 0 { Value::Zero(false) } else { value };
            finish(value, control.precise(), 0)
        }
        X87::L2e => constant(0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88, 0, control),
        X87::L2t => constant(0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c, 1, control),
        X87::Lg2 => constant(0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178, -2, control),
        X87::Ln2 => constant(0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af, -1, control),
        X87::Mul => binary(a, b, control, product),
        X87::Patan => function::arc_tangent(a, b, control),
        X87::Pi => constant(0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1, 1, control),
        X87::Prem => remainder(a, b, Rounding::Zero, control),
        X87::Prem1 => remainder(a, b, Rounding::Nearest, control),
        X87::Ptan => function::angle(a, control, |angle| [1.0, angle.tan()]),
        X87::Round => round(a, control),
        X87::Scale => scale(a, b, control),
        X87::Sin => function::angle(a, control, |angle| [angle.sin(); 2]),
        X87::SinCos => function::angle(a, control, |angle| [angle.cos(), angle.sin()]),
        X87::Sqrt => root(a, control),
        X87::Sub => binary(a, Long { value: b.value.negated(), ..b }, control, sum),
        X87::ToBcd => to_bcd(a, control),
        X87::ToF32 => to_real::<u32>(a, control),
        X87::ToF64 => to_real::<u64>(a, control),
        X87::ToI16 => to_integer(a, 16, control),
        X87::ToI32 => to_integer(a, 32, control),
        X87::ToI64 => to_integer(a, 64, control),
        X87::UnorderedCompare => compare(a, b, false),
        X87::Yl2x => function::logarithm(a, b, control),
        X87::Yl2xp1 => function::logarithm_plus_one(a, b, control),
    }
}

/// What two values come to; `Nan` if that is invalid. The flag is that of a division by zero.
type Operation = fn(Value, Value, Control) -> (Value, u16);

fn binary(a: Long, b: Long, control: Control, operation: Operation) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    let (value, raised) = operation(a.value, b.value, control);
    // Division by zero comes first.
    let early = if raised & ZE != 0 { ZE } else { early };
    finish(value, control, early)
}

fn sum(a: Value, b: Value, control: Control) -> (Value, u16) {
    let down = control.rounding == Rounding::Down;
    let value = match (a, b) {
        (Value::Infinite(x), Value::Infinite(y)) if x != y => Value::Nan,
        (Value::Infinite(_), _) | (_, Value::Zero(_)) if !matches!(a, Value::Zero(_)) => a,
        (Value::Zero(x), Value::Zero(y)) => Value::Zero(if x == y { x } else { down }),
        (Value::Finite(x), Value::Finite(y)) => x.plus(y).map_or(Value::Zero(down), Value::Finite),
        _ => b,
    };
    (value, 0)
}

fn product(a: Value, b: Value, _: Control) -> (Value, u16) {
    let negative = a.is_negative() != b.is_negative();
    let value = match (a, b) {
        (Value::Infinite(_), Value::Zero(_)) | (Value::Zero(_), Value::Infinite(_)) => Value::Nan,
        (Value::Infinite(_), _) | (_, Value::Infinite(_)) => Value::Infinite(negative),
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(x.times(y)),
        _ => Value::Zero(negative),
    };
    (value, 0)
}

fn quotient(a: Value, b: Value, _: Control) -> (Value, u16) {
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Value::Infinite(_), Value::Infinite(_)) | (Value::Zero(_), Value::Zero(_)) => {
            (Value::Nan, 0)
        }
        (Value::Finite(_), Value::Zero(_)) => (Value::Infinite(negative), ZE),
        (Value::Infinite(_), _) => (Value::Infinite(negative), 0),
        (Value::Finite(x), Value::Finite(y)) => (Value::Finite(x.over(y)), 0),
        _ => (Value::Zero(negative), 0),
    }
}

fn root(a: Long, control: Control) -> Answer {
    match screen(&[a]) {
        Err(answer) => answer,
        Ok(early) => match a.value {
            Value::Zero(_) => plain(a.bits, early),
            value if value.is_negative() => invalid(),
            Value::Finite(number) => finish(Value::Finite(number.root()), control, early),
            _ => plain(a.bits, early),
        },
    }
}

fn constant(significand: u128, exponent: i32, control: Control) -> Answer {
    let number = Number { negative: false, exponent, significand };
    let answer = finish(Value::Finite(number), control.precise(), 0);
    Answer { status: 0, ..answer }
}

fn compare(a: Long, b: Long, signals: bool) -> Answer {
    let unordered = C0 | C2 | C3;
    if a.is_unsupported() || b.is_unsupported() {
        return Answer { status: IE | unordered, ..Answer::default() };
    }
    if a.is_nan() || b.is_nan() {
        let invalid = signals || a.is_signalling() || b.is_signalling();
        let status = unordered | if invalid { IE } else { 0 };
        return Answer { status, ..Answer::default() };
    }
    let codes = match key(a.value).cmp(&key(b.value)) {
        std::cmp::Ordering::Less => C0,
        std::cmp::Ordering::Equal => C3,
        std::cmp::Ordering::Greater => 0,
    };
    let early = if a.is_denormal() || b.is_denormal() { DE } else { 0 };
    Answer { status: codes | early, ..Answer::default() }
}

/// Ordered as the values are.
fn key(value: Value) -> (i32, i32, i128) {
    let sign = |negative: bool| if negative { -1 } else { 1 };
    match value {
        Value::Finite(n) => {
            let sign = sign(n.negative);
            (sign, sign * n.exponent, i128::from(sign) * (n.significand >> 1).cast_signed())
        }
        Value::Infinite(negative) => (2 * sign(negative), 0, 0),
        Value::Nan | Value::Zero(_) => (0, 0, 0),
    }
}

/// FRNDINT.
fn round(a: Long, control: Control) -> Answer {
    let early = match screen(&[a]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    match a.value {
        Value::Finite(n) if n.exponent < 63 => match n.to_integer(65, control.rounding) {
            Some((integer, inexact, up)) => {
                let value = Number::integer(n.negative, integer.unsigned_abs().into());
                let told = if inexact { PE } else { 0 } | if up { C1 } else { 0 };
                finish(value, control.precise(), early | told)
            }
            None => plain(a.bits, early),
        },
        _ => plain(a.bits, early),
    }
}

/// FXTRACT: the significand, and as second result the exponent.
fn extract(a: Long) -> Answer {
    let early = match screen(&[a]) {
        Ok(early) => early,
        Err(answer) => return Answer { second: answer.result, ..answer },
    };
    match a.value {
        Value::Finite(n) => {
            let exponent = Number::integer(n.exponent < 0, n.exponent.unsigned_abs().into());
            let exponent = if n.exponent == 0 { Value::Zero(false) } else { exponent };
            let control = Control::of(0x37f);
            let second = finish(exponent, control, 0).result;
            let significand = finish(Value::Finite(Number { exponent: 0, ..n }), control, early);
            Answer { second, ..significand }
        }
        Value::Zero(_) => Answer { second: Vector::of(infinity(true)), ..plain(a.bits, ZE) },
        _ => Answer { second: Vector::of(infinity(false)), ..plain(a.bits, early) },
    }
}

/// FSCALE.
fn scale(a: Long, b: Long, control: Control) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    let value = match (a.value, b.value) {
        (Value::Zero(_), Value::Infinite(false)) | (Value::Infinite(_), Value::Infinite(true)) => {
            Value::Nan
        }
        (value, Value::Infinite(true)) => Value::Zero(value.is_negative()),
        (value, Value::Infinite(false)) => Value::Infinite(value.is_negative()),
        (Value::Finite(n), Value::Finite(by)) => {
            // More than this is out of range in any case.
            let most = if by.negative { -0x1_0000 } else { 0x1_0000 };
            let chopped = by.to_integer(64, Rounding::Zero).map_or(most, |(by, ..)| by);
            let by = i32::try_from(chopped.clamp(-0x1_0000, 0x1_0000)).unwrap_or(most as i32);
            Value::Finite(Number { exponent: n.exponent + by, ..n })
        }
        (value, _) => value,
    };
    finish(value, control.precise(), early)
}

/// FPREM and FPREM1: at most 63 bits of the quotient at once (Intel SDM 2, FPREM).
fn remainder(a: Long, b: Long, rounding: Rounding, control: Control) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    let (x, y) = match (a.value, b.value) {
        (Value::Infinite(_), _) | (_, Value::Zero(_)) => return invalid(),
        (Value::Finite(x), Value::Finite(y)) => (x, y),
        _ => return finish(a.value, control.precise(), early),
    };
    let far = x.exponent - y.exponent;
    let control = control.precise();
    if far < -1 || far < 0 && rounding == Rounding::Zero {
        return finish(a.value, control, early);
    }
    if far >= 64 {
        // A part of the way: as much as leaves an exponent less by 32 to 63.
        let by = 32 + far % 32;
        let step = Number { exponent: y.exponent + far - by, ..y };
        let (rest, _) = divided(x, step, by, Rounding::Zero);
        return finish(rest, control, early | C2);
    }
    let (rest, quotient) = divided(x, y, far, rounding);
    let bit = |n: u32, code: u16| if quotient >> n & 1 != 0 { code } else { 0 };
    finish(rest, control, early | bit(0, C1) | bit(1, C3) | bit(2, C0))
}

/// The remainder, and the quotient's integer, of values whose exponents differ by `far`.
fn divided(x: Number, y: Number, far: i32, rounding: Rounding) -> (Value, u128) {
    // In units of the lowest bit of the lesser of the two.
    let unit = y.exponent.min(x.exponent);
    let (a, b) = ((x.significand >> 64), (y.significand >> 64));
    let (a, b) = if far < 0 { (a, b << 1) } else { (a, b) };
    let (mut quotient, mut rest) = (0, 0_u128);
    let steps = 64 + far.max(0);
    for n in 0..steps {
        let bit = if n < 64 { a >> (63 - n) & 1 } else { 0 };
        rest = rest << 1 | bit;
        quotient <<= 1;
        if rest >= b {
            rest -= b;
            quotient |= 1;
        }
    }
    let nearest = rounding == Rounding::Nearest;
    let mut negative = x.negative;
    if nearest && (2 * rest > b || 2 * rest == b && quotient & 1 != 0) {
        rest = b - rest;
        quotient += 1;
        negative = !negative;
    }
    let value = match Number::integer(negative, rest) {
        Value::Finite(n) => Value::Finite(Number { exponent: n.exponent + unit - 63, ..n }),
        _ => Value::Zero(x.negative),
    };
    (value, quotient)
}

fn from_real<B: Real>(raw: Vector) -> Answer {
    let bits = B::lanes(raw).as_ref()[0].bits();
    let control = Control::of(0x37f);
    if B::is_nan(bits) {
        let fraction = u128::from(bits) << (63 - B::FRACTION) & ((1 << 63) - 1);
        let negative = bits >> (B::WIDTH - 1) != 0;
        let status = if B::is_signalling(bits) { IE } else { 0 };
        return plain(infinity(negative) | fraction | 1 << 62, status);
    }
    finish(B::value(bits), control, if B::is_denormal(bits) { DE } else { 0 })
}

fn to_real<B: Real>(a: Long, control: Control) -> Answer {
    let stored = |bits: u64, status| plain(bits.into(), status);
    if a.is_unsupported() {
        return stored(B::indefinite(), IE);
    }
    match a.value {
        Value::Finite(n) => {
            let (rounded, status) = shortened(n, B::FORMAT, control);
            // An operand that is denormal is told of only if the result tells nothing worse.
            stored(B::pack(n.negative, rounded.kind), status)
        }
        Value::Infinite(negative) => stored(B::infinity(negative), 0),
        Value::Nan => {
            let fraction = (a.significand() << 1 >> (64 - B::FRACTION)) & ((1 << B::FRACTION) - 1);
            let nan = B::quiet(B::infinity(a.is_negative()) | fraction);
            stored(nan, if a.is_signalling() { IE } else { 0 })
        }
        Value::Zero(negative) => stored(B::signed(negative, 0), 0),
    }
}

fn to_integer(a: Long, width: u32, control: Control) -> Answer {
    let integer = match a.value {
        _ if a.is_unsupported() => None,
        Value::Zero(_) => Some((0, false, false)),
        Value::Finite(n) => n.to_integer(width, control.rounding),
        Value::Infinite(_) | Value::Nan => None,
    };
    let mask = u64::MAX >> (64 - width);
    match integer {
        Some((integer, inexact, up)) => {
            let told = if inexact { PE } else { 0 } | if up { C1 } else { 0 };
            plain(u128::from(integer.cast_unsigned() & mask), told)
        }
        None => plain(1 << (width - 1), IE),
    }
}

/// FBLD: 18 digits, two a byte, and a sign.
fn from_bcd(raw: Vector) -> Answer {
    let bits: u128 = raw.low();
    let digits = (0..18).rev().map(|n| bits >> (4 * n) & 15);
    let magnitude = digits.fold(0, |sum, digit| sum * 10 + digit);
    let value = Number::integer(bits >> 79 & 1 != 0, magnitude);
    finish(value, Control::of(0x37f), 0)
}

fn to_bcd(a: Long, control: Control) -> Answer {
    const MOST: u64 = 999_999_999_999_999_999;
    let integer = match a.value {
        _ if a.is_unsupported() => None,
        Value::Zero(_) => Some((0, false, false)),
        Value::Finite(n) => n.to_integer(64, control.rounding),
        Value::Infinite(_) | Value::Nan => None,
    };
    match integer.filter(|(integer, ..)| integer.unsigned_abs() <= MOST) {
        Some((integer, inexact, up)) => {
            let mut rest = u128::from(integer.unsigned_abs());
            let mut digits = 0;
            for n in 0..18 {
                digits |= (rest % 10) << (4 * n);
                rest /= 10;
            }
            let told = if inexact { PE } else { 0 } | if up { C1 } else { 0 };
            plain(digits | zero(a.is_negative()), told)
        }
        None => plain(INDEFINITE, IE),
    }
}
