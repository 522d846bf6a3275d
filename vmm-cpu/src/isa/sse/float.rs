//! Floating-point arithmetic, comparison and conversion.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::Done;
use crate::{
    core::{Core, World},
    exception::{Exception, Vector as Number},
    fp::{
        Bits, MASKS, ROUNDING, ROUNDING_AT, Relation, Sse, compare, extreme, flag, lanes, quick,
        round, sse,
    },
    op::{Exec, Op, Stop, exec},
    system::CR4_OSXMMEXCPT,
    vector::{Lane, Vector},
};

/// A function of two vectors, an immediate and MXCSR, and the flags that it raises.
trait Arithmetic: 'static {
    fn apply(a: Vector, b: Vector, imm: u8, mxcsr: u32) -> (Vector, u32);
}

fn apply<A: Arithmetic>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (core.vectors[op.dst], core.vectors[op.src]);
    let (result, raised) = A::apply(a, b, op.imm as u8, core.vectors.mxcsr);
    core.settle(raised)?;
    core.vectors[op.dst] = result;
    Ok(())
}

impl Core {
    /// Notes the flags that an operation has raised; #XM if one of them is not masked.
    #[inline(always)]
    fn settle(&mut self, raised: u32) -> Result<(), Stop> {
        let mxcsr = self.vectors.mxcsr;
        if raised & !(mxcsr >> MASKS) != 0 {
            return Err(self.unmasked(raised));
        }
        self.vectors.mxcsr = mxcsr | raised;
        Ok(())
    }

    #[cold]
    fn unmasked(&mut self, raised: u32) -> Stop {
        // What is wrong with operands comes before there is a result (Intel SDM 1-11.5.2).
        const OPERANDS: u32 = flag::IE | flag::DE | flag::ZE;
        let early = raised & OPERANDS & !(self.vectors.mxcsr >> MASKS) != 0;
        self.vectors.mxcsr |= if early { raised & OPERANDS } else { raised };
        if self.system.cr4 & CR4_OSXMMEXCPT == 0 {
            return self.invalid_opcode();
        }
        self.raise(Exception::new(Number::Simd))
    }
}

/// One operation of the unit.
trait Direct: 'static {
    const OPERATION: Sse;
}

fn direct<D: Direct>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let (a, b) = (&core.vectors[op.dst], &core.vectors[op.src]);
    match quick(D::OPERATION, *a, *b, core.vectors.mxcsr) {
        Some(result) => core.vectors[op.dst] = result,
        None => return exactly(core, op, D::OPERATION),
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn exactly(core: &mut Core, op: &Op, operation: Sse) -> Done {
    let (a, b) = (core.vectors[op.dst], core.vectors[op.src]);
    let (result, raised) = sse(operation, a, b, core.vectors.mxcsr);
    core.settle(raised)?;
    core.vectors[op.dst] = result;
    Ok(())
}

macro_rules! direct {
    ($exec:ident: $($mnemonic:ident $operation:ident;)*) => {
        fn $exec(mnemonic: Mnemonic) -> Option<Exec> {
            Some(match mnemonic {
                $(Mnemonic::$mnemonic => {
                    struct Row;
                    impl Direct for Row {
                        const OPERATION: Sse = Sse::$operation;
                    }
                    exec!(direct::<Row>)
                })*
                _ => return None,
            })
        }
    };
}

macro_rules! arithmetic {
    ($exec:ident: $($mnemonic:ident($a:pat, $b:pat, $imm:pat, $m:pat) $result:expr;)*) => {
        fn $exec(mnemonic: Mnemonic) -> Option<Exec> {
            Some(match mnemonic {
                $(Mnemonic::$mnemonic => {
                    struct Row;
                    impl Arithmetic for Row {
                        #[inline(always)]
                        fn apply($a: Vector, $b: Vector, $imm: u8, $m: u32) -> (Vector, u32) {
                            $result
                        }
                    }
                    exec!(apply::<Row>)
                })*
                _ => return None,
            })
        }
    };
}

/// What executes an instruction; conversions from and to integers by how long these are.
pub(super) fn exec(i: &Instruction) -> Option<Exec> {
    let wide = i.op_kind(0) == OpKind::Register && i.op_register(0).is_gpr64() || from_quadword(i);
    match i.mnemonic() {
        Mnemonic::Dppd => Some(exec!(dppd)),
        Mnemonic::Dpps => Some(exec!(dpps)),
        mnemonic => {
            let exec = if wide { wide_exec(mnemonic) } else { None };
            exec.or_else(|| direct_exec(mnemonic)).or_else(|| composed_exec(mnemonic))
        }
    }
}

/// Whether an integer that is converted has 64 bits.
fn from_quadword(i: &Instruction) -> bool {
    matches!(i.code(), Code::Cvtsi2sd_xmm_rm64 | Code::Cvtsi2ss_xmm_rm64)
}

direct! { wide_exec:
    Cvtsd2si CvtSd2SiQ;
    Cvtsi2sd CvtSi2SdQ;
    Cvtsi2ss CvtSi2SsQ;
    Cvtss2si CvtSs2SiQ;
    Cvttsd2si CvttSd2SiQ;
    Cvttss2si CvttSs2SiQ;
}

direct! { direct_exec:
    Addpd AddPd;
    Addps AddPs;
    Addsd AddSd;
    Addss AddSs;
    Cvtdq2ps CvtDq2Ps;
    Cvtpd2dq CvtPd2Dq;
    Cvtpd2ps CvtPd2Ps;
    Cvtpd2pi CvtPd2Dq;
    Cvttpd2pi CvttPd2Dq;
    Cvtps2dq CvtPs2Dq;
    Cvtps2pd CvtPs2Pd;
    Cvtsd2si CvtSd2Si;
    Cvtsd2ss CvtSd2Ss;
    Cvtsi2ss CvtSi2Ss;
    Cvtss2sd CvtSs2Sd;
    Cvtss2si CvtSs2Si;
    Cvttpd2dq CvttPd2Dq;
    Cvttps2dq CvttPs2Dq;
    Cvttsd2si CvttSd2Si;
    Cvttss2si CvttSs2Si;
    Divpd DivPd;
    Divps DivPs;
    Divsd DivSd;
    Divss DivSs;
    Mulpd MulPd;
    Mulps MulPs;
    Mulsd MulSd;
    Mulss MulSs;
    Sqrtpd SqrtPd;
    Sqrtps SqrtPs;
    Sqrtsd SqrtSd;
    Sqrtss SqrtSs;
    Subpd SubPd;
    Subps SubPs;
    Subsd SubSd;
    Subss SubSs;
}

arithmetic! { composed_exec:
    Addsubpd(a, b, _, m) alternate::<u64>(a, b, m, Sse::SubPd, Sse::AddPd);
    Addsubps(a, b, _, m) alternate::<u32>(a, b, m, Sse::SubPs, Sse::AddPs);
    Cmppd(a, b, imm, m) lanes(a, b, |a, b| truth::<u64>(a, b, imm, m));
    Cmpps(a, b, imm, m) lanes(a, b, |a, b| truth::<u32>(a, b, imm, m));
    Cmpsd(a, b, imm, m) low(a, b, |a, b| truth::<u64>(a, b, imm, m));
    Cmpss(a, b, imm, m) low(a, b, |a, b| truth::<u32>(a, b, imm, m));
    Cvtdq2pd(_, b, _, _) (f64::each(|i| f64::from(i32::lanes(b)[i])), 0);
    Cvtpi2pd(_, b, _, _) (f64::each(|i| f64::from(i32::lanes(b)[i])), 0);
    Cvtpi2ps(a, b, _, m) half(a, sse(Sse::CvtDq2Ps, a, low_half(b), m));
    Cvtps2pi(_, b, _, m) half(Vector::default(), sse(Sse::CvtPs2Dq, b, low_half(b), m));
    Cvttps2pi(_, b, _, m) half(Vector::default(), sse(Sse::CvttPs2Dq, b, low_half(b), m));
    Cvtsi2sd(a, b, _, _) low(a, Vector::of(f64::from(i32::lanes(b)[0]).to_bits()), |_: u64, b| (b, 0));
    Haddpd(a, b, _, m) neighbours::<u64>(a, b, m, Sse::AddPd);
    Haddps(a, b, _, m) neighbours::<u32>(a, b, m, Sse::AddPs);
    Hsubpd(a, b, _, m) neighbours::<u64>(a, b, m, Sse::SubPd);
    Hsubps(a, b, _, m) neighbours::<u32>(a, b, m, Sse::SubPs);
    Maxpd(a, b, _, m) lanes(a, b, |a, b| extreme::<u64>(a, b, Relation::Greater, m));
    Maxps(a, b, _, m) lanes(a, b, |a, b| extreme::<u32>(a, b, Relation::Greater, m));
    Maxsd(a, b, _, m) low(a, b, |a, b| extreme::<u64>(a, b, Relation::Greater, m));
    Maxss(a, b, _, m) low(a, b, |a, b| extreme::<u32>(a, b, Relation::Greater, m));
    Minpd(a, b, _, m) lanes(a, b, |a, b| extreme::<u64>(a, b, Relation::Less, m));
    Minps(a, b, _, m) lanes(a, b, |a, b| extreme::<u32>(a, b, Relation::Less, m));
    Minsd(a, b, _, m) low(a, b, |a, b| extreme::<u64>(a, b, Relation::Less, m));
    Minss(a, b, _, m) low(a, b, |a, b| extreme::<u32>(a, b, Relation::Less, m));
    Rcpps(a, b, _, m) (sse(Sse::RcpPs, a, b, m).0, 0);
    Rcpss(a, b, _, m) (sse(Sse::RcpSs, a, b, m).0, 0);
    Roundpd(a, b, imm, m) lanes(a, b, |_, b| rounded::<u64>(b, imm, m));
    Roundps(a, b, imm, m) lanes(a, b, |_, b| rounded::<u32>(b, imm, m));
    Roundsd(a, b, imm, m) low(a, b, |_, b| rounded::<u64>(b, imm, m));
    Roundss(a, b, imm, m) low(a, b, |_, b| rounded::<u32>(b, imm, m));
    Rsqrtps(a, b, _, m) (sse(Sse::RsqrtPs, a, b, m).0, 0);
    Rsqrtss(a, b, _, m) (sse(Sse::RsqrtSs, a, b, m).0, 0);
}

/// The lowest lane by `f`, the others from `a`.
#[inline(always)]
fn low<L: Lane>(a: Vector, b: Vector, f: impl Fn(L, L) -> (L, u32)) -> (Vector, u32) {
    let mut lanes = L::lanes(a);
    let (result, raised) = f(lanes.as_ref()[0], L::lanes(b).as_ref()[0]);
    lanes.as_mut()[0] = result;
    (L::vector(lanes), raised)
}

#[inline(always)]
fn low_half(a: Vector) -> Vector {
    Vector::of(a.low::<u64>())
}

/// The low half of a result, the high one from `a`.
#[inline(always)]
fn half(a: Vector, (result, raised): (Vector, u32)) -> (Vector, u32) {
    (u64::vector([result.low(), u64::lanes(a)[1]]), raised)
}

/// CMPccxx: all ones where the predicate holds (Intel SDM 2, table 3-1).
#[inline(always)]
fn truth<B: Bits>(a: B, b: B, imm: u8, mxcsr: u32) -> (B, u32) {
    let (relation, raised) = compare(a, b, matches!(imm & 3, 1 | 2), mxcsr);
    let holds = match imm & 3 {
        0 => relation == Relation::Equal,
        1 => relation == Relation::Less,
        2 => matches!(relation, Relation::Less | Relation::Equal),
        _ => relation == Relation::Unordered,
    };
    (B::from_bits(if holds == (imm & 4 == 0) { u64::MAX } else { 0 }), raised)
}

/// One operation in lanes 0, 2, another in lanes 1, 3; what a lane does not want is zero.
fn alternate<L: Lane>(a: Vector, b: Vector, mxcsr: u32, even: Sse, odd: Sse) -> (Vector, u32) {
    let part = |v: Vector, odd: usize| {
        let lanes = L::lanes(v);
        L::each(|i| if i & 1 == odd { lanes.as_ref()[i] } else { L::default() })
    };
    let (low, raised) = sse(even, part(a, 0), part(b, 0), mxcsr);
    let (high, more) = sse(odd, part(a, 1), part(b, 1), mxcsr);
    let (low, high) = (L::lanes(low), L::lanes(high));
    let each = |i: usize| if i & 1 == 0 { low.as_ref()[i] } else { high.as_ref()[i] };
    (L::each(each), raised | more)
}

/// Each lane with its neighbour: first those of `a`, then those of `b`.
fn neighbours<L: Lane>(a: Vector, b: Vector, mxcsr: u32, op: Sse) -> (Vector, u32) {
    let (a, b) = (L::lanes(a), L::lanes(b));
    let half = a.as_ref().len() / 2;
    let each = |odd: usize| {
        L::each(|i| {
            let (from, i) = if i < half { (&a, i) } else { (&b, i - half) };
            from.as_ref()[2 * i + odd]
        })
    };
    sse(op, each(0), each(1), mxcsr)
}

fn dppd(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    dot_product::<u64>(core, op, Sse::MulPd, Sse::AddPd)
}

fn dpps(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    dot_product::<u32>(core, op, Sse::MulPs, Sse::AddPs)
}

/// Intel SDM 2, DPPS: products of the lanes that the upper half of the immediate chooses, summed
/// two and two, to the lanes that its lower half chooses. Each step has its own exceptions: one that
/// is not masked keeps the next from happening.
fn dot_product<L: Lane>(core: &mut Core, op: &Op, mul: Sse, add: Sse) -> Done {
    let chosen = |vector: Vector, by: u64| {
        let lanes = L::lanes(vector);
        L::each(|i| if by >> i & 1 != 0 { lanes.as_ref()[i] } else { L::default() })
    };
    let [a, b] = [op.dst, op.src].map(|field| chosen(core.vectors[field], op.imm >> 4));
    let (mut sum, raised) = sse(mul, a, b, core.vectors.mxcsr);
    core.settle(raised)?;
    for _ in 0..L::lanes(sum).as_ref().len().ilog2() {
        let (halved, raised) = neighbours::<L>(sum, sum, core.vectors.mxcsr, add);
        core.settle(raised)?;
        sum = halved;
    }
    core.vectors[op.dst] = chosen(sum, op.imm);
    Ok(())
}

/// ROUNDxx: the immediate says how, or that MXCSR does, and whether to tell if it was inexact.
#[inline(always)]
fn rounded<B: Bits>(value: B, imm: u8, mxcsr: u32) -> (B, u32) {
    let own = mxcsr & !ROUNDING | u32::from(imm & 3) << ROUNDING_AT;
    let (result, raised) = round(value, if imm & 4 == 0 { own } else { mxcsr });
    (result, if imm & 8 == 0 { raised } else { raised & !flag::PE })
}

/// COMISx and UCOMISx.
pub(super) fn comparison(mnemonic: Mnemonic) -> Option<Exec> {
    Some(match mnemonic {
        Mnemonic::Comisd => exec!(comis::<u64, true>),
        Mnemonic::Comiss => exec!(comis::<u32, true>),
        Mnemonic::Ucomisd => exec!(comis::<u64, false>),
        Mnemonic::Ucomiss => exec!(comis::<u32, false>),
        _ => return None,
    })
}

fn comis<B: Bits, const SIGNALS: bool>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let lane = |v: Vector| B::lanes(v).as_ref()[0];
    let (a, b) = (lane(core.vectors[op.dst]), lane(core.vectors[op.src]));
    let (relation, raised) = compare(a, b, SIGNALS, core.vectors.mxcsr);
    core.settle(raised)?;
    core.flags.set(relation.flags());
    Ok(())
}
