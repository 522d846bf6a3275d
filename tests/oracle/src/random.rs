//! Random values that are not all alike: borders, specials, neighbours.

/// A generator of random numbers (SplitMix64): small, seedable, the same on every host.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, part: u64) -> bool {
        self.below(100) < part
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }

    /// An integer near a border of some width, with few bits, or any.
    pub fn integer(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(17),
            3 => self.below(17).wrapping_neg(),
            // The signs' borders, and where a width ends.
            4 => (1_u64 << self.of(&[7, 8, 15, 16, 31, 32, 63])).wrapping_sub(self.below(3)),
            5 => (!0_u64 << self.of(&[7, 8, 15, 16, 31, 32, 63])).wrapping_sub(self.below(3)),
            6 => 1 << self.below(64),
            7 => self.bits() >> self.below(64),
            8 => self.bits() & (0x0101_0101_0101_0101 << self.below(8)),
            _ => self.bits(),
        }
    }

    /// A single as an operation likes it least.
    pub fn single(&mut self) -> u32 {
        const SPECIAL: [u32; 12] = [
            0,           // zero
            1,           // the smallest denormal
            0x007f_ffff, // the largest
            0x0080_0000, // the smallest normal
            0x3f80_0000, // one
            0x3f00_0000, // a half
            0x7f7f_ffff, // the largest
            0x7f80_0000, // infinity
            0x7fc0_0000, // quiet NaN
            0x7f80_0001, // signalling NaN
            0x4f00_0000, // 2^31
            0x5f00_0000, // 2^63
        ];
        let sign = (self.bits() as u32) & 1 << 31;
        match self.below(8) {
            0..=2 => sign | self.of(&SPECIAL),
            3 => sign | self.of(&SPECIAL).wrapping_add(self.below(5) as u32).wrapping_sub(2),
            4 => (self.below(2000) as f32 / 2.0 - 500.0).to_bits(),
            // Of like exponents, so that sums cancel and products stay in range.
            5 | 6 => sign | (118 + self.below(20) as u32) << 23 | self.bits() as u32 & 0x7f_ffff,
            _ => self.bits() as u32,
        }
    }

    /// A double as an operation likes it least.
    pub fn double(&mut self) -> u64 {
        const SPECIAL: [u64; 14] = [
            0,
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x3fe0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x41e0_0000_0000_0000, // 2^31
            0x43e0_0000_0000_0000, // 2^63
            0x3690_0000_0000_0000, // becomes a denormal single
            0x47ef_ffff_f000_0000, // beyond the largest single
        ];
        let sign = self.bits() & 1 << 63;
        match self.below(8) {
            0..=2 => sign | self.of(&SPECIAL),
            3 => sign | self.of(&SPECIAL).wrapping_add(self.below(5)).wrapping_sub(2),
            4 => (self.below(2000) as f64 / 2.0 - 500.0).to_bits(),
            5 | 6 => sign | (1013 + self.below(20)) << 52 | self.bits() >> 12,
            _ => self.bits(),
        }
    }

    /// An extended double: its significand, then sign and exponent.
    pub fn extended(&mut self) -> [u8; 10] {
        const ONE: u64 = 1 << 63;
        let (significand, exponent) = match self.below(10) {
            0 => (0, 0),
            1 => (ONE, 0x7fff),
            2 => (ONE | self.bits() >> 1, 0x7fff),
            3 => (self.bits() >> 1, 0),
            4 => (self.bits(), self.bits() as u16 & 0x7fff),
            5 => (ONE | self.bits() & 0xffff_ffff << 31, 0x3fff + self.below(64) as u16),
            _ => (ONE | self.bits(), 0x3fef + self.below(32) as u16),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&u64::to_le_bytes(significand));
        let signed = exponent | (self.bits() as u16) << 15;
        bytes[8..].copy_from_slice(&signed.to_le_bytes());
        bytes
    }

    /// Fills bytes with values of one kind.
    pub fn fill(&mut self, kind: Kind, bytes: &mut [u8]) {
        let width = match kind {
            Kind::Single => 4,
            Kind::Extended => 10,
            Kind::Double | Kind::Integer => 8,
            Kind::Lanes(width) => width,
        };
        for lane in bytes.chunks_mut(width) {
            let value = match kind {
                Kind::Extended => {
                    lane.copy_from_slice(&self.extended()[..lane.len()]);
                    continue;
                }
                Kind::Single => u64::from(self.single()),
                Kind::Double => self.double(),
                // A lane's border is where its width ends.
                Kind::Lanes(width) if self.percent(50) => {
                    let top = 1_u64 << (width * 8 - 1);
                    self.of(&[0, 1, top, top - 1, !0, top + 1, 0x20, 0x80])
                }
                Kind::Integer | Kind::Lanes(_) => self.integer(),
            };
            lane.copy_from_slice(&value.to_le_bytes()[..lane.len()]);
        }
    }
}

/// What bytes are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Doubles.
    Double,
    /// Extended doubles.
    Extended,
    /// Integers of 8 bytes.
    Integer,
    /// Integers of so many bytes.
    Lanes(usize),
    /// Singles.
    Single,
}
