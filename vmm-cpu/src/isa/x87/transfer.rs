//! What brings values to and from the register stack.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

use super::{Done, Source, indefinite};
use crate::{
    core::{Core, World},
    fp::{self, X87},
    op::{Exec, Op, Stop, exec},
    vector::Vector,
    word::Word,
    x87::{C1, IE, OE, UE},
};

/// What executes an instruction.
pub(super) fn exec(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Fbld | Mnemonic::Fild | Mnemonic::Fld => exec!(load),
        Mnemonic::Fld1 => exec!(constant::<ONE>),
        Mnemonic::Fldl2e => exec!(constant::<L2E>),
        Mnemonic::Fldl2t => exec!(constant::<L2T>),
        Mnemonic::Fldlg2 => exec!(constant::<LG2>),
        Mnemonic::Fldln2 => exec!(constant::<LN2>),
        Mnemonic::Fldpi => exec!(constant::<PI>),
        Mnemonic::Fldz => exec!(constant::<ZERO>),
        Mnemonic::Fst if i.op_kind(0) == OpKind::Register => exec!(copy::<false>),
        Mnemonic::Fstp if i.op_kind(0) == OpKind::Register => exec!(copy::<true>),
        Mnemonic::Fbstp | Mnemonic::Fist | Mnemonic::Fistp | Mnemonic::Fst | Mnemonic::Fstp => {
            stores::<false>(i)?
        }
        Mnemonic::Fstpnce => exec!(copy_unchecked),
        Mnemonic::Fisttp => stores::<true>(i)?,
        Mnemonic::Fxch => exec!(exchange),
        _ => return None,
    })
}

/// What converts and stores ST(0).
fn stores<const CHOPS: bool>(i: &Instruction) -> Option<Exec> {
    let pops = !matches!(i.mnemonic(), Mnemonic::Fist | Mnemonic::Fst);
    Some(match (i.memory_size(), pops) {
        (MemorySize::Bcd, _) => exec!(store_long::<true>),
        (MemorySize::Float32, false) => exec!(store::<u32, TO_F32, CHOPS, false>),
        (MemorySize::Float32, true) => exec!(store::<u32, TO_F32, CHOPS, true>),
        (MemorySize::Float64, false) => exec!(store::<u64, TO_F64, CHOPS, false>),
        (MemorySize::Float64, true) => exec!(store::<u64, TO_F64, CHOPS, true>),
        (MemorySize::Float80, _) => exec!(store_long::<false>),
        (MemorySize::Int16, false) => exec!(store::<u16, TO_INT, CHOPS, false>),
        (MemorySize::Int16, true) => exec!(store::<u16, TO_INT, CHOPS, true>),
        (MemorySize::Int32, false) => exec!(store::<u32, TO_INT, CHOPS, false>),
        (MemorySize::Int32, true) => exec!(store::<u32, TO_INT, CHOPS, true>),
        (MemorySize::Int64, _) => exec!(store::<u64, TO_INT, CHOPS, true>),
        _ => return None,
    })
}

fn load(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let source = if Source::of(op) == Source::Register {
        // FLD names it as its first operand.
        core.vectors.x87.get(op.dst).map(|value| (value, 0))
    } else {
        Some(core.x87_converted(Source::of(op)))
    };
    let x87 = &mut core.vectors.x87;
    if source.is_some() && x87.get(7).is_some() {
        x87.push(indefinite());
        return Ok(());
    }
    // An empty register to be read comes before a full one to be pushed to.
    let value = match source {
        // A denormal value is told of and loaded all the same.
        Some((value, status)) => (x87.raise(status & !C1) || status & IE == 0).then_some(value),
        None => x87.stack_fault(0).then(indefinite),
    };
    if let Some(value) = value {
        x87.rotate(7);
        x87.set(0, value);
    }
    Ok(())
}

const ONE: u8 = 0;
const ZERO: u8 = 1;
const L2E: u8 = 2;
const L2T: u8 = 3;
const LG2: u8 = 4;
const LN2: u8 = 5;
const PI: u8 = 6;

fn constant<const WHICH: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let nothing = Vector::default();
    let value = match WHICH {
        ONE => Vector::of(0x3fff_8000_0000_0000_0000_u128),
        ZERO => nothing,
        L2E => core.x87(X87::L2e, nothing, nothing).result,
        L2T => core.x87(X87::L2t, nothing, nothing).result,
        LG2 => core.x87(X87::Lg2, nothing, nothing).result,
        LN2 => core.x87(X87::Ln2, nothing, nothing).result,
        _ => core.x87(X87::Pi, nothing, nothing).result,
    };
    let x87 = &mut core.vectors.x87;
    x87.set_codes(0, C1);
    x87.push(value);
    Ok(())
}

/// FST and FSTP to a register.
fn copy<const POPS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &mut core.vectors.x87;
    let value = match x87.get(0) {
        Some(value) => {
            x87.set_codes(0, C1);
            value
        }
        None if x87.stack_fault(0) => indefinite(),
        None => return Ok(()),
    };
    x87.set(op.dst, value);
    if POPS {
        x87.pop();
    }
    Ok(())
}

/// FSTPNCE: an empty register is no error, and is not copied.
fn copy_unchecked(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &mut core.vectors.x87;
    if let Some(value) = x87.get(0) {
        x87.set(op.dst, value);
    }
    x87.set_codes(0, C1);
    x87.pop();
    Ok(())
}

fn exchange(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &mut core.vectors.x87;
    let (a, b) = (x87.get(0), x87.get(op.src));
    if a.is_some() && b.is_some() {
        x87.set_codes(0, C1);
    } else if !x87.stack_fault(0) {
        return Ok(());
    }
    x87.set(0, b.unwrap_or(indefinite()));
    x87.set(op.src, a.unwrap_or(indefinite()));
    Ok(())
}

const TO_F32: u8 = 0;
const TO_F64: u8 = 1;
const TO_INT: u8 = 2;

/// The control word's rounding field: towards zero.
const CHOP: u16 = 3 << 10;

fn store<W: Word, const FORMAT: u8, const CHOPS: bool, const POPS: bool>(
    core: &mut Core,
    op: &Op,
    world: &World<'_>,
) -> Done {
    core.await_x87()?;
    let which = match (FORMAT, W::BITS) {
        (TO_F32, _) => X87::ToF32,
        (TO_F64, _) => X87::ToF64,
        (_, 16) => X87::ToI16,
        (_, 32) => X87::ToI32,
        _ => X87::ToI64,
    };
    let control = core.vectors.x87.control | if CHOPS { CHOP } else { 0 };
    let value = core.vectors.x87.get(0);
    let mut answer = fp::x87(which, value.unwrap_or(indefinite()), indefinite(), control);
    if CHOPS {
        answer.status &= !C1;
    }
    finish::<POPS>(core, op, value.is_some(), answer.status, |core, is_written| {
        let at = core.address(op);
        if !is_written {
            return core.probe_write(at, size_of::<W>(), world);
        }
        core.store(at, answer.result.low::<W>(), world)
    })
}

/// FSTP of 80 bits, and FBSTP.
fn store_long<const BCD: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let value = core.vectors.x87.get(0);
    let (mut bits, mut status) = (value.unwrap_or(indefinite()), 0);
    if BCD {
        let answer = core.x87(X87::ToBcd, bits, bits);
        (bits, status) = (answer.result, answer.status);
    }
    finish::<true>(core, op, value.is_some(), status, |core, is_written| {
        let at = core.address(op);
        core.probe_write(at, 10, world)?;
        if !is_written {
            return Ok(());
        }
        core.store(at, bits.low::<u64>(), world)?;
        core.store(at.wrapping_add(8), (bits.low::<u128>() >> 64) as u16, world)
    })
}

/// Stores unless an exception that is not masked forbids it, then notes what happened. Memory that
/// cannot be written faults in either case: `store` is told which it is.
fn finish<const POPS: bool>(
    core: &mut Core,
    op: &Op,
    is_full: bool,
    status: u16,
    store: impl FnOnce(&mut Core, bool) -> Result<(), Stop>,
) -> Done {
    let mut after = core.vectors.x87.clone();
    let fits = status & (OE | UE) & !after.control == 0;
    let written = if is_full { after.raise(status) && fits } else { after.stack_fault(0) };
    store(core, written)?;
    if written && POPS {
        after.pop();
    }
    core.vectors.x87 = after;
    core.note_instruction(op);
    core.note_operand(op);
    Ok(())
}
