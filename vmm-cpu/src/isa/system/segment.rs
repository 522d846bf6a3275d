//! Segment registers: MOV, PUSH, POP, LSS, LFS, LGS; and what can be asked of a selector: LAR, LSL,
//! VERR, VERW.

use iced_x86::{Mnemonic, OpKind, Register};

use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    isa::{
        Done, invalid, sized,
        stack::{Stack, by_stack},
    },
    op::{Exec, Op, Stop, exec},
    regs::{BASES, PAGE, RSP},
    segment::is_null,
    state::Segment,
    system::{DS, ES, FS, GS, SS, mode},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    use Mnemonic::{Arpl, Lar, Lsl, Verr, Verw};
    if l.mode & mode::REAL != 0
        && matches!(l.instruction.mnemonic(), Arpl | Lar | Lsl | Verr | Verw)
    {
        l.push(l.bare(exec!(invalid)));
        return Some(());
    }
    match l.instruction.mnemonic() {
        Mnemonic::Arpl => adjust(l),
        Mnemonic::Lar => ask(l, exec!(look_reg::<true>), exec!(look_mem::<true>)),
        Mnemonic::Lds | Mnemonic::Les => far_pointer(l),
        Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => far_pointer(l),
        Mnemonic::Lsl => ask(l, exec!(look_reg::<false>), exec!(look_mem::<false>)),
        Mnemonic::Mov => mov(l),
        Mnemonic::Pop if is_segment(l, 0) => stack(l, true),
        Mnemonic::Push if is_segment(l, 0) => stack(l, false),
        Mnemonic::Verr => ask(l, exec!(verify_reg::<false>), exec!(verify_mem::<false>)),
        Mnemonic::Verw => ask(l, exec!(verify_reg::<true>), exec!(verify_mem::<true>)),
        _ => None,
    }
}

fn is_segment(l: &Lowering<'_>, n: u32) -> bool {
    let i = l.instruction;
    i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register()
}

fn mov(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    if is_segment(l, 0) {
        if l.instruction.op_register(0) == Register::CS {
            return None;
        }
        let (mut op, form) = l.operands();
        op.exec = if form == Form::RegMem { exec!(load_mem) } else { exec!(load_reg) };
        loads_segment(l, op);
    } else if is_segment(l, 1) {
        let (mut op, form) = l.operands();
        op.exec = match form {
            Form::MemReg => exec!(store_mem),
            _ => sized!(size, store_reg),
        };
        l.push(op);
    } else {
        return None;
    }
    Some(())
}

impl Core {
    /// Loads the segment register that `field` names.
    fn load_segment(&mut self, field: u8, selector: u16, world: &World<'_>) -> Done {
        match field.wrapping_sub(BASES) {
            SS => self.load_stack(selector, world),
            number => self.load_data(number, selector, world),
        }
    }

    /// The operation, which is MOV or POP, loads its first operand. If that is SS nothing is taken before
    /// the next instruction, so that it can load the stack pointer: LSS, which loads both, needs no
    /// such thing (Intel SDM 3-6.8.3).
    fn move_segment(&mut self, op: &Op, selector: u16, world: &World<'_>) -> Done {
        self.load_segment(op.dst, selector, world)?;
        if op.dst == BASES + SS {
            self.cast_shadow(op);
            self.be_quiet(self.regs[PAGE].wrapping_add(op.next()));
        }
        Ok(())
    }

    /// What an operation returns that has loaded a segment register.
    fn segment_loaded(&mut self, op: &Op) -> Done {
        if op.imm == 0 {
            return Ok(());
        }
        self.refresh_mode();
        self.rip = self.regs[PAGE].wrapping_add(op.next());
        Err(Stop::Jump)
    }

    fn selector(&self, field: u8) -> u16 {
        self.segment(field.wrapping_sub(BASES)).selector
    }
}

fn load_reg(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.move_segment(op, core.reg(op.src), world)?;
    core.segment_loaded(op)
}

fn load_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let selector = core.load(core.address(op), world)?;
    core.move_segment(op, selector, world)?;
    core.segment_loaded(op)
}

fn store_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(core.selector(op.src).into()));
    Ok(())
}

fn store_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), core.selector(op.src), world)
}

/// Adds an operation that loads a segment register. Outside 64-bit code other segments can ask for
/// other operations from there on.
fn loads_segment(l: &mut Lowering<'_>, op: Op) {
    // Where the block is told to go on by a jump.
    let imm = u64::from(!l.is_long());
    l.push(Op { imm, ..op });
    if !l.is_long() {
        l.end_block();
    }
}

/// PUSH and POP; in 64-bit code of FS and GS only.
fn stack(l: &mut Lowering<'_>, pop: bool) -> Option<()> {
    let size = l.instruction.stack_pointer_increment().unsigned_abs();
    let mut op = l.operands().0;
    op.scale |= Op::STACK;
    if !pop {
        op.exec = by_stack!(l, size, push_segment);
        l.push(op);
        return Some(());
    }
    op.exec = by_stack!(l, size, pop_segment);
    loads_segment(l, op);
    Some(())
}

fn push_segment<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.push::<W, S>(W::of(core.selector(op.dst).into()), world)
}

fn pop_segment<W: Word, S: Stack>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let selector = core.peek::<W, S>(world)?.zext() as u16;
    let wrapped = S::wrap(core, core.regs[RSP].wrapping_add(W::BYTES));
    core.move_segment(op, selector, world)?;
    S::set(core, wrapped);
    core.segment_loaded(op)
}

fn far_pointer(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let segment = match l.instruction.mnemonic() {
        Mnemonic::Lds => DS,
        Mnemonic::Les => ES,
        Mnemonic::Lfs => FS,
        Mnemonic::Lgs => GS,
        _ => SS,
    };
    let mut op = l.operands().0;
    op.src = BASES + segment;
    op.exec = sized!(size, load_far);
    loads_segment(l, op);
    Some(())
}

fn load_far<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    let offset = core.load::<W>(at, world)?;
    let selector = core.load(at.wrapping_add(W::BYTES), world)?;
    core.load_segment(op.src, selector, world)?;
    core.set_reg(op.dst, offset);
    core.segment_loaded(op)
}

/// ARPL: raises a selector's RPL to that of another.
fn adjust(l: &mut Lowering<'_>) -> Option<()> {
    let (mut op, form) = l.operands();
    op.exec = if form == Form::MemReg { exec!(adjust_mem) } else { exec!(adjust_reg) };
    l.push(op);
    Some(())
}

/// The selector with the higher RPL of the two, and whether that is the other one's.
fn adjusted(selector: u16, other: u16) -> (u16, bool) {
    let raised = selector & 3 < other & 3;
    (if raised { selector & !3 | other & 3 } else { selector }, raised)
}

fn adjust_reg(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (selector, raised) = adjusted(core.reg(op.dst), core.reg(op.src));
    core.set_reg(op.dst, selector);
    core.set_zf(raised);
    Ok(())
}

fn adjust_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let other = core.reg(op.src);
    let (old, _) = core.update(core.address(op), world, |old| adjusted(old, other).0)?;
    core.set_zf(adjusted(old, other).1);
    Ok(())
}

/// An instruction whose last operand is a selector to be asked about.
fn ask(l: &mut Lowering<'_>, reg: Exec, mem: Exec) -> Option<()> {
    let (mut op, form) = l.operands();
    // The width of what LAR and LSL answer.
    op.imm = l.size(0) as u64;
    op.exec = if matches!(form, Form::Mem | Form::RegMem) { mem } else { reg };
    l.push(op);
    Some(())
}

/// Which system segments LAR, and LSL, speak of (Intel SDM 2, tables 3-53 and 3-57).
fn has_answer(kind: u8, rights: bool, long: bool) -> bool {
    let old = matches!(kind, 1 | 3) || rights && matches!(kind, 4 | 5);
    matches!(kind, 2 | 9 | 11) || rights && kind == 12 || !long && old
}

/// The segment that a selector names, if there is one that this level may know of.
fn visible(core: &mut Core, selector: u16, world: &World<'_>) -> Result<Option<Segment>, Stop> {
    if is_null(selector) {
        return Ok(None);
    }
    if core.descriptor_at(selector, 8).is_err() {
        core.fault = None;
        return Ok(None);
    }
    let segment = core.describe(selector, world)?;
    let level = core.system.cpl.max(selector as u8 & 3);
    let visible = segment.is_conforming() || segment.dpl() >= level;
    Ok(visible.then_some(segment))
}

fn look_reg<const RIGHTS: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    look::<RIGHTS>(core, op, core.reg(op.src), world)
}

fn look_mem<const RIGHTS: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let selector = core.load(core.address(op), world)?;
    look::<RIGHTS>(core, op, selector, world)
}

/// LAR and LSL: ZF says whether there is an answer.
fn look<const RIGHTS: bool>(core: &mut Core, op: &Op, selector: u16, world: &World<'_>) -> Done {
    let long = core.system.is_long();
    let segment = visible(core, selector, world)?
        .filter(|segment| segment.system_type().is_none_or(|kind| has_answer(kind, RIGHTS, long)));
    core.set_zf(segment.is_some());
    if let Some(segment) = segment {
        let answer = if RIGHTS { segment.rights << 8 } else { segment.limit };
        match op.imm {
            2 => core.set_reg(op.dst, answer as u16),
            _ => core.set_reg(op.dst, answer),
        }
    }
    Ok(())
}

fn verify_reg<const WRITE: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    verify::<WRITE>(core, core.reg(op.dst), world)
}

fn verify_mem<const WRITE: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let selector = core.load(core.address(op), world)?;
    verify::<WRITE>(core, selector, world)
}

fn verify<const WRITE: bool>(core: &mut Core, selector: u16, world: &World<'_>) -> Done {
    let segment = visible(core, selector, world)?;
    let may = |segment: Segment| {
        if WRITE { segment.is_writable() } else { segment.is_readable() }
    };
    core.set_zf(segment.is_some_and(may));
    Ok(())
}

impl Core {
    /// Sets ZF alone.
    fn set_zf(&mut self, zf: bool) {
        let flags = self.flags.image() & !crate::flags::ZF;
        self.flags.set(flags | if zf { crate::flags::ZF } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        flags::ZF,
        regs::{RAX, RBX},
        testing::{
            CODE, CODE_0, DATA_0, DATA_3, HANDLERS, Nobody, TASK, machine, program, stack, system,
        },
    };

    /// Executes `code` and HLT with a selector in AX; RIP after it.
    fn run(code: &[u8], selector: u16, cpl: u8) -> (crate::Cpu, crate::Flat) {
        let (mut cpu, ram) = machine(code);
        system(&mut cpu, &ram);
        if cpl == 3 {
            program(&mut cpu);
        }
        cpu.core.regs[RAX] = u64::from(selector);
        cpu.step(&ram, &Nobody);
        (cpu, ram)
    }

    const TO_FS: &[u8] = &[0x8e, 0xe0];
    const TO_SS: &[u8] = &[0x8e, 0xd0];

    #[test]
    fn data_segments_are_loaded_if_the_level_allows() {
        for (code, selector, cpl, fault) in [
            (TO_FS, DATA_0, 0, None),
            (TO_FS, 0, 3, None),
            (TO_FS, DATA_3, 3, None),
            (TO_FS, CODE_0, 0, None),
            (TO_FS, DATA_0, 3, Some((13, DATA_0))),
            (TO_FS, TASK, 0, Some((13, TASK))),
            (TO_FS, 0x48, 0, Some((13, 0x48))),
            (TO_FS, 0x0c, 0, Some((13, 0x0c))),
            (TO_SS, DATA_0, 0, None),
            (TO_SS, 0, 0, None),
            (TO_SS, 0, 3, Some((13, 0))),
            (TO_SS, CODE_0, 0, Some((13, CODE_0))),
            (TO_SS, DATA_3, 0, Some((13, DATA_3 & !3))),
        ] {
            let (cpu, ram) = run(code, selector, cpl);
            let Some((vector, error)) = fault else {
                assert_eq!(cpu.registers().rip, CODE + 2, "{selector:#x} at {cpl}");
                continue;
            };
            assert_eq!(cpu.registers().rip, HANDLERS + vector * 16, "{selector:#x} at {cpl}");
            assert_eq!(stack(&cpu, &ram), [u64::from(error), CODE]);
        }
    }

    #[test]
    fn selectors_are_judged_without_a_fault() {
        let (lar, lsl) = ([0x0f, 0x02, 0xd8], [0x0f, 0x03, 0xd8]);
        let (verr, verw) = ([0x0f, 0x00, 0xe0], [0x0f, 0x00, 0xe8]);
        for (code, selector, answer) in [
            (&lar, CODE_0, Some(0xa0_9b00)),
            (&lar, TASK, Some(0x8900)),
            (&lar, 0x38, None),
            (&lar, 0, None),
            (&lsl, CODE_0, Some(0xffff_ffff)),
            (&lsl, TASK, Some(0x67)),
            (&verr, CODE_0, Some(0)),
            (&verw, CODE_0, None),
            (&verw, DATA_0, Some(0)),
            (&verw, DATA_0 | 3, None),
        ] {
            let (cpu, _) = run(code, selector, 0);
            assert_eq!(cpu.registers().rip, CODE + 3);
            assert_eq!(cpu.registers().rflags & ZF != 0, answer.is_some(), "{selector:#x}");
            assert_eq!(cpu.core.regs[RBX], answer.unwrap_or(0), "{code:x?} {selector:#x}");
        }
    }

    #[test]
    fn fs_goes_over_the_stack() {
        // push fs; pop gs; hlt
        let (mut cpu, ram) = machine(&[0x0f, 0xa0, 0x0f, 0xa9, 0xf4]);
        system(&mut cpu, &ram);
        let before = cpu.registers().general[4];
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!((cpu.registers().rip, cpu.registers().general[4]), (CODE + 5, before));
        assert_eq!(cpu.state().segments[5].selector, DATA_0);
    }
}
