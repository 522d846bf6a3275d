//! Control and debug registers: MOV, CLTS, LMSW, SMSW; INVLPG.

use iced_x86::{Mnemonic, OpKind, Register};

use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    exception::{Exception, Vector},
    flags::AC,
    isa::{Done, sized},
    op::{Exec, Op, exec},
    paging::{CR0_WP, CR4_SMAP, CR4_SMEP, PHYSICAL_BITS},
    state::rights,
    system::{
        CR0_BITS, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR4_BITS, CR4_DE,
        CR4_PAE, CR4_PGE, CR4_PSE, CS, DR6_BD, DR6_BITS, DR6_FIXED, DR7_BITS, DR7_FIXED, DR7_GD,
        EFER_LMA, EFER_LME,
    },
    word::Word,
};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.mnemonic() {
        Mnemonic::Clac | Mnemonic::Stac => {
            let on = l.instruction.mnemonic() == Mnemonic::Stac;
            l.push(l.bare(if on { exec!(set_access::<true>) } else { exec!(set_access::<false>) }));
            Some(())
        }
        Mnemonic::Clts => changing(l, exec!(clear_switched)),
        Mnemonic::Invlpg => changing(l, exec!(invalidate)),
        Mnemonic::Lmsw => load_status(l),
        Mnemonic::Mov => mov(l),
        Mnemonic::Smsw => store_status(l),
        _ => None,
    }
}

/// Pushes an operation that changes what blocks depend on.
fn changing(l: &mut Lowering<'_>, exec: Exec) -> Option<()> {
    let op = Op { exec, ..l.operands().0 };
    l.push(op);
    l.end_block();
    Some(())
}

fn mov(l: &mut Lowering<'_>) -> Option<()> {
    let register = |n| match l.instruction.op_kind(n) {
        OpKind::Register => l.instruction.op_register(n),
        _ => Register::None,
    };
    let (to, from) = (register(0), register(1));
    if to.is_cr() {
        changing(l, exec!(write_control))
    } else if to.is_dr() {
        changing(l, exec!(write_debug))
    } else if from.is_cr() || from.is_dr() {
        let exec: Exec = if from.is_cr() { exec!(read_control) } else { exec!(read_debug) };
        let op = Op { exec, ..l.operands().0 };
        l.push(op);
        Some(())
    } else {
        None
    }
}

fn read_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let value = match op.src {
        0 => core.system.cr0,
        2 => core.system.cr2,
        3 => core.system.cr3,
        4 => core.system.cr4,
        8 => world.io.task_priority().map_or(core.system.cr8, u64::from),
        _ => return Err(core.invalid_opcode()),
    };
    core.privileged()?;
    core.regs[op.dst] = value;
    Ok(())
}

fn write_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    if !matches!(op.dst, 0 | 2 | 3 | 4 | 8) {
        return Err(core.invalid_opcode());
    }
    core.privileged()?;
    let value = core.operand(op.src);
    let done = match op.dst {
        0 => core.write_cr0(value),
        2 => {
            core.system.cr2 = value;
            Some(())
        }
        3 => core.write_cr3(value),
        4 => core.write_cr4(value),
        _ => core.write_cr8(value, world),
    };
    match done {
        Some(()) => core.leave_block(op),
        None => Err(core.general_protection(0)),
    }
}

/// STAC and CLAC, at CPL 0 only: whether the system reaches the pages of users.
fn set_access<const ON: bool>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    if core.system.cpl != 0 {
        return Err(core.invalid_opcode());
    }
    core.other_flags = if ON { core.other_flags | AC } else { core.other_flags & !AC };
    core.refresh_view();
    Ok(())
}

/// Each refuses, by `None`, what cannot be; nothing is changed then.
impl Core {
    fn write_cr0(&mut self, value: u64) -> Option<()> {
        let (paging, protected) = (value & CR0_PG != 0, value & CR0_PE != 0);
        let write_through = value & CR0_NW != 0 && value & CR0_CD == 0;
        if value >> 32 != 0 || paging && !protected || write_through {
            return None;
        }
        let changed = value ^ self.system.cr0;
        if changed & CR0_PG != 0 {
            self.switch_paging(paging)?;
        }
        self.system.cr0 = value & CR0_BITS | CR0_ET;
        if changed & (CR0_PE | CR0_PG | CR0_WP) != 0 {
            self.flush_tlb();
        }
        self.refresh_mode();
        Some(())
    }

    /// Paging begins or ends, and with it long mode if it is enabled. 64-bit code can be at neither
    /// (Intel SDM 2, "MOV - Move to/from Control Registers"; AMD APM 2-14.6).
    fn switch_paging(&mut self, on: bool) -> Option<()> {
        let long = self.system.efer & EFER_LME != 0;
        let pae = self.system.cr4 & CR4_PAE != 0;
        let code = self.segment(CS).rights & rights::LONG != 0;
        if long && (!pae || code) {
            return None;
        }
        let active = if on && long { EFER_LMA } else { 0 };
        self.system.efer = self.system.efer & !EFER_LMA | active;
        Some(())
    }

    fn write_cr3(&mut self, value: u64) -> Option<()> {
        if value >> PHYSICAL_BITS != 0 {
            return None;
        }
        self.system.cr3 = value;
        self.flush_tlb();
        Some(())
    }

    fn write_cr4(&mut self, value: u64) -> Option<()> {
        if value & !CR4_BITS != 0 || value & CR4_PAE == 0 && self.system.is_long() {
            return None;
        }
        let changed = value ^ self.system.cr4;
        self.system.cr4 = value;
        if changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMAP | CR4_SMEP) != 0 {
            self.flush_tlb();
        }
        self.refresh_mode();
        Some(())
    }

    fn write_cr8(&mut self, value: u64, world: &World<'_>) -> Option<()> {
        if value >> 4 != 0 {
            return None;
        }
        self.system.cr8 = value;
        world.io.set_task_priority(value as u8);
        Some(())
    }

    /// A general-purpose register as an operand of MOV, which is as wide as code is.
    fn operand(&self, field: u8) -> u64 {
        self.within(self.regs[field])
    }

    /// The number of the debug register that is meant, checked for whether it may be accessed.
    fn debug_register(&mut self, number: u8) -> Result<u8, crate::op::Stop> {
        // DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE takes them away.
        let number = match number {
            4 | 5 if self.system.cr4 & CR4_DE == 0 => number + 2,
            0..=3 | 6 | 7 => number,
            _ => return Err(self.invalid_opcode()),
        };
        self.privileged()?;
        if self.system.dr7 & DR7_GD != 0 {
            self.system.dr6 |= DR6_BD;
            return Err(self.raise(Exception::new(Vector::Debug)));
        }
        Ok(number)
    }
}

fn read_debug(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.regs[op.dst] = match core.debug_register(op.src)? {
        6 => core.system.dr6,
        7 => core.system.dr7,
        n => core.system.dr[usize::from(n & 3)],
    };
    Ok(())
}

fn write_debug(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let number = core.debug_register(op.dst)?;
    let value = core.operand(op.src);
    if number >= 6 && value >> 32 != 0 {
        return Err(core.general_protection(0));
    }
    let before = core.system.dr7;
    match number {
        6 => core.system.dr6 = value & DR6_BITS | DR6_FIXED,
        7 => core.system.dr7 = value & DR7_BITS | DR7_FIXED,
        n => core.system.dr[usize::from(n & 3)] = value,
    }
    core.rearm(before);
    core.leave_block(op)
}

fn clear_switched(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.privileged()?;
    core.system.cr0 &= !CR0_TS;
    core.refresh_mode();
    core.leave_block(op)
}

fn invalidate(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.privileged()?;
    core.flush_page(core.within(core.address(op)));
    core.leave_block(op)
}

fn load_status(l: &mut Lowering<'_>) -> Option<()> {
    let exec: Exec = match l.instruction.op_kind(0) {
        OpKind::Register => exec!(load_status_reg),
        _ => exec!(load_status_mem),
    };
    changing(l, exec)
}

fn load_status_reg(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.privileged()?;
    set_status(core, op, core.reg(op.dst))
}

fn load_status_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.privileged()?;
    let value = core.load(core.address(op), world)?;
    set_status(core, op, value)
}

/// LMSW reaches four bits, and cannot clear PE.
fn set_status(core: &mut Core, op: &Op, value: u16) -> Done {
    const BITS: u64 = CR0_MP | CR0_EM | CR0_TS;
    let value = u64::from(value);
    core.system.cr0 = core.system.cr0 & !BITS | value & (BITS | CR0_PE);
    core.refresh_mode();
    core.leave_block(op)
}

fn store_status(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::Mem => exec!(store_status_mem),
        _ => sized!(size, store_status_reg),
    };
    l.push(op);
    Some(())
}

fn store_status_reg<W: Word>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.set_reg(op.dst, W::of(core.system.cr0));
    Ok(())
}

fn store_status_mem(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), core.system.cr0 as u16, world)
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        regs::RAX,
        testing::{DATA, HANDLERS, Nobody, machine, system},
    };

    /// Executes `code` and HLT with `rax`; whether it came to the HLT.
    fn works(code: &[u8], rax: u64) -> bool {
        let (mut cpu, ram) = machine(&[code, &[0xf4]].concat());
        system(&mut cpu, &ram);
        cpu.core.regs[RAX] = rax;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        let rip = cpu.registers().rip;
        assert!(rip > HANDLERS + 0x1000 || rip == HANDLERS + 13 * 16 + 1, "{rip:#x}");
        rip > HANDLERS + 0x1000
    }

    #[test]
    fn what_control_registers_cannot_be_is_gp() {
        let (cr0, cr3) = ([0x0f, 0x22, 0xc0], [0x0f, 0x22, 0xd8]);
        let (cr4, cr8) = ([0x0f, 0x22, 0xe0], [0x44, 0x0f, 0x22, 0xc0]);
        assert!(works(&cr0, 0x8005_0033));
        assert!(!works(&cr0, 0x0005_0033), "paging off in 64-bit mode");
        assert!(!works(&cr0, 0xa005_0033), "NW without CD");
        assert!(!works(&cr0, 0x1_8005_0033));
        assert!(works(&cr3, 0x1000));
        assert!(!works(&cr3, 1 << 48 | 0x1000));
        assert!(works(&cr4, 0x6a0));
        assert!(!works(&cr4, 0x680), "PAE off in long mode");
        assert!(!works(&cr4, 0x6a0 | 1 << 17), "PCID is not there");
        assert!(works(&cr8, 15));
        assert!(!works(&cr8, 16));
    }

    #[test]
    fn the_general_detect_bit_guards_debug_registers() {
        // mov dr7, rax; mov rbx, dr0
        let (mut cpu, ram) = machine(&[0x0f, 0x23, 0xf8, 0x0f, 0x21, 0xc3]);
        system(&mut cpu, &ram);
        cpu.core.regs[RAX] = 1 << 13;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 17);
        let state = cpu.state();
        assert_eq!((state.dr6 & 0xf000, state.dr7), (1 << 13, 1 << 10));
    }

    #[test]
    fn a_changed_entry_is_seen_after_invlpg() {
        // mov rbx, [DATA]; mov [0x4000 + 8 * page], rax; invlpg [DATA]; mov rcx, [DATA]; hlt
        let code = [
            0x48, 0x8b, 0x1c, 0x25, 0, 0, 3, 0, 0x48, 0x89, 0x04, 0x25, 0x80, 0x41, 0, 0, 0x0f,
            0x01, 0x3c, 0x25, 0, 0, 3, 0, 0x48, 0x8b, 0x0c, 0x25, 0, 0, 3, 0, 0xf4,
        ];
        let (mut cpu, ram) = machine(&code);
        ram.write(DATA, &[1]);
        ram.write(DATA + 0x1000, &[2]);
        cpu.core.regs[RAX] = (DATA + 0x1000) | 7;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!((cpu.core.regs[3], cpu.core.regs[1]), (1, 2));
    }
}
