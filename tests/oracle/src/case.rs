//! A case: one instruction and all it can see; and what became of it.

use iced_x86::{Instruction, Register};

/// The registers of user code, before or after a case. Both sides and their shared memory have this
/// layout.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The base of FS.
    pub fs: u64,
    /// The base of GS.
    pub gs: u64,
    /// Keeps `fx` aligned as FXSAVE wants it.
    pub pad: [u64; 4],
    /// x87, MMX and SSE, as FXSAVE64 stores them.
    pub fx: [u8; 512],
}

impl Default for Registers {
    fn default() -> Self {
        let mut fx = [0; 512];
        fx[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        fx[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Self { general: [0; 16], rip: 0, rflags: 0x202, fs: 0, gs: 0, pad: [0; 4], fx }
    }
}

impl Registers {
    /// What a register adds to an address.
    pub fn of(&self, register: Register) -> u64 {
        let whole = match register {
            Register::FS => return self.fs,
            Register::GS => return self.gs,
            r if r.is_segment_register() => return 0,
            r => self.general[r.full_register().number()],
        };
        match register.size() {
            1 => whole & 0xff,
            2 => whole & 0xffff,
            4 => whole & 0xffff_ffff,
            _ => whole,
        }
    }
}

impl Case {
    /// The address of the instruction's first operand, if that is memory.
    pub fn operand(&self, i: &Instruction) -> u64 {
        i.virtual_address(0, 0, |register, _, _| Some(self.before.of(register))).unwrap_or(0)
    }
}

/// Bytes that a case puts into the data, and looks at afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Where, from the beginning of the data.
    pub offset: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One instruction and all it can see.
#[derive(Clone, Debug)]
pub struct Case {
    /// The registers before; RIP says where the code lies.
    pub before: Registers,
    /// The instruction.
    pub code: Vec<u8>,
    /// What lies in memory; windows do not overlap.
    pub windows: Vec<Window>,
    /// The instruction may jump: it is executed with TF set.
    pub jumps: bool,
}

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The registers after.
    pub after: Registers,
    /// The exception, if there was one.
    pub fault: Option<Fault>,
    /// The windows after.
    pub windows: Vec<Window>,
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 if it has none.
    pub code: u32,
    /// The address of a page fault, else 0.
    pub address: u64,
}
