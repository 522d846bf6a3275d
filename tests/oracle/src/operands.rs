//! Random operands for an instruction code.

use iced_x86::{Code, Instruction, OpCodeOperandKind as K, OpKind, Register};

use crate::{arena::CODE, random::Random};

/// Where an instruction's operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In memory, if it can be.
    Memory,
    /// In a register, if it can be.
    Registers,
}

/// Sets the operands of `code` at random, at the address `rip`. The memory operand's displacement
/// is still to be moved to where it should lead.
///
/// `None`: an operand kind that no instruction of ours has.
pub fn instruction(code: Code, form: Form, rip: u64, random: &mut Random) -> Option<Instruction> {
    let mut i = Instruction::default();
    i.set_code(code);
    let short = random.percent(4);
    for (n, kind) in code.op_code().op_kinds().iter().enumerate() {
        operand(&mut i, n as u32, *kind, Setting { form, rip, short }, random)?;
    }
    prefixes(&mut i, random);
    Some(i)
}

#[derive(Clone, Copy)]
struct Setting {
    form: Form,
    rip: u64,
    /// Addresses of 32 bits.
    short: bool,
}

fn operand(i: &mut Instruction, n: u32, kind: K, at: Setting, random: &mut Random) -> Option<()> {
    let register =
        |first: Register, count: u64, random: &mut Random| first + random.below(count) as u32;
    let in_memory = at.form == Form::Memory;
    let chosen = match kind {
        K::mem => return memory(i, n, at, random),
        K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
            if in_memory =>
        {
            return memory(i, n, at, random);
        }
        K::r8_or_mem | K::r8_reg | K::r8_opcode => register(Register::AL, 20, random),
        K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => {
            register(Register::AX, 16, random)
        }
        K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            register(Register::EAX, 16, random)
        }
        K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            register(Register::RAX, 16, random)
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => register(Register::MM0, 8, random),
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm => register(Register::XMM0, 16, random),
        K::seg_reg => register(Register::ES, 6, random),
        K::cr_reg => random.of(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]),
        K::dr_reg => register(Register::DR0, 8, random),
        K::sti_opcode => register(Register::ST0, 8, random),
        K::st0 => Register::ST0,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        _ => return place_or_value(i, n, kind, at, random),
    };
    i.set_op_kind(n, OpKind::Register);
    i.set_op_register(n, chosen);
    Some(())
}

/// What is neither a register nor memory by ModRM.
fn place_or_value(
    i: &mut Instruction,
    n: u32,
    kind: K,
    at: Setting,
    random: &mut Random,
) -> Option<()> {
    let value = random.integer();
    let string = |wide, narrow| if at.short { narrow } else { wide };
    match kind {
        K::seg_rSI => i.set_op_kind(n, string(OpKind::MemorySegRSI, OpKind::MemorySegESI)),
        K::es_rDI => i.set_op_kind(n, string(OpKind::MemoryESRDI, OpKind::MemoryESEDI)),
        K::seg_rDI => i.set_op_kind(n, string(OpKind::MemorySegRDI, OpKind::MemorySegEDI)),
        K::seg_rBX_al => {
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_base(if at.short { Register::EBX } else { Register::RBX });
            i.set_memory_index(Register::AL);
        }
        K::mem_offs => {
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_displ_size(if at.short { 4 } else { 8 });
        }
        K::imm8 => {
            // The second of two immediates has a place of its own.
            let second = n > 0 && i.op_kind(n - 1) == OpKind::Immediate16;
            i.set_op_kind(n, if second { OpKind::Immediate8_2nd } else { OpKind::Immediate8 });
            // ENTER's depth, EXTRQ's bits; as good as any for the others.
            let value = if second { value & 0x3f } else { value };
            if second { i.set_immediate8_2nd(value as u8) } else { i.set_immediate8(value as u8) }
        }
        K::imm8_const_1 => {
            i.set_op_kind(n, OpKind::Immediate8);
            i.set_immediate8(1);
        }
        K::imm8sex16 => {
            i.set_op_kind(n, OpKind::Immediate8to16);
            i.set_immediate8to16(i16::from(value as i8));
        }
        K::imm8sex32 => {
            i.set_op_kind(n, OpKind::Immediate8to32);
            i.set_immediate8to32(i32::from(value as i8));
        }
        K::imm8sex64 => {
            i.set_op_kind(n, OpKind::Immediate8to64);
            i.set_immediate8to64(i64::from(value as i8));
        }
        K::imm16 => {
            i.set_op_kind(n, OpKind::Immediate16);
            i.set_immediate16(value as u16);
        }
        K::imm32 => {
            i.set_op_kind(n, OpKind::Immediate32);
            i.set_immediate32(value as u32);
        }
        K::imm32sex64 => {
            i.set_op_kind(n, OpKind::Immediate32to64);
            i.set_immediate32to64(i64::from(value as i32));
        }
        K::imm64 => {
            i.set_op_kind(n, OpKind::Immediate64);
            i.set_immediate64(value);
        }
        K::br64_1 | K::br64_4 => {
            i.set_op_kind(n, OpKind::NearBranch64);
            let far = kind == K::br64_4 && random.percent(50);
            let by = if far { i64::from(value as i32) / 2 } else { i64::from(value as i8) / 2 };
            i.set_near_branch64(at.rip.wrapping_add_signed(by));
        }
        K::br16_1 | K::br16_2 => {
            i.set_op_kind(n, OpKind::NearBranch16);
            let by = if kind == K::br16_1 { u16::from(value as u8 >> 1) } else { value as u16 };
            i.set_near_branch16((at.rip as u16).wrapping_add(by));
        }
        _ => return None,
    }
    Some(())
}

/// Memory by ModRM.
fn memory(i: &mut Instruction, n: u32, at: Setting, random: &mut Random) -> Option<()> {
    i.set_op_kind(n, OpKind::Memory);
    let first = if at.short { Register::EAX } else { Register::RAX };
    let any = |random: &mut Random| first + random.below(16) as u32;
    let (mut base, mut index) = (Register::None, Register::None);
    match random.below(20) {
        0 => {}
        1 => base = if at.short { Register::EIP } else { Register::RIP },
        2 => index = any(random),
        3..=11 => base = any(random),
        _ => (base, index) = (any(random), any(random)),
    }
    let stack = |r: Register| r.full_register() == Register::RSP;
    if base == index || stack(index) {
        index = Register::None;
    }
    let has_base = base != Register::None && !base.is_ip();
    i.set_memory_base(base);
    i.set_memory_index(index);
    if index != Register::None {
        i.set_memory_index_scale(1 << random.below(4));
    }
    if base == Register::None && index == Register::None || base.is_ip() {
        i.set_memory_displ_size(if at.short { 4 } else { 8 });
        i.set_memory_displacement64(if base.is_ip() { CODE } else { 0 });
        return Some(());
    }
    let wide = if at.short { 4 } else { 8 };
    let (size, by) = match random.below(3) {
        0 if has_base => (0, 0),
        1 if has_base => (1, i64::from(random.bits() as i8)),
        _ => (wide, i64::from(random.bits() as i32 >> random.below(28))),
    };
    // RBP and R13 as bases have at least a displacement of a byte; the encoder sees to it.
    i.set_memory_displ_size(size);
    let by = if at.short { u64::from(by as u32) } else { by as u64 };
    i.set_memory_displacement64(by);
    Some(())
}

fn prefixes(i: &mut Instruction, random: &mut Random) {
    let op = i.code().op_code();
    let to_memory = i.op_count() > 0 && i.op_kind(0) == OpKind::Memory;
    if op.can_use_lock_prefix() && to_memory && random.percent(30) {
        i.set_has_lock_prefix(true);
    }
    let repeats = op.can_use_rep_prefix();
    if repeats && random.percent(60) {
        i.set_has_rep_prefix(true);
    } else if op.can_use_repne_prefix() && repeats && random.percent(50) {
        i.set_has_repne_prefix(true);
    }
    let memory = (0..i.op_count()).any(|n| {
        matches!(
            i.op_kind(n),
            OpKind::Memory
                | OpKind::MemorySegRSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRDI
                | OpKind::MemorySegEDI
        )
    });
    if memory && random.percent(8) {
        i.set_segment_prefix(random.of(&[Register::FS, Register::GS]));
    }
}
