//! What the x87 unit has of functions, by way of doubles.

use super::{
    long::{Control, Long, finish, infinity, invalid, plain, screen, zero},
    number::{Number, Rounding, Value},
    sse::Real,
};
use crate::{
    fp::{Answer, flag},
    x87::{C2, ZE},
};

const PE: u16 = flag::PE as u16;

/// The nearest double; beyond the range of doubles the most of them, or zero.
fn double(value: Value) -> f64 {
    f64::from_bits(match value {
        Value::Finite(n) => u64::pack(n.negative, n.round(u64::FORMAT, Rounding::Nearest).kind),
        Value::Infinite(negative) => u64::infinity(negative),
        Value::Nan => u64::indefinite(),
        Value::Zero(negative) => u64::signed(negative, 0),
    })
}

/// A result that is hardly ever exact.
fn inexact(result: f64, control: Control, early: u16) -> Answer {
    finish(u64::value(result.to_bits()), control.precise(), early | PE)
}

/// FSIN and its like: what is less than 2^63. Of an angle near zero sine and tangent are the angle.
pub(super) fn angle(a: Long, control: Control, f: impl Fn(f64) -> [f64; 2]) -> Answer {
    let early = match screen(&[a]) {
        Ok(early) => early,
        Err(answer) => return Answer { second: answer.result, ..answer },
    };
    match a.value {
        Value::Finite(n) if n.exponent >= 63 => plain(a.bits, C2),
        Value::Infinite(_) | Value::Nan => Answer { second: invalid().result, ..invalid() },
        value => {
            let exact = matches!(value, Value::Zero(_));
            let [first, second] = f(double(value)).map(|result| inexact(result, control, early));
            let status = if exact { early } else { first.status };
            Answer { result: first.result, second: second.result, status }
        }
    }
}

/// F2XM1, for what lies between -1 and 1.
pub(super) fn exponential(a: Long, control: Control) -> Answer {
    let early = match screen(&[a]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    match a.value {
        Value::Finite(n) if n.exponent < -64 => {
            // So near to zero it is the logarithm of two as often.
            finish(Value::Finite(n.times(LN_2)), control.precise(), early | PE)
        }
        Value::Finite(_) => {
            inexact((double(a.value) * std::f64::consts::LN_2).exp_m1(), control, early)
        }
        Value::Infinite(true) => plain(1 << 79 | 0x3fff << 64 | 1 << 63, early),
        _ => plain(a.bits, early),
    }
}

const LN_2: Number =
    Number { negative: false, exponent: -1, significand: 0xb172_17f7_d1cf_79ab << 64 };
const LOG2_E: Number =
    Number { negative: false, exponent: 0, significand: 0xb8aa_3b29_5c17_f0bc << 64 };

/// FPATAN: the angle whose tangent is `b / a`.
pub(super) fn arc_tangent(a: Long, b: Long, control: Control) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    match (b.value, a.value) {
        (Value::Zero(negative), value) if !value.is_negative() => plain(zero(negative), early),
        (Value::Finite(y), Value::Finite(x)) if !x.negative && y.exponent - x.exponent < -60 => {
            finish(Value::Finite(y.over(x)), control.precise(), early | PE)
        }
        (Value::Finite(y), Value::Infinite(false)) => plain(zero(y.negative), early),
        (y, x) => {
            // Only their ratio and signs matter.
            let (y, x) = match (y, x) {
                (Value::Finite(y), Value::Finite(x)) => {
                    let by = (y.exponent - x.exponent).clamp(-1000, 1000);
                    let near = |n: Number, exponent| Value::Finite(Number { exponent, ..n });
                    (near(y, by / 2), near(x, by / 2 - by))
                }
                other => other,
            };
            inexact(double(y).atan2(double(x)), control, early)
        }
    }
}

/// FYL2X: `b` times the logarithm of `a`.
pub(super) fn logarithm(a: Long, b: Long, control: Control) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    match (a.value, b.value) {
        (Value::Zero(_), Value::Zero(_)) => invalid(),
        (Value::Zero(_), Value::Finite(y)) => plain(infinity(!y.negative), ZE),
        (Value::Zero(_), y) => plain(infinity(!y.is_negative()), early),
        (Value::Finite(x), y) if !x.negative => {
            let near = Number { exponent: 0, ..x };
            let fraction = double(Value::Finite(near)).log2();
            times(fraction + f64::from(x.exponent), y, control, early)
        }
        (Value::Infinite(false), Value::Zero(_)) => invalid(),
        (Value::Infinite(false), y) => plain(infinity(y.is_negative()), early),
        _ => invalid(),
    }
}

/// FYL2XP1: `b` times the logarithm of `a + 1`, for what is near zero.
pub(super) fn logarithm_plus_one(a: Long, b: Long, control: Control) -> Answer {
    let early = match screen(&[a, b]) {
        Ok(early) => early,
        Err(answer) => return answer,
    };
    match (a.value, b.value) {
        (Value::Zero(_), Value::Infinite(_)) => invalid(),
        (Value::Zero(x), y) => plain(zero(x != y.is_negative()), early),
        (Value::Finite(x), Value::Finite(y)) if x.exponent < -64 => {
            let log = Number { significand: x.significand >> 64 << 64, ..x }.times(LOG2_E);
            let short = Number { significand: log.significand >> 64 << 64, ..log };
            finish(Value::Finite(short.times(y)), control.precise(), early | PE)
        }
        (Value::Infinite(false), Value::Zero(_)) => invalid(),
        (x, y) => {
            let log = double(x).ln_1p() * std::f64::consts::LOG2_E;
            times(log, y, control, early)
        }
    }
}

/// A logarithm times `y`, exact if both are simple.
fn times(logarithm: f64, y: Value, control: Control, early: u16) -> Answer {
    let logarithm = u64::value(logarithm.to_bits());
    let negative = logarithm.is_negative() != y.is_negative();
    match (logarithm, y) {
        (Value::Nan, _) => invalid(),
        (Value::Zero(_), Value::Infinite(_)) | (Value::Infinite(_), Value::Zero(_)) => invalid(),
        (Value::Infinite(_), _) | (_, Value::Infinite(_)) => plain(infinity(negative), early),
        (Value::Finite(log), Value::Finite(y)) => {
            finish(Value::Finite(log.times(y)), control.precise(), early | PE)
        }
        _ => plain(zero(negative), early),
    }
}
