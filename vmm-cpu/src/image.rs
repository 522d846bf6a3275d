//! The x87 and SSE state as XSAVE stores it, in the standard format (Intel SDM 1-13.4).

use crate::{core::Core, state::State};

/// Where the legacy area has MXCSR and XMM0.
const MXCSR: usize = 24;
const XMM: usize = 160;
/// Where the header says which components are there.
const XSTATE_BV: usize = 512;
const SSE: u8 = 1 << 1;

impl Core {
    /// What XSAVE stores.
    pub(crate) fn xsave_image(&self) -> Vec<u8> {
        let mut image = vec![0; State::XSAVE_LEN];
        // FCW as after FNINIT.
        image[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        image[MXCSR..][..4].copy_from_slice(&self.vectors.mxcsr.to_le_bytes());
        for (to, from) in image[XMM..].chunks_exact_mut(16).zip(self.vectors.xmm) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        image[XSTATE_BV] = 1 | SSE;
        image
    }

    /// Takes what XSAVE stored; components that are not there become as after power-on.
    pub(crate) fn set_xsave_image(&mut self, image: &[u8]) {
        let mut bytes = [0; State::XSAVE_LEN];
        bytes.iter_mut().zip(image).for_each(|(to, from)| *to = *from);
        self.vectors = Default::default();
        if bytes[XSTATE_BV] & SSE == 0 {
            return;
        }
        let [a, b, c, d] = [bytes[MXCSR], bytes[MXCSR + 1], bytes[MXCSR + 2], bytes[MXCSR + 3]];
        self.vectors.mxcsr = u32::from_le_bytes([a, b, c, d]);
        let (registers, _) = bytes[XMM..].as_chunks();
        for (to, from) in self.vectors.xmm.iter_mut().zip(registers) {
            *to = u128::from_le_bytes(*from);
        }
    }
}
