//! The x87 unit.
//!
//! Source operands in memory are brought into [`OPERAND`] by an operation before, as SSE's are, and
//! widened to 80 bits by the instruction itself, which raises the flags of that with its own.

mod arithmetic;
mod compare;
mod control;
mod transfer;

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

use super::{
    Done,
    sse::{NEVER, load, not_available},
};
use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::{Exception, Vector as Number},
    fp::{self, Answer, Bits, X87},
    op::{Exec, Op, Stop},
    system::mode,
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
        l.push(l.bare(not_available));
        return Some(());
    }
    let mut op = l.operands().0;
    op.imm = Source::Register as u64;
    if i.op_count() == 0 {
        // Comparisons without operands are of ST(0) and ST(1).
        (op.dst, op.src) = (0, 1);
    }
    if let Some((exec, source)) = loads(i) {
        l.push(Op { exec, dst: OPERAND, ..op });
        (op.dst, op.imm) = (0, source as u64);
    }
    l.push(Op { exec, ..op });
    Some(())
}

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
        MemorySize::Bcd => (load_long, Source::Bcd),
        MemorySize::Float32 => (load_source::<u32>, Source::Float32),
        MemorySize::Float64 => (load_source::<u64>, Source::Float64),
        MemorySize::Float80 => (load_long, Source::Float80),
        MemorySize::Int16 => (load_source::<u16>, Source::Int16),
        MemorySize::Int32 => (load_source::<u32>, Source::Int32),
        MemorySize::Int64 => (load_source::<u64>, Source::Int64),
        _ => return None,
    })
}

/// What a source operand is, in an operation's `imm`.
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

/// Loads a source operand. A pending exception comes before a fault of the memory.
fn load_source<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    load::<W, NEVER>(core, op, world)
}

/// Loads 80 bits.
fn load_long(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    let low: u64 = core.load(at, world)?;
    let high: u16 = core.load(at.wrapping_add(8), world)?;
    core.vectors[op.dst] = Vector::of(u128::from(high) << 64 | u128::from(low));
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

    /// Works something out under the guest's control word.
    fn x87(&self, op: X87, a: Vector, b: Vector) -> Answer {
        fp::x87(op, a, b, self.vectors.x87.control)
    }

    /// An operation's source operand in 80 bits; none if it is an empty register.
    fn x87_source(&self, op: &Op) -> (Option<Vector>, Denormal) {
        if op.imm == Source::Register as u64 {
            return (self.vectors.x87.get(op.src), Denormal(false));
        }
        let (value, status) = self.x87_converted(op.imm);
        let raw = self.vectors[OPERAND].low::<u64>();
        // The NaN is to be looked at as it is, not as its conversion has made it quiet.
        let nan = match op.imm {
            imm if imm == Source::Float32 as u64 => {
                u32::is_nan(raw).then_some((raw >> 31, raw << 40))
            }
            imm if imm == Source::Float64 as u64 => {
                u64::is_nan(raw).then_some((raw >> 63, raw << 11))
            }
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
    fn x87_converted(&self, source: u64) -> (Vector, u16) {
        const SOURCES: [Source; 8] = [
            Source::Register,
            Source::Bcd,
            Source::Float32,
            Source::Float64,
            Source::Float80,
            Source::Int16,
            Source::Int32,
            Source::Int64,
        ];
        let raw = self.vectors[OPERAND];
        let convert = |op: X87, raw: Vector| {
            let Answer { result, status, .. } = self.x87(op, raw, raw);
            (result, status)
        };
        let integer = |value: i64| convert(X87::FromI64, Vector::of(value.cast_unsigned()));
        match SOURCES[(source & 7) as usize] {
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
