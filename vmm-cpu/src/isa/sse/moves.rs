//! What brings vectors from one place to another: memory, general-purpose registers, each other.

use iced_x86::{Mnemonic, OpKind};

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering, field_of},
    op::{Exec, Op, Stop, exec},
    regs::RDI,
    vector::{Lane, Vector},
    word::{Datum, Word},
};

/// MOVxx between memory and vector registers, and MXCSR; the moves that combine two vectors are
/// [`shuffle`](super::shuffle)'s.
pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Movapd | Mnemonic::Movaps | Mnemonic::Movdqa => {
            whole(l, exec!(load_whole::<ALWAYS>), exec!(store::<Vector, ALWAYS>))
        }
        Mnemonic::Lddqu | Mnemonic::Movdqu | Mnemonic::Movupd | Mnemonic::Movups => {
            whole(l, exec!(load_whole::<NEVER>), exec!(store::<Vector, NEVER>))
        }
        Mnemonic::Movntdq | Mnemonic::Movntdqa | Mnemonic::Movntpd | Mnemonic::Movntps => {
            whole(l, exec!(load_whole::<ALWAYS>), exec!(store::<Vector, ALWAYS>))
        }
        Mnemonic::Movd | Mnemonic::Movq => scalar(l),
        Mnemonic::Movhpd | Mnemonic::Movhps => part(l, None, exec!(store_high)),
        Mnemonic::Movlpd | Mnemonic::Movlps => part(l, None, exec!(store::<u64, NEVER>)),
        Mnemonic::Movsd => part(l, Some(exec!(load::<u64, NEVER>)), exec!(store::<u64, NEVER>)),
        Mnemonic::Movss => part(l, Some(exec!(load::<u32, NEVER>)), exec!(store::<u32, NEVER>)),
        Mnemonic::Maskmovdqu => {
            let op = masked(l)?;
            l.push(op);
            Some(())
        }
        Mnemonic::Movnti => not_temporal(l),
        Mnemonic::Ldmxcsr => control(l, exec!(load_control)),
        Mnemonic::Stmxcsr => control(l, exec!(store_control)),
        _ => None,
    }
}

fn whole(l: &mut Lowering<'_>, load: Exec, store: Exec) -> Option<()> {
    let (op, form) = l.operands();
    match form {
        Form::RegReg => l.push_pure(Op { exec: exec!(copy), ..op }, exec!(copy)),
        Form::RegMem => l.push(Op { exec: load, ..op }),
        _ => l.push(Op { exec: store, ..op }),
    }
    Some(())
}

/// MOVD, MOVQ.
fn scalar(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let is_general = |n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr();
    let size = l.size(0).min(l.size(1));
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::RegMem if size == 4 => exec!(load::<u32, NEVER>),
        Form::RegMem => exec!(load::<u64, NEVER>),
        Form::MemReg if size == 4 => exec!(store::<u32, NEVER>),
        Form::MemReg => exec!(store::<u64, NEVER>),
        _ if is_general(0) => sized!(size, to_register),
        _ if is_general(1) => sized!(size, from_register),
        _ => exec!(copy_low),
    };
    match form {
        Form::RegReg => l.push_pure(op, op.exec),
        _ => l.push(op),
    }
    Some(())
}

/// Moves of a part; a register's other part stays, with `load` if it comes from another register
/// only.
fn part(l: &mut Lowering<'_>, load: Option<Exec>, store: Exec) -> Option<()> {
    let exec = match l.instruction.op_kind(0) {
        OpKind::Memory => store,
        _ if l.instruction.op_kind(1) == OpKind::Memory => load?,
        _ => return None,
    };
    let op = l.operands().0;
    l.push(Op { exec, ..op });
    Some(())
}

/// Whether a memory operand has to be aligned: not at all; unless MXCSR.MM is set, as those of
/// instructions that work something out; in any case, as those of moves.
pub(in crate::isa) const NEVER: u8 = 0;
pub(super) const UNLESS_MASKED: u8 = 1;
const ALWAYS: u8 = 2;

pub(in crate::isa) fn load<D: Datum, const ALIGNED: u8>(
    core: &mut Core,
    op: &Op,
    world: &World<'_>,
) -> Done {
    let at = core.aligned::<ALIGNED>(op)?;
    core.vectors[op.dst] = Vector::of(core.load::<D>(at, world)?);
    Ok(())
}

pub(super) fn load_whole<const ALIGNED: u8>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.aligned::<ALIGNED>(op)?;
    core.load_vector(op.dst, at, world)
}

pub(super) fn store<D: Datum, const ALIGNED: u8>(
    core: &mut Core,
    op: &Op,
    world: &World<'_>,
) -> Done {
    let at = core.aligned::<ALIGNED>(op)?;
    core.store::<D>(at, core.vectors[op.src].low(), world)
}

impl Core {
    /// The address of the memory operand, which may have to be a multiple of 16.
    #[inline(always)]
    fn aligned<const ALIGNED: u8>(&mut self, op: &Op) -> Result<u64, Stop> {
        let at = self.address(op);
        if ALIGNED != NEVER && !at.is_multiple_of(16) {
            self.misaligned::<ALIGNED>()?;
        }
        Ok(at)
    }

    #[cold]
    fn misaligned<const ALIGNED: u8>(&mut self) -> Done {
        if ALIGNED == ALWAYS || self.vectors.mxcsr & MXCSR_MM == 0 {
            return Err(self.general_protection(0));
        }
        self.check_alignment()
    }
}

pub(super) fn store_part<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store::<W>(core.address(op), core.vectors[op.src].low(), world)
}

fn store_high(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), u64::lanes(core.vectors[op.src])[1], world)
}

fn copy(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.vectors[op.dst] = core.vectors[op.src];
    Ok(())
}

fn copy_low(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.vectors[op.dst] = Vector::of(core.vectors[op.src].low::<u64>());
    Ok(())
}

/// From a general-purpose register.
pub(super) fn from_register<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.vectors[op.dst] = Vector::of(core.reg::<W>(op.src));
    Ok(())
}

/// To a general-purpose register.
pub(super) fn to_register<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, core.vectors[op.src].low::<W>());
    Ok(())
}

/// The operation of MASKMOVDQU and MASKMOVQ: data in `dst`, mask in `src`, and where RDI says.
pub(super) fn masked(l: &mut Lowering<'_>) -> Option<Op> {
    let i = l.instruction;
    let width = match i.op_kind(0) {
        OpKind::MemorySegRDI => 8,
        OpKind::MemorySegEDI => 4,
        OpKind::MemorySegDI => 2,
        _ => return None,
    };
    let mut op = l.bare(exec!(store_masked));
    (op.dst, op.src) = (field_of(i.op_register(1)), field_of(i.op_register(2)));
    let len = if i.op_register(1).is_mm() { 8 } else { 16 };
    op.imm = len;
    l.address_in(&mut op, RDI, width, len);
    Some(op)
}

/// Stores bytes of the first vector where the second's have their sign set.
pub(super) fn store_masked(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    let (data, mask) = (u8::lanes(core.vectors[op.dst]), u8::lanes(core.vectors[op.src]));
    let chosen = |i: &usize| mask[*i] & 0x80 != 0;
    // All that may fault comes before the first byte is stored. Bytes that are not chosen may fault,
    // too (AMD64 APM 4, MASKMOVDQU).
    core.probe_write(at, op.imm as usize, world)?;
    for i in (0..16).filter(chosen) {
        core.store(at.wrapping_add(i as u64), data[i], world)?;
    }
    Ok(())
}

/// MOVNTI, which touches no vector register.
fn not_temporal(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let mut op = l.operands().0;
    op.exec = sized!(size, store_register);
    l.push(op);
    Some(())
}

fn store_register<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store::<W>(core.address(op), core.reg(op.src), world)
}

fn control(l: &mut Lowering<'_>, exec: Exec) -> Option<()> {
    let op = l.operands().0;
    l.push(Op { exec, ..op });
    Some(())
}

/// MXCSR.MM: operands of 16 bytes may lie as they like (AMD64 APM 1, section 4.3.2).
const MXCSR_MM: u32 = 1 << 17;
/// The bits that MXCSR has.
pub(crate) const MXCSR_BITS: u32 = MXCSR_MM | 0xffff;

fn load_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value: u32 = core.load(core.address(op), world)?;
    if value & !MXCSR_BITS != 0 {
        return Err(core.general_protection(0));
    }
    core.vectors.mxcsr = value;
    Ok(())
}

fn store_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), core.vectors.mxcsr, world)
}
