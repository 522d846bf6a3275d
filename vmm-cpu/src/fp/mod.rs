//! Floating-point arithmetic as the processor has it: rounding, flags and NaNs to the bit.
//!
//! Comparing and rounding to integers is done here; arithmetic is a [`Unit`]'s: the host's own if it
//! is an x86-64 processor, else one in software, which tests compare with it.

#[cfg(all(test, target_arch = "x86_64"))]
mod against;
mod compare;
#[cfg(target_arch = "x86_64")]
mod host;
mod quick;
mod round;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod soft;
mod unmasked;

#[cfg(target_arch = "x86_64")]
use self::host::Host as Here;
#[cfg(not(target_arch = "x86_64"))]
use self::soft::Soft as Here;
pub(crate) use self::{
    compare::{Bits, Relation, compare, extreme, lanes},
    round::round,
};
use crate::vector::Vector;

/// The flags of MXCSR (Intel SDM 1-10.2.3); the masks of their exceptions lie [`MASKS`] higher.
pub(crate) mod flag {
    /// Invalid operation.
    pub(crate) const IE: u32 = 1 << 0;
    /// A denormal operand.
    pub(crate) const DE: u32 = 1 << 1;
    /// Division by zero.
    pub(crate) const ZE: u32 = 1 << 2;
    /// Overflow.
    pub(crate) const OE: u32 = 1 << 3;
    /// Underflow.
    pub(crate) const UE: u32 = 1 << 4;
    /// An inexact result.
    pub(crate) const PE: u32 = 1 << 5;
    /// All of them.
    pub(crate) const ALL: u32 = 0x3f;
}

/// MXCSR.DAZ: denormal operands are zeros.
pub(crate) const DAZ: u32 = 1 << 6;
/// MXCSR.FTZ: results that underflow are zeros, if that is masked.
pub(crate) const FTZ: u32 = 1 << 15;
/// By how many bits the masks lie above the flags.
pub(crate) const MASKS: u32 = 7;
/// MXCSR.RC and where it is: how results are rounded.
pub(crate) const ROUNDING: u32 = 3 << ROUNDING_AT;
pub(crate) const ROUNDING_AT: u32 = 13;

/// An operation of the SSE unit, in the manner of the instruction of that name: scalar ones leave
/// the upper part of the first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sse {
    AddPd,
    AddPs,
    AddSd,
    AddSs,
    CvtDq2Ps,
    CvtPd2Dq,
    CvtPd2Ps,
    CvtPs2Dq,
    CvtPs2Pd,
    /// To 32 bits.
    CvtSd2Si,
    /// To 64 bits.
    CvtSd2SiQ,
    CvtSd2Ss,
    /// From 64 bits.
    CvtSi2SdQ,
    /// From 32 bits.
    CvtSi2Ss,
    /// From 64 bits.
    CvtSi2SsQ,
    CvtSs2Sd,
    CvtSs2Si,
    CvtSs2SiQ,
    CvttPd2Dq,
    CvttPs2Dq,
    CvttSd2Si,
    CvttSd2SiQ,
    CvttSs2Si,
    CvttSs2SiQ,
    DivPd,
    DivPs,
    DivSd,
    DivSs,
    MulPd,
    MulPs,
    MulSd,
    MulSs,
    RcpPs,
    RcpSs,
    RsqrtPs,
    RsqrtSs,
    SqrtPd,
    SqrtPs,
    SqrtSd,
    SqrtSs,
    SubPd,
    SubPs,
    SubSd,
    SubSs,
}

/// An operation of the x87 unit. Operands and results are 80 bits long unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum X87 {
    Add,
    /// Sets the condition codes.
    Compare,
    Cos,
    Div,
    Exp2Minus1,
    /// The significand, and as second result the exponent.
    Extract,
    FromBcd,
    FromF32,
    FromF64,
    FromI64,
    L2e,
    L2t,
    Lg2,
    Ln2,
    Mul,
    /// The arc tangent of `b / a`.
    Patan,
    Pi,
    Prem,
    Prem1,
    /// 1, and as second result the tangent.
    Ptan,
    Round,
    Scale,
    Sin,
    /// The cosine, and as second result the sine.
    SinCos,
    Sqrt,
    Sub,
    ToBcd,
    ToF32,
    ToF64,
    ToI16,
    ToI32,
    ToI64,
    /// As `Compare`, but quiet NaNs are not invalid.
    UnorderedCompare,
    /// `b` times the binary logarithm of `a`.
    Yl2x,
    /// `b` times the binary logarithm of `a + 1`.
    Yl2xp1,
}

/// What an operation of the x87 unit came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) result: Vector,
    /// A result that lies below the first on the stack.
    pub(crate) second: Vector,
    /// The status word: flags that were raised, and condition codes.
    pub(crate) status: u16,
}

/// Something that computes.
pub(crate) trait Unit {
    /// The operation on ST(0) and ST(1) under a control word, with all exceptions but overflow and
    /// underflow masked.
    fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer;

    /// The result under MXCSR's rounding, DAZ and FTZ with all exceptions masked, and the flags
    /// that were raised.
    fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32);
}

/// The result of an operation, and the flags that it raises, as [`Unit::sse`].
pub(crate) fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
    match quick::sse(op, a, b, mxcsr) {
        Some(result) => (result, 0),
        None if !(mxcsr >> MASKS) & (flag::OE | flag::UE) != 0 => {
            unmasked::sse::<Here>(op, a, b, mxcsr)
        }
        None => Here::sse(op, a, b, mxcsr),
    }
}

/// The result, where it is simple and no flag is raised that is not set: most often.
#[inline(always)]
pub(crate) fn quick(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> Option<Vector> {
    quick::sse(op, a, b, mxcsr)
}

/// An operation of the x87 unit, as [`Unit::x87`].
pub(crate) fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer {
    Here::x87(op, a, b, control)
}
