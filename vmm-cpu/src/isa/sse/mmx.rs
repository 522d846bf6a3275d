//! MMX: the same functions on the low half of vectors. Before one, an operation brings the registers
//! of the x87 unit that it is about to vector registers; after it, another takes the result back.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{
    Done, closed, float, integer, loads,
    moves::{self, from_register, store_part, to_register},
    not_available, shift, shuffle, uses,
};
use crate::{
    core::{Core, World},
    decode::Lowering,
    isa::{invalid, sized},
    op::{Exec, Op, exec},
    system::mode,
    vector::{Lane, OPERAND, RESULT, Vector},
};

// What is not the low half of what SSE does.
super::functions! {
    Movd(_, b, _) Vector::of(b.low::<u64>());
    Movdq2q(_, b, _) Vector::of(b.low::<u64>());
    Movntq(_, b, _) b;
    Movq(_, b, _) Vector::of(b.low::<u64>());
    Movq2dq(_, b, _) b;
    Packssdw(a, b, _) pack(a, b, |lane: i32| lane.clamp(-0x8000, 0x7fff) as i16);
    Packsswb(a, b, _) pack(a, b, |lane: i16| lane.clamp(-0x80, 0x7f) as i8);
    Packuswb(a, b, _) pack(a, b, |lane: i16| lane.clamp(0, 0xff) as u8);
    Palignr(a, b, imm) low(Vector::of(
        both(b, a).low::<u128>().checked_shr(u32::from(imm) * 8).unwrap_or_default()
    ));
    Pextrw(_, b, imm) Vector::of(u16::lanes(b)[usize::from(imm & 3)]);
    Phaddd(a, b, _) pairs(a, b, i32::wrapping_add);
    Phaddsw(a, b, _) pairs(a, b, i16::saturating_add);
    Phaddw(a, b, _) pairs(a, b, i16::wrapping_add);
    Phsubd(a, b, _) pairs(a, b, i32::wrapping_sub);
    Phsubsw(a, b, _) pairs(a, b, i16::saturating_sub);
    Phsubw(a, b, _) pairs(a, b, i16::wrapping_sub);
    Pinsrw(a, b, imm) shuffle::insert::<u16>(a, b, imm & 3);
    Pshufb(a, b, _) low(shuffle::pshufb(a, u8::map(b, |which| which & 0x87)));
    Pshufw(_, b, imm) low(u16::each(|i| u16::lanes(b)[shuffle::choice(imm, i & 3)]));
    Punpckhbw(a, b, _) low(shuffle::unpack::<u8>(a, b, 4));
    Punpckhdq(a, b, _) low(shuffle::unpack::<u32>(a, b, 1));
    Punpckhwd(a, b, _) low(shuffle::unpack::<u16>(a, b, 2));
}

/// `a`, with `b` above.
#[inline(always)]
fn both(a: Vector, b: Vector) -> Vector {
    u64::vector([a.low(), b.low()])
}

#[inline(always)]
fn low(a: Vector) -> Vector {
    Vector::of(a.low::<u64>())
}

#[inline(always)]
fn pack<L: Lane, S: Lane>(a: Vector, b: Vector, f: impl Fn(L) -> S) -> Vector {
    low(shuffle::pack(both(a, b), both(a, b), f))
}

#[inline(always)]
fn pairs<L: Lane>(a: Vector, b: Vector, f: impl Fn(L, L) -> L) -> Vector {
    low(integer::pairs(both(a, b), both(a, b), f))
}

/// For instructions with an MMX register.
pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let fault = if uses(i, Register::is_xmm) { closed(l.mode) } else { shut(l.mode) };
    let masked = i.mnemonic() == Mnemonic::Maskmovq;
    let float = float::exec(i);
    let plain = || {
        exec(i.mnemonic())
            .or_else(|| integer::exec(i.mnemonic()))
            .or_else(|| shift::exec(i))
            .or_else(|| shuffle::exec(i.mnemonic()))
    };
    let function = if masked { exec!(moves::store_masked) } else { float.or_else(plain)? };
    l.push(l.bare(fault.unwrap_or(exec!(begin))));
    if fault.is_some() {
        return Some(());
    }
    if masked {
        let op = moves::masked(l)?;
        for (dst, src) in [(RESULT, op.dst), (OPERAND, op.src)] {
            l.push_pure(Op { exec: exec!(from_mmx), dst, src, ..op }, exec!(from_mmx));
        }
        l.push(l.bare(exec!(touch)));
        l.push(Op { exec: function, dst: RESULT, src: OPERAND, ..op });
        return Some(());
    }
    around(l, function);
    Some(())
}

/// What an instruction is answered with while the system keeps MMX closed.
fn shut(mode: u32) -> Option<Exec> {
    if mode & mode::EMULATE != 0 {
        return Some(exec!(invalid));
    }
    (mode & mode::SWITCHED != 0).then_some(exec!(not_available))
}

/// Adds the function between what brings its operands and what takes its result away.
fn around(l: &mut Lowering<'_>, function: Exec) {
    let i = l.instruction;
    let sizes = [l.size(0), l.size(1)];
    let mut op = l.operands().0;
    let place = [op.dst, op.src];
    let source = match kind(i, 1) {
        Place::General => Some(sized!(sizes[1], from_register)),
        Place::Memory => Some(loads(i)),
        Place::Mmx => Some(exec!(from_mmx)),
        Place::Elsewhere => None,
    };
    if let Some(exec) = source {
        l.push(Op { exec, dst: OPERAND, ..op });
        op.src = OPERAND;
    }
    if kind(i, 0) == Place::Mmx {
        l.push(Op { exec: exec!(from_mmx), dst: RESULT, src: place[0], ..op });
    }
    if kind(i, 0) != Place::Elsewhere {
        op.dst = RESULT;
    }
    if kind(i, 0) != Place::Memory {
        l.push(l.bare(exec!(touch)));
    }
    l.push(Op { exec: function, ..op });
    let after = match kind(i, 0) {
        Place::General => Some(sized!(sizes[0], to_register)),
        Place::Memory => Some(sized!(sizes[0], store_part)),
        Place::Mmx => Some(exec!(to_mmx)),
        Place::Elsewhere => None,
    };
    if let Some(exec) = after {
        l.push(Op { exec, dst: place[0], src: RESULT, ..op });
    }
    if kind(i, 0) == Place::Memory {
        l.push_pure(l.bare(exec!(touch)), exec!(touch));
    }
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a vector register, or in the instruction.
    Elsewhere,
    General,
    Memory,
    Mmx,
}

fn kind(i: &Instruction, n: u32) -> Place {
    match i.op_kind(n) {
        OpKind::Memory => Place::Memory,
        OpKind::Register if i.op_register(n).is_mm() => Place::Mmx,
        OpKind::Register if i.op_register(n).is_gpr() => Place::General,
        _ => Place::Elsewhere,
    }
}

/// #MF comes before anything else.
fn begin(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()
}

fn from_mmx(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.vectors[op.dst] = low(core.vectors.x87.registers[usize::from(op.src & 7)]);
    Ok(())
}

/// What lies above the 64 bits becomes a NaN's exponent and sign.
fn to_mmx(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let bits: u64 = core.vectors[op.src].low();
    core.vectors.x87.registers[usize::from(op.dst & 7)] =
        Vector::of(u128::from(bits) | 0xffff << 64);
    Ok(())
}

/// Every instruction of MMX but EMMS leaves the register stack full, and at R0. AMD's processors do
/// that once they have the operands, so that #XM and a fault of MASKMOVQ's store find it done.
fn touch(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let x87 = &mut core.vectors.x87;
    (x87.top, x87.full) = (0, 0xff);
    Ok(())
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;

    use crate::{
        testing::{CODE, Nobody, machine},
        vector::Vector,
    };

    #[test]
    fn the_registers_are_those_of_the_x87_unit() {
        let mut a = CodeAssembler::new(64).unwrap();
        a.fld1().unwrap();
        a.mov(eax, 0x0102_0304).unwrap();
        a.movd(mm3, eax).unwrap();
        a.paddb(mm3, mm3).unwrap();
        a.emms().unwrap();
        let (mut cpu, ram) = machine(&a.assemble(CODE).unwrap());
        for _ in 0..4 {
            cpu.step(&ram, &Nobody);
        }
        let x87 = &cpu.core.vectors.x87;
        assert_eq!(x87.registers[3], Vector::of(0xffff_0000_0000_0204_0608_u128));
        assert_eq!((x87.top, x87.full), (0, 0xff));
        cpu.step(&ram, &Nobody);
        assert_eq!(cpu.core.vectors.x87.full, 0);
    }
}
