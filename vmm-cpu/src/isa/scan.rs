//! Counting bits, and CRC32: BSF, BSR, LZCNT, TZCNT, POPCNT.

use iced_x86::Mnemonic;

use super::{Done, sized};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    flags::Flags,
    op::{Exec, Op},
    word::Word,
};

/// One of the operations.
trait Scan: 'static {
    /// The result, if the destination is written; also sets the flags.
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32>;
}

struct Bsf;
struct Bsr;
struct Lzcnt;
struct Popcnt;
struct Tzcnt;

impl Scan for Bsf {
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32> {
        found(a, flags).then(|| a.zext().trailing_zeros())
    }
}

impl Scan for Bsr {
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32> {
        found(a, flags).then(|| a.zext().ilog2())
    }
}

/// Without a bit to be found the destination keeps what it has (AMD APM 3, "BSF").
fn found<W: Word>(a: W, flags: &mut Flags) -> bool {
    let none = a.zext() == 0;
    flags.set_zf(none);
    !none
}

impl Scan for Lzcnt {
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32> {
        let count = a.zext().leading_zeros() + W::BITS - 64;
        flags.result(W::of(count.into()), count == W::BITS, false);
        Some(count)
    }
}

impl Scan for Popcnt {
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32> {
        // All but ZF are clear.
        flags.set(if a.zext() == 0 { crate::flags::ZF } else { 0 });
        Some(a.zext().count_ones())
    }
}

impl Scan for Tzcnt {
    fn apply<W: Word>(a: W, flags: &mut Flags) -> Option<u32> {
        let count = a.zext().trailing_zeros().min(W::BITS);
        flags.result(W::of(count.into()), count == W::BITS, false);
        Some(count)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Bsf => choose::<Bsf>(l),
        Mnemonic::Bsr => choose::<Bsr>(l),
        Mnemonic::Crc32 => checksum(l),
        Mnemonic::Lzcnt => choose::<Lzcnt>(l),
        Mnemonic::Popcnt => choose::<Popcnt>(l),
        Mnemonic::Tzcnt => choose::<Tzcnt>(l),
        _ => None,
    }
}

fn choose<S: Scan>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    if form == Form::RegReg {
        op.exec = sized!(size, scan_reg, S);
        l.push_pure(op, op.exec);
    } else {
        op.exec = sized!(size, scan_mem, S);
        l.push(op);
    }
    Some(())
}

#[inline(always)]
fn scan<W: Word, S: Scan>(core: &mut Core, op: &Op, a: W) -> Done {
    if let Some(result) = S::apply(a, &mut core.flags) {
        core.set_reg(op.dst, W::of(result.into()));
    }
    Ok(())
}

fn scan_reg<W: Word, S: Scan>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    scan::<W, S>(core, op, core.reg(op.src))
}

fn scan_mem<W: Word, S: Scan>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let a = core.load(core.address(op), world)?;
    scan::<W, S>(core, op, a)
}

fn checksum(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(1);
    let (mut op, form) = l.operands();
    if form == Form::RegReg {
        op.exec = sized!(size, checksum_reg);
        l.push_pure(op, op.exec);
    } else {
        op.exec = sized!(size, checksum_mem) as Exec;
        l.push(op);
    }
    Some(())
}

/// The CRC of each byte, with the polynomial 11EDC6F41h (Intel SDM 2, "CRC32").
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn add_to_checksum<W: Word>(core: &mut Core, op: &Op, value: W) -> Done {
    let bytes = &value.to_bytes()[..W::BYTES as usize];
    let crc = bytes.iter().fold(core.reg::<u32>(op.dst), |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    });
    core.set_reg(op.dst, crc);
    Ok(())
}

fn checksum_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    add_to_checksum::<W>(core, op, core.reg(op.src))
}

fn checksum_mem<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = core.load::<W>(core.address(op), world)?;
    add_to_checksum(core, op, value)
}
