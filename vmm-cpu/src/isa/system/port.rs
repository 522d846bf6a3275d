//! IN, OUT, INS, OUTS.

use iced_x86::{Mnemonic, OpKind};

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::DF,
    isa::{
        Done, sized,
        string::{mask, set_masked},
    },
    op::{Op, Stop},
    regs::{BASES, NONE, PAGE, RAX, RCX, RDI, RDX, RSI},
    system::ES,
    word::Word,
};

/// Where the task-state segment says at which offset its I/O permission bitmap begins.
const TSS_BITMAP: u64 = 102;

impl Core {
    /// #GP(0) unless ports may be used as asked (Intel SDM 1-19.5).
    fn may_use_ports(&mut self, port: u16, len: u64, world: &World<'_>) -> Done {
        if self.has_io_privilege() {
            return Ok(());
        }
        let (base, limit) = (self.system.tr.base, u64::from(self.system.tr.limit));
        if limit <= TSS_BITMAP {
            return Err(self.general_protection(0));
        }
        let begin = self.as_system(|core| {
            core.load::<u16>(base.wrapping_add(TSS_BITMAP), world).map(u64::from)
        })?;
        // Two bytes are always looked at, for a row of ports can cross their border.
        let at = begin + u64::from(port / 8);
        if at + 1 > limit {
            return Err(self.general_protection(0));
        }
        let bits = self.as_system(|core| core.load::<u16>(base.wrapping_add(at), world))?;
        if u64::from(bits) >> (port % 8) & ((1 << len) - 1) != 0 {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    fn input<W: Word>(&mut self, port: u16, world: &World<'_>) -> W {
        self.watch_port(port, W::BYTES);
        let mut bytes = [0; 8];
        let flow = world.io.port_in(port, &mut bytes[..W::BYTES as usize]);
        self.leave |= flow.is_break();
        self.after_io(world);
        W::of(u64::from_le_bytes(bytes))
    }

    fn output<W: Word>(&mut self, port: u16, value: W, world: &World<'_>) {
        self.watch_port(port, W::BYTES);
        let bytes = value.zext().to_le_bytes();
        self.leave |= world.io.port_out(port, &bytes[..W::BYTES as usize]).is_break();
        self.after_io(world);
    }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    match i.mnemonic() {
        Mnemonic::In => simple(l, i.op_register(0).size(), 1),
        Mnemonic::Insb => string(l, 1, false),
        Mnemonic::Insd => string(l, 4, false),
        Mnemonic::Insw => string(l, 2, false),
        Mnemonic::Out => simple(l, i.op_register(1).size(), 0),
        Mnemonic::Outsb => string(l, 1, true),
        Mnemonic::Outsd => string(l, 4, true),
        Mnemonic::Outsw => string(l, 2, true),
        _ => None,
    }
}

/// IN and OUT; the port is operand `port`: an immediate, or DX.
fn simple(l: &mut Lowering<'_>, size: usize, port: u32) -> Option<()> {
    let i = l.instruction;
    let output = port == 0;
    let exec = match (output, i.op_kind(port) == OpKind::Register) {
        (false, false) => sized!(size, read, false),
        (false, true) => sized!(size, read, true),
        (true, false) => sized!(size, write, false),
        (true, true) => sized!(size, write, true),
    };
    let mut op = l.bare(exec);
    op.imm = u64::from(i.immediate8());
    l.push(op);
    Some(())
}

/// The port of an IN or OUT.
fn port<const DX: bool>(core: &Core, op: &Op) -> u16 {
    if DX { core.reg(RDX) } else { op.imm as u16 }
}

fn read<W: Word, const DX: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let port = port::<DX>(core, op);
    core.may_use_ports(port, W::BYTES, world)?;
    if !core.careful {
        return Err(Stop::Careful);
    }
    let value: W = core.input(port, world);
    core.set_reg(RAX, value);
    Ok(())
}

fn write<W: Word, const DX: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let port = port::<DX>(core, op);
    core.may_use_ports(port, W::BYTES, world)?;
    if !core.careful {
        return Err(Stop::Careful);
    }
    core.output::<W>(port, core.reg(RAX), world);
    Ok(())
}

fn string(l: &mut Lowering<'_>, size: usize, output: bool) -> Option<()> {
    let exec = match (output, l.instruction.has_rep_prefix() || l.instruction.has_repne_prefix()) {
        (false, false) => sized!(size, read_string, false),
        (false, true) => sized!(size, read_string, true),
        (true, false) => sized!(size, write_string, false),
        (true, true) => sized!(size, write_string, true),
    };
    let mut op = l.bare(exec);
    op.third = if output { l.segment() } else { BASES + ES };
    // Whether the segment is to be checked.
    op.index = u8::from(!l.is_long() && op.third != NONE && (output || l.is_segmented()));
    if op.index == 0 && !output {
        op.third = NONE;
    }
    op.imm = mask(l.instruction);
    l.push(op);
    l.end_block();
    Some(())
}

/// The linear address of the element, whose offset is in a register.
fn element<W: Word>(core: &mut Core, op: &Op, register: u8, write: bool) -> Result<u64, Stop> {
    let offset = core.regs[register] & op.imm;
    if op.index != 0 {
        return core.segment_address(op.third.wrapping_sub(BASES), offset, W::BYTES, write);
    }
    Ok(offset.wrapping_add(core.regs[op.third]))
}

/// One element of an INS; with REP, it goes on at the same instruction until none are left, so that
/// a wish to leave is heard after each.
fn read_string<W: Word, const REP: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    if REP && core.regs[RCX] & op.imm == 0 {
        return core.leave_block(op);
    }
    let port = core.reg(RDX);
    core.may_use_ports(port, W::BYTES, world)?;
    if !core.careful {
        return Err(Stop::Careful);
    }
    let to = element::<W>(core, op, RDI, true)?;
    // What the device gives cannot be given back.
    core.probe_write(to, W::BYTES as usize, world)?;
    let value: W = core.input(port, world);
    core.store(to, value, world)?;
    advance::<W>(core, op, RDI);
    go_on::<REP>(core, op)
}

/// One element of an OUTS.
fn write_string<W: Word, const REP: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    if REP && core.regs[RCX] & op.imm == 0 {
        return core.leave_block(op);
    }
    let port = core.reg(RDX);
    core.may_use_ports(port, W::BYTES, world)?;
    if !core.careful {
        return Err(Stop::Careful);
    }
    let from = element::<W>(core, op, RSI, false)?;
    let value: W = core.load(from, world)?;
    core.output(port, value, world);
    advance::<W>(core, op, RSI);
    go_on::<REP>(core, op)
}

/// Moves an index register on by one element.
fn advance<W: Word>(core: &mut Core, op: &Op, register: u8) {
    let step = if core.other_flags & DF == 0 { W::BYTES } else { W::BYTES.wrapping_neg() };
    set_masked(core, register, core.regs[register].wrapping_add(step), op.imm);
}

/// After one element.
fn go_on<const REP: bool>(core: &mut Core, op: &Op) -> Done {
    if REP {
        set_masked(core, RCX, core.regs[RCX].wrapping_sub(1), op.imm);
        if core.regs[RCX] & op.imm != 0 {
            core.rip = core.regs[PAGE].wrapping_add(u64::from(op.offset));
            return Err(Stop::Jump);
        }
    }
    core.leave_block(op)
}
