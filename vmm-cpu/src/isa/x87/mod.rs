//! The x87 unit.
//!
//! Source operands in memory are brought into [`OPERAND`] by an operation before, as SSE's are, and
//! widened to 80 bits by the instruction itself, which raises the flags of that with its own.

mod arithmetic;
mod compare;
mod control;
mod transfer;

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

use super::{Done, sse::not_available};
use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::{Exception, Vector as Number},
    fp::{self, Answer, Bits, X87},
    op::{Exec, Op, Stop, exec},
    regs::{FS_BASE, GS_BASE, PAGE},
    system::{CS, FS, GS, mode},
    vector::{OPERAND, Vector},
    word::Word,
    x87::{DE, INDEFINITE},
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let exec = arithmetic::exec(i)
        .or_else(|| compare::exec(i.mnemonic()))
        .or_else(|| transfer::exec(i))
        .or_else(|| control::exec(i))?;
    let both = mode::MONITOR | mode::SWITCHED;
    let closed = match i.mnemonic() {
        Mnemonic::Wait => l.mode & both == both,
        _ => l.mode & (mode::EMULATE | mode::SWITCHED) != 0,
    };
    if closed {
        l.push(l.bare(exec!(not_available)));
        return Some(());
    }
    let mut op = l.operands().0;
    // What tells exceptions apart is not about where an instruction is; only the x87 unit wants it.
    op.imm = Source::Register as u64 | opcode(l.bytes) << OPCODE;
    op.third = i.memory_segment().number() as u8 & 7;
    if i.op_count() == 0 {
        // Comparisons without operands are of ST(0) and ST(1).
        (op.dst, op.src) = (0, 1);
    }
    if let Some((exec, source)) = loads(i) {
        l.push(Op { exec, dst: OPERAND, ..op });
        op.dst = 0;
        op.imm |= source as u64;
    }
    l.push(Op { exec, ..op });
    Some(())
}

/// What [`Last`] keeps of an instruction's bytes. Those of prefixes are none of 0xd8 to 0xdf.
///
/// [`Last`]: crate::x87::Last
fn opcode(bytes: &[u8]) -> u64 {
    let is_escape = |byte: &u8| matches!(byte, 0xd8..=0xdf);
    let mut rest = bytes.iter().copied().skip_while(|byte| !is_escape(byte));
    let [first, second] = [(); 2].map(|()| u64::from(rest.next().unwrap_or_default()));
    (first & 7) << 8 | second
}

/// Where that is in an operation's `imm`.
const OPCODE: u32 = 8;

/// What brings a source operand in memory to [`OPERAND`].
fn loads(i: &Instruction) -> Option<(Exec, Source)> {
    let stores = matches!(
        i.mnemonic(),
        Mnemonic::Fbstp
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fst
            | Mnemonic::Fstp
    );
    if i.op_count() == 0 || i.op_kind(0) != OpKind::Memory || stores {
        return None;
    }
    Some(match i.memory_size() {
        MemorySize::Bcd => (exec!(load_long), Source::Bcd),
        MemorySize::Float32 => (exec!(load_source::<u32>), Source::Float32),
        MemorySize::Float64 => (exec!(load_source::<u64>), Source::Float64),
        MemorySize::Float80 => (exec!(load_long), Source::Float80),
        MemorySize::Int16 => (exec!(load_source::<u16>), Source::Int16),
        MemorySize::Int32 => (exec!(load_source::<u32>), Source::Int32),
        MemorySize::Int64 => (exec!(load_source::<u64>), Source::Int64),
        _ => return None,
    })
}

/// What a source operand is, in the lowest bits of an operation's `imm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A register.
    Register,
    Bcd,
    Float32,
    Float64,
    Float80,
    Int16,
    Int32,
    Int64,
}

impl Source {
    fn of(op: &Op) -> Self {
        const ALL: [Source; 8] = [
            Source::Register,
            Source::Bcd,
            Source::Float32,
            Source::Float64,
            Source::Float80,
            Source::Int16,
            Source::Int32,
            Source::Int64,
        ];
        ALL[(op.imm & 7) as usize]
    }
}

/// Loads a source operand. A pending exception comes before a fault of the memory.
fn load_source<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    core.vectors[op.dst] = Vector::of(core.load::<W>(at, world)?);
    core.note_operand(op);
    Ok(())
}

/// Loads 80 bits.
fn load_long(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    let low: u64 = core.load(at, world)?;
    let high: u16 = core.load(at.wrapping_add(8), world)?;
    core.vectors[op.dst] = Vector::of(u128::from(high) << 64 | u128::from(low));
    core.note_operand(op);
    Ok(())
}

impl Core {
    /// #MF if an exception is pending.
    #[inline(always)]
    pub(super) fn await_x87(&mut self) -> Result<(), Stop> {
        if self.vectors.x87.is_pending() {
            return Err(self.raise(Exception::new(Number::FloatingPoint)));
        }
        Ok(())
    }

    /// Begins an instruction that is not about control, and cannot fault any more but by what is
    /// pending.
    #[inline(always)]
    fn begin_x87(&mut self, op: &Op) -> Result<(), Stop> {
        self.await_x87()?;
        self.note_instruction(op);
        Ok(())
    }

    #[inline(always)]
    fn note_instruction(&mut self, op: &Op) {
        let last = &mut self.vectors.x87.last;
        last.opcode = (op.imm >> OPCODE) as u16;
        last.instruction = self.regs[PAGE].wrapping_add(op.offset.into());
        last.code_segment = self.system.segments[usize::from(CS)].selector;
    }

    /// Keeps the memory operand's address in its segment.
    fn note_operand(&mut self, op: &Op) {
        let base = match op.third {
            FS => self.regs[FS_BASE],
            GS => self.regs[GS_BASE],
            _ => 0,
        };
        let at = self.address(op).wrapping_sub(base);
        let last = &mut self.vectors.x87.last;
        last.operand = at;
        last.data_segment = self.system.segments[usize::from(op.third & 7)].selector;
    }

    /// Works something out under the guest's control word.
    fn x87(&self, op: X87, a: Vector, b: Vector) -> Answer {
        fp::x87(op, a, b, self.vectors.x87.control)
    }

    /// An operation's source operand in 80 bits; none if it is an empty register.
    fn x87_source(&self, op: &Op) -> (Option<Vector>, Denormal) {
        let source = Source::of(op);
        if source == Source::Register {
            return (self.vectors.x87.get(op.src), Denormal(false));
        }
        let (value, status) = self.x87_converted(source);
        let raw = self.vectors[OPERAND].low::<u64>();
        // The NaN is to be looked at as it is, not as its conversion has made it quiet.
        let nan = match source {
            Source::Float32 => u32::is_nan(raw).then_some((raw >> 31, raw << 40)),
            Source::Float64 => u64::is_nan(raw).then_some((raw >> 63, raw << 11)),
            _ => None,
        };
        let value = match nan {
            Some((sign, fraction)) => {
                let exponent = u128::from(sign << 15 | 0x7fff);
                Vector::of(exponent << 64 | u128::from(fraction | 1 << 63))
            }
            None => value,
        };
        (Some(value), Denormal(status & DE != 0))
    }

    /// [`OPERAND`] in 80 bits, and the flags that its conversion raises.
    fn x87_converted(&self, source: Source) -> (Vector, u16) {
        let raw = self.vectors[OPERAND];
        let convert = |op: X87, raw: Vector| {
            let Answer { result, status, .. } = self.x87(op, raw, raw);
            (result, status)
        };
        let integer = |value: i64| convert(X87::FromI64, Vector::of(value.cast_unsigned()));
        match source {
            Source::Bcd => convert(X87::FromBcd, raw),
            Source::Float32 => convert(X87::FromF32, raw),
            Source::Float64 => convert(X87::FromF64, raw),
            Source::Float80 | Source::Register => (raw, 0),
            Source::Int16 => integer(raw.low::<u16>().cast_signed().into()),
            Source::Int32 => integer(raw.low::<u32>().cast_signed().into()),
            Source::Int64 => integer(raw.low::<u64>().cast_signed()),
        }
    }
}

/// Whether a source operand was denormal before it was converted.
#[derive(Clone, Copy, Debug)]
struct Denormal(bool);

impl Denormal {
    /// The flag it raises together with this other operand: a NaN comes first.
    fn beside(self, other: Vector) -> u16 {
        if self.0 && is_number(other) { DE } else { 0 }
    }
}

fn is_nan(value: Vector) -> bool {
    let bits: u128 = value.low();
    bits >> 64 & 0x7fff == 0x7fff && (bits as u64) << 1 != 0
}

/// Neither a NaN nor one of the encodings that are none.
fn is_number(value: Vector) -> bool {
    let bits: u128 = value.low();
    !is_nan(value) && (bits >> 63 & 1 != 0 || bits >> 64 & 0x7fff == 0)
}

/// What is worked on instead of an empty register, once its stack fault is masked.
fn indefinite() -> Vector {
    Vector::of(INDEFINITE)
}

#[cfg(test)]
mod tests {
    use iced_x86::{IcedError, code_asm::*};

    use crate::{
        Cpu, Flat,
        testing::{CODE, DATA, HANDLERS, Nobody, machine, stack, system},
        vector::Vector,
    };

    const ONE: u128 = 0x3fff_8000_0000_0000_0000;

    /// What `write` assembles, executed until a HLT, its own or a handler's.
    fn run(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> (Cpu, Flat) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        write(&mut assembler).unwrap();
        assembler.hlt().unwrap();
        let (mut cpu, ram) = machine(&assembler.assemble(CODE).unwrap());
        system(&mut cpu, &ram);
        cpu.core.regs[3] = DATA;
        assert_eq!(cpu.run(&ram, &Nobody), crate::Exit::Halted);
        (cpu, ram)
    }

    /// The exception that ended it.
    fn vector(cpu: &Cpu) -> Option<u64> {
        (cpu.core.rip < CODE).then(|| (cpu.core.rip - 1 - HANDLERS) / 16)
    }

    #[test]
    fn an_unmasked_exception_waits_for_the_next_instruction() {
        let (cpu, ram) = run(|a| {
            a.mov(word_ptr(rbx), 0x37b)?;
            a.fldcw(word_ptr(rbx))?;
            a.fld1()?;
            a.fldz()?;
            a.fdivp(st1, st0)?;
            a.fnstsw(ax)?;
            a.fld1()
        });
        assert_eq!(vector(&cpu), Some(16));
        // Nothing was popped, ES and ZE are set.
        assert_eq!(cpu.core.regs[0] as u16 & 0x38ff, 0x3084);
        assert_eq!(cpu.core.vectors.x87.get(1), Some(Vector::of(ONE)));
        assert_eq!(stack::<1>(&cpu, &ram), [CODE + 15]);
    }

    #[test]
    fn a_full_stack_answers_with_a_nan() {
        let (cpu, _) = run(|a| {
            for _ in 0..9 {
                a.fld1()?;
            }
            Ok(())
        });
        let x87 = &cpu.core.vectors.x87;
        assert_eq!(vector(&cpu), None);
        assert_eq!(x87.st(0), super::indefinite());
        assert_eq!(x87.status_word(), 0x3a41);
        assert_eq!(x87.tag_word(), 0x8000);
    }

    #[test]
    fn the_whole_state_is_saved_and_restored() {
        let (cpu, ram) = run(|a| {
            a.fldpi()?;
            a.fld1()?;
            a.fnsave(ptr(rbx))?;
            a.fnstsw(ax)?;
            a.fldz()?;
            a.frstor(ptr(rbx))
        });
        let x87 = &cpu.core.vectors.x87;
        assert_eq!(cpu.core.regs[0] as u16, 0);
        assert_eq!((x87.full, x87.top, x87.st(0)), (0xc0, 6, Vector::of(ONE)));
        let mut tags = [0; 4];
        ram.read(DATA + 8, &mut tags);
        assert_eq!(u32::from_le_bytes(tags), 0xffff_0fff);
    }

    #[test]
    fn the_environment_tells_of_the_last_instruction_and_operand() {
        let words = |ram: &Flat, at: u64| {
            std::array::from_fn::<_, 7, _>(|n| {
                let mut bytes = [0; 4];
                ram.read(at + 4 * n as u64, &mut bytes);
                u32::from_le_bytes(bytes)
            })
        };
        let (cpu, ram) = run(|a| {
            a.fld(qword_ptr(rbx + 64))?;
            a.fnstenv(ptr(rbx))?;
            // What is about control is not kept, what has no operand keeps the last.
            a.fchs()?;
            a.wait()?;
            a.fnstenv(ptr(rbx + 32))?;
            a.fnstsw(ax)?;
            a.fxsave64(ptr(rbx + 512))
        });
        assert_eq!(vector(&cpu), None);
        let at = DATA as u32;
        let code = CODE as u32;
        let [.., instruction, opcode, operand, _] = words(&ram, DATA);
        // fld qword ptr [rbx + 64] is dd 43 40, fchs d9 e0.
        assert_eq!([instruction, opcode, operand], [code, 0x543 << 16 | 8, at + 64]);
        let [.., instruction, opcode, operand, _] = words(&ram, DATA + 32);
        assert_eq!([instruction, opcode, operand], [code + 5, 0x1e0 << 16 | 8, at + 64]);
        // FXSAVE tells of them only if an exception is pending.
        assert_eq!(words(&ram, DATA + 512)[1] >> 16, 0);
    }

    #[test]
    fn a_store_that_faults_pops_nothing() {
        let (cpu, _) = run(|a| {
            a.fld1()?;
            a.xor(ebx, ebx)?;
            a.dec(rbx)?;
            a.shr(rbx, 8)?;
            a.fstp(tbyte_ptr(rbx))
        });
        assert_eq!(vector(&cpu), Some(13));
        assert_eq!(cpu.core.vectors.x87.get(0), Some(Vector::of(ONE)));
    }
}
