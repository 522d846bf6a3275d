//! FXSAVE, XSAVE and their like, and the layout of what they save (Intel SDM 1-10.5 and 1-13.4).

use crate::{
    core::Core,
    isa::sse::MXCSR_BITS,
    state::State,
    vector::{Vector, Vectors},
    x87::X87,
};

const HEADER: usize = 512;
const REGISTERS: usize = 32;
const XMM: usize = 160;

/// The state components: x87, and the XMM registers.
const X87_COMPONENT: u64 = 1;
const SSE_COMPONENT: u64 = 2;

impl Core {
    /// What XSAVE stores of all components, in the standard format.
    pub(crate) fn xsave_image(&self) -> Vec<u8> {
        let vectors = &self.vectors;
        let mut image = vec![0; State::XSAVE_LEN];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &vectors.x87.header());
        put(24, &vectors.mxcsr.to_le_bytes());
        put(28, &MXCSR_BITS.to_le_bytes());
        for i in 0..8 {
            put(REGISTERS + 16 * usize::from(i), &vectors.x87.st(i).low::<u128>().to_le_bytes());
        }
        for i in 0..16 {
            put(XMM + 16 * usize::from(i), &vectors[i].low::<u128>().to_le_bytes());
        }
        put(HEADER, &(X87_COMPONENT | SSE_COMPONENT).to_le_bytes());
        image
    }

    /// Sets all components from such an image; what the header says is not there is as after power-on,
    /// and so is what the image is too short for.
    pub(crate) fn set_xsave_image(&mut self, image: &[u8]) {
        let field = |at: usize| {
            let mut bytes = [0; 16];
            let from = image.get(at..at + 16).unwrap_or_default();
            bytes[..from.len()].copy_from_slice(from);
            u128::from_le_bytes(bytes)
        };
        let present = field(HEADER) as u64;
        let mut vectors = Vectors::default();
        if present & X87_COMPONENT != 0 {
            vectors.x87.set_header(field(0) as u64);
            for i in 0..8 {
                let number = vectors.x87.number(i);
                vectors.x87.registers[number] = register(field(REGISTERS + 16 * usize::from(i)));
            }
        }
        if present & SSE_COMPONENT != 0 {
            vectors.mxcsr = (field(16) >> 64) as u32 & MXCSR_BITS;
            for i in 0..16 {
                vectors[i] = Vector::of(field(XMM + 16 * usize::from(i)));
            }
        }
        self.vectors = vectors;
    }
}

/// What is saved of a register of 80 bits.
fn register(saved: u128) -> Vector {
    Vector::of(saved & ((1 << 80) - 1))
}

impl X87 {
    /// Control word, status word, tags; the rest, about the last instruction, is not kept.
    fn header(&self) -> [u8; 24] {
        let mut header = [0; 24];
        header[0..2].copy_from_slice(&self.control.to_le_bytes());
        header[2..4].copy_from_slice(&self.status_word().to_le_bytes());
        header[4] = self.full;
        header
    }

    fn set_header(&mut self, header: u64) {
        self.control = header as u16;
        self.set_status_word((header >> 16) as u16);
        self.full = (header >> 32) as u8;
    }
}
