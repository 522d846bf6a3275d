//! Numbers that look random and are the same in every run.

/// A xorshift generator (Marsaglia, 64 bits).
pub(super) struct Random(u64);

impl Random {
    /// Starts the sequence of `seed`, which must not be 0.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
