//! Floating point without the help of a host's unit, for hosts of other kinds.
//!
//! Everything is exact to the bit and the flag but the functions of the x87 unit that are no
//! arithmetic (sines and the like), which are as good as doubles, and the estimates of RCPPS and
//! RSQRTPS, which differ from processor to processor. A test compares it with the host's unit.

mod function;
mod long;
mod number;
mod sse;
mod x87;

use super::{Answer, Sse, Unit, X87};
use crate::vector::Vector;

/// Integers.
#[derive(Debug)]
pub(crate) struct Soft;

impl Unit for Soft {
    fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
        sse::sse(op, a, b, mxcsr)
    }

    fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer {
        x87::x87(op, a, b, control)
    }
}
