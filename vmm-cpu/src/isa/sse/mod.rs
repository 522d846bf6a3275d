//! SSE to SSE4.2, AES, and MMX.
//!
//! Almost every instruction is a function of one or two vectors and an immediate. The tables of the
//! files here hold these functions, which know vector registers only: an operand that is somewhere
//! else is brought into [`OPERAND`] by an operation before, and a result that belongs elsewhere
//! goes through [`RESULT`] to an operation behind.

mod cipher;
mod float;
mod integer;
mod mmx;
mod moves;
mod select;
mod shift;
mod shuffle;
mod string;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(crate) use self::moves::MXCSR_BITS;
pub(super) use self::moves::{NEVER, load};
use self::moves::{UNLESS_MASKED, from_register, load_whole, store_part, to_register};
use super::{Done, invalid, sized};
use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::{Exception, Vector as Number},
    op::{Exec, Op, exec},
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
                    $crate::op::exec!($crate::isa::sse::apply::<Row>)
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
    if i.is_string_instruction() {
        return None;
    }
    if uses(i, Register::is_mm) {
        return mmx::lower(l);
    }
    if !uses(i, Register::is_xmm) && !is_implied(i.mnemonic()) {
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
    if let Some(exec) = float::exec(i).or_else(|| float::comparison(mnemonic)) {
        staged(l, |l, op| l.push(Op { exec, ..op }));
        return Some(());
    }
    let plain = integer::exec(mnemonic)
        .or_else(|| shift::exec(i))
        .or_else(|| shuffle::exec(mnemonic))
        .or_else(|| cipher::exec(mnemonic))
        .or_else(|| string::exec(i));
    let [exec, lean] = plain.map(|exec| [exec; 2]).or_else(|| select::exec(mnemonic))?;
    staged(l, |l, op| l.push_pure(Op { exec, ..op }, lean));
    Some(())
}

/// The instructions of SSE that need not name a vector register.
fn is_implied(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cvtsd2si
            | Mnemonic::Cvtss2si
            | Mnemonic::Cvttsd2si
            | Mnemonic::Cvttss2si
            | Mnemonic::Ldmxcsr
            | Mnemonic::Stmxcsr
    )
}

/// Whether some operand is such a register.
fn uses(i: &Instruction, such: fn(Register) -> bool) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && such(i.op_register(n)))
}

/// What an instruction is answered with that wants SSE while the system keeps it closed (Intel SDM
/// 3, tables 2-2 and 13-1).
fn closed(mode: u32) -> Option<Exec> {
    if mode & mode::EMULATE != 0 || mode & mode::FXSR == 0 {
        return Some(exec!(invalid));
    }
    (mode & mode::SWITCHED != 0).then_some(exec!(not_available))
}

/// #NM.
pub(super) fn not_available(core: &mut Core, _: &Op, _: &World<'_>) -> Done {
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
            l.push(before);
        } else {
            l.push_pure(before, exec);
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
        Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
    );
    match i.memory_size().size() {
        1 => exec!(load::<u8, NEVER>),
        2 => exec!(load::<u16, NEVER>),
        4 => exec!(load::<u32, NEVER>),
        8 => exec!(load::<u64, NEVER>),
        _ if unaligned => exec!(load_whole::<NEVER>),
        _ if uses_low_half(i.mnemonic()) => exec!(load::<u64, UNLESS_MASKED>),
        _ => exec!(load_whole::<UNLESS_MASKED>),
    }
}

/// Those of which AMD's processors load no more of 16 bytes than they need, which shows where the
/// other half is not there.
fn uses_low_half(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Pslld
            | Mnemonic::Psllq
            | Mnemonic::Psllw
            | Mnemonic::Psrad
            | Mnemonic::Psraw
            | Mnemonic::Psrld
            | Mnemonic::Psrlq
            | Mnemonic::Psrlw
            | Mnemonic::Punpcklbw
            | Mnemonic::Punpckldq
            | Mnemonic::Punpcklqdq
            | Mnemonic::Punpcklwd
            | Mnemonic::Unpcklpd
            | Mnemonic::Unpcklps
    )
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;

    use crate::{
        Cpu, Flat,
        fp::{MASKS, flag},
        system::{CR0_EM, CR0_TS},
        testing::{CODE, DATA, HANDLERS, Nobody, machine, stack, system},
        vector::Vector,
    };

    /// Executes one instruction on a machine that `prepare` has changed.
    fn step(
        write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
        prepare: impl FnOnce(&mut Cpu),
    ) -> (Cpu, Flat) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        write(&mut assembler).unwrap();
        let (mut cpu, ram) = machine(&assembler.assemble(CODE).unwrap());
        system(&mut cpu, &ram);
        cpu.core.regs[3] = DATA;
        prepare(&mut cpu);
        cpu.step(&ram, &Nobody);
        (cpu, ram)
    }

    /// The exception that has just been delivered.
    fn vector(cpu: &Cpu) -> Option<u64> {
        cpu.core.rip.checked_sub(HANDLERS).map(|at| at / 16).filter(|vector| *vector < 32)
    }

    #[test]
    fn operands_of_16_bytes_are_aligned_or_general_protection() {
        let (cpu, ram) = step(|a| a.paddb(xmm0, xmmword_ptr(rbx + 8)), |_| {});
        assert_eq!(vector(&cpu), Some(13));
        assert_eq!(stack::<2>(&cpu, &ram), [0, CODE]);
        assert_eq!(vector(&step(|a| a.movups(xmm0, xmmword_ptr(rbx + 8)), |_| {}).0), None);
        assert_eq!(vector(&step(|a| a.movaps(xmmword_ptr(rbx + 8), xmm0), |_| {}).0), Some(13));
    }

    #[test]
    fn misaligned_operands_can_be_allowed_but_not_those_of_moves() {
        let allow = |cpu: &mut Cpu| cpu.core.vectors.mxcsr |= 1 << 17;
        assert_eq!(vector(&step(|a| a.paddb(xmm0, xmmword_ptr(rbx + 8)), allow).0), None);
        assert_eq!(vector(&step(|a| a.movdqa(xmm0, xmmword_ptr(rbx + 8)), allow).0), Some(13));
        // Arithmetic is the host's, which may not have the bit.
        assert_eq!(vector(&step(|a| a.divps(xmm0, xmmword_ptr(rbx + 8)), allow).0), None);
    }

    #[test]
    fn the_system_can_keep_sse_closed() {
        let closed = |change: fn(&mut Cpu)| {
            let (cpu, _) = step(
                |a| a.xorps(xmm0, xmm0),
                |cpu| {
                    change(cpu);
                    cpu.core.refresh_mode();
                },
            );
            vector(&cpu)
        };
        assert_eq!(closed(|_| {}), None);
        assert_eq!(closed(|cpu| cpu.core.system.cr0 |= CR0_TS), Some(7));
        assert_eq!(closed(|cpu| cpu.core.system.cr0 |= CR0_EM | CR0_TS), Some(6));
        assert_eq!(closed(|cpu| cpu.core.system.cr4 = 1 << 5), Some(6));
    }

    #[test]
    fn an_unmasked_exception_leaves_the_result_alone() {
        let one = Vector::of(1f64.to_bits());
        let divide = |unmasked: u32| {
            step(
                |a| a.divsd(xmm0, xmm1),
                |cpu| {
                    cpu.core.vectors.mxcsr &= !(unmasked << MASKS);
                    cpu.core.vectors[0] = one;
                },
            )
            .0
        };
        let cpu = divide(flag::ZE);
        assert_eq!(vector(&cpu), Some(19));
        assert_eq!(cpu.core.vectors[0], one);
        assert_eq!(cpu.core.vectors.mxcsr & flag::ALL, flag::ZE);
        let cpu = divide(flag::IE);
        assert_eq!(vector(&cpu), None);
        assert_eq!(cpu.core.vectors[0], Vector::of(f64::INFINITY.to_bits()));
    }

    #[test]
    fn reserved_bits_of_mxcsr_are_general_protection() {
        let (mut cpu, ram) = step(|a| a.ldmxcsr(dword_ptr(rbx)), |_| {});
        assert_eq!(vector(&cpu), None);
        assert_eq!(cpu.core.vectors.mxcsr, 0);
        ram.write(DATA, &0x1_0000_u32.to_le_bytes());
        cpu.core.rip = CODE;
        cpu.step(&ram, &Nobody);
        assert_eq!(vector(&cpu), Some(13));
    }

    #[test]
    fn a_masked_store_touches_only_what_is_chosen() {
        let (_, ram) = step(
            |a| a.maskmovdqu(xmm0, xmm1),
            |cpu| {
                cpu.core.regs[7] = DATA;
                cpu.core.vectors[0] = Vector::of(0x4433_2211_u32);
                cpu.core.vectors[1] = Vector::of(0x80_ff_7f_00_u32);
            },
        );
        let mut bytes = [0; 4];
        ram.read(DATA, &mut bytes);
        assert_eq!(bytes, [0, 0, 0x33, 0x44]);
    }
}
