//! Descriptor tables and the task register: LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR, STR.

use iced_x86::{Code, Mnemonic};

use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    isa::{Done, invalid, sized},
    op::{Exec, Op, Stop, exec},
    paging::is_canonical,
    segment::{error_code, is_null},
    state::{Segment, Table},
    system::mode,
    word::Word,
};

/// Types of system segments (Intel SDM 3, table 3-2). Outside long mode a TSS of 16 bits has 8 less.
const LDT: u8 = 2;
const TSS: u8 = 9;
/// In the low word of a descriptor: its task is running.
const BUSY: u64 = 1 << 41;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    use Mnemonic::{Lldt, Ltr, Sldt, Str};
    if l.mode & mode::REAL != 0 && matches!(l.instruction.mnemonic(), Lldt | Ltr | Sldt | Str) {
        l.push(l.bare(exec!(invalid)));
        return Some(());
    }
    let exec = match l.instruction.mnemonic() {
        Mnemonic::Lgdt => exec!(load::<false>),
        Mnemonic::Lidt => exec!(load::<true>),
        Mnemonic::Sgdt => exec!(store::<false>),
        Mnemonic::Sidt => exec!(store::<true>),
        Mnemonic::Lldt => return with_selector(l, exec!(local_reg), exec!(local_mem)),
        Mnemonic::Ltr => return with_selector(l, exec!(task_reg), exec!(task_mem)),
        Mnemonic::Sldt => return store_selector::<false>(l),
        Mnemonic::Str => return store_selector::<true>(l),
        _ => return None,
    };
    // How much of the base is loaded: 24 bits with operands of 16.
    let imm = match l.instruction.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 3,
        _ if l.is_long() => 8,
        _ => 4,
    };
    let op = Op { exec, imm, ..l.operands().0 };
    l.push(op);
    Some(())
}

fn load<const INTERRUPTS: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let at = core.address(op);
    let limit = core.load(at, world)?;
    let at = at.wrapping_add(2);
    let base = match op.imm {
        8 => core.load(at, world)?,
        bytes => u64::from(core.load::<u32>(at, world)?) & (u64::MAX >> (64 - 8 * bytes)),
    };
    if !is_canonical(base) {
        return Err(core.general_protection(0));
    }
    let table = if INTERRUPTS { &mut core.system.idtr } else { &mut core.system.gdtr };
    *table = Table { base, limit };
    Ok(())
}

fn store<const INTERRUPTS: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let Table { base, limit } = if INTERRUPTS { core.system.idtr } else { core.system.gdtr };
    let at = core.address(op);
    let len = if op.imm == 8 { 10 } else { 6 };
    core.probe_write(at, len, world)?;
    core.store(at, limit, world)?;
    match op.imm {
        8 => core.store(at.wrapping_add(2), base, world),
        _ => core.store(at.wrapping_add(2), base as u32, world),
    }
}

/// An operation whose operand is a selector.
fn with_selector(l: &mut Lowering<'_>, reg: Exec, mem: Exec) -> Option<()> {
    let (mut op, form) = l.operands();
    op.exec = if form == Form::Mem { mem } else { reg };
    l.push(op);
    Some(())
}

fn local_reg(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    load_local(core, core.reg(op.dst), world)
}

fn local_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let selector = core.load(core.address(op), world)?;
    load_local(core, selector, world)
}

fn load_local(core: &mut Core, selector: u16, world: &World<'_>) -> Done {
    if is_null(selector) {
        core.system.ldtr = Segment { selector, ..Segment::null() };
        return Ok(());
    }
    core.system.ldtr = system_segment(core, selector, LDT, world)?.0;
    Ok(())
}

fn task_reg(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    load_task(core, core.reg(op.dst), world)
}

fn task_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let selector = core.load(core.address(op), world)?;
    load_task(core, selector, world)
}

fn load_task(core: &mut Core, selector: u16, world: &World<'_>) -> Done {
    if is_null(selector) {
        return Err(core.general_protection(0));
    }
    let (mut task, at) = system_segment(core, selector, TSS, world)?;
    core.as_system(|core| core.update_locked::<u64>(at, world, |low| low | BUSY))?;
    task.rights |= 2;
    core.system.tr = task;
    Ok(())
}

/// The system segment of this type that `selector` names in the GDT, and its descriptor's address:
/// 16 bytes in long mode (Intel SDM 3, figure 7-4).
fn system_segment(
    core: &mut Core,
    selector: u16,
    kind: u8,
    world: &World<'_>,
) -> Result<(Segment, u64), Stop> {
    if selector & 4 != 0 {
        return Err(core.general_protection(error_code(selector)));
    }
    let long = core.system.is_long();
    let at = core.descriptor_at(selector, if long { 16 } else { 8 })?;
    let [low, high] = core.as_system(|core| {
        let low = core.load(at, world)?;
        Ok([low, if long { core.load(at.wrapping_add(8), world)? } else { 0 }])
    })?;
    let mut segment = Segment::described(selector, low);
    segment.base |= high << 32;
    let no_type = high >> 40 & 31 == 0;
    let short = !long && kind == TSS;
    let fits = |found: u8| found == kind || short && found == kind - 8;
    if !segment.system_type().is_some_and(fits) || !no_type || !is_canonical(segment.base) {
        return Err(core.general_protection(error_code(selector)));
    }
    if !segment.is_present() {
        return Err(core.not_present(selector));
    }
    Ok((segment, at))
}

/// SLDT and STR: 16 bits in memory, zero-extended in a register of 32 or 64.
fn store_selector<const TASK: bool>(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::Mem => exec!(store_selector_mem::<TASK>),
        _ => sized!(size, store_selector_reg, TASK),
    };
    l.push(op);
    Some(())
}

fn store_selector_reg<W: Word, const TASK: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(selector::<TASK>(core).into()));
    Ok(())
}

fn store_selector_mem<const TASK: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), selector::<TASK>(core), world)
}

fn selector<const TASK: bool>(core: &Core) -> u16 {
    if TASK { core.system.tr.selector } else { core.system.ldtr.selector }
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit, Table,
        regs::RAX,
        testing::{DATA, GDT, HANDLERS, Nobody, TASK, TSS, machine, stack, system},
    };

    #[test]
    fn tables_are_loaded_and_stored() {
        // lgdt [DATA]; sgdt [DATA + 16]; hlt
        let code =
            [0x0f, 0x01, 0x14, 0x25, 0, 0, 3, 0, 0x0f, 0x01, 0x04, 0x25, 0x10, 0, 3, 0, 0xf4];
        let (mut cpu, ram) = machine(&code);
        let bytes = [0x34, 0x12, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x06, 0, 0];
        ram.write(DATA, &bytes);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.state().gdtr, Table { base: 0x0678_9abc_def0, limit: 0x1234 });
        let mut stored = [0; 10];
        ram.read(DATA + 16, &mut stored);
        assert_eq!(stored, bytes);
    }

    #[test]
    fn ltr_makes_its_task_busy_and_takes_no_busy_one() {
        // ltr ax; ltr ax
        let (mut cpu, ram) = machine(&[0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xd8]);
        system(&mut cpu, &ram);
        cpu.core.regs[RAX] = u64::from(TASK);
        cpu.core.system.tr = crate::Segment::null();
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 13 * 16 + 1);
        assert_eq!(stack::<1>(&cpu, &ram), [u64::from(TASK)]);
        let task = cpu.state().tr;
        assert_eq!((task.base, task.limit, task.rights), (TSS, 0x67, 0x8b));
        let mut kind = [0];
        ram.read(GDT + u64::from(TASK) + 5, &mut kind);
        assert_eq!(kind, [0x8b]);
    }
}
