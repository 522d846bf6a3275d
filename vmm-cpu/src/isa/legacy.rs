//! What 64-bit code does not have: decimal arithmetic, BOUND, PUSHA and POPA, SALC.

use iced_x86::{Code, Mnemonic};

use super::{
    Done,
    stack::{Flat, Segmented, Stack},
};
use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::{Exception, Vector},
    flags::{AF, CF},
    op::{Exec, Op, Stop, exec},
    regs::{RAX, RSP},
    word::{HIGH, Word},
};

/// AH.
const AH: u8 = RAX | HIGH;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    if l.is_long() {
        return None;
    }
    let segmented = l.is_segmented();
    let exec: Exec = match (l.instruction.code(), segmented) {
        (Code::Bound_r16_m1616, _) => exec!(bound::<u16>),
        (Code::Bound_r32_m3232, _) => exec!(bound::<u32>),
        (Code::Popaw, false) => exec!(pop_all::<u16, Flat>),
        (Code::Popaw, true) => exec!(pop_all::<u16, Segmented>),
        (Code::Popad, false) => exec!(pop_all::<u32, Flat>),
        (Code::Popad, true) => exec!(pop_all::<u32, Segmented>),
        (Code::Pushaw, false) => exec!(push_all::<u16, Flat>),
        (Code::Pushaw, true) => exec!(push_all::<u16, Segmented>),
        (Code::Pushad, false) => exec!(push_all::<u32, Flat>),
        (Code::Pushad, true) => exec!(push_all::<u32, Segmented>),
        _ => match l.instruction.mnemonic() {
            Mnemonic::Aaa => exec!(adjust_ascii::<true>),
            Mnemonic::Aad => exec!(from_digits),
            Mnemonic::Aam => exec!(to_digits),
            Mnemonic::Aas => exec!(adjust_ascii::<false>),
            Mnemonic::Daa => exec!(adjust_decimal::<true>),
            Mnemonic::Das => exec!(adjust_decimal::<false>),
            Mnemonic::Salc => exec!(spread_carry),
            _ => return None,
        },
    };
    let op = Op { exec, ..l.operands().0 };
    l.push(op);
    Some(())
}

/// AAA and AAS: AL becomes one digit, and AX what it is above or below.
fn adjust_ascii<const ADDS: bool>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let (ax, flags) = (core.reg::<u16>(RAX), core.flags.image());
    let adjusts = ax & 15 > 9 || flags & AF != 0;
    let adjusted = match (adjusts, ADDS) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    core.set_reg(RAX, adjusted & 0xff0f);
    core.flags.logic(adjusted as u8 & 15);
    let both = if adjusts { AF | CF } else { 0 };
    core.flags.set(core.flags.image() & !(AF | CF) | both);
    Ok(())
}

/// AAD: AL becomes AH times the base, plus AL.
fn from_digits(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let tens = core.reg::<u8>(AH).wrapping_mul(op.imm as u8);
    let value = core.reg::<u8>(RAX).wrapping_add(tens);
    core.set_reg(RAX, u16::from(value));
    core.flags.logic(value);
    Ok(())
}

/// AAM: AL is divided by the base; AH gets the quotient, AL the rest.
fn to_digits(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (value, base) = (core.reg::<u8>(RAX), op.imm as u8);
    let Some(quotient) = value.checked_div(base) else {
        return Err(core.raise(Exception::new(Vector::Divide)));
    };
    core.set_reg(AH, quotient);
    core.set_reg(RAX, value % base);
    core.flags.logic(value % base);
    Ok(())
}

/// DAA and DAS: AL becomes two digits.
fn adjust_decimal<const ADDS: bool>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let (old, flags) = (core.reg::<u8>(RAX), core.flags.image());
    let change = |al: u8, by: u8| if ADDS { al.wrapping_add(by) } else { al.wrapping_sub(by) };
    let (mut al, mut set) = (old, 0);
    if old & 15 > 9 || flags & AF != 0 {
        al = change(al, 6);
        set |= AF;
        // DAS keeps the borrow of the lower digit (Intel SDM 2, "DAS").
        set |= if !ADDS && old < 6 { CF } else { 0 };
    }
    if old > 0x99 || flags & CF != 0 {
        al = change(al, 0x60);
        set |= CF;
    }
    core.set_reg(RAX, al);
    core.flags.logic(al);
    core.flags.set(core.flags.image() & !(AF | CF) | set);
    Ok(())
}

/// SALC: AL becomes all ones if CF is set, else 0.
fn spread_carry(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.set_reg(RAX, if core.flags.cf() { 0xff_u8 } else { 0 });
    Ok(())
}

/// BOUND: #BR unless the index is within the two bounds in memory, which count as signed.
fn bound<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    let low = core.load::<W>(at, world)?.sext().cast_signed();
    let high = core.load::<W>(at.wrapping_add(W::BYTES), world)?.sext().cast_signed();
    let index = core.reg::<W>(op.dst).sext().cast_signed();
    match (low..=high).contains(&index) {
        true => Ok(()),
        false => Err(core.raise(Exception::new(Vector::Bounds))),
    }
}

/// The address of the `n`th of the eight words on the stack, from a pointer on.
fn slot<W: Word, S: Stack>(core: &mut Core, top: u64, n: u8, write: bool) -> Result<u64, Stop> {
    let pointer = S::wrap(core, top.wrapping_add(u64::from(n) * W::BYTES));
    S::linear(core, pointer, W::BYTES, write)
}

/// From the last to the first: RDI is on top.
fn push_all<W: Word, S: Stack>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    let top = S::wrap(core, core.regs[RSP].wrapping_sub(8 * W::BYTES));
    for n in (0..8).rev() {
        let at = slot::<W, S>(core, top, n, true)?;
        core.probe_write(at, W::BYTES as usize, world)?;
    }
    for n in (0..8).rev() {
        let at = slot::<W, S>(core, top, n, true)?;
        core.store(at, core.reg::<W>(7 - n), world)?;
    }
    S::set(core, top);
    Ok(())
}

/// What was RSP is left where it is.
fn pop_all<W: Word, S: Stack>(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    let top = core.regs[RSP];
    let mut words = [W::of(0); 8];
    for (word, n) in words.iter_mut().zip(0..) {
        let at = slot::<W, S>(core, top, n, false)?;
        *word = core.load(at, world)?;
    }
    for (word, n) in words.into_iter().zip(0..) {
        if n != 7 - RSP {
            core.set_reg(7 - n, word);
        }
    }
    core.drop_bytes::<S>(8 * W::BYTES);
    Ok(())
}
