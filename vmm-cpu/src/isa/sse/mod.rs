//! SSE to SSE4.2.
//!
//! Almost every instruction is a function of one or two vectors and an immediate. The tables of the
//! files here hold these functions, which know vector registers only: an operand that is somewhere
//! else is brought into [`OPERAND`] by an operation before, and a result that belongs elsewhere
//! goes through [`RESULT`] to an operation behind.

mod integer;
mod moves;
mod shift;
mod shuffle;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(crate) use self::moves::MXCSR_BITS;
use self::moves::{from_register, load, store_part, to_register};
use super::{Done, invalid, sized};
use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::{Exception, Vector as Number},
    op::{Exec, Op},
    system::mode,
    vector::{OPERAND, RESULT, Vector},
};

/// A function of two vectors and an immediate.
pub(super) trait Function: 'static {
    fn apply(a: Vector, b: Vector, imm: u8) -> Vector;
}

/// `dst = f(dst, src, imm)`.
fn apply<F: Function>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.vectors[op.dst], core.vectors[op.src]);
    core.vectors[op.dst] = F::apply(a, b, op.imm as u8);
    Ok(())
}

/// Makes `exec`, which answers what executes an instruction, from rows of mnemonic and function.
macro_rules! functions {
    ($($mnemonic:ident($a:pat, $b:pat, $imm:pat) $result:expr;)*) => {
        pub(super) fn exec(mnemonic: iced_x86::Mnemonic) -> Option<crate::op::Exec> {
            Some(match mnemonic {
                $(iced_x86::Mnemonic::$mnemonic => {
                    struct Row;
                    impl $crate::isa::sse::Function for Row {
                        #[inline(always)]
                        fn apply($a: Vector, $b: Vector, $imm: u8) -> Vector {
                            $result
                        }
                    }
                    $crate::isa::sse::apply::<Row>
                })*
                _ => return None,
            })
        }
    };
}
use functions;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    // MOVSD and CMPSD are names of string instructions, too.
    if i.is_string_instruction() || uses(i, Register::is_mm) {
        return None;
    }
    let is_control = matches!(i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr);
    if !uses(i, Register::is_xmm) && !is_control {
        return if i.mnemonic() == Mnemonic::Movnti { moves::lower(l) } else { None };
    }
    if let Some(fault) = closed(l.mode) {
        l.push(l.bare(fault));
        return Some(());
    }
    if let Some(()) = moves::lower(l) {
        return Some(());
    }
    let mnemonic = i.mnemonic();
    let exec =
        integer::exec(mnemonic).or_else(|| shift::exec(i)).or_else(|| shuffle::exec(mnemonic))?;
    staged(l, |l, op| l.push_pure(Op { exec, ..op }, exec));
    Some(())
}

/// Whether some operand is such a register.
fn uses(i: &Instruction, such: fn(Register) -> bool) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && such(i.op_register(n)))
}

/// What an instruction is answered with that wants SSE while the system keeps it closed (Intel SDM
/// 3, tables 2-2 and 13-1).
fn closed(mode: u32) -> Option<Exec> {
    if mode & mode::EMULATE != 0 || mode & mode::FXSR == 0 {
        return Some(invalid);
    }
    (mode & mode::SWITCHED != 0).then_some(not_available)
}

/// #NM.
fn not_available(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
    Err(core.raise(Exception::new(Number::DeviceNotAvailable)))
}

/// Adds what `push` adds between what brings its source from where it is and what takes its result
/// to where it belongs.
fn staged(l: &mut Lowering<'_>, push: impl FnOnce(&mut Lowering<'_>, Op)) {
    let i = l.instruction;
    let kind = |n: u32| if n < i.op_count() { i.op_kind(n) } else { OpKind::Immediate8 };
    let is_general = |n: u32| kind(n) == OpKind::Register && i.op_register(n).is_gpr();
    let sizes = [l.size(0), if i.op_count() > 1 { l.size(1) } else { 0 }];
    let mut op = l.operands().0;
    let source = match kind(1) {
        OpKind::Memory => Some(loads(i)),
        _ if is_general(1) => Some(sized!(sizes[1], from_register)),
        _ => None,
    };
    if let Some(exec) = source {
        let before = Op { exec, dst: OPERAND, ..op };
        if kind(1) == OpKind::Memory {
            l.push(before)
        } else {
            l.push_pure(before, exec)
        }
        op.src = OPERAND;
        if i.mnemonic() == Mnemonic::Insertps && kind(1) == OpKind::Memory {
            // There is one lane to choose from (Intel SDM 2, INSERTPS).
            op.imm &= 0x3f;
        }
    }
    if kind(0) == OpKind::Memory || is_general(0) {
        push(l, Op { dst: RESULT, ..op });
        let after = Op { src: RESULT, ..op };
        if is_general(0) {
            let exec = sized!(sizes[0], to_register);
            l.push_pure(Op { exec, ..after }, exec);
        } else {
            l.push(Op { exec: sized!(sizes[0], store_part), ..after });
        }
    } else {
        push(l, op);
    }
}

/// What loads the memory operand: 16 bytes are to be aligned but for few instructions.
fn loads(i: &Instruction) -> Exec {
    let unaligned = matches!(
        i.mnemonic(),
        Mnemonic::Pcmpestri | Mnemonic::Pcmpestrm | Mnemonic::Pcmpistri | Mnemonic::Pcmpistrm
    );
    match i.memory_size().size() {
        1 => load::<u8, false>,
        2 => load::<u16, false>,
        4 => load::<u32, false>,
        8 => load::<u64, false>,
        _ if unaligned => load::<u128, false>,
        _ => load::<u128, true>,
    }
}
