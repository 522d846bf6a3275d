//! RDMSR, WRMSR, SWAPGS, RDFSBASE and its kin, RDTSC, RDTSCP, RDPID, RDPMC.

use iced_x86::Mnemonic;

use crate::{
    core::{Core, World},
    decode::Lowering,
    isa::Done,
    op::{Exec, Op, exec},
    paging::is_canonical,
    regs::{FS_BASE, GS_BASE, RAX, RCX, RDX},
    system::{CR4_FSGSBASE, CR4_TSD},
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let exec = match i.mnemonic() {
        Mnemonic::Rdfsbase => {
            return base(l, FS_BASE, exec!(base_of::<u32>), exec!(base_of::<u64>));
        }
        Mnemonic::Rdgsbase => {
            return base(l, GS_BASE, exec!(base_of::<u32>), exec!(base_of::<u64>));
        }
        Mnemonic::Rdmsr => exec!(read_msr),
        Mnemonic::Rdpid => exec!(process),
        Mnemonic::Rdpmc => exec!(no_counter),
        Mnemonic::Rdtsc => exec!(time),
        Mnemonic::Rdtscp => exec!(time_and_process),
        Mnemonic::Swapgs => exec!(swap),
        Mnemonic::Wrfsbase => {
            return base(l, FS_BASE, exec!(set_base::<u32>), exec!(set_base::<u64>));
        }
        Mnemonic::Wrgsbase => {
            return base(l, GS_BASE, exec!(set_base::<u32>), exec!(set_base::<u64>));
        }
        Mnemonic::Wrmsr => exec!(write_msr),
        _ => return None,
    };
    let op = Op { exec, ..l.operands().0 };
    l.push(op);
    Some(())
}

/// Sets EDX:EAX.
fn set_pair(core: &mut Core, value: u64) {
    core.regs[RAX] = value & u64::from(u32::MAX);
    core.regs[RDX] = value >> 32;
}

fn read_msr(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let index = core.reg(RCX);
    match core.read_msr(index).or_else(|| world.io.read_msr(index)) {
        Some(value) => {
            set_pair(core, value);
            Ok(())
        }
        None => Err(core.general_protection(0)),
    }
}

/// What blocks depend on is in no register that this reaches.
fn write_msr(core: &mut Core, _: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let index = core.reg(RCX);
    let value = u64::from(core.reg::<u32>(RDX)) << 32 | u64::from(core.reg::<u32>(RAX));
    let own = core.read_msr(index).is_some();
    match if own { core.write_msr(index, value) } else { world.io.write_msr(index, value) } {
        Some(()) => Ok(()),
        None => Err(core.general_protection(0)),
    }
}

fn swap(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.privileged()?;
    std::mem::swap(&mut core.regs[GS_BASE], &mut core.system.msrs.kernel_gs_base);
    Ok(())
}

fn base(l: &mut Lowering<'_>, field: u8, short: Exec, long: Exec) -> Option<()> {
    let size = l.size(0);
    let mut op = l.operands().0;
    op.exec = if size == 4 { short } else { long };
    op.src = field;
    l.push(op);
    Some(())
}

impl Core {
    /// #UD unless CR4 lets programs at the bases of FS and GS.
    fn has_base_instructions(&mut self) -> Done {
        if self.system.cr4 & CR4_FSGSBASE == 0 { Err(self.invalid_opcode()) } else { Ok(()) }
    }
}

fn base_of<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.has_base_instructions()?;
    core.set_reg(op.dst, W::of(core.regs[op.src]));
    Ok(())
}

fn set_base<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.has_base_instructions()?;
    let value = core.reg::<W>(op.dst).zext();
    if !is_canonical(value) {
        return Err(core.general_protection(0));
    }
    core.regs[op.src] = value;
    Ok(())
}

/// There is no performance counter.
fn no_counter(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    Err(core.general_protection(0))
}

fn time(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if core.system.cpl != 0 && core.system.cr4 & CR4_TSD != 0 {
        return Err(core.general_protection(0));
    }
    set_pair(core, core.system.tsc.now());
    Ok(())
}

fn time_and_process(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    time(core, op, world)?;
    core.regs[RCX] = core.system.msrs.tsc_aux;
    Ok(())
}

fn process(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.regs[op.dst] = core.system.msrs.tsc_aux;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        regs::{GS_BASE, RAX, RCX, RDX},
        testing::{CODE, HANDLERS, Nobody, machine, program, system},
    };

    #[test]
    fn msrs_are_written_and_read_and_unknown_ones_are_gp() {
        // wrmsr; swapgs; rdmsr; hlt
        let code = [0x0f, 0x30, 0x0f, 0x01, 0xf8, 0x0f, 0x32, 0xf4];
        let (mut cpu, ram) = machine(&code);
        system(&mut cpu, &ram);
        (cpu.core.regs[RCX], cpu.core.regs[RDX]) = (0xc000_0102, 0xffff_8000);
        cpu.core.regs[RAX] = 0x1234;
        cpu.core.regs[GS_BASE] = 0x5678;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, CODE + 8);
        assert_eq!(cpu.core.regs[GS_BASE], 0xffff_8000_0000_1234);
        assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RDX]), (0x5678, 0));
        let (mut cpu, ram) = machine(&code);
        system(&mut cpu, &ram);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 13 * 16 + 1);
    }

    #[test]
    fn time_goes_on_and_can_be_withheld_from_programs() {
        // rdtsc; hlt
        let (mut cpu, ram) = machine(&[0x0f, 0x31, 0xf4]);
        system(&mut cpu, &ram);
        cpu.core.system.tsc.set(1 << 40);
        cpu.step(&ram, &Nobody);
        let [low, high] = [RAX, RDX].map(|register| cpu.core.regs[register]);
        assert!(high == 1 << 8 && cpu.core.system.tsc.now() >= high << 32 | low);
        let mut registers = cpu.registers();
        registers.rip = CODE;
        cpu.set_registers(&registers);
        program(&mut cpu);
        cpu.core.system.cr4 |= 1 << 2;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 13 * 16 + 1);
    }
}
