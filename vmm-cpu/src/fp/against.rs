//! The two units against each other: the same results, flags and condition codes.

use std::collections::BTreeMap;

use super::{DAZ, FTZ, MASKS, Sse, Unit, X87, flag, host::Host, soft::Soft};
use crate::vector::{Lane, Vector};

/// Cases of each operation.
const CASES: usize = 20_000;

/// Random numbers, always the same.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 32) % end
    }

    /// A number of any kind in a format of so many bits of fraction and exponent.
    fn real(&mut self, fraction: u32, exponent: u32) -> u64 {
        let (special, mask) = ((1 << exponent) - 1, (1 << fraction) - 1);
        let field = match self.below(12) {
            0 => 0,
            1 => special,
            2 => special - 1 - self.below(3),
            3 => 1 + self.below(3),
            4 => self.below(special),
            // Near 1, and near the limits of integers.
            5..=8 => special / 2 + self.below(8) - 4,
            _ => special / 2 + self.below(70),
        };
        self.below(2) << (fraction + exponent) | field << fraction | self.fraction(fraction) & mask
    }

    /// Any bits, few of them, or hardly any zeros.
    fn fraction(&mut self, width: u32) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => 1 << self.below(width.into()),
            2 => self.bits() << self.below(64),
            3 => u64::MAX << self.below(width.into()),
            4 => u64::MAX >> self.below(64),
            _ => self.bits(),
        }
    }

    fn vector(&mut self) -> Vector {
        let bits = match self.below(5) {
            0 | 1 => (0..2).fold(0, |bits, _| bits << 64 | u128::from(self.real(52, 11))),
            2 | 3 => (0..4).fold(0, |bits, _| bits << 32 | u128::from(self.real(23, 8))),
            _ => (0..2).fold(0, |bits, _| bits << 64 | u128::from(self.fraction(63))),
        };
        Vector::of(bits)
    }

    /// 80 bits.
    fn long(&mut self) -> Vector {
        let field = match self.below(12) {
            0 => self.below(3),
            1 => 0x7fff - self.below(3),
            2 => self.below(0x8000),
            3 => 0x3fff - 1030 + self.below(2060),
            4..=8 => 0x3fff + self.below(8) - 4,
            _ => 0x3fff + self.below(70),
        };
        // The integer bit is clear in denormal numbers, else in what is none.
        let integer = if field == 0 || self.below(40) == 0 { self.below(2) } else { 1 };
        let significand = integer << 63 | self.fraction(63) & (u64::MAX >> 1);
        let high = self.below(2) << 15 | field;
        Vector::of(u128::from(high) << 64 | u128::from(significand))
    }
}

/// The operations that came out differently, how often, and the first case.
#[derive(Default)]
struct Differences(BTreeMap<String, (usize, String)>);

impl Differences {
    fn note(&mut self, op: String, case: impl FnOnce() -> String) {
        self.0.entry(op).or_insert_with(|| (0, case())).0 += 1;
    }

    fn assert_none(&self) {
        let lines: Vec<_> =
            self.0.iter().map(|(op, (n, case))| format!("{op}: {n} times\n{case}")).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

#[test]
fn sse_is_the_host_s_to_the_bit() {
    let mut random = Random(1);
    let mut found = Differences::default();
    for op in EXACT {
        for _ in 0..CASES {
            let (a, b) = (random.vector(), random.vector());
            let mut mxcsr = flag::ALL << MASKS | (random.below(4) as u32) << super::ROUNDING_AT;
            mxcsr |= if random.below(4) == 0 { DAZ } else { 0 };
            mxcsr |= if random.below(4) == 0 { FTZ } else { 0 };
            let (soft, host) = (Soft::sse(op, a, b, mxcsr), Host::sse(op, a, b, mxcsr));
            if soft != host {
                found.note(format!("{op:?}"), || {
                    let hex = |v: Vector| format!("{:032x}", v.low::<u128>());
                    format!(
                        "  {} {} mxcsr {mxcsr:x}\n  {} {:x}\n  {} {:x} (host)",
                        hex(a),
                        hex(b),
                        hex(soft.0),
                        soft.1,
                        hex(host.0),
                        host.1
                    )
                });
            }
        }
    }
    found.assert_none();
}

#[test]
fn x87_is_the_host_s_to_the_bit() {
    let mut random = Random(2);
    let mut found = Differences::default();
    for op in EXACT_LONG {
        for _ in 0..CASES {
            let (mut a, b) = (random.long(), random.long());
            match op {
                X87::FromF32 => a = Vector::of(random.real(23, 8)),
                X87::FromF64 => a = Vector::of(random.real(52, 11)),
                X87::FromI64 => a = Vector::of(random.fraction(63)),
                X87::FromBcd => a = decimal(&mut random),
                _ => {}
            }
            let masks = flag::ALL as u16 & !if random.below(4) == 0 { 0x18 } else { 0 };
            let precision = [0, 2, 3, 3][random.below(4) as usize] << 8;
            let control = masks | precision | (random.below(4) as u16) << 10 | 0x40;
            let (soft, host) = (Soft::x87(op, a, b, control), Host::x87(op, a, b, control));
            let told = |answer: super::Answer| {
                let traps = answer.status & 0x18 & !control != 0;
                let results = match op {
                    X87::Compare | X87::UnorderedCompare => [0; 2],
                    // Nothing is stored.
                    X87::ToF32 | X87::ToF64 if traps => [0; 2],
                    _ => [answer.result.low::<u128>(), answer.second.low()],
                };
                // There is no quotient to be told of.
                let is_nan = answer.result.low::<u128>() >> 64 & 0x7fff == 0x7fff;
                let none = matches!(op, X87::Prem | X87::Prem1) && is_nan;
                (results, answer.status & if none { TOLD & !0x4300 } else { TOLD })
            };
            if told(soft) != told(host) {
                found.note(format!("{op:?}"), || {
                    let hex = |v: Vector| format!("{:020x}", v.low::<u128>());
                    let answer = |a: super::Answer| {
                        format!("  {} {} {:04x}", hex(a.result), hex(a.second), a.status)
                    };
                    let given = format!("  {} {} control {control:x}", hex(a), hex(b));
                    format!("{given}\n{}\n{} (host)", answer(soft), answer(host))
                });
            }
        }
    }
    found.assert_none();
}

/// The estimates are within what either may be wrong by (Intel SDM 2, RCPPS), without flags.
#[test]
fn estimates_are_near_the_host_s() {
    let mut random = Random(4);
    let mut found = Differences::default();
    for op in [Sse::RcpPs, Sse::RcpSs, Sse::RsqrtPs, Sse::RsqrtSs] {
        for _ in 0..CASES {
            let (a, b) = (random.vector(), random.vector());
            let (soft, host) = (Soft::sse(op, a, b, 0x1f80), Host::sse(op, a, b, 0x1f80));
            let mut pairs = f32::lanes(soft.0).into_iter().zip(f32::lanes(host.0));
            let near = pairs.all(|(soft, host)| {
                let far = (f64::from(soft) - f64::from(host)).abs();
                // What is near the least normal number may be a zero instead.
                let bound = f64::from(host.abs()) * 3.0 / 4096.0 + f64::from(f32::MIN_POSITIVE);
                soft.to_bits() == host.to_bits() || far <= bound
            });
            if !near || soft.1 != 0 {
                found.note(format!("{op:?}"), || format!("{b:x?}: {soft:x?} {host:x?}"));
            }
        }
    }
    found.assert_none();
}

/// What is no arithmetic is as good as doubles are; flags but for the last bit's are the host's.
#[test]
fn functions_are_near_the_host_s() {
    let mut random = Random(3);
    let mut found = Differences::default();
    for op in NEAR {
        for _ in 0..CASES / 4 {
            let field = |random: &mut Random| 0x3fff - 30 + random.below(31);
            let (near, far) = (field(&mut random), field(&mut random));
            let negative = !matches!(op, X87::Yl2x);
            let sign = if negative { random.below(2) << 15 } else { 0 };
            let long = |high: u64, low: u64| {
                Vector::of(u128::from(high) << 64 | u128::from(low | 1 << 63))
            };
            // Within what the functions are for: less than 0.25.
            let a = long(sign | (near - 2), random.bits());
            let b = long(far, random.bits());
            let (soft, host) = (Soft::x87(op, a, b, 0x37f), Host::x87(op, a, b, 0x37f));
            let two = matches!(op, X87::Ptan | X87::SinCos);
            let near =
                is_near(soft.result, host.result) && (!two || is_near(soft.second, host.second));
            if !near || (soft.status ^ host.status) & 0x1f != 0 {
                found.note(format!("{op:?}"), || format!("{a:x?} {b:x?}: {soft:x?} {host:x?}"));
            }
        }
    }
    for (a, b) in ENDS {
        for op in NEAR {
            let (a, b) = (Vector::of(a), Vector::of(b));
            let (soft, host) = (Soft::x87(op, a, b, 0x37f), Host::x87(op, a, b, 0x37f));
            if !is_near(soft.result, host.result) || (soft.status ^ host.status) & 0x41f != 0 {
                found.note(format!("{op:?} at an end"), || {
                    format!("{a:x?} {b:x?}: {soft:x?} {host:x?}")
                });
            }
        }
    }
    found.assert_none();
}

/// Equal but for what a double leaves out.
fn is_near(a: Vector, b: Vector) -> bool {
    let double = |v: Vector| {
        let (bits, high) = (v.low::<u64>(), (v.low::<u128>() >> 64) as u16);
        let magnitude = bits as f64 * 2f64.powi(i32::from(high & 0x7fff) - 16383 - 63);
        if high >> 15 != 0 { -magnitude } else { magnitude }
    };
    let (x, y) = (double(a), double(b));
    a == b || (x - y).abs() <= y.abs() * 1e-15
}

/// Exceptions and condition codes.
const TOLD: u16 = 0x473f;

fn decimal(random: &mut Random) -> Vector {
    let digits = (0..18).fold(0, |bits, _| bits << 4 | u128::from(random.below(10)));
    Vector::of(digits | u128::from(random.below(2)) << 79)
}

/// All but the estimates.
const EXACT: [Sse; 40] = [
    Sse::AddPd,
    Sse::AddPs,
    Sse::AddSd,
    Sse::AddSs,
    Sse::CvtDq2Ps,
    Sse::CvtPd2Dq,
    Sse::CvtPd2Ps,
    Sse::CvtPs2Dq,
    Sse::CvtPs2Pd,
    Sse::CvtSd2Si,
    Sse::CvtSd2SiQ,
    Sse::CvtSd2Ss,
    Sse::CvtSi2SdQ,
    Sse::CvtSi2Ss,
    Sse::CvtSi2SsQ,
    Sse::CvtSs2Sd,
    Sse::CvtSs2Si,
    Sse::CvtSs2SiQ,
    Sse::CvttPd2Dq,
    Sse::CvttPs2Dq,
    Sse::CvttSd2Si,
    Sse::CvttSd2SiQ,
    Sse::CvttSs2Si,
    Sse::CvttSs2SiQ,
    Sse::DivPd,
    Sse::DivPs,
    Sse::DivSd,
    Sse::DivSs,
    Sse::MulPd,
    Sse::MulPs,
    Sse::MulSd,
    Sse::MulSs,
    Sse::SqrtPd,
    Sse::SqrtPs,
    Sse::SqrtSd,
    Sse::SqrtSs,
    Sse::SubPd,
    Sse::SubPs,
    Sse::SubSd,
    Sse::SubSs,
];

/// All but what is no arithmetic.
const EXACT_LONG: [X87; 27] = [
    X87::Add,
    X87::Compare,
    X87::Div,
    X87::Extract,
    X87::FromBcd,
    X87::FromF32,
    X87::FromF64,
    X87::FromI64,
    X87::L2e,
    X87::L2t,
    X87::Lg2,
    X87::Ln2,
    X87::Mul,
    X87::Pi,
    X87::Prem,
    X87::Prem1,
    X87::Round,
    X87::Scale,
    X87::Sqrt,
    X87::Sub,
    X87::ToBcd,
    X87::ToF32,
    X87::ToF64,
    X87::ToI16,
    X87::ToI32,
    X87::ToI64,
    X87::UnorderedCompare,
];

/// What is no arithmetic.
const NEAR: [X87; 8] = [
    X87::Cos,
    X87::Exp2Minus1,
    X87::Patan,
    X87::Ptan,
    X87::Sin,
    X87::SinCos,
    X87::Yl2x,
    X87::Yl2xp1,
];

/// Zero, infinity, NaN.
const ENDS: [(u128, u128); 3] = [
    (0, 0x3fff_8000_0000_0000_0000),
    (0x7fff_8000_0000_0000_0000, 0x3fff_8000_0000_0000_0000),
    (0x7fff_a000_0000_0000_0000, 0x3fff_8000_0000_0000_0000),
];
