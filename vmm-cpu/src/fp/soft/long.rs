//! The x87 unit's format of 80 bits, and results under its control word.

use super::number::{Format, Kind, Number, Rounded, Rounding, Value};
use crate::{
    fp::{Answer, flag},
    vector::Vector,
    x87::{C1, DE, IE, INDEFINITE, OE, UE},
};

const RANGE: Format = Format { precision: 64, lowest: -16382, highest: 16383 };
const PE: u16 = flag::PE as u16;
/// What is added to the exponent of a result whose underflow is not masked, or subtracted for an
/// overflow (Intel SDM 1-8.5.4 and 1-8.5.5).
const WRAP: i32 = 24576;

/// An operand of 80 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) bits: u128,
    pub(super) value: Value,
}

/// Rounding, precision and masks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) rounding: Rounding,
    pub(super) precision: u32,
    pub(super) masks: u16,
}

impl Control {
    pub(super) fn of(word: u16) -> Self {
        let precision = [24, 64, 53, 64][usize::from(word >> 8 & 3)];
        let rounding = Rounding::of(u32::from(word) >> 10);
        Self { rounding, precision, masks: word & 0x3f }
    }

    /// With all bits.
    pub(super) fn precise(self) -> Self {
        Self { precision: 64, ..self }
    }

    /// An overflow or underflow that is not masked.
    pub(super) fn traps(self, exception: u16) -> bool {
        self.masks & exception == 0
    }
}

impl Long {
    pub(super) fn of(vector: Vector) -> Self {
        let bits = vector.low::<u128>() & ((1 << 80) - 1);
        let (negative, field, significand) = (bits >> 79 != 0, field(bits), bits as u64);
        let value = match (field, significand << 1) {
            (0x7fff, 0) => Value::Infinite(negative),
            (0x7fff, _) => Value::Nan,
            _ => match Number::integer(negative, significand.into()) {
                Value::Finite(n) => {
                    let exponent = n.exponent + field.max(1) - 16383 - 63;
                    Value::Finite(Number { exponent, ..n })
                }
                zero => zero,
            },
        };
        Self { bits, value }
    }

    /// An encoding that no processor makes (Intel SDM 1-8.2.2).
    pub(super) fn is_unsupported(self) -> bool {
        field(self.bits) != 0 && self.bits >> 63 & 1 == 0
    }

    pub(super) fn is_nan(self) -> bool {
        self.value == Value::Nan
    }

    pub(super) fn is_signalling(self) -> bool {
        self.is_nan() && self.bits >> 62 & 1 == 0
    }

    pub(super) fn is_denormal(self) -> bool {
        field(self.bits) == 0 && self.bits as u64 != 0
    }

    pub(super) fn is_negative(self) -> bool {
        self.bits >> 79 != 0
    }

    pub(super) fn significand(self) -> u64 {
        self.bits as u64
    }
}

fn field(bits: u128) -> i32 {
    (bits >> 64 & 0x7fff) as i32
}

/// The sum of all flags of operands that are not what they should be: IE alone, or the NaN that
/// comes out; else DE or nothing.
pub(super) fn screen(operands: &[Long]) -> Result<u16, Answer> {
    if operands.iter().any(|operand| operand.is_unsupported()) {
        return Err(invalid());
    }
    let nan = operands.iter().copied().filter(|operand| operand.is_nan()).reduce(choose);
    if let Some(nan) = nan {
        let signals = operands.iter().any(|operand| operand.is_signalling());
        let result = Vector::of(nan.bits | 1 << 62);
        return Err(Answer { result, status: if signals { IE } else { 0 }, ..Answer::default() });
    }
    Ok(if operands.iter().any(|operand| operand.is_denormal()) { DE } else { 0 })
}

/// Of two NaNs a quiet one comes out, or the one with the greater significand, or the positive one
/// (Intel SDM 1-4.8.3.5).
fn choose(a: Long, b: Long) -> Long {
    if a.is_signalling() != b.is_signalling() {
        return if a.is_signalling() { b } else { a };
    }
    match a.significand().cmp(&b.significand()) {
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Equal => {
            if a.is_negative() {
                b
            } else {
                a
            }
        }
    }
}

pub(super) fn invalid() -> Answer {
    plain(INDEFINITE, IE)
}

pub(super) fn plain(bits: u128, status: u16) -> Answer {
    Answer { result: Vector::of(bits), status, ..Answer::default() }
}

pub(super) fn zero(negative: bool) -> u128 {
    u128::from(negative) << 79
}

pub(super) fn infinity(negative: bool) -> u128 {
    zero(negative) | 0x7fff << 64 | 1 << 63
}

/// A value's bits and what rounding it raises.
pub(super) fn finish(value: Value, control: Control, early: u16) -> Answer {
    match value {
        Value::Finite(number) => rounded(number, control, early),
        Value::Infinite(negative) => plain(infinity(negative), early),
        Value::Nan => invalid(),
        Value::Zero(negative) => plain(zero(negative), early),
    }
}

fn rounded(number: Number, control: Control, early: u16) -> Answer {
    let format = Format { precision: control.precision, ..RANGE };
    let rounded = number.round(format, control.rounding);
    let too_large = rounded.raised & flag::OE != 0;
    let (traps, wrap) = match (too_large, rounded.tiny) {
        (true, _) => (OE, -WRAP),
        (_, true) => (UE, WRAP),
        _ => (0, 0),
    };
    if traps != 0 && control.traps(traps) {
        let far = Number { exponent: number.exponent + wrap, ..number };
        let again = far.round(format, control.rounding);
        if again.raised & (flag::OE | flag::UE) == 0 && !again.tiny {
            return answer(number.negative, &again, control, early | traps);
        }
        // FSCALE alone comes so far.
        let far = if too_large { infinity(number.negative) } else { zero(number.negative) };
        return plain(far, early | traps | PE | if too_large { C1 } else { 0 });
    }
    answer(number.negative, &rounded, control, early)
}

fn answer(negative: bool, rounded: &Rounded, control: Control, early: u16) -> Answer {
    let bits = match rounded.kind {
        Kind::Infinite => infinity(negative),
        Kind::Finite { exponent, bits } => {
            let significand = bits << (64 - control.precision);
            // A denormal number's field is one less than that of the lowest normal ones.
            let field = exponent + 16383 - i32::from(significand >> 63 == 0);
            zero(negative) | u128::from(field.unsigned_abs()) << 64 | significand
        }
    };
    let up = if rounded.up { C1 } else { 0 };
    plain(bits, early | rounded.raised as u16 | up)
}

/// A number to be stored in a shorter format: what became of it, and the flags. If overflow or
/// underflow is not masked nothing is stored, and nothing was rounded.
pub(super) fn shortened(number: Number, format: Format, control: Control) -> (Rounded, u16) {
    let rounded = number.round(format, control.rounding);
    let too_large = rounded.raised & flag::OE != 0;
    let status = match (too_large, rounded.tiny) {
        (true, _) if control.traps(OE) => OE,
        (_, true) if control.traps(UE) => UE,
        _ => rounded.raised as u16 | if rounded.up { C1 } else { 0 },
    };
    (rounded, status)
}
