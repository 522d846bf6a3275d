//! The vector registers, and vectors as rows of lanes.
//!
//! Lanes are worked on in plain loops over arrays: LLVM makes the host's vector instructions of
//! them, as long as a vector is bytes in memory (with a `u128` it works lane by lane).

use std::ops::{Index, IndexMut};

use crate::{word::Datum, x87::X87};

/// 16 bytes, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Vector([u8; 16]);

impl Vector {
    /// With `datum` lowest, the rest zero.
    #[inline(always)]
    pub(crate) fn of(datum: impl Datum) -> Self {
        Self(datum.to_bytes())
    }

    /// The lowest bytes.
    #[inline(always)]
    pub(crate) fn low<D: Datum>(self) -> D {
        D::from_bytes(self.0)
    }
}

impl Datum for Vector {
    const BYTES: u64 = 16;

    #[inline(always)]
    fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    #[inline(always)]
    fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// What a vector is a row of.
pub(crate) trait Lane: Copy + Default + 'static {
    /// All lanes of a vector, the lowest first.
    type Lanes: Copy + AsRef<[Self]> + AsMut<[Self]>;

    fn lanes(vector: Vector) -> Self::Lanes;

    fn vector(lanes: Self::Lanes) -> Vector;

    /// The vector whose lanes are `lane(0)`, `lane(1)`, ...
    #[inline(always)]
    fn each(lane: impl Fn(usize) -> Self) -> Vector {
        let mut lanes = Self::lanes(Vector::default());
        for (i, place) in lanes.as_mut().iter_mut().enumerate() {
            *place = lane(i);
        }
        Self::vector(lanes)
    }

    #[inline(always)]
    fn map(a: Vector, f: impl Fn(Self) -> Self) -> Vector {
        let mut lanes = Self::lanes(a);
        for lane in lanes.as_mut() {
            *lane = f(*lane);
        }
        Self::vector(lanes)
    }

    #[inline(always)]
    fn zip(a: Vector, b: Vector, f: impl Fn(Self, Self) -> Self) -> Vector {
        let (mut lanes, b) = (Self::lanes(a), Self::lanes(b));
        for (lane, b) in lanes.as_mut().iter_mut().zip(b.as_ref()) {
            *lane = f(*lane, *b);
        }
        Self::vector(lanes)
    }
}

macro_rules! lane {
    ($($type:ty, $count:literal;)*) => {$(
        impl Lane for $type {
            type Lanes = [Self; $count];

            #[inline(always)]
            fn lanes(vector: Vector) -> Self::Lanes {
                let (chunks, _) = vector.0.as_chunks();
                let mut lanes = [Self::default(); $count];
                for (lane, chunk) in lanes.iter_mut().zip(chunks) {
                    *lane = Self::from_le_bytes(*chunk);
                }
                lanes
            }

            #[inline(always)]
            fn vector(lanes: Self::Lanes) -> Vector {
                let mut vector = Vector::default();
                let (chunks, _) = vector.0.as_chunks_mut();
                for (chunk, lane) in chunks.iter_mut().zip(lanes) {
                    *chunk = lane.to_le_bytes();
                }
                vector
            }
        }
    )*};
}

lane! {
    u8, 16; i8, 16; u16, 8; i16, 8; u32, 4; i32, 4; u64, 2; i64, 2; f32, 4; f64, 2;
}

/// The register file and MXCSR, and the x87 unit beside them, which is saved with them.
#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    /// XMM0 to XMM15, [`OPERAND`], [`RESULT`]; the rest makes any field valid.
    registers: [Vector; 32],
    pub(crate) mxcsr: u32,
    pub(crate) x87: X87,
}

/// Where an operation before put a source operand that is in no XMM register.
pub(crate) const OPERAND: u8 = 16;
/// Where an operation leaves a result that the next takes to where it belongs.
pub(crate) const RESULT: u8 = 17;

impl Default for Vectors {
    /// As after power-on (Intel SDM 1-10.2.3).
    fn default() -> Self {
        Self { registers: [Vector::default(); 32], mxcsr: 0x1f80, x87: X87::default() }
    }
}

impl Index<u8> for Vectors {
    type Output = Vector;

    #[inline(always)]
    fn index(&self, field: u8) -> &Vector {
        &self.registers[usize::from(field & 31)]
    }
}

impl IndexMut<u8> for Vectors {
    #[inline(always)]
    fn index_mut(&mut self, field: u8) -> &mut Vector {
        &mut self.registers[usize::from(field & 31)]
    }
}
