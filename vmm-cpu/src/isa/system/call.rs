//! SYSCALL and SYSRET; far jumps, calls and returns.

use iced_x86::{Code, Mnemonic};

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP},
    isa::Done,
    op::{Exec, Op, Stop},
    paging::is_canonical,
    regs::{PAGE, R11, RCX, RSP},
    segment::Into,
    state::Segment,
    system::{CS, EFER_SCE, SS},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    match i.mnemonic() {
        Mnemonic::Syscall => l.push(l.bare(syscall)),
        Mnemonic::Sysretq => l.push(l.bare(sysret)),
        _ => return far(l),
    }
    Some(())
}

/// The selectors are not looked up: the segments are flat whatever the tables say (AMD APM 3,
/// SYSCALL).
fn syscall(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    if core.system.efer & EFER_SCE == 0 {
        return Err(core.invalid_opcode());
    }
    core.regs[RCX] = core.regs[PAGE].wrapping_add(op.next());
    core.regs[R11] = core.rflags() & !RF;
    core.rip = core.system.msrs.lstar;
    core.set_rflags(core.rflags() & !(core.system.msrs.fmask | RF));
    let selector = (core.system.msrs.star >> 32) as u16 & !3;
    core.set_segment(CS, Segment::code64(selector, 0));
    core.set_segment(SS, Segment::data(selector.wrapping_add(8), 0));
    core.set_cpl(0);
    core.jumped()
}

fn sysret(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if core.system.efer & EFER_SCE == 0 {
        return Err(core.invalid_opcode());
    }
    core.privileged()?;
    const FLAGS: u64 = STATUS | TF | IF | DF | IOPL | NT | AC | VIF | VIP | ID;
    // An address that is not canonical is found when code is fetched from it, at CPL 3, as on AMD's
    // processors.
    core.rip = core.regs[RCX];
    core.set_rflags(core.regs[R11] & FLAGS);
    let selector = (core.system.msrs.star >> 48) as u16;
    core.set_segment(CS, Segment::code64(selector.wrapping_add(16), 3));
    core.set_segment(SS, Segment::data(selector.wrapping_add(8), 3));
    core.set_cpl(3);
    core.jumped()
}

/// As AMD's processors have it, far pointers in memory have offsets of up to 32 bits (AMD APM 3, "JMP
/// (Far)").
fn far(l: &mut Lowering<'_>) -> Option<()> {
    let exec = match l.instruction.code() {
        Code::Call_m1616 => call::<u16> as Exec,
        Code::Call_m1632 => call::<u32>,
        Code::Jmp_m1616 => jump::<u16>,
        Code::Jmp_m1632 => jump::<u32>,
        Code::Retfq | Code::Retfq_imm16 => back::<u64>,
        Code::Retfd | Code::Retfd_imm16 => back::<u32>,
        Code::Retfw | Code::Retfw_imm16 => back::<u16>,
        _ => return None,
    };
    let mut op = l.operands().0;
    if l.instruction.mnemonic() == Mnemonic::Retf {
        op.imm = u64::from(l.instruction.immediate16());
        op.scale |= Op::STACK;
    }
    op.exec = exec;
    l.push(op);
    Some(())
}

/// The address and segment in memory that a far jump or call goes to, which stays at its level.
fn target<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<(u64, Segment), Stop> {
    let at = core.address(op);
    let rip = core.load::<W>(at, world)?.zext();
    let selector = core.load::<u16>(at.wrapping_add(W::BYTES), world)?;
    let code = core.code_segment(selector, Into::Same, world)?;
    if !is_canonical(rip) {
        return Err(core.general_protection(0));
    }
    Ok((rip, code))
}

fn jump<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (rip, code) = target::<W>(core, op, world)?;
    core.set_segment(CS, code);
    core.rip = rip;
    Err(Stop::Jump)
}

fn call<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let (rip, code) = target::<W>(core, op, world)?;
    let top = core.regs[RSP].wrapping_sub(2 * W::BYTES);
    let from = W::of(u64::from(core.segment(CS).selector));
    let next = core.regs[PAGE].wrapping_add(op.next());
    core.probe_write(top, 2 * W::BYTES as usize, world)?;
    core.store(top.wrapping_add(W::BYTES), from, world)?;
    core.store(top, W::of(next), world)?;
    core.regs[RSP] = top;
    core.set_segment(CS, code);
    core.rip = rip;
    Err(Stop::Jump)
}

fn back<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let top = core.regs[RSP];
    let rip = core.load::<W>(top, world)?.zext();
    let selector = core.load::<W>(top.wrapping_add(W::BYTES), world)?.zext() as u16;
    let code = core.code_segment(selector, Into::Back, world)?;
    let cpl = selector as u8 & 3;
    let behind = top.wrapping_add(2 * W::BYTES).wrapping_add(op.imm);
    let outer = if cpl == core.system.cpl {
        None
    } else {
        let rsp = core.load::<W>(behind, world)?.zext();
        let ss = core.load::<W>(behind.wrapping_add(W::BYTES), world)?.zext() as u16;
        let stack = core.stack_segment(ss, cpl, true, world)?;
        Some((rsp.wrapping_add(op.imm), stack))
    };
    if !is_canonical(rip) {
        return Err(core.general_protection(0));
    }
    core.regs[RSP] = outer.map_or(behind, |(rsp, _)| rsp);
    if let Some((_, stack)) = outer {
        core.set_segment(SS, stack);
    }
    core.set_segment(CS, code);
    core.rip = rip;
    core.return_to_level(cpl);
    Err(Stop::Jump)
}

#[cfg(test)]
mod tests {
    use crate::{
        Cpu, Exit, Flat,
        flags::{IF, TF},
        regs::{R11, RCX, RSP},
        testing::{
            CODE, CODE_0, CODE_3, DATA, DATA_3, HANDLERS, Nobody, machine, program, stack, system,
        },
    };

    /// A machine with a system, about to execute `code`, that has SYSCALL go to CODE + 0x100.
    fn with_syscall(code: &[u8]) -> (Cpu, Flat) {
        let (mut cpu, ram) = machine(code);
        system(&mut cpu, &ram);
        let mut state = cpu.state();
        state.efer |= 1;
        let star = u64::from(CODE_0) << 32 | u64::from(DATA_3 - 8) << 48;
        state.msrs = vec![(0xc000_0081, star), (0xc000_0082, CODE + 0x100), (0xc000_0084, IF)];
        cpu.set_state(&state).unwrap();
        ram.write(CODE + 0x100, &[0xf4]);
        (cpu, ram)
    }

    #[test]
    fn syscall_and_sysret_are_there_and_back_again() {
        let (mut cpu, ram) = with_syscall(&[0x0f, 0x05, 0x0f, 0x0b]);
        program(&mut cpu);
        let mut registers = cpu.registers();
        registers.rflags |= IF | 1;
        cpu.set_registers(&registers);
        // sysretq
        ram.write(CODE + 0x100, &[0x48, 0x0f, 0x07]);
        cpu.step(&ram, &Nobody);
        assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CODE + 0x100, 0));
        assert_eq!((cpu.core.regs[RCX], cpu.core.regs[R11]), (CODE + 2, IF | 3));
        assert_eq!(cpu.registers().rflags, 3);
        assert_eq!(cpu.state().segments[1].selector, CODE_0);
        cpu.step(&ram, &Nobody);
        assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CODE + 2, 3));
        assert_eq!(cpu.registers().rflags, IF | 3);
        let state = cpu.state();
        assert_eq!((state.segments[1].selector, state.segments[2].selector), (CODE_3, DATA_3));
    }

    #[test]
    fn sysret_to_an_address_that_is_not_canonical_faults_outside() {
        let (mut cpu, ram) = with_syscall(&[0x48, 0x0f, 0x07]);
        cpu.core.regs[RCX] = 1 << 47;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 13 * 16 + 1);
        assert_eq!(stack(&cpu, &ram), [0, 1 << 47, u64::from(CODE_3)]);
    }

    #[test]
    fn without_its_switch_syscall_is_no_instruction() {
        let (mut cpu, ram) = machine(&[0x0f, 0x05]);
        system(&mut cpu, &ram);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 6 * 16 + 1);
    }

    #[test]
    fn a_step_flag_that_sysret_brings_traps() {
        let (mut cpu, ram) = with_syscall(&[0x48, 0x0f, 0x07]);
        (cpu.core.regs[RCX], cpu.core.regs[R11]) = (CODE + 0x80, 2 | TF);
        ram.write(CODE + 0x80, &[0x89, 0xc0]);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 17);
        assert_eq!(stack(&cpu, &ram), [CODE + 0x82]);
    }

    #[test]
    fn a_far_call_and_return_bring_the_stack_back() {
        // call far [DATA]; hlt
        let (mut cpu, ram) = machine(&[0xff, 0x1c, 0x25, 0, 0, 3, 0, 0xf4]);
        system(&mut cpu, &ram);
        ram.write(DATA, &(CODE + 0x100).to_le_bytes());
        ram.write(DATA + 4, &CODE_0.to_le_bytes());
        // retf
        ram.write(CODE + 0x100, &[0xcb]);
        let before = cpu.core.regs[RSP];
        cpu.step(&ram, &Nobody);
        assert_eq!(stack(&cpu, &ram), [(CODE + 7) | u64::from(CODE_0) << 32]);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!((cpu.registers().rip, cpu.core.regs[RSP]), (CODE + 8, before));
    }
}
