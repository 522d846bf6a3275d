//! Rounding to an integer, of the same format.

use super::{Bits, ROUNDING, ROUNDING_AT, flag};

/// ROUNDxx under MXCSR's rounding mode and DAZ, and the flags that it raises.
pub(crate) fn round<B: Bits>(value: B, mxcsr: u32) -> (B, u32) {
    let bits = B::operand(value.bits(), mxcsr);
    if B::is_nan(bits) {
        let quiet = bits | 1 << (B::FRACTION - 1);
        return (B::from_bits(quiet), if B::is_signalling(bits) { flag::IE } else { 0 });
    }
    let sign = bits & 1 << (B::WIDTH - 1);
    let bias = B::SPECIAL >> 1;
    let one = bias << B::FRACTION;
    let magnitude = B::magnitude(bits);
    let exponent = magnitude >> B::FRACTION;
    if exponent >= bias + u64::from(B::FRACTION) || magnitude == 0 {
        return (B::from_bits(bits), 0);
    }
    // The integer below, the one above, and how the value lies to the middle between them.
    let (below, above, to_middle, odd) = if magnitude < one {
        let half = (bias - 1) << B::FRACTION;
        (0, one, magnitude.cmp(&half), false)
    } else {
        let fraction_bits = u64::from(B::FRACTION) - (exponent - bias);
        let step = 1 << fraction_bits;
        let below = magnitude & !(step - 1);
        // The exponent of 1 is odd, so that this is right for 1, too.
        let odd = below >> fraction_bits & 1 != 0;
        (below, below + step, (magnitude - below).cmp(&(step / 2)), odd)
    };
    if below == magnitude {
        return (B::from_bits(bits), 0);
    }
    let up = match (mxcsr & ROUNDING) >> ROUNDING_AT {
        0 => to_middle.is_gt() || to_middle.is_eq() && odd,
        1 => sign != 0,
        2 => sign == 0,
        _ => false,
    };
    (B::from_bits(sign | if up { above } else { below }), flag::PE)
}
