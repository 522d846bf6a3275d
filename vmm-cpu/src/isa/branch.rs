//! Jumps, calls and returns inside a segment.
//!
//! A target that is not canonical is the jump's own fault, not its target's: #GP(0), with nothing
//! done. As AMD's processors have it, the operand-size prefix makes targets and return addresses 16
//! bits wide (AMD APM 3, "JMP (Near)").

use iced_x86::{Code, Mnemonic, OpKind};

use super::{Done, by_condition, load_value};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    op::{Exec, Op, Stop},
    paging::is_canonical,
    ram::PAGE_SIZE,
    regs::{PAGE, RCX, RSP, VALUE},
    word::{Datum, Word},
};

/// How far a jump may lead.
trait Reach: 'static {
    /// How much of RIP is pushed and popped.
    type Pointer: Word;

    /// The address that this number names, if a jump there is no fault.
    #[inline(always)]
    fn target(core: &mut Core, number: u64) -> Result<u64, Stop> {
        let target = Self::Pointer::of(number).zext();
        if is_canonical(target) { Ok(target) } else { Err(core.general_protection(0)) }
    }
}

/// Not out of the page: what is executed in it shows that it is canonical.
struct Inside;
/// Anywhere.
struct Far;
/// The first 64 KiB.
struct Low;

impl Reach for Inside {
    type Pointer = u64;

    #[inline(always)]
    fn target(_: &mut Core, number: u64) -> Result<u64, Stop> {
        Ok(number)
    }
}

impl Reach for Far {
    type Pointer = u64;
}

impl Reach for Low {
    type Pointer = u16;
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    match i.mnemonic() {
        Mnemonic::Call if i.is_call_near_indirect() => call_indirect(l),
        Mnemonic::Jmp if i.is_jmp_near_indirect() => jump_indirect(l),
        Mnemonic::Ret => ret(l),
        Mnemonic::Call if i.is_call_near() => relative(l),
        Mnemonic::Jmp if i.is_jmp_short_or_near() => relative(l),
        _ if i.is_jcc_short_or_near() || i.is_jcx_short() || i.is_loop() || i.is_loopcc() => {
            relative(l)
        }
        _ => None,
    }
}

/// A jump whose target is a distance.
fn relative(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let target = i.near_branch_target();
    let exec = match i.op0_kind() {
        OpKind::NearBranch16 => direct::<Low>(l),
        _ if target < PAGE_SIZE => direct::<Inside>(l),
        _ => direct::<Far>(l),
    };
    let mut op = Op { imm: target, ..l.bare(exec) };
    if i.is_call_near() {
        op.scale |= Op::STACK;
    }
    l.push(op);
    Some(())
}

/// What executes a jump whose target is a distance.
fn direct<R: Reach>(l: &Lowering<'_>) -> Exec {
    let i = l.instruction;
    // The address-size prefix makes the count 32 bits wide.
    let short = matches!(
        i.code(),
        Code::Jecxz_rel8_16
            | Code::Jecxz_rel8_64
            | Code::Loop_rel8_16_ECX
            | Code::Loop_rel8_64_ECX
            | Code::Loope_rel8_16_ECX
            | Code::Loope_rel8_64_ECX
            | Code::Loopne_rel8_16_ECX
            | Code::Loopne_rel8_64_ECX
    );
    match (i.mnemonic(), short) {
        (Mnemonic::Call, _) => call::<R>,
        (Mnemonic::Jmp, _) => jump::<R>,
        (Mnemonic::Jecxz | Mnemonic::Jrcxz, true) => jump_if_none::<u32, R>,
        (Mnemonic::Jecxz | Mnemonic::Jrcxz, false) => jump_if_none::<u64, R>,
        (Mnemonic::Loop, true) => count::<u32, Always, R>,
        (Mnemonic::Loop, false) => count::<u64, Always, R>,
        (Mnemonic::Loope, true) => count::<u32, Zero, R>,
        (Mnemonic::Loope, false) => count::<u64, Zero, R>,
        (Mnemonic::Loopne, true) => count::<u32, NotZero, R>,
        (Mnemonic::Loopne, false) => count::<u64, NotZero, R>,
        _ => by_condition!(i.condition_code() as u8 - 1, jump_if, R),
    }
}

/// Goes to the operation's target, or on.
#[inline(always)]
fn branch<R: Reach>(core: &mut Core, op: &Op, taken: bool) -> Done {
    let number = core.regs[PAGE].wrapping_add(if taken { op.imm } else { op.next() });
    core.rip = if taken { R::target(core, number)? } else { number };
    Err(Stop::Jump)
}

fn jump<R: Reach>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    branch::<R>(core, op, true)
}

fn jump_if<R: Reach, const CC: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    branch::<R>(core, op, core.flags.condition::<CC>())
}

/// JRCXZ, JECXZ.
fn jump_if_none<W: Word, R: Reach>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    branch::<R>(core, op, core.reg::<W>(RCX).zext() == 0)
}

/// What LOOP, LOOPE and LOOPNE want beside a count.
trait Wish: 'static {
    fn holds(core: &Core) -> bool;
}

struct Always;
struct NotZero;
struct Zero;

impl Wish for Always {
    fn holds(_: &Core) -> bool {
        true
    }
}

impl Wish for NotZero {
    fn holds(core: &Core) -> bool {
        !core.flags.zf()
    }
}

impl Wish for Zero {
    fn holds(core: &Core) -> bool {
        core.flags.zf()
    }
}

/// LOOP and its kin.
fn count<W: Word, I: Wish, R: Reach>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let left = W::of(core.regs[RCX].wrapping_sub(1));
    let done = branch::<R>(core, op, left.zext() != 0 && I::holds(core));
    if done == Err(Stop::Jump) {
        core.set_reg(RCX, left);
    }
    done
}

/// Pushes the return address and goes to `number`; where neither can be done, the push's fault is
/// the one that is raised.
#[inline(always)]
fn enter<R: Reach>(core: &mut Core, op: &Op, number: u64, world: &World<'_>) -> Done {
    let back = R::Pointer::of(core.regs[PAGE].wrapping_add(op.next()));
    match R::target(core, number) {
        Ok(target) => {
            core.push(back, world)?;
            core.rip = target;
            Err(Stop::Jump)
        }
        Err(fault) => {
            let kept = core.fault.take();
            let top = core.regs[RSP].wrapping_sub(R::Pointer::BYTES);
            core.probe_write(top, R::Pointer::BYTES as usize, world)?;
            core.fault = kept;
            Err(fault)
        }
    }
}

fn call<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    enter::<R>(core, op, core.regs[PAGE].wrapping_add(op.imm), world)
}

fn call_indirect(l: &mut Lowering<'_>) -> Option<()> {
    let low = l.size(0) == 2;
    let (mut op, form) = l.operands();
    if form == Form::Mem {
        op.exec = if low { load_value::<u16> } else { load_value::<u64> };
        l.push_load(op);
        op.dst = VALUE;
    }
    op.exec = if low { call_reg::<Low> } else { call_reg::<Far> };
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn call_reg<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    enter::<R>(core, op, core.regs[op.dst], world)
}

fn jump_indirect(l: &mut Lowering<'_>) -> Option<()> {
    let low = l.size(0) == 2;
    let (mut op, form) = l.operands();
    op.exec = match (form, low) {
        (Form::Mem, true) => jump_mem::<Low>,
        (Form::Mem, false) => jump_mem::<Far>,
        (_, true) => jump_reg::<Low>,
        (_, false) => jump_reg::<Far>,
    };
    l.push(op);
    Some(())
}

fn jump_reg<R: Reach>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.rip = R::target(core, core.regs[op.dst])?;
    Err(Stop::Jump)
}

fn jump_mem<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let number = core.load::<R::Pointer>(core.address(op), world)?.zext();
    core.rip = R::target(core, number)?;
    Err(Stop::Jump)
}

fn ret(l: &mut Lowering<'_>) -> Option<()> {
    let exec = match l.instruction.code() {
        Code::Retnq | Code::Retnq_imm16 => ret_to::<Far>,
        Code::Retnw | Code::Retnw_imm16 => ret_to::<Low> as Exec,
        _ => return None,
    };
    let mut op = l.operands().0;
    op.exec = exec;
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn ret_to<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let top = core.regs[RSP];
    let number = core.load::<R::Pointer>(top, world)?.zext();
    core.rip = R::target(core, number)?;
    core.regs[RSP] = top.wrapping_add(R::Pointer::BYTES).wrapping_add(op.imm);
    Err(Stop::Jump)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::Exit,
        exception::Vector,
        regs::RAX,
        testing::{CODE, Nobody, STACK, machine, stack, system},
    };

    /// What is executed where the target is no address faults itself, and has done nothing.
    #[test]
    fn a_target_that_is_not_canonical_is_the_jumps_fault() {
        // jmp rax; call rax; push rax, ret; push rax, ret 16
        let cases: [(&[u8], u64); 4] =
            [(&[0xff, 0xe0], 0), (&[0xff, 0xd0], 0), (&[0xc3], 8), (&[0xc2, 16, 0], 8)];
        for (code, pushed) in cases {
            let (mut cpu, ram) = machine(code);
            system(&mut cpu, &ram);
            cpu.core.regs[RAX] = 1 << 47;
            cpu.core.regs[RSP] = STACK - pushed;
            ram.write(STACK - 8, &(1u64 << 47).to_le_bytes());
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            assert_eq!(cpu.core.rip & 0xff0, Vector::GeneralProtection as u64 * 16);
            let [error, rip, _, _, rsp] = stack::<5>(&cpu, &ram);
            assert_eq!((error, rip, rsp), (0, CODE, STACK - pushed), "{code:x?}");
        }
    }

    #[test]
    fn a_call_faults_by_its_stack_first() {
        let (mut cpu, ram) = machine(&[0xff, 0xd0]);
        system(&mut cpu, &ram);
        cpu.core.regs[RAX] = 1 << 47;
        cpu.core.regs[RSP] = PAGE_SIZE * 256 + 8;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.rip & 0xff0, Vector::PageFault as u64 * 16);
        assert_eq!(cpu.core.system.cr2, PAGE_SIZE * 256);
    }

    #[test]
    fn counts_are_as_wide_as_addresses() {
        // l: add eax, 1; loop l, of ECX and of RCX; then jrcxz over the first HLT
        for (prefix, count, times) in [(0x67, 1 << 32 | 3, 3), (0x40, 3, 3)] {
            let code = [0x83, 0xc0, 0x01, prefix, 0xe2, 0xfa, 0xe3, 0x01, 0xf4, 0xf4];
            let (mut cpu, ram) = machine(&code);
            cpu.core.regs[RCX] = count;
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RCX]), (times, 0));
            assert_eq!(cpu.core.rip, CODE + 10);
        }
    }
}
