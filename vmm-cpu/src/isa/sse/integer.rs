//! Integer arithmetic, logic and comparison of packed integers.

use crate::vector::{Lane, Vector};

super::functions! {
    Andnpd(a, b, _) u64::zip(a, b, |a, b| !a & b);
    Andnps(a, b, _) u64::zip(a, b, |a, b| !a & b);
    Andpd(a, b, _) u64::zip(a, b, |a, b| a & b);
    Andps(a, b, _) u64::zip(a, b, |a, b| a & b);
    Mpsadbw(a, b, imm) mpsadbw(a, b, imm);
    Orpd(a, b, _) u64::zip(a, b, |a, b| a | b);
    Orps(a, b, _) u64::zip(a, b, |a, b| a | b);
    Pabsb(_, b, _) i8::map(b, i8::wrapping_abs);
    Pabsd(_, b, _) i32::map(b, i32::wrapping_abs);
    Pabsw(_, b, _) i16::map(b, i16::wrapping_abs);
    Paddb(a, b, _) u8::zip(a, b, u8::wrapping_add);
    Paddd(a, b, _) u32::zip(a, b, u32::wrapping_add);
    Paddq(a, b, _) u64::zip(a, b, u64::wrapping_add);
    Paddsb(a, b, _) i8::zip(a, b, i8::saturating_add);
    Paddsw(a, b, _) i16::zip(a, b, i16::saturating_add);
    Paddusb(a, b, _) u8::zip(a, b, u8::saturating_add);
    Paddusw(a, b, _) u16::zip(a, b, u16::saturating_add);
    Paddw(a, b, _) u16::zip(a, b, u16::wrapping_add);
    Pand(a, b, _) u64::zip(a, b, |a, b| a & b);
    Pandn(a, b, _) u64::zip(a, b, |a, b| !a & b);
    Pavgb(a, b, _) u8::zip(a, b, |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8);
    Pavgw(a, b, _) u16::zip(a, b, |a, b| (u32::from(a) + u32::from(b)).div_ceil(2) as u16);
    Pcmpeqb(a, b, _) u8::zip(a, b, |a, b| if a == b { u8::MAX } else { 0 });
    Pcmpeqd(a, b, _) u32::zip(a, b, |a, b| if a == b { u32::MAX } else { 0 });
    Pcmpeqq(a, b, _) u64::zip(a, b, |a, b| if a == b { u64::MAX } else { 0 });
    Pcmpeqw(a, b, _) u16::zip(a, b, |a, b| if a == b { u16::MAX } else { 0 });
    Pcmpgtb(a, b, _) i8::zip(a, b, |a, b| if a > b { -1 } else { 0 });
    Pcmpgtd(a, b, _) i32::zip(a, b, |a, b| if a > b { -1 } else { 0 });
    Pcmpgtq(a, b, _) i64::zip(a, b, |a, b| if a > b { -1 } else { 0 });
    Pcmpgtw(a, b, _) i16::zip(a, b, |a, b| if a > b { -1 } else { 0 });
    Phaddd(a, b, _) pairs(a, b, i32::wrapping_add);
    Phaddsw(a, b, _) pairs(a, b, i16::saturating_add);
    Phaddw(a, b, _) pairs(a, b, i16::wrapping_add);
    Phminposuw(_, b, _) phminposuw(b);
    Phsubd(a, b, _) pairs(a, b, i32::wrapping_sub);
    Phsubsw(a, b, _) pairs(a, b, i16::saturating_sub);
    Phsubw(a, b, _) pairs(a, b, i16::wrapping_sub);
    Pmaddubsw(a, b, _) pmaddubsw(a, b);
    Pmaddwd(a, b, _) pmaddwd(a, b);
    Pmaxsb(a, b, _) i8::zip(a, b, i8::max);
    Pmaxsd(a, b, _) i32::zip(a, b, i32::max);
    Pmaxsw(a, b, _) i16::zip(a, b, i16::max);
    Pmaxub(a, b, _) u8::zip(a, b, u8::max);
    Pmaxud(a, b, _) u32::zip(a, b, u32::max);
    Pmaxuw(a, b, _) u16::zip(a, b, u16::max);
    Pminsb(a, b, _) i8::zip(a, b, i8::min);
    Pminsd(a, b, _) i32::zip(a, b, i32::min);
    Pminsw(a, b, _) i16::zip(a, b, i16::min);
    Pminub(a, b, _) u8::zip(a, b, u8::min);
    Pminud(a, b, _) u32::zip(a, b, u32::min);
    Pminuw(a, b, _) u16::zip(a, b, u16::min);
    Pmuldq(a, b, _) i64::zip(a, b, |a, b| i64::from(a as i32) * i64::from(b as i32));
    Pmulhrsw(a, b, _) i16::zip(a, b, rounded);
    Pmulhuw(a, b, _) u16::zip(a, b, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    Pmulhw(a, b, _) i16::zip(a, b, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16);
    Pmulld(a, b, _) u32::zip(a, b, u32::wrapping_mul);
    Pmullw(a, b, _) u16::zip(a, b, u16::wrapping_mul);
    Pmuludq(a, b, _) u64::zip(a, b, |a, b| u64::from(a as u32) * u64::from(b as u32));
    Por(a, b, _) u64::zip(a, b, |a, b| a | b);
    Psadbw(a, b, _) psadbw(a, b);
    Psignb(a, b, _) i8::zip(a, b, |a, b| a.wrapping_mul(b.signum()));
    Psignd(a, b, _) i32::zip(a, b, |a, b| a.wrapping_mul(b.signum()));
    Psignw(a, b, _) i16::zip(a, b, |a, b| a.wrapping_mul(b.signum()));
    Psubb(a, b, _) u8::zip(a, b, u8::wrapping_sub);
    Psubd(a, b, _) u32::zip(a, b, u32::wrapping_sub);
    Psubq(a, b, _) u64::zip(a, b, u64::wrapping_sub);
    Psubsb(a, b, _) i8::zip(a, b, i8::saturating_sub);
    Psubsw(a, b, _) i16::zip(a, b, i16::saturating_sub);
    Psubusb(a, b, _) u8::zip(a, b, u8::saturating_sub);
    Psubusw(a, b, _) u16::zip(a, b, u16::saturating_sub);
    Psubw(a, b, _) u16::zip(a, b, u16::wrapping_sub);
    Pxor(a, b, _) u64::zip(a, b, |a, b| a ^ b);
    Xorpd(a, b, _) u64::zip(a, b, |a, b| a ^ b);
    Xorps(a, b, _) u64::zip(a, b, |a, b| a ^ b);
}

/// The lanes of `a`, then those of `b`, two and two.
#[inline(always)]
pub(super) fn pairs<L: Lane>(a: Vector, b: Vector, f: impl Fn(L, L) -> L) -> Vector {
    let (a, b) = (L::lanes(a), L::lanes(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    let half = a.len() / 2;
    L::each(|i| {
        let (from, i) = if i < half { (a, i) } else { (b, i - half) };
        f(from[2 * i], from[2 * i + 1])
    })
}

/// The high part of a product, rounded (Intel SDM 2, PMULHRSW).
#[inline(always)]
fn rounded(a: i16, b: i16) -> i16 {
    (((i32::from(a) * i32::from(b)) >> 14).wrapping_add(1) >> 1) as i16
}

#[inline(always)]
fn pmaddwd(a: Vector, b: Vector) -> Vector {
    let (a, b) = (i16::lanes(a), i16::lanes(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    i32::each(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}

/// Unsigned bytes of `a` times signed ones of `b`.
#[inline(always)]
fn pmaddubsw(a: Vector, b: Vector) -> Vector {
    let (a, b) = (u8::lanes(a), i8::lanes(b));
    let product = |i: usize| i16::from(a[i]) * i16::from(b[i]);
    i16::each(|i| product(2 * i).saturating_add(product(2 * i + 1)))
}

#[inline(always)]
fn psadbw(a: Vector, b: Vector) -> Vector {
    let (a, b) = (u8::lanes(a), u8::lanes(b));
    u64::each(|i| (8 * i..8 * i + 8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum())
}

/// Intel SDM 2, MPSADBW.
#[inline(always)]
fn mpsadbw(a: Vector, b: Vector, imm: u8) -> Vector {
    let (a, b) = (u8::lanes(a), u8::lanes(b));
    let (from_a, from_b) = (usize::from(imm & 4), usize::from(imm & 3) * 4);
    u16::each(|i| (0..4).map(|j| u16::from(a[from_a + i + j].abs_diff(b[from_b + j]))).sum())
}

/// The smallest word, and where it is first.
#[inline(always)]
fn phminposuw(b: Vector) -> Vector {
    let least = u16::lanes(b).into_iter().zip(0u16..).min().unwrap_or_default();
    Vector::of(u32::from(least.0) | u32::from(least.1) << 16)
}
