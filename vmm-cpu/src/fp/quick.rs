//! The common case in plain Rust: operands and result are ordinary numbers or zero, rounding is to
//! nearest, and the one flag that can be raised then is set already. To load and store MXCSR costs
//! more than most operations.

use super::{MASKS, Sse, flag};
use crate::vector::{Lane, Vector};

/// MXCSR with everything masked, rounding to nearest, no FTZ or DAZ, and all flags set.
const QUIET: u32 = flag::ALL << MASKS | flag::ALL;

/// A host's floating-point type.
trait Real: Lane {
    /// Neither zero, denormal, infinite nor NaN, nor so near to the limits that a rounded result
    /// could have crossed them.
    fn is_ordinary(self) -> bool;

    fn is_zero(self) -> bool;

    #[inline(always)]
    fn is_simple(self) -> bool {
        self.is_ordinary() | self.is_zero()
    }
}

macro_rules! real {
    ($($type:ty),*) => {$(
        impl Real for $type {
            #[inline(always)]
            fn is_ordinary(self) -> bool {
                let size = self.abs();
                (Self::MIN_POSITIVE * 2.0..=Self::MAX / 2.0).contains(&size)
            }

            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0.0
            }
        }
    )*};
}

real!(f32, f64);

/// Whether a sum or a difference is simple. It is zero only if it is so exactly.
#[inline(always)]
fn sum<R: Real>(a: R, b: R, result: R) -> bool {
    a.is_simple() & b.is_simple() & result.is_simple()
}

/// Whether a product is simple.
#[inline(always)]
fn product<R: Real>(a: R, b: R, result: R) -> bool {
    a.is_simple() & b.is_simple() & (result.is_ordinary() | a.is_zero() | b.is_zero())
}

/// Whether a quotient is simple.
#[inline(always)]
fn quotient<R: Real>(a: R, b: R, result: R) -> bool {
    a.is_simple() & b.is_ordinary() & (result.is_ordinary() | a.is_zero())
}

/// The result, if it is as simple as that; no new flags are raised.
#[inline(always)]
pub(super) fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> Option<Vector> {
    if mxcsr | flag::ALL & !flag::PE != QUIET {
        return None;
    }
    match op {
        Sse::AddPd => all(a, b, |a: f64, b| a + b, sum),
        Sse::AddPs => all(a, b, |a: f32, b| a + b, sum),
        Sse::AddSd => lowest(a, b, |a: f64, b| a + b, sum),
        Sse::AddSs => lowest(a, b, |a: f32, b| a + b, sum),
        Sse::CvtSd2Ss => convert(a, b, |b: f64| b as f32),
        Sse::CvtSi2SdQ => Some(with_lowest(a, b.low::<u64>().cast_signed() as f64)),
        Sse::CvtSi2Ss => Some(with_lowest(a, b.low::<u32>().cast_signed() as f32)),
        Sse::CvtSi2SsQ => Some(with_lowest(a, b.low::<u64>().cast_signed() as f32)),
        Sse::CvtSs2Sd => convert(a, b, |b: f32| f64::from(b)),
        Sse::CvttSd2Si => truncate(f64::lanes(b)[0], 31),
        Sse::CvttSd2SiQ => truncate(f64::lanes(b)[0], 63),
        Sse::CvttSs2Si => truncate(f32::lanes(b)[0].into(), 31),
        Sse::CvttSs2SiQ => truncate(f32::lanes(b)[0].into(), 63),
        Sse::DivPd => all(a, b, |a: f64, b| a / b, quotient),
        Sse::DivPs => all(a, b, |a: f32, b| a / b, quotient),
        Sse::DivSd => lowest(a, b, |a: f64, b| a / b, quotient),
        Sse::DivSs => lowest(a, b, |a: f32, b| a / b, quotient),
        Sse::MulPd => all(a, b, |a: f64, b| a * b, product),
        Sse::MulPs => all(a, b, |a: f32, b| a * b, product),
        Sse::MulSd => lowest(a, b, |a: f64, b| a * b, product),
        Sse::MulSs => lowest(a, b, |a: f32, b| a * b, product),
        Sse::SqrtSd => convert(a, b, f64::sqrt),
        Sse::SqrtSs => convert(a, b, f32::sqrt),
        Sse::SubPd => all(a, b, |a: f64, b| a - b, sum),
        Sse::SubPs => all(a, b, |a: f32, b| a - b, sum),
        Sse::SubSd => lowest(a, b, |a: f64, b| a - b, sum),
        Sse::SubSs => lowest(a, b, |a: f32, b| a - b, sum),
        _ => None,
    }
}

#[inline(always)]
fn with_lowest<R: Real>(a: Vector, result: R) -> Vector {
    let mut lanes = R::lanes(a);
    lanes.as_mut()[0] = result;
    R::vector(lanes)
}

#[inline(always)]
fn lowest<R: Real>(
    a: Vector,
    b: Vector,
    f: impl Fn(R, R) -> R,
    is_simple: impl Fn(R, R, R) -> bool,
) -> Option<Vector> {
    let (x, y) = (R::lanes(a).as_ref()[0], R::lanes(b).as_ref()[0]);
    let result = f(x, y);
    is_simple(x, y, result).then(|| with_lowest(a, result))
}

#[inline(always)]
fn convert<S: Real, R: Real>(a: Vector, b: Vector, f: impl Fn(S) -> R) -> Option<Vector> {
    let from = S::lanes(b).as_ref()[0];
    let result = f(from);
    let simple = from.is_simple() & (result.is_ordinary() | from.is_zero());
    simple.then(|| with_lowest(a, result))
}

#[inline(always)]
fn all<R: Real>(
    a: Vector,
    b: Vector,
    f: impl Fn(R, R) -> R,
    is_simple: impl Fn(R, R, R) -> bool,
) -> Option<Vector> {
    let result = R::zip(a, b, f);
    let (x, y, z) = (R::lanes(a), R::lanes(b), R::lanes(result));
    let mut simple = true;
    for ((x, y), z) in x.as_ref().iter().zip(y.as_ref()).zip(z.as_ref()) {
        simple &= is_simple(*x, *y, *z);
    }
    simple.then_some(result)
}

/// To an integer of `bits` bits and a sign.
#[inline(always)]
fn truncate(from: f64, bits: i32) -> Option<Vector> {
    // Not true for a NaN.
    let fits = from.abs() < 2f64.powi(bits);
    fits.then(|| Vector::of((from as i64).cast_unsigned()))
}
