//! Jumps, calls and returns inside a segment.
//!
//! A target that is not canonical is the jump's own fault, not its target's: #GP(0), with nothing
//! done. As AMD's processors have it, the operand-size prefix makes targets and return addresses 16
//! bits wide (AMD APM 3, "JMP (Near)").

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::{
    Done, by_condition, load_value, sized,
    stack::{self, Stack},
};
use crate::{
    core::{Core, World},
    decode::{Form, Lowering},
    op::{Exec, Op, Stop, exec},
    paging::is_canonical,
    ram::PAGE_SIZE,
    regs::{PAGE, RCX, VALUE},
    word::{Datum, Word},
};

/// How far a jump may lead.
trait Reach: 'static {
    /// How much of RIP is pushed and popped.
    type Pointer: Word;
    /// Where that is.
    type Stack: Stack;

    /// The linear address that an instruction pointer names, if a jump there is no fault.
    fn target(core: &mut Core, pointer: u64) -> Result<u64, Stop>;

    /// The same for a linear address, to which a distance led.
    #[inline(always)]
    fn near(core: &mut Core, linear: u64) -> Result<u64, Stop> {
        Self::target(core, linear)
    }

    /// What is pushed to come back to a linear address.
    #[inline(always)]
    fn pointer(_: &Core, linear: u64) -> Self::Pointer {
        Self::Pointer::of(linear)
    }
}

/// Not out of the page: what is executed in it shows that it is canonical.
struct Inside;
/// Anywhere in 64-bit code.
struct Far;
/// The first 64 KiB of 64-bit code.
struct Low;
/// Anywhere in a flat segment, by as much of EIP.
struct Near<W>(std::marker::PhantomData<W>);
/// Anywhere in a segment, by as much of EIP.
struct Limited<W>(std::marker::PhantomData<W>);

impl Reach for Inside {
    type Pointer = u64;
    type Stack = stack::Long;

    #[inline(always)]
    fn target(_: &mut Core, pointer: u64) -> Result<u64, Stop> {
        Ok(pointer)
    }
}

impl Reach for Far {
    type Pointer = u64;
    type Stack = stack::Long;

    #[inline(always)]
    fn target(core: &mut Core, pointer: u64) -> Result<u64, Stop> {
        if is_canonical(pointer) { Ok(pointer) } else { Err(core.general_protection(0)) }
    }
}

impl Reach for Low {
    type Pointer = u16;
    type Stack = stack::Long;

    #[inline(always)]
    fn target(_: &mut Core, pointer: u64) -> Result<u64, Stop> {
        Ok(pointer & 0xffff)
    }
}

impl<W: Word> Reach for Near<W> {
    type Pointer = W;
    type Stack = stack::Flat;

    #[inline(always)]
    fn target(_: &mut Core, pointer: u64) -> Result<u64, Stop> {
        Ok(W::of(pointer).zext())
    }
}

impl<W: Word> Reach for Limited<W> {
    type Pointer = W;
    type Stack = stack::Segmented;

    fn target(core: &mut Core, pointer: u64) -> Result<u64, Stop> {
        let pointer = W::of(pointer).zext();
        if pointer > core.code_limit {
            return Err(core.general_protection(0));
        }
        Ok(core.code_address(pointer))
    }

    fn near(core: &mut Core, linear: u64) -> Result<u64, Stop> {
        Self::target(core, linear.wrapping_sub(core.code_base))
    }

    fn pointer(core: &Core, linear: u64) -> W {
        W::of(linear.wrapping_sub(core.code_base))
    }
}

/// Chooses the instance of a generic function for how far a jump of so many bytes of RIP reaches.
macro_rules! by_reach {
    ($l:expr, $size:expr, $name:ident) => {
        match ($l.is_long(), $l.is_segmented(), $size) {
            (true, _, 2) => exec!($name::<Low>),
            (true, ..) => exec!($name::<Far>),
            (_, false, 2) => exec!($name::<Near<u16>>),
            (_, false, _) => exec!($name::<Near<u32>>),
            (_, true, 2) => exec!($name::<Limited<u16>>),
            (_, true, _) => exec!($name::<Limited<u32>>),
        }
    };
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
    let kind = i.op0_kind();
    // Relative to the page: before it, if need be.
    let target = match kind {
        OpKind::NearBranch64 => i.near_branch64(),
        OpKind::NearBranch32 => i64::from(i.near_branch32().cast_signed()).cast_unsigned(),
        _ if l.is_long() => i.near_branch16().into(),
        _ => i64::from(i.near_branch16().cast_signed()).cast_unsigned(),
    };
    let exec = match (l.is_long(), l.is_segmented(), kind) {
        (true, _, OpKind::NearBranch16) => direct::<Low>(l),
        (true, ..) if target < PAGE_SIZE => direct::<Inside>(l),
        (true, ..) => direct::<Far>(l),
        (_, false, OpKind::NearBranch16) => direct::<Near<u16>>(l),
        // But for what is pushed it is the same as in 64-bit code.
        (_, false, _) if target < PAGE_SIZE && !i.is_call_near() => direct::<Inside>(l),
        (_, false, _) => direct::<Near<u32>>(l),
        (_, true, OpKind::NearBranch16) => direct::<Limited<u16>>(l),
        (_, true, _) => direct::<Limited<u32>>(l),
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
    match (l.instruction.mnemonic(), counter(l.instruction)) {
        (Mnemonic::Call, _) => exec!(call::<R>),
        (Mnemonic::Jmp, _) => exec!(jump::<R>),
        (Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz, 2) => exec!(jump_if_none::<u16, R>),
        (Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz, 4) => exec!(jump_if_none::<u32, R>),
        (Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz, _) => exec!(jump_if_none::<u64, R>),
        (Mnemonic::Loop, 2) => exec!(count::<u16, Always, R>),
        (Mnemonic::Loop, 4) => exec!(count::<u32, Always, R>),
        (Mnemonic::Loop, _) => exec!(count::<u64, Always, R>),
        (Mnemonic::Loope, 2) => exec!(count::<u16, Zero, R>),
        (Mnemonic::Loope, 4) => exec!(count::<u32, Zero, R>),
        (Mnemonic::Loope, _) => exec!(count::<u64, Zero, R>),
        (Mnemonic::Loopne, 2) => exec!(count::<u16, NotZero, R>),
        (Mnemonic::Loopne, 4) => exec!(count::<u32, NotZero, R>),
        (Mnemonic::Loopne, _) => exec!(count::<u64, NotZero, R>),
        _ => by_condition!(l.instruction.condition_code() as u8 - 1, jump_if, R),
    }
}

/// How many bytes of RCX a jump looks at: as many as addresses have.
fn counter(i: &Instruction) -> u32 {
    i.op_code().address_size() / 8
}

/// Goes to the operation's target, or on.
#[inline(always)]
fn branch<R: Reach>(core: &mut Core, op: &Op, taken: bool) -> Done {
    let linear = core.regs[PAGE].wrapping_add(if taken { op.imm } else { op.next() });
    core.rip = if taken { R::near(core, linear)? } else { linear };
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

/// Pushes the return address and goes to the target; where neither can be done, the push's fault is
/// the one that is raised.
#[inline(always)]
fn enter<R: Reach>(core: &mut Core, op: &Op, target: Result<u64, Stop>, world: &World<'_>) -> Done {
    let back = R::pointer(core, core.regs[PAGE].wrapping_add(op.next()));
    match target {
        Ok(target) => {
            core.push::<R::Pointer, R::Stack>(back, world)?;
            core.rip = target;
            Err(Stop::Jump)
        }
        Err(fault) => {
            let kept = core.fault.take();
            core.probe_push::<R::Pointer, R::Stack>(world)?;
            core.fault = kept;
            Err(fault)
        }
    }
}

fn call<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let target = R::near(core, core.regs[PAGE].wrapping_add(op.imm));
    enter::<R>(core, op, target, world)
}

fn call_indirect(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    if form == Form::Mem {
        op.exec = sized!(size, load_value);
        l.push_load(op);
        op.dst = VALUE;
    }
    op.exec = by_reach!(l, size, call_reg);
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn call_reg<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let target = R::target(core, core.regs[op.dst]);
    enter::<R>(core, op, target, world)
}

fn jump_indirect(l: &mut Lowering<'_>) -> Option<()> {
    let size = l.size(0);
    let (mut op, form) = l.operands();
    op.exec = match form {
        Form::Mem => by_reach!(l, size, jump_mem),
        _ => by_reach!(l, size, jump_reg),
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
    let size = match l.instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 | Code::Retnq | Code::Retnq_imm16 => 8,
        _ => return None,
    };
    let mut op = l.operands().0;
    op.exec = by_reach!(l, size, ret_to);
    op.scale |= Op::STACK;
    l.push(op);
    Some(())
}

fn ret_to<R: Reach>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let number = core.peek::<R::Pointer, R::Stack>(world)?.zext();
    core.rip = R::target(core, number)?;
    core.drop_bytes::<R::Stack>(op.imm.wrapping_add(R::Pointer::BYTES));
    Err(Stop::Jump)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::Exit,
        exception::Vector,
        regs::{RAX, RSP},
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
