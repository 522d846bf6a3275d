//! FXSAVE, XSAVE and their like, and the layout of what they save (Intel SDM 1-10.5 and 1-13.4).

use iced_x86::Mnemonic;

use super::{Done, invalid};
use crate::{
    core::{Core, World},
    decode::Lowering,
    isa::sse::{MXCSR_BITS, not_available},
    op::{Exec, Op, Stop, exec},
    paging::is_canonical,
    regs::{RAX, RCX, RDX},
    state::State,
    system::mode,
    vector::{Vector, Vectors},
    x87::{Last, X87},
};

/// What is saved without the header, in pieces of 16 bytes: words about the x87 unit and MXCSR, ST(0)
/// to ST(7), XMM0 to XMM15.
type Legacy = [u128; 26];
const REGISTERS: usize = 2;
const XMM: usize = 10;

/// Where MXCSR and its mask are; and the header, of which XSTATE_BV is first.
const MXCSR: u64 = 24;
const HEADER: u64 = 512;
/// FXSAVE's last byte, of which AMD's processors make sure first. XSAVE's first comes first.
const LAST: u64 = HEADER - 1;

/// The state components: x87, and the XMM registers.
const X87_COMPONENT: u64 = 1;
const SSE_COMPONENT: u64 = 2;
const ALL: u64 = X87_COMPONENT | SSE_COMPONENT;

/// How long the addresses of the last x87 instruction and its operand are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// 32 bits, and a selector.
    Narrow,
    /// 64 bits, as REX.W says.
    Wide,
}

impl Form {
    /// Of an operation whose `imm` says it.
    fn of(op: &Op) -> Self {
        if op.imm == 0 { Self::Narrow } else { Self::Wide }
    }

    fn put(self, address: u64, selector: u16) -> u64 {
        match self {
            Self::Narrow => address & u64::from(u32::MAX) | u64::from(selector) << 32,
            Self::Wide => address,
        }
    }

    fn take(self, word: u64) -> (u64, u16) {
        match self {
            Self::Narrow => (word & u64::from(u32::MAX), (word >> 32) as u16),
            // AMD's processors keep 57 bits.
            Self::Wide => (((word << 7).cast_signed() >> 7).cast_unsigned(), 0),
        }
    }
}

impl Vectors {
    fn legacy(&self, form: Form) -> Legacy {
        let mut pieces = [0; 26];
        // Only with an exception to be told of, as on AMD's processors (AMD64 APM 2, 11.4.4.3).
        let last = if self.x87.is_pending() { self.x87.last } else { Last::default() };
        let instruction = form.put(last.instruction, last.code_segment);
        let operand = form.put(last.operand, last.data_segment);
        pieces[0] = u128::from(self.x87.words() | u64::from(last.opcode) << 48)
            | u128::from(instruction) << 64;
        pieces[1] =
            u128::from(operand) | u128::from(self.mxcsr) << 64 | u128::from(MXCSR_BITS) << 96;
        for i in 0..8 {
            pieces[REGISTERS + usize::from(i)] = self.x87.st(i).low();
        }
        for i in 0..16 {
            pieces[XMM + usize::from(i)] = self[i].low();
        }
        pieces
    }

    /// Sets the components asked for: to what was saved if it is said to be there, else to what
    /// they are after power-on. MXCSR is no part of them.
    fn set_legacy(&mut self, pieces: &Legacy, form: Form, asked: u64, there: u64) {
        let there = asked & there;
        if asked & X87_COMPONENT != 0 {
            self.x87 = X87::default();
        }
        if there & X87_COMPONENT != 0 {
            self.x87.set_words(pieces[0] as u64);
            let (instruction, code_segment) = form.take((pieces[0] >> 64) as u64);
            let (operand, data_segment) = form.take(pieces[1] as u64);
            let opcode = (pieces[0] >> 48) as u16 & Last::OPCODE;
            self.x87.last = Last { opcode, instruction, code_segment, operand, data_segment };
            for i in 0..8 {
                let number = self.x87.number(i);
                let saved = pieces[REGISTERS + usize::from(i)];
                self.x87.registers[number] = Vector::of(saved & ((1 << 80) - 1));
            }
        }
        if asked & SSE_COMPONENT != 0 {
            for i in 0..16 {
                let saved = pieces[XMM + usize::from(i)];
                self[i] = Vector::of(if there & SSE_COMPONENT != 0 { saved } else { 0 });
            }
        }
    }
}

impl X87 {
    /// Control word, status word, tags.
    fn words(&self) -> u64 {
        let words = [self.control, self.status_word(), self.full.into()];
        words.iter().rev().fold(0, |words, word| words << 16 | u64::from(*word))
    }

    fn set_words(&mut self, words: u64) {
        self.set_control(words as u16);
        self.set_status_word((words >> 16) as u16);
        self.full = (words >> 32) as u8;
    }
}

impl Core {
    /// What XSAVE stores of all components, in the standard format.
    pub(crate) fn xsave_image(&self) -> Vec<u8> {
        let mut image: Vec<u8> =
            self.vectors.legacy(Form::Wide).iter().flat_map(|piece| piece.to_le_bytes()).collect();
        image.resize(State::XSAVE_LEN, 0);
        image[HEADER as usize] = ALL as u8;
        image
    }

    /// Sets all components to what XSAVE stored; what the image is too short for is zeros.
    pub(crate) fn set_xsave_image(&mut self, image: &[u8]) {
        let mut bytes = [0; State::XSAVE_LEN];
        bytes.iter_mut().zip(image).for_each(|(to, from)| *to = *from);
        let mut pieces = [0; 26];
        for (piece, bytes) in pieces.iter_mut().zip(bytes.as_chunks().0) {
            *piece = u128::from_le_bytes(*bytes);
        }
        let there = u64::from(bytes[HEADER as usize]);
        self.vectors = Vectors::default();
        self.vectors.set_legacy(&pieces, Form::Wide, ALL, there);
        if there & SSE_COMPONENT != 0 {
            self.vectors.mxcsr = (pieces[1] >> 64) as u32 & MXCSR_BITS;
        }
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let is = |bit: u32| l.mode & bit != 0;
    let exec: Exec = match l.instruction.mnemonic() {
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 if !is(mode::EMULATE | mode::SWITCHED) => {
            exec!(fxrstor)
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 if !is(mode::EMULATE | mode::SWITCHED) => {
            exec!(fxsave)
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => exec!(not_available),
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => exec!(not_available),
        mnemonic => {
            let (exec, closed) = extended(mnemonic)?;
            match (is(mode::XSAVE), is(closed)) {
                (false, _) => exec!(invalid),
                (true, true) => exec!(not_available),
                (true, false) => exec,
            }
        }
    };
    let wide = matches!(
        l.instruction.mnemonic(),
        Mnemonic::Fxrstor64
            | Mnemonic::Fxsave64
            | Mnemonic::Xrstor64
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt64
    );
    let op = l.operands().0;
    l.push(Op { exec, imm: wide.into(), ..op });
    Some(())
}

/// What executes one of those that CR4.OSXSAVE opens, and the modes in which it is #NM.
fn extended(mnemonic: Mnemonic) -> Option<(Exec, u32)> {
    Some(match mnemonic {
        Mnemonic::Xgetbv => (exec!(xgetbv), 0),
        Mnemonic::Xrstor | Mnemonic::Xrstor64 => (exec!(xrstor), mode::SWITCHED),
        Mnemonic::Xsave | Mnemonic::Xsave64 => (exec!(xsave), mode::SWITCHED),
        Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => (exec!(xsave), mode::SWITCHED),
        Mnemonic::Xsetbv => (exec!(xsetbv), 0),
        _ => return None,
    })
}

/// The memory operand's address, a multiple of `alignment`.
fn area(core: &mut Core, op: &Op, alignment: u64) -> Result<u64, Stop> {
    let at = core.address(op);
    if at.is_multiple_of(alignment) || alignment == 16 && !is_canonical(at) {
        // For FXSAVE, an address that is none comes first: it may be #SS.
        return Ok(at);
    }
    Err(core.general_protection(0))
}

fn load(core: &mut Core, at: u64, world: &World<'_>) -> Result<Legacy, Stop> {
    let mut pieces = [0; 26];
    for (piece, n) in pieces.iter_mut().zip(0..) {
        *piece = core.load(at.wrapping_add(16 * n), world)?;
    }
    Ok(pieces)
}

/// MXCSR among what was loaded; #GP if it has bits that there are not.
fn mxcsr(core: &mut Core, pieces: &Legacy) -> Result<u32, Stop> {
    let mxcsr = (pieces[1] >> 64) as u32;
    if mxcsr & !MXCSR_BITS == 0 { Ok(mxcsr) } else { Err(core.general_protection(0)) }
}

/// Stores some components; the caller has made sure that it can.
fn store(core: &mut Core, op: &Op, components: u64, world: &World<'_>) -> Done {
    let at = core.address(op);
    let pieces = core.vectors.legacy(Form::of(op));
    let place = |n: usize| at.wrapping_add(16 * n as u64);
    if components & X87_COMPONENT != 0 {
        core.store(at, pieces[0], world)?;
        core.store(place(1), pieces[1] as u64, world)?;
        for (n, piece) in pieces.iter().enumerate().take(XMM).skip(REGISTERS) {
            core.store(place(n), *piece, world)?;
        }
    }
    if components & SSE_COMPONENT != 0 {
        core.store(at.wrapping_add(MXCSR), (pieces[1] >> 64) as u64, world)?;
        for (n, piece) in pieces.iter().enumerate().skip(XMM) {
            core.store(place(n), *piece, world)?;
        }
    }
    Ok(())
}

fn fxsave(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = area(core, op, 16)?;
    core.probe_write(at.wrapping_add(LAST), 1, world)?;
    core.probe_write(at, size_of::<Legacy>(), world)?;
    store(core, op, ALL, world)
}

fn fxrstor(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = area(core, op, 16)?;
    core.probe_read(at.wrapping_add(LAST), 1, world)?;
    let pieces = load(core, at, world)?;
    core.vectors.mxcsr = mxcsr(core, &pieces)?;
    core.vectors.set_legacy(&pieces, Form::of(op), ALL, ALL);
    Ok(())
}

/// The components that EDX:EAX asks for and the system has enabled.
fn asked(core: &Core) -> u64 {
    (core.regs[RDX] << 32 | core.regs[RAX] & u64::from(u32::MAX)) & core.system.xcr0
}

/// Components always count as in use, and as changed.
fn xsave(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = area(core, op, 64)?;
    let header = at.wrapping_add(HEADER);
    let components = asked(core);
    core.probe_write(at, 1, world)?;
    core.probe_write(at.wrapping_add(State::XSAVE_LEN as u64 - 1), 1, world)?;
    core.probe_write(at, State::XSAVE_LEN, world)?;
    let there: u64 = core.load(header, world)?;
    store(core, op, components, world)?;
    core.store(header, there | components, world)
}

fn xrstor(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = area(core, op, 64)?;
    let components = asked(core);
    core.probe_read(at, 1, world)?;
    let header: [u64; 3] = [
        core.load(at.wrapping_add(HEADER), world)?,
        core.load(at.wrapping_add(HEADER + 8), world)?,
        core.load(at.wrapping_add(HEADER + 16), world)?,
    ];
    // The rest of the header may be anything (Intel SDM 1-13.8.1).
    if header[0] & !core.system.xcr0 != 0 || header[1] != 0 || header[2] != 0 {
        return Err(core.general_protection(0));
    }
    let pieces = load(core, at, world)?;
    if components & SSE_COMPONENT != 0 {
        core.vectors.mxcsr = mxcsr(core, &pieces)?;
    }
    core.vectors.set_legacy(&pieces, Form::of(op), components, header[0]);
    Ok(())
}

/// There is only XCR0.
fn xgetbv(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if core.regs[RCX] as u32 != 0 {
        return Err(core.general_protection(0));
    }
    core.regs[RAX] = core.system.xcr0 & u64::from(u32::MAX);
    core.regs[RDX] = core.system.xcr0 >> 32;
    Ok(())
}

fn xsetbv(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let value = core.regs[RDX] << 32 | core.regs[RAX] & u64::from(u32::MAX);
    let valid = value & X87_COMPONENT != 0 && value & !ALL == 0;
    if core.system.cpl != 0 || core.regs[RCX] as u32 != 0 || !valid {
        return Err(core.general_protection(0));
    }
    core.system.xcr0 = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;

    use crate::{
        system::CR4_OSXSAVE,
        testing::{CODE, DATA, Nobody, machine},
        vector::Vector,
    };

    /// What `write` assembles, executed to its HLT on a machine with something in its registers.
    fn run(
        write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    ) -> (crate::Cpu, crate::Flat) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        write(&mut assembler).unwrap();
        assembler.hlt().unwrap();
        let (mut cpu, ram) = machine(&assembler.assemble(CODE).unwrap());
        cpu.core.system.cr4 |= CR4_OSXSAVE;
        cpu.core.system.xcr0 = 3;
        cpu.core.regs[0] = 3;
        cpu.core.regs[3] = DATA;
        cpu.core.vectors.mxcsr = 0x1fa0;
        for i in 0..16 {
            cpu.core.vectors[i] = Vector::of(u128::from(i) << 100 | 7);
        }
        let x87 = &mut cpu.core.vectors.x87;
        x87.set_status_word(0x3800);
        x87.full = 0x80;
        x87.registers[7] = Vector::of(0x3fff_8000_0000_0000_0001_u128);
        assert_eq!(cpu.run(&ram, &Nobody), crate::Exit::Halted);
        (cpu, ram)
    }

    #[test]
    fn what_is_saved_comes_back() {
        let (saved, ram) = run(|a| {
            a.fxsave64(ptr(rbx))?;
            a.xsave64(ptr(rbx + 512))
        });
        let mut bytes = [0; 1088];
        ram.read(DATA, &mut bytes);
        let image = saved.core.xsave_image();
        assert_eq!(bytes[..512], image[..512]);
        assert_eq!(bytes[512..], image[..]);
        // ST(0) is R7.
        assert_eq!((image[4], image[32], image[41]), (0x80, 1, 0x3f));
        let (restored, _) = run(|a| {
            a.fxsave64(ptr(rbx))?;
            a.xorps(xmm1, xmm1)?;
            a.fxrstor64(ptr(rbx))
        });
        assert_eq!(restored.core.xsave_image(), image);
    }

    #[test]
    fn components_that_were_not_saved_are_as_after_power_on() {
        let (cpu, _) = run(|a| {
            a.mov(eax, 1)?;
            a.xsave(ptr(rbx))?;
            a.mov(eax, 3)?;
            a.mov(dword_ptr(rbx + 24), 0x1f80)?;
            a.xrstor(ptr(rbx))
        });
        assert_eq!(cpu.core.vectors[3], Vector::default());
        assert_eq!(cpu.core.vectors.mxcsr, 0x1f80);
        assert_eq!(cpu.core.vectors.x87.full, 0x80);
    }
}
