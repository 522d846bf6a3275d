//! The control and status words, the environment, the whole state.

use iced_x86::{Code, Instruction, Mnemonic};

use super::Done;
use crate::{
    core::{Core, World},
    op::{Exec, Op, Stop, exec},
    regs::RAX,
    vector::Vector,
    word::Word,
    x87::{C1, Last},
};

/// What executes an instruction.
pub(super) fn exec(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Fldcw_m2byte => exec!(load_control),
        Code::Fldenv_m14byte => exec!(load_environment::<u16>),
        Code::Fldenv_m28byte => exec!(load_environment::<u32>),
        Code::Fnsave_m108byte => exec!(save::<u32>),
        Code::Fnsave_m94byte => exec!(save::<u16>),
        Code::Fnstcw_m2byte => exec!(store_control),
        Code::Fnstenv_m14byte => exec!(store_environment::<u16>),
        Code::Fnstenv_m28byte => exec!(store_environment::<u32>),
        Code::Fnstsw_AX => exec!(status_to_ax),
        Code::Fnstsw_m2byte => exec!(store_status),
        Code::Frstor_m108byte => exec!(restore::<u32>),
        Code::Frstor_m94byte => exec!(restore::<u16>),
        Code::Wait => exec!(wait),
        _ => match i.mnemonic() {
            Mnemonic::Emms => exec!(empty),
            Mnemonic::Fdecstp => exec!(rotate::<7>),
            Mnemonic::Ffree => exec!(free::<false>),
            Mnemonic::Ffreep => exec!(free::<true>),
            Mnemonic::Fincstp => exec!(rotate::<1>),
            Mnemonic::Fnclex => exec!(clear),
            Mnemonic::Fninit => exec!(initialize),
            Mnemonic::Fndisi | Mnemonic::Fneni | Mnemonic::Fnsetpm => exec!(nothing),
            Mnemonic::Fnop => exec!(no_operation),
            _ => return None,
        },
    })
}

fn wait(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()
}

fn no_operation(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)
}

/// What the first coprocessors had an instruction for.
fn nothing(_: &mut Core, _: &Op, _: &World<'_>) -> Done {
    Ok(())
}

/// EMMS, which leaves TOP at R0 as all of MMX does.
fn empty(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()?;
    core.vectors.x87.full = 0;
    core.vectors.x87.top = 0;
    Ok(())
}

fn rotate<const BY: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    core.vectors.x87.rotate(BY);
    core.vectors.x87.set_codes(0, C1);
    Ok(())
}

fn free<const POPS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    core.vectors.x87.free(op.dst);
    core.vectors.x87.set_codes(0, C1);
    if POPS {
        core.vectors.x87.pop();
    }
    Ok(())
}

fn clear(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.vectors.x87.clear_exceptions();
    Ok(())
}

fn initialize(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.vectors.x87.initialize();
    Ok(())
}

fn load_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let word: u16 = core.load(core.address(op), world)?;
    core.vectors.x87.set_control(word);
    Ok(())
}

fn store_control(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), core.vectors.x87.control, world)
}

fn store_status(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.store(core.address(op), core.vectors.x87.status_word(), world)
}

fn status_to_ax(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.set_reg(RAX, core.vectors.x87.status_word());
    Ok(())
}

/// A word of the environment as a form of it has it: 2 bytes, or 4 with some of ones above.
trait Form: Word {
    /// The environment's length; the registers follow it, 10 bytes each.
    const ENVIRONMENT: usize = 7 * size_of::<Self>();
    const WHOLE: usize = Self::ENVIRONMENT + 80;
    /// What is above a word of 16 bits.
    const ABOVE: u64;
}

impl Form for u16 {
    const ABOVE: u64 = 0;
}

impl Form for u32 {
    const ABOVE: u64 = 0xffff_0000;
}

/// Stores control, status and tag word, and what is kept of the last instruction and operand
/// (Intel SDM 1-8.1.10, protected mode).
fn put_environment<F: Form>(core: &mut Core, at: u64, world: &World<'_>) -> Done {
    let x87 = &core.vectors.x87;
    let last = x87.last;
    let narrow = |word: u16| u64::from(word) | F::ABOVE;
    let fields = [
        narrow(x87.control),
        narrow(x87.status_word()),
        narrow(x87.tag_word()),
        last.instruction,
        u64::from(last.code_segment) | u64::from(last.opcode) << 16,
        last.operand,
        narrow(last.data_segment),
    ];
    for (field, n) in fields.into_iter().zip(0..) {
        core.store(at.wrapping_add(n * F::BYTES), F::of(field), world)?;
    }
    Ok(())
}

/// The fields of the environment.
fn take_environment<F: Form>(
    core: &mut Core,
    at: u64,
    world: &World<'_>,
) -> Result<[u64; 7], Stop> {
    let mut fields = [0; 7];
    for (field, n) in fields.iter_mut().zip(0..) {
        *field = core.load::<F>(at.wrapping_add(n * F::BYTES), world)?.zext();
    }
    Ok(fields)
}

impl Core {
    fn set_environment(&mut self, fields: [u64; 7]) {
        let [control, status, tags, instruction, code, operand, data] = fields;
        let x87 = &mut self.vectors.x87;
        x87.set_control(control as u16);
        x87.set_status_word(status as u16);
        x87.set_tag_word(tags as u16);
        x87.last = Last {
            opcode: (code >> 16) as u16 & Last::OPCODE,
            instruction,
            code_segment: code as u16,
            operand,
            data_segment: data as u16,
        };
    }
}

/// Makes sure of an area to be stored to. AMD's processors try its first word and then its last
/// byte; so, too, for loads.
fn probe_store<F: Form>(core: &mut Core, at: u64, len: usize, world: &World<'_>) -> Done {
    core.probe_write(at, size_of::<F>(), world)?;
    core.probe_write(at.wrapping_add(len as u64 - 1), 1, world)?;
    core.probe_write(at, len, world)
}

fn probe_load<F: Form>(core: &mut Core, at: u64, len: usize, world: &World<'_>) -> Done {
    core.probe_read(at, size_of::<F>(), world)?;
    core.probe_read(at.wrapping_add(len as u64 - 1), 1, world)
}

fn store_environment<F: Form>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    probe_store::<F>(core, at, F::ENVIRONMENT, world)?;
    put_environment::<F>(core, at, world)?;
    let masked = core.vectors.x87.control | 0x3f;
    core.vectors.x87.set_control(masked);
    Ok(())
}

fn load_environment<F: Form>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    probe_load::<F>(core, at, F::ENVIRONMENT, world)?;
    let fields = take_environment::<F>(core, at, world)?;
    core.set_environment(fields);
    Ok(())
}

fn save<F: Form>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    probe_store::<F>(core, at, F::WHOLE, world)?;
    put_environment::<F>(core, at, world)?;
    for i in 0..8 {
        let at = at.wrapping_add(F::ENVIRONMENT as u64 + 10 * u64::from(i));
        let bits: u128 = core.vectors.x87.st(i).low();
        core.store(at, bits as u64, world)?;
        core.store(at.wrapping_add(8), (bits >> 64) as u16, world)?;
    }
    core.vectors.x87.initialize();
    Ok(())
}

fn restore<F: Form>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    probe_load::<F>(core, at, F::WHOLE, world)?;
    let fields = take_environment::<F>(core, at, world)?;
    let mut registers = [Vector::default(); 8];
    for (register, i) in registers.iter_mut().zip(0..) {
        let at = at.wrapping_add(F::ENVIRONMENT as u64 + 10 * i);
        let low: u64 = core.load(at, world)?;
        let high: u16 = core.load(at.wrapping_add(8), world)?;
        *register = Vector::of(u128::from(high) << 64 | u128::from(low));
    }
    core.set_environment(fields);
    for (i, register) in (0..8).zip(registers) {
        let number = core.vectors.x87.number(i);
        core.vectors.x87.registers[number] = register;
    }
    Ok(())
}
