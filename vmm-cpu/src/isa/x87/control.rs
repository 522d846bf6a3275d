//! The control and status words, the environment, the whole state.

use iced_x86::{Code, Instruction, Mnemonic};

use super::Done;
use crate::{
    core::{Core, World},
    op::{Exec, Op},
    regs::RAX,
    vector::Vector,
    x87::C1,
};

/// What executes an instruction. The environment has one form, that of 32-bit code.
pub(super) fn exec(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Fldcw_m2byte => load_control,
        Code::Fldenv_m28byte => load_environment,
        Code::Fnsave_m108byte => save,
        Code::Fnstcw_m2byte => store_control,
        Code::Fnstenv_m28byte => store_environment,
        Code::Fnstsw_AX => status_to_ax,
        Code::Fnstsw_m2byte => store_status,
        Code::Frstor_m108byte => restore,
        Code::Wait => wait,
        _ => match i.mnemonic() {
            Mnemonic::Emms => empty,
            Mnemonic::Fdecstp => rotate::<7>,
            Mnemonic::Ffree => free::<false>,
            Mnemonic::Ffreep => free::<true>,
            Mnemonic::Fincstp => rotate::<1>,
            Mnemonic::Fnclex => clear,
            Mnemonic::Fninit => initialize,
            Mnemonic::Fnop => wait,
            _ => return None,
        },
    })
}

fn wait(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()
}

/// EMMS, which leaves TOP at R0 as all of MMX does.
fn empty(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()?;
    core.vectors.x87.full = 0;
    core.vectors.x87.top = 0;
    Ok(())
}

fn rotate<const BY: u8>(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    core.await_x87()?;
    core.vectors.x87.rotate(BY);
    core.vectors.x87.set_codes(0, C1);
    Ok(())
}

fn free<const POPS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.await_x87()?;
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

/// The environment's length; the registers follow it, 10 bytes each.
const ENVIRONMENT: u64 = 28;
const WHOLE: usize = 108;

/// Stores control word, status word and tag word; the rest, about the last instruction, is not
/// kept.
fn put_environment(core: &mut Core, at: u64, world: &World<'_>) -> Done {
    let x87 = &core.vectors.x87;
    let [control, status, tags] =
        [x87.control, x87.status_word(), x87.tag_word()].map(|word| u64::from(word) | 0xffff_0000);
    core.store(at, control | status << 32, world)?;
    core.store(at.wrapping_add(8), tags, world)?;
    core.store(at.wrapping_add(16), 0_u64, world)?;
    core.store(at.wrapping_add(24), 0xffff_0000_u32, world)
}

/// The three words.
fn take_environment(
    core: &mut Core,
    at: u64,
    world: &World<'_>,
) -> Result<[u16; 3], crate::op::Stop> {
    let control: u16 = core.load(at, world)?;
    let status: u16 = core.load(at.wrapping_add(4), world)?;
    let tags: u16 = core.load(at.wrapping_add(8), world)?;
    Ok([control, status, tags])
}

impl Core {
    fn set_environment(&mut self, [control, status, tags]: [u16; 3]) {
        let x87 = &mut self.vectors.x87;
        x87.set_control(control);
        x87.set_status_word(status);
        x87.set_tag_word(tags);
    }
}

fn store_environment(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    // AMD's processors try the first word and then the last byte, here and below.
    core.probe_write(at, 4, world)?;
    core.probe_write(at.wrapping_add(ENVIRONMENT - 1), 1, world)?;
    core.probe_write(at, ENVIRONMENT as usize, world)?;
    put_environment(core, at, world)?;
    let masked = core.vectors.x87.control | 0x3f;
    core.vectors.x87.set_control(masked);
    Ok(())
}

fn load_environment(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    core.probe_read(at, 4, world)?;
    core.probe_read(at.wrapping_add(ENVIRONMENT - 1), 1, world)?;
    let words = take_environment(core, at, world)?;
    core.set_environment(words);
    Ok(())
}

fn save(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let at = core.address(op);
    core.probe_write(at, 4, world)?;
    core.probe_write(at.wrapping_add(WHOLE as u64 - 1), 1, world)?;
    core.probe_write(at, WHOLE, world)?;
    put_environment(core, at, world)?;
    for i in 0..8 {
        let at = at.wrapping_add(ENVIRONMENT + 10 * u64::from(i));
        let bits: u128 = core.vectors.x87.st(i).low();
        core.store(at, bits as u64, world)?;
        core.store(at.wrapping_add(8), (bits >> 64) as u16, world)?;
    }
    core.vectors.x87.initialize();
    Ok(())
}

fn restore(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    core.await_x87()?;
    let at = core.address(op);
    core.probe_read(at, 4, world)?;
    core.probe_read(at.wrapping_add(WHOLE as u64 - 1), 1, world)?;
    let words = take_environment(core, at, world)?;
    let mut registers = [Vector::default(); 8];
    for (register, i) in registers.iter_mut().zip(0..) {
        let at = at.wrapping_add(ENVIRONMENT + 10 * i);
        let low: u64 = core.load(at, world)?;
        let high: u16 = core.load(at.wrapping_add(8), world)?;
        *register = Vector::of(u128::from(high) << 64 | u128::from(low));
    }
    core.set_environment(words);
    for (i, register) in (0..8).zip(registers) {
        let number = core.vectors.x87.number(i);
        core.vectors.x87.registers[number] = register;
    }
    Ok(())
}
