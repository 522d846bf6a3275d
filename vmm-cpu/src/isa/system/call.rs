//! The ways into the system that need no table: SYSCALL and SYSRET, SYSENTER and SYSEXIT.

use iced_x86::{Code, Mnemonic};

use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::{AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP},
    isa::Done,
    op::{Exec, Op, exec},
    regs::{PAGE, R11, RCX, RDX, RSP},
    segment::is_null,
    state::Segment,
    system::{EFER_SCE, SS},
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let exec: Exec = match l.instruction.mnemonic() {
        Mnemonic::Syscall => exec!(syscall),
        Mnemonic::Sysenter => exec!(sysenter),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => exec!(sysexit),
        Mnemonic::Sysret if l.instruction.code() == Code::Sysretd => exec!(sysret::<false>),
        Mnemonic::Sysretq => exec!(sysret::<true>),
        _ => return None,
    };
    l.push(l.bare(exec));
    Some(())
}

/// The selectors are not looked up: the segments are flat whatever the tables say (AMD APM 3,
/// SYSCALL).
fn syscall(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    if core.system.efer & EFER_SCE == 0 || core.system.is_real() {
        return Err(core.invalid_opcode());
    }
    let next = core.regs[PAGE].wrapping_add(op.next());
    let wide = core.system.is_64_bit();
    let selector = (core.system.msrs.star >> 32) as u16 & !3;
    core.set_segment(SS, Segment::data(selector.wrapping_add(8), 0));
    if !core.system.is_long() {
        let entry = core.system.msrs.star & 0xffff_ffff;
        core.regs[RCX] = next.wrapping_sub(core.code_base) & 0xffff_ffff;
        core.other_flags &= !(IF | RF);
        core.go_to(Segment::code32(selector, 0), entry, 0);
        return core.jumped();
    }
    let msrs = &core.system.msrs;
    let (entry, mask) = (if wide { msrs.lstar } else { msrs.cstar }, msrs.fmask);
    core.regs[RCX] = core.within(next.wrapping_sub(core.code_base));
    core.regs[R11] = core.rflags() & !RF;
    core.set_rflags(core.rflags() & !(mask | RF));
    core.step_anew();
    core.go_to(Segment::code64(selector, 0), entry, 0);
    core.jumped()
}

/// Back to 64-bit code, or to code of 32 bits.
fn sysret<const WIDE: bool>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if core.system.efer & EFER_SCE == 0 || core.system.is_real() {
        return Err(core.invalid_opcode());
    }
    core.privileged()?;
    const FLAGS: u64 = STATUS | TF | IF | DF | IOPL | NT | AC | VIF | VIP | ID;
    let selector = (core.system.msrs.star >> 48) as u16;
    if core.system.is_long() {
        core.set_rflags(core.regs[R11] & FLAGS);
    } else {
        core.other_flags |= IF;
    }
    core.set_segment(SS, Segment::data(selector.wrapping_add(8), 3));
    // An address that is not canonical is found when code is fetched from it, at CPL 3, as on AMD's
    // processors.
    let to = core.regs[RCX];
    match WIDE {
        true => core.go_to(Segment::code64(selector.wrapping_add(16), 3), to, 3),
        false => core.go_to(Segment::code32(selector, 3), to, 3),
    }
    core.jumped()
}

/// AMD's processors have the pair outside long mode only (AMD APM 3, SYSENTER). The base of the four
/// segments, or #GP(0).
fn fast_selector(core: &mut Core) -> Result<u16, crate::op::Stop> {
    if core.system.is_long() || core.system.is_real() {
        return Err(core.invalid_opcode());
    }
    let selector = core.system.msrs.sysenter()[0] as u16 & !3;
    if is_null(selector) {
        return Err(core.general_protection(0));
    }
    Ok(selector)
}

fn sysenter(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let selector = fast_selector(core)?;
    let [_, stack, entry] = core.system.msrs.sysenter();
    core.other_flags &= !(IF | RF);
    core.set_segment(SS, Segment::data(selector.wrapping_add(8), 0));
    core.go_to(Segment::code32(selector, 0), entry & 0xffff_ffff, 0);
    core.regs[RSP] = stack & 0xffff_ffff;
    core.jumped()
}

fn sysexit(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    let selector = fast_selector(core)?;
    core.privileged()?;
    let (to, stack) = (core.regs[RDX] & 0xffff_ffff, core.regs[RCX] & 0xffff_ffff);
    core.set_segment(SS, Segment::data(selector.wrapping_add(24), 3));
    core.go_to(Segment::code32(selector.wrapping_add(16), 3), to, 3);
    core.regs[RSP] = stack;
    core.jumped()
}

#[cfg(test)]
mod tests {
    use crate::{
        Cpu, Exit, Flat,
        flags::{IF, TF},
        regs::{R11, RCX},
        testing::{
            CODE, CODE_0, CODE_3, DATA_3, HANDLERS, Nobody, machine, program, stack, system,
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
}
