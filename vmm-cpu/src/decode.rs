//! From bytes to operations.
//!
//! `iced-x86` says what an instruction is; a family of `isa` lowers it: chooses what executes it
//! and fills in the operands. Then each block is read backwards for flags that nobody will see.

use iced_x86::{
    Code, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

use crate::{
    isa,
    op::{Exec, Op, exec},
    ram::{OFFSET, PAGE_SIZE},
    regs::{BASES, PAGE},
    system::mode,
    word::HIGH,
};

/// The most instructions of a block.
const LONGEST_BLOCK: u8 = 32;

/// The most bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 15 * LONGEST_BLOCK as usize;

/// What was found where a block was to begin.
pub(crate) enum Block {
    /// The decoder's operations are a block, of so many bytes.
    Whole(u64),
    /// The first instruction goes on in the next page.
    Straddles,
}

/// Turns bytes into operations, which it holds until the next call.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) ops: Vec<Op>,
    facts: Vec<Fact>,
}

/// What else is to be known of an operation until its block is complete.
#[derive(Clone, Copy, Debug)]
struct Fact {
    /// What executes it when nobody sees its flags.
    lean: Option<Exec>,
    /// The status flags it looks at, and those it changes; as `iced_x86::RflagsBits`.
    reads: u32,
    changes: u32,
    /// It may stop the block, and then all flags are seen.
    may_stop: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { ops: Vec::with_capacity(256), facts: Vec::with_capacity(256) }
    }

    /// Decodes the block that begins with `bytes`, at `offset` of a page.
    pub(crate) fn block(&mut self, bytes: &[u8], offset: u64, mode: u32) -> Block {
        self.decode(bytes, offset, mode, LONGEST_BLOCK)
    }

    /// Decodes one instruction; false if there are too few bytes for it.
    pub(crate) fn one(&mut self, bytes: &[u8], offset: u64, mode: u32) -> bool {
        matches!(self.decode(bytes, offset, mode, 1), Block::Whole(_))
    }

    fn decode(&mut self, bytes: &[u8], offset: u64, mode: u32, most: u8) -> Block {
        self.ops.clear();
        self.facts.clear();
        let mut decoder =
            iced_x86::Decoder::with_ip(bits(mode), bytes, offset, DecoderOptions::AMD);
        let mut instruction = Instruction::default();
        let mut ends = false;
        let mut last = Op::bare(exec!(isa::go_on));
        for ordinal in 0..most {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            if decoder.last_error() == DecoderError::NoMoreBytes {
                // The rest is on the next page.
                if ordinal == 0 {
                    return Block::Straddles;
                }
                break;
            }
            last.offset = (instruction.ip() & OFFSET) as u16;
            last.len = instruction.len() as u8;
            last.ordinal = ordinal;
            let begin = (instruction.ip().wrapping_sub(offset)) as usize;
            let code = bytes.get(begin..begin + instruction.len()).unwrap_or_default();
            ends = self.lower(&instruction, code, last, mode);
            if ends {
                break;
            }
        }
        if !ends {
            self.ops.push(last);
            self.facts.push(Fact { lean: None, reads: 0, changes: 0, may_stop: true });
        }
        self.drop_unseen_flags();
        Block::Whole(last.next().min(PAGE_SIZE) - offset)
    }

    /// Lowers an instruction; true if the block ends with it.
    fn lower(&mut self, instruction: &Instruction, bytes: &[u8], template: Op, mode: u32) -> bool {
        let template = Op { code: instruction.code() as u16, ..template };
        let begun = self.ops.len();
        let mut lowering = Lowering {
            instruction,
            bytes,
            template,
            mode,
            ends: instruction.flow_control() != FlowControl::Next,
            ops: &mut self.ops,
            facts: &mut self.facts,
        };
        if isa::lower(&mut lowering).is_none() {
            lowering.ends = true;
            let exec =
                if is_invalid(instruction) { exec!(isa::invalid) } else { exec!(isa::unknown) };
            lowering.ops.truncate(begun);
            lowering.facts.truncate(begun);
            lowering.push(Op { exec, ..template });
        }
        lowering.ends
    }

    /// Replaces what sets flags that are overwritten before anyone can see them.
    fn drop_unseen_flags(&mut self) {
        let mut seen = u32::MAX;
        for (op, fact) in self.ops.iter_mut().zip(&self.facts).rev() {
            if let Some(lean) = fact.lean
                && fact.changes & seen == 0
            {
                op.exec = lean;
            }
            seen = seen & !fact.changes | fact.reads;
            if fact.may_stop {
                seen = u32::MAX;
            }
        }
    }
}

/// Bytes that are no instruction, or one that is for that.
fn is_invalid(i: &Instruction) -> bool {
    let undefined = matches!(i.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2);
    undefined || i.code() == Code::INVALID
}

/// The size of code in bits.
fn bits(mode: u32) -> u32 {
    match mode & (mode::CODE_32 | mode::CODE_16) {
        0 => 64,
        mode::CODE_32 => 32,
        _ => 16,
    }
}

/// The kinds of an instruction's first two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Mem,
    MemImm,
    MemReg,
    None,
    Reg,
    RegImm,
    RegMem,
    RegReg,
}

/// An instruction on its way to operations.
pub(crate) struct Lowering<'a> {
    pub(crate) instruction: &'a Instruction,
    /// The instruction as it is in memory.
    pub(crate) bytes: &'a [u8],
    /// The operation with what all have, without operands.
    template: Op,
    pub(crate) mode: u32,
    ends: bool,
    ops: &'a mut Vec<Op>,
    facts: &'a mut Vec<Fact>,
}

impl Lowering<'_> {
    /// An operation of this instruction, without operands.
    pub(crate) fn bare(&self, exec: Exec) -> Op {
        Op { exec, ..self.template }
    }

    /// An operation with the instruction's operands in their usual places: the first register in
    /// `dst`, the second in `src`, a third in `third`, immediates in `imm`, memory in the address.
    /// Its `exec` is still to be chosen.
    pub(crate) fn operands(&mut self) -> (Op, Form) {
        let i = self.instruction;
        let mut op = self.template;
        let mut form = [' '; 2];
        for n in 0..i.op_count() {
            let kind = match i.op_kind(n) {
                OpKind::Register => {
                    let field = match n {
                        0 => &mut op.dst,
                        1 => &mut op.src,
                        _ => &mut op.third,
                    };
                    *field = field_of(i.op_register(n));
                    'r'
                }
                OpKind::Memory => {
                    self.address(&mut op);
                    'm'
                }
                _ => {
                    op.imm = i.try_immediate(n).unwrap_or(0);
                    'i'
                }
            };
            if let Some(place) = form.get_mut(n as usize) {
                *place = kind;
            }
        }
        let form = match form {
            ['m', ' '] => Form::Mem,
            ['m', 'i'] => Form::MemImm,
            ['m', 'r'] => Form::MemReg,
            ['r', ' '] => Form::Reg,
            ['r', 'i'] => Form::RegImm,
            ['r', 'm'] => Form::RegMem,
            ['r', 'r'] => Form::RegReg,
            _ => Form::None,
        };
        (op, form)
    }

    /// The size in bytes of the instruction's `n`th operand, a register or memory.
    pub(crate) fn size(&self, n: u32) -> usize {
        match self.instruction.op_kind(n) {
            OpKind::Register => self.instruction.op_register(n).size(),
            _ => self.instruction.memory_size().size(),
        }
    }

    /// Adds an operation that comes before the one that does the instruction: it always comes to
    /// its end, and neither looks at flags nor changes them.
    pub(crate) fn push_before(&mut self, op: Op) {
        self.ops.push(op);
        self.facts.push(Fact { lean: None, reads: 0, changes: 0, may_stop: false });
    }

    /// Adds an operation that comes before the one that does the instruction, and may stop the
    /// block; it neither looks at flags nor changes them.
    pub(crate) fn push_load(&mut self, op: Op) {
        self.ops.push(op);
        self.facts.push(Fact { lean: None, reads: 0, changes: 0, may_stop: true });
    }

    /// Adds an operation that may stop the block: by an exception, a device, a jump.
    pub(crate) fn push(&mut self, op: Op) {
        self.add(op, None, true);
    }

    /// As [`push`](Self::push), with what executes the operation when nobody sees its flags.
    pub(crate) fn push_or_lean(&mut self, op: Op, lean: Exec) {
        self.add(op, Some(lean), true);
    }

    /// Adds an operation that always comes to its end, with what executes it when nobody sees its
    /// flags; the same if it sets none.
    pub(crate) fn push_pure(&mut self, op: Op, lean: Exec) {
        self.add(op, Some(lean), false);
    }

    /// The block ends with this instruction: its last operation jumps or leaves.
    pub(crate) fn end_block(&mut self) {
        self.ends = true;
    }

    /// The operation added last may leave the flags as they were, so that those before it are seen
    /// through it.
    pub(crate) fn may_keep_flags(&mut self) {
        if let Some(fact) = self.facts.last_mut() {
            fact.reads |= fact.changes;
        }
    }

    fn add(&mut self, op: Op, lean: Option<Exec>, may_stop: bool) {
        let i = self.instruction;
        let (reads, changes) = (i.rflags_read(), i.rflags_modified());
        self.ops.push(op);
        self.facts.push(Fact { lean, reads, changes, may_stop });
    }
}

/// The field that names a register: general-purpose, vector, MMX or x87, segment.
pub(crate) fn field_of(register: Register) -> u8 {
    let number = register.full_register().number() as u8;
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => number | HIGH,
        Register::RIP | Register::EIP => PAGE,
        register if register.is_segment_register() => BASES + number,
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        cpu::Exit,
        flags::{AF, CF, PF, SF},
        regs::{RAX, RBX, RCX},
        testing::{DATA, Nobody, machine, stack, system},
    };

    #[test]
    fn flags_that_are_looked_at_are_kept() {
        // add al, bl; adc cl, 0; cmp eax, eax: the carry of the first is the second's.
        let (mut cpu, ram) = machine(&[0x00, 0xd8, 0x80, 0xd1, 0x00, 0x39, 0xc0, 0xf4]);
        (cpu.core.regs[RAX], cpu.core.regs[RBX]) = (0xff, 1);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.regs[RCX], 1);
        // sub al, bl; shl edx, cl with a count of 0; setc bl
        let (mut cpu, ram) = machine(&[0x28, 0xd8, 0xd3, 0xe2, 0x0f, 0x92, 0xc3, 0xf4]);
        cpu.core.regs[RBX] = 1;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.regs[RBX], 1);
    }

    /// The address takes an operation of its own here, which must not hide the first one's flags.
    #[test]
    fn a_fault_shows_the_flags_before_it() {
        // sub al, 1; add rcx, fs:[rbx+rcx*8+64]
        let code = [0x2c, 0x01, 0x64, 0x48, 0x03, 0x4c, 0xcb, 0x40, 0xf4];
        let (mut cpu, ram) = machine(&code);
        system(&mut cpu, &ram);
        cpu.core.regs[RBX] = 16 * DATA;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        let [_, _, _, flags] = stack::<4>(&cpu, &ram);
        assert_eq!(flags & 0xff, CF | PF | AF | SF | 2);
    }

    #[test]
    fn nops_alone_go_on() {
        let (mut cpu, ram) = machine(&[&[0x90; 100][..], &[0x0f, 0x1f, 0x40, 0, 0xf4]].concat());
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.instructions(), 102);
    }
}
