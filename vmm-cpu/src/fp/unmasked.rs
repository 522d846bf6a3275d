//! Overflow and underflow that are not masked (Intel SDM 1-4.9.1.4 and 1-4.9.1.5).
//!
//! What is raised then is not what is raised when they are: underflow also by a tiny result that is
//! exact, and inexactness only if the format's precision, and not its range, is the reason.

use super::{
    Bits, FTZ, MASKS, ROUNDING, ROUNDING_AT, Sse, Unit, X87,
    flag::{self, OE, PE, UE},
};
use crate::vector::{Lane, Vector};

/// Single or double precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Single,
    Double,
}

use Format::{Double, Single};

/// An operation that can overflow or underflow, lane by lane.
struct Lanes {
    count: usize,
    /// The same with one lane.
    scalar: Sse,
    /// The same by the x87 unit, whose exponents reach further.
    wide: X87,
    source: Format,
    target: Format,
}

impl Lanes {
    fn of(op: Sse) -> Option<Self> {
        let (count, scalar, wide, source, target) = match op {
            Sse::AddPd => (2, Sse::AddSd, X87::Add, Double, Double),
            Sse::AddPs => (4, Sse::AddSs, X87::Add, Single, Single),
            Sse::AddSd => (1, op, X87::Add, Double, Double),
            Sse::AddSs => (1, op, X87::Add, Single, Single),
            Sse::CvtPd2Ps => (2, Sse::CvtSd2Ss, X87::Add, Double, Single),
            Sse::CvtSd2Ss => (1, op, X87::Add, Double, Single),
            Sse::DivPd => (2, Sse::DivSd, X87::Div, Double, Double),
            Sse::DivPs => (4, Sse::DivSs, X87::Div, Single, Single),
            Sse::DivSd => (1, op, X87::Div, Double, Double),
            Sse::DivSs => (1, op, X87::Div, Single, Single),
            Sse::MulPd => (2, Sse::MulSd, X87::Mul, Double, Double),
            Sse::MulPs => (4, Sse::MulSs, X87::Mul, Single, Single),
            Sse::MulSd => (1, op, X87::Mul, Double, Double),
            Sse::MulSs => (1, op, X87::Mul, Single, Single),
            Sse::SubPd => (2, Sse::SubSd, X87::Sub, Double, Double),
            Sse::SubPs => (4, Sse::SubSs, X87::Sub, Single, Single),
            Sse::SubSd => (1, op, X87::Sub, Double, Double),
            Sse::SubSs => (1, op, X87::Sub, Single, Single),
            _ => return None,
        };
        Some(Self { count, scalar, wide, source, target })
    }

    fn converts(&self) -> bool {
        self.source != self.target
    }
}

/// As [`Unit::sse`], with overflow or underflow not masked.
#[cold]
#[inline(never)]
pub(super) fn sse<U: Unit>(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
    // What traps is not flushed to zero (Intel SDM 1-10.2.3.3).
    let flushes = mxcsr >> MASKS & UE != 0;
    let mxcsr = if flushes { mxcsr } else { mxcsr & !FTZ };
    let (result, raised) = U::sse(op, a, b, mxcsr);
    let Some(lanes) = Lanes::of(op) else { return (result, raised) };
    let raised = (0..lanes.count).fold(0, |raised, n| {
        let [a, b] = [a, b].map(|vector| lane(lanes.source, vector, n));
        raised | one::<U>(&lanes, a, b, mxcsr)
    });
    (result, raised)
}

/// What one lane raises.
fn one<U: Unit>(lanes: &Lanes, a: Vector, b: Vector, mxcsr: u32) -> u32 {
    let (result, raised) = U::sse(lanes.scalar, a, b, mxcsr);
    let tiny = if is_denormal(lanes.target, result) { UE } else { 0 };
    let traps = (raised | tiny) & (OE | UE) & !(mxcsr >> MASKS);
    if traps == 0 {
        return raised;
    }
    let operand = |vector: Vector| match lanes.source {
        Single => wide::<U, u32>(X87::FromF32, vector, mxcsr),
        Double => wide::<U, u64>(X87::FromF64, vector, mxcsr),
    };
    // A conversion adds nothing, which rounds.
    let (a, b) = if lanes.converts() { (b, Vector::default()) } else { (a, b) };
    let (a, b) = (operand(a), operand(b));
    let precision = if lanes.target == Double { 2 << 8 } else { 0 };
    let rounding = ((mxcsr & ROUNDING) >> ROUNDING_AT << 10) as u16;
    let status = U::x87(lanes.wide, a, b, flag::ALL as u16 | precision | rounding).status;
    raised & !(OE | UE | PE) | traps | u32::from(status) & PE
}

fn lane(format: Format, vector: Vector, n: usize) -> Vector {
    match format {
        Single => Vector::of(u32::lanes(vector)[n & 3]),
        Double => Vector::of(u64::lanes(vector)[n & 1]),
    }
}

fn is_denormal(format: Format, vector: Vector) -> bool {
    match format {
        Single => u32::is_denormal(vector.low::<u32>().bits()),
        Double => u64::is_denormal(vector.low::<u64>().bits()),
    }
}

/// An operand in 80 bits.
fn wide<U: Unit, B: Bits>(op: X87, vector: Vector, mxcsr: u32) -> Vector {
    let bits = B::operand(B::lanes(vector).as_ref()[0].bits(), mxcsr);
    let raw = Vector::of(bits);
    U::x87(op, raw, raw, flag::ALL as u16).result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp::Here;

    fn flags(op: Sse, a: f64, b: f64, unmasked: u32) -> u32 {
        let mxcsr = (flag::ALL & !unmasked) << MASKS;
        sse::<Here>(op, Vector::of(a.to_bits()), Vector::of(b.to_bits()), mxcsr).1
    }

    #[test]
    fn range_alone_makes_nothing_inexact() {
        assert_eq!(flags(Sse::AddSd, f64::MAX, f64::MAX, 0), OE | PE);
        assert_eq!(flags(Sse::AddSd, f64::MAX, f64::MAX, OE), OE);
        assert_eq!(flags(Sse::MulSd, f64::MAX, f64::MAX, OE), OE | PE);
        assert_eq!(flags(Sse::MulSd, f64::MIN_POSITIVE, 0.5, 0), 0);
        assert_eq!(flags(Sse::MulSd, f64::MIN_POSITIVE, 0.5, UE), UE);
        assert_eq!(flags(Sse::DivSd, f64::MIN_POSITIVE, 3.0, UE), UE | PE);
        assert_eq!(flags(Sse::CvtSd2Ss, 0.0, 1e-42, UE), UE | PE);
        assert_eq!(flags(Sse::CvtSd2Ss, 0.0, 2f64.powi(-200), UE), UE);
        assert_eq!(flags(Sse::CvtSd2Ss, 0.0, 2f64.powi(-200), 0), UE | PE);
    }

    #[test]
    fn each_lane_raises_its_own() {
        // 2^-126 * 0.5 is tiny, 1/3 is not; 1/3 is inexact, the other is not.
        let a = u32::vector([f32::MIN_POSITIVE.to_bits(), 1f32.to_bits(), 0, 0]);
        let b = u32::vector([2f32.to_bits(), 3f32.to_bits(), 1f32.to_bits(), 1f32.to_bits()]);
        let mxcsr = (flag::ALL & !UE) << MASKS;
        assert_eq!(sse::<Here>(Sse::DivPs, a, b, mxcsr).1, UE | PE);
        let b = u32::vector([2f32.to_bits(), 4f32.to_bits(), 1f32.to_bits(), 1f32.to_bits()]);
        assert_eq!(sse::<Here>(Sse::DivPs, a, b, mxcsr | FTZ).1, UE);
    }
}
