//! What moves lanes about: shuffles, packing, unpacking, blending, inserting, widening.

use crate::vector::{Lane, Vector};

super::functions! {
    Blendpd(a, b, imm) blend::<u64>(a, b, imm);
    Blendps(a, b, imm) blend::<u32>(a, b, imm);
    Extractps(_, b, imm) Vector::of(u32::lanes(b)[usize::from(imm & 3)]);
    Insertps(a, b, imm) insertps(a, b, imm);
    Movddup(_, b, _) u64::each(|_| u64::lanes(b)[0]);
    Movhlps(a, b, _) u64::vector([u64::lanes(b)[1], u64::lanes(a)[1]]);
    Movhpd(a, b, _) u64::vector([u64::lanes(a)[0], u64::lanes(b)[0]]);
    Movhps(a, b, _) u64::vector([u64::lanes(a)[0], u64::lanes(b)[0]]);
    Movlhps(a, b, _) u64::vector([u64::lanes(a)[0], u64::lanes(b)[0]]);
    Movlpd(a, b, _) u64::vector([u64::lanes(b)[0], u64::lanes(a)[1]]);
    Movlps(a, b, _) u64::vector([u64::lanes(b)[0], u64::lanes(a)[1]]);
    Movmskpd(_, b, _) Vector::of(signs::<u64>(b, |lane| lane >> 63 != 0));
    Movmskps(_, b, _) Vector::of(signs::<u32>(b, |lane| lane >> 31 != 0));
    Movsd(a, b, _) u64::vector([u64::lanes(b)[0], u64::lanes(a)[1]]);
    Movshdup(_, b, _) u32::each(|i| u32::lanes(b)[i | 1]);
    Movsldup(_, b, _) u32::each(|i| u32::lanes(b)[i & 2]);
    Movss(a, b, _) u32::each(|i| if i == 0 { u32::lanes(b)[0] } else { u32::lanes(a)[i] });
    Packssdw(a, b, _) pack(a, b, |lane: i32| lane.clamp(-0x8000, 0x7fff) as i16);
    Packsswb(a, b, _) pack(a, b, |lane: i16| lane.clamp(-0x80, 0x7f) as i8);
    Packusdw(a, b, _) pack(a, b, |lane: i32| lane.clamp(0, 0xffff) as u16);
    Packuswb(a, b, _) pack(a, b, |lane: i16| lane.clamp(0, 0xff) as u8);
    Palignr(a, b, imm) palignr(a, b, imm);
    Pblendw(a, b, imm) blend::<u16>(a, b, imm);
    Pextrb(_, b, imm) Vector::of(u8::lanes(b)[usize::from(imm & 15)]);
    Pextrd(_, b, imm) Vector::of(u32::lanes(b)[usize::from(imm & 3)]);
    Pextrq(_, b, imm) Vector::of(u64::lanes(b)[usize::from(imm & 1)]);
    Pextrw(_, b, imm) Vector::of(u16::lanes(b)[usize::from(imm & 7)]);
    Pinsrb(a, b, imm) insert::<u8>(a, b, imm);
    Pinsrd(a, b, imm) insert::<u32>(a, b, imm);
    Pinsrq(a, b, imm) insert::<u64>(a, b, imm);
    Pinsrw(a, b, imm) insert::<u16>(a, b, imm);
    Pmovmskb(_, b, _) Vector::of(signs::<u8>(b, |lane| lane >> 7 != 0));
    Pmovsxbd(_, b, _) widen(b, |lane: i8| i32::from(lane));
    Pmovsxbq(_, b, _) widen(b, |lane: i8| i64::from(lane));
    Pmovsxbw(_, b, _) widen(b, |lane: i8| i16::from(lane));
    Pmovsxdq(_, b, _) widen(b, |lane: i32| i64::from(lane));
    Pmovsxwd(_, b, _) widen(b, |lane: i16| i32::from(lane));
    Pmovsxwq(_, b, _) widen(b, |lane: i16| i64::from(lane));
    Pmovzxbd(_, b, _) widen(b, |lane: u8| u32::from(lane));
    Pmovzxbq(_, b, _) widen(b, |lane: u8| u64::from(lane));
    Pmovzxbw(_, b, _) widen(b, |lane: u8| u16::from(lane));
    Pmovzxdq(_, b, _) widen(b, |lane: u32| u64::from(lane));
    Pmovzxwd(_, b, _) widen(b, |lane: u16| u32::from(lane));
    Pmovzxwq(_, b, _) widen(b, |lane: u16| u64::from(lane));
    Pshufb(a, b, _) pshufb(a, b);
    Pshufd(_, b, imm) u32::each(|i| u32::lanes(b)[choice(imm, i)]);
    Pshufhw(_, b, imm) u16::each(|i| u16::lanes(b)[if i < 4 { i } else { 4 + choice(imm, i - 4) }]);
    Pshuflw(_, b, imm) u16::each(|i| u16::lanes(b)[if i < 4 { choice(imm, i) } else { i }]);
    Punpckhbw(a, b, _) unpack::<u8>(a, b, 8);
    Punpckhdq(a, b, _) unpack::<u32>(a, b, 2);
    Punpckhqdq(a, b, _) unpack::<u64>(a, b, 1);
    Punpckhwd(a, b, _) unpack::<u16>(a, b, 4);
    Punpcklbw(a, b, _) unpack::<u8>(a, b, 0);
    Punpckldq(a, b, _) unpack::<u32>(a, b, 0);
    Punpcklqdq(a, b, _) unpack::<u64>(a, b, 0);
    Punpcklwd(a, b, _) unpack::<u16>(a, b, 0);
    Shufpd(a, b, imm) u64::each(|i| u64::lanes(if i == 0 { a } else { b })[usize::from(imm >> i) & 1]);
    Shufps(a, b, imm) u32::each(|i| u32::lanes(if i < 2 { a } else { b })[choice(imm, i)]);
    Unpckhpd(a, b, _) unpack::<u64>(a, b, 1);
    Unpckhps(a, b, _) unpack::<u32>(a, b, 2);
    Unpcklpd(a, b, _) unpack::<u64>(a, b, 0);
    Unpcklps(a, b, _) unpack::<u32>(a, b, 0);
}

/// The `i`th of four fields of two bits.
#[inline(always)]
pub(super) fn choice(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i)) & 3
}

#[inline(always)]
fn blend<L: Lane>(a: Vector, b: Vector, imm: u8) -> Vector {
    let (a, b) = (L::lanes(a), L::lanes(b));
    L::each(|i| if imm >> i & 1 != 0 { b.as_ref()[i] } else { a.as_ref()[i] })
}

/// The lowest lane of `b` in a lane of `a`.
#[inline(always)]
pub(super) fn insert<L: Lane>(a: Vector, b: Vector, imm: u8) -> Vector {
    let mut lanes = L::lanes(a);
    let place = usize::from(imm) % lanes.as_ref().len();
    lanes.as_mut()[place] = L::lanes(b).as_ref()[0];
    L::vector(lanes)
}

/// Intel SDM 2, INSERTPS.
#[inline(always)]
fn insertps(a: Vector, b: Vector, imm: u8) -> Vector {
    let mut lanes = u32::lanes(a);
    lanes[choice(imm, 2)] = u32::lanes(b)[choice(imm, 3)];
    u32::each(|i| if imm >> i & 1 != 0 { 0 } else { lanes[i] })
}

#[inline(always)]
fn signs<L: Lane>(b: Vector, is_set: impl Fn(L) -> bool) -> u32 {
    let lanes = L::lanes(b);
    lanes.as_ref().iter().rev().fold(0, |signs, lane| signs << 1 | u32::from(is_set(*lane)))
}

/// The lanes of `a`, then those of `b`, made smaller.
#[inline(always)]
pub(super) fn pack<L: Lane, S: Lane>(a: Vector, b: Vector, f: impl Fn(L) -> S) -> Vector {
    let (a, b) = (L::lanes(a), L::lanes(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    S::each(|i| f(if i < a.len() { a[i] } else { b[i - a.len()] }))
}

/// 16 bytes of the 32 of `a` and `b`, from byte `imm` of `b` on.
#[inline(always)]
fn palignr(a: Vector, b: Vector, imm: u8) -> Vector {
    let (a, b) = (u8::lanes(a), u8::lanes(b));
    let byte = |i| b.get(i).or_else(|| a.get(i - 16)).copied();
    u8::each(|i| byte(i + usize::from(imm)).unwrap_or_default())
}

#[inline(always)]
pub(super) fn pshufb(a: Vector, b: Vector) -> Vector {
    let a = u8::lanes(a);
    u8::map(b, |which| if which & 0x80 != 0 { 0 } else { a[usize::from(which & 15)] })
}

/// Lanes of `a` and `b` in turn, from lane `first` on.
#[inline(always)]
pub(super) fn unpack<L: Lane>(a: Vector, b: Vector, first: usize) -> Vector {
    let (a, b) = (L::lanes(a), L::lanes(b));
    L::each(|i| if i & 1 == 0 { a.as_ref()[first + i / 2] } else { b.as_ref()[first + i / 2] })
}

/// As many of the lowest lanes as there is room for when they are wider.
#[inline(always)]
fn widen<S: Lane, L: Lane>(b: Vector, f: impl Fn(S) -> L) -> Vector {
    let lanes = S::lanes(b);
    L::each(|i| f(lanes.as_ref()[i]))
}
