//! The vector registers.

/// XMM0 to XMM15, and MXCSR.
#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
}

impl Default for Vectors {
    /// As after power-on (Intel SDM 1-10.2.3).
    fn default() -> Self {
        Self { xmm: [0; 16], mxcsr: 0x1f80 }
    }
}
