//! What works values out.

use iced_x86::{Instruction, Mnemonic};

use super::{Done, indefinite, is_nan};
use crate::{
    core::{Core, World},
    fp::X87,
    op::{Exec, Op, exec},
    vector::Vector,
    x87::{C0, C1, C2, C3, ZE},
};

/// What an instruction works out, from what, and where it goes.
trait Kind: 'static {
    const OP: X87;
    /// The operands change places.
    const SWAPPED: bool;
    /// The stack is popped.
    const POPS: bool;
}

macro_rules! kinds {
    ($($mnemonic:ident $shape:ident($op:ident, $swapped:literal, $pops:literal);)*) => {
        pub(super) fn exec(i: &Instruction) -> Option<Exec> {
            Some(match i.mnemonic() {
                $(Mnemonic::$mnemonic => {
                    struct Row;
                    impl Kind for Row {
                        const OP: X87 = X87::$op;
                        const SWAPPED: bool = $swapped;
                        const POPS: bool = $pops;
                    }
                    exec!($shape::<Row>)
                })*
                Mnemonic::Fabs => exec!(sign::<true>),
                Mnemonic::Fchs => exec!(sign::<false>),
                _ => return None,
            })
        }
    };
}

kinds! {
    F2xm1 unary(Exp2Minus1, false, false);
    Fadd binary(Add, false, false);
    Faddp binary(Add, false, true);
    Fcos unary(Cos, false, false);
    Fdiv binary(Div, false, false);
    Fdivp binary(Div, false, true);
    Fdivr binary(Div, true, false);
    Fdivrp binary(Div, true, true);
    Fiadd binary(Add, false, false);
    Fidiv binary(Div, false, false);
    Fidivr binary(Div, true, false);
    Fimul binary(Mul, false, false);
    Fisub binary(Sub, false, false);
    Fisubr binary(Sub, true, false);
    Fmul binary(Mul, false, false);
    Fmulp binary(Mul, false, true);
    Fpatan top_two(Patan, false, true);
    Fprem top_two(Prem, false, false);
    Fprem1 top_two(Prem1, false, false);
    Fptan pushing(Ptan, false, false);
    Frndint unary(Round, false, false);
    Fscale top_two(Scale, false, false);
    Fsin unary(Sin, false, false);
    Fsincos pushing(SinCos, false, false);
    Fsqrt unary(Sqrt, false, false);
    Fsub binary(Sub, false, false);
    Fsubp binary(Sub, false, true);
    Fsubr binary(Sub, true, false);
    Fsubrp binary(Sub, true, true);
    Fxtract pushing(Extract, false, false);
    Fyl2x top_two(Yl2x, false, true);
    Fyl2xp1 top_two(Yl2xp1, false, true);
}

/// The condition codes that an operation says something by; C1 says whether a result was rounded
/// up.
fn codes(op: X87) -> u16 {
    match op {
        X87::Prem | X87::Prem1 => C0 | C1 | C2 | C3,
        X87::Cos | X87::Ptan | X87::Sin | X87::SinCos => C1 | C2,
        _ => C1,
    }
}

/// `dst = dst op src`.
fn binary<K: Kind>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let (b, early) = core.x87_source(op);
    let result = match (core.vectors.x87.get(op.dst), b) {
        (Some(a), Some(b)) => {
            let early = early.beside(a);
            let (a, b) = if K::SWAPPED { (b, a) } else { (a, b) };
            let answer = core.x87(K::OP, a, b);
            // Division by zero comes first.
            let early = if answer.status & ZE != 0 { 0 } else { early };
            core.vectors.x87.raise(answer.status | early).then_some(answer.result)
        }
        _ => core.vectors.x87.stack_fault(0).then(indefinite),
    };
    if let Some(result) = result {
        core.vectors.x87.set(op.dst, result);
        if K::POPS {
            core.vectors.x87.pop();
        }
    }
    Ok(())
}

/// `ST(0) = op ST(0)`.
fn unary<K: Kind>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let result = match core.vectors.x87.get(0) {
        Some(a) => {
            let answer = core.x87(K::OP, a, a);
            let written = core.vectors.x87.raise(answer.status);
            let (told, which) =
                if written { (answer.status, codes(K::OP)) } else { (0, codes(K::OP) & C2) };
            core.vectors.x87.set_codes(told, which);
            written.then_some(answer.result)
        }
        None => {
            core.vectors.x87.set_codes(0, codes(K::OP) & C2);
            core.vectors.x87.stack_fault(0).then(indefinite)
        }
    };
    if let Some(result) = result {
        core.vectors.x87.set(0, result);
    }
    Ok(())
}

/// ST(0) and ST(1) to the top of the stack, as it is afterwards.
fn top_two<K: Kind>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &core.vectors.x87;
    let result = match (x87.get(0), x87.get(1)) {
        (Some(a), Some(b)) => {
            let answer = core.x87(K::OP, a, b);
            let written = core.vectors.x87.raise(answer.status);
            // There is no quotient to tell of if the result is no number.
            let quotient = if is_nan(answer.result) { C0 | C3 } else { 0 };
            // Nor if there is no result; then only what tells of a part of one is cleared.
            let (told, which) = if written {
                (answer.status, codes(K::OP) & !quotient)
            } else {
                (0, codes(K::OP) & C2)
            };
            core.vectors.x87.set_codes(told, which);
            written.then_some(answer.result)
        }
        _ => {
            core.vectors.x87.set_codes(0, codes(K::OP) & C2);
            core.vectors.x87.stack_fault(0).then(indefinite)
        }
    };
    if let Some(result) = result {
        if K::POPS {
            core.vectors.x87.pop();
        }
        core.vectors.x87.set(0, result);
    }
    Ok(())
}

/// Two results for ST(0).
fn pushing<K: Kind>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    core.begin_x87(op)?;
    let x87 = &core.vectors.x87;
    let results = match (x87.get(0), x87.get(7)) {
        (Some(a), None) => {
            let answer = core.x87(K::OP, a, a);
            let x87 = &mut core.vectors.x87;
            let written = x87.raise(answer.status);
            x87.set_codes(answer.status, codes(K::OP) & C2);
            // Too large an operand stays, and the program has to reduce it.
            let stays = answer.status & codes(K::OP) & C2 != 0;
            (written && !stays).then_some([answer.second, answer.result])
        }
        (a, _) => {
            core.vectors.x87.set_codes(0, codes(K::OP) & C2);
            let overflow = if a.is_some() { C1 } else { 0 };
            core.vectors.x87.stack_fault(overflow).then(|| [indefinite(); 2])
        }
    };
    if let Some([below, top]) = results {
        core.vectors.x87.set(0, below);
        core.vectors.x87.rotate(7);
        core.vectors.x87.set(0, top);
    }
    Ok(())
}

/// FABS and FCHS.
fn sign<const CLEAR: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    const SIGN: u128 = 1 << 79;
    core.begin_x87(op)?;
    let x87 = &mut core.vectors.x87;
    let value = match x87.get(0) {
        Some(value) => {
            x87.set_codes(0, C1);
            let bits: u128 = value.low();
            Vector::of(if CLEAR { bits & !SIGN } else { bits ^ SIGN })
        }
        None if x87.stack_fault(0) => indefinite(),
        None => return Ok(()),
    };
    x87.set(0, value);
    Ok(())
}
