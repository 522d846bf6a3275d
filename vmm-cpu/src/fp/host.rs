//! Floating point by the host's own unit, under the guest's control word.
#![expect(unsafe_code, reason = "no stable API reaches the host's MXCSR and x87 control word")]

use std::arch::asm;

use super::{Answer, DAZ, FTZ, MASKS, ROUNDING, Sse, Unit, X87, flag};
use crate::vector::Vector;

/// The processor this runs on.
#[derive(Debug)]
pub(crate) struct Host;

impl Unit for Host {
    #[inline(always)]
    fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
        sse(op, a, b, mxcsr)
    }

    fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer {
        x87(op, a, b, control)
    }
}

/// Rows of operation and instructions, on `{a}` and `{b}`, by way of `{r}`.
macro_rules! instructions {
    ($($op:ident $($text:literal),+;)*) => {
        #[inline(always)]
        fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
                let mut result = a;
                let mut status = mxcsr & (DAZ | ROUNDING | FTZ) | flag::ALL << MASKS;
                let mut host = 0u32;
                match op {
                    // SAFETY: reads and writes the four variables that it is given the addresses
                    // of, vectors aligned as their type is; all exceptions are masked while it
                    // computes, and MXCSR is what it was when it is done.
                    $(Sse::$op => unsafe {
                        asm!(
                            "stmxcsr [{host}]",
                            "ldmxcsr [{status}]",
                            "movaps {a}, [{result}]",
                            "movaps {b}, [{source}]",
                            $($text,)+
                            "movaps [{result}], {a}",
                            "stmxcsr [{status}]",
                            "ldmxcsr [{host}]",
                            "/* {r} */",
                            a = out(xmm_reg) _,
                            b = out(xmm_reg) _,
                            r = out(reg) _,
                            result = in(reg) &mut result,
                            source = in(reg) &b,
                            status = in(reg) &mut status,
                            host = in(reg) &mut host,
                            options(nostack, preserves_flags),
                        );
                    },)*
                }
                (result, status & flag::ALL)
        }
    };
}

instructions! {
    AddPd "addpd {a}, {b}";
    AddPs "addps {a}, {b}";
    AddSd "addsd {a}, {b}";
    AddSs "addss {a}, {b}";
    CvtDq2Ps "cvtdq2ps {a}, {b}";
    CvtPd2Dq "cvtpd2dq {a}, {b}";
    CvtPd2Ps "cvtpd2ps {a}, {b}";
    CvtPs2Dq "cvtps2dq {a}, {b}";
    CvtPs2Pd "cvtps2pd {a}, {b}";
    CvtSd2Si "cvtsd2si {r:e}, {b}", "movd {a}, {r:e}";
    CvtSd2SiQ "cvtsd2si {r}, {b}", "movq {a}, {r}";
    CvtSd2Ss "cvtsd2ss {a}, {b}";
    CvtSi2SdQ "movq {r}, {b}", "cvtsi2sd {a}, {r}";
    CvtSi2Ss "movd {r:e}, {b}", "cvtsi2ss {a}, {r:e}";
    CvtSi2SsQ "movq {r}, {b}", "cvtsi2ss {a}, {r}";
    CvtSs2Sd "cvtss2sd {a}, {b}";
    CvtSs2Si "cvtss2si {r:e}, {b}", "movd {a}, {r:e}";
    CvtSs2SiQ "cvtss2si {r}, {b}", "movq {a}, {r}";
    CvttPd2Dq "cvttpd2dq {a}, {b}";
    CvttPs2Dq "cvttps2dq {a}, {b}";
    CvttSd2Si "cvttsd2si {r:e}, {b}", "movd {a}, {r:e}";
    CvttSd2SiQ "cvttsd2si {r}, {b}", "movq {a}, {r}";
    CvttSs2Si "cvttss2si {r:e}, {b}", "movd {a}, {r:e}";
    CvttSs2SiQ "cvttss2si {r}, {b}", "movq {a}, {r}";
    DivPd "divpd {a}, {b}";
    DivPs "divps {a}, {b}";
    DivSd "divsd {a}, {b}";
    DivSs "divss {a}, {b}";
    MulPd "mulpd {a}, {b}";
    MulPs "mulps {a}, {b}";
    MulSd "mulsd {a}, {b}";
    MulSs "mulss {a}, {b}";
    RcpPs "rcpps {a}, {b}";
    RcpSs "rcpss {a}, {b}";
    RsqrtPs "rsqrtps {a}, {b}";
    RsqrtSs "rsqrtss {a}, {b}";
    SqrtPd "sqrtpd {a}, {b}";
    SqrtPs "sqrtps {a}, {b}";
    SqrtSd "sqrtsd {a}, {b}";
    SqrtSs "sqrtss {a}, {b}";
    SubPd "subpd {a}, {b}";
    SubPs "subps {a}, {b}";
    SubSd "subsd {a}, {b}";
    SubSs "subss {a}, {b}";
}

/// Overflow and underflow: unless they are masked they have a result of their own.
const RESULTS: u32 = flag::OE | flag::UE;

/// Rows of operation and instructions, which find their operands at `{a}` and `{b}`, leave the
/// register stack empty, clear exceptions as soon as they have the status word, and store results at `{result}` and `{second}`.
macro_rules! stack_instructions {
    ($($op:ident $($text:literal),+;)*) => {
        fn x87(op: X87, a: Vector, b: Vector, control: u16) -> Answer {
            let mut answer = Answer::default();
            let control = control | (flag::ALL & !RESULTS) as u16;
            let mut host = 0u16;
            match op {
                // SAFETY: reads and writes the variables that it is given the addresses of; the
                // register stack is empty before (the calling convention wants that) and after;
                // an exception that is not masked waits for the next instruction that looks for one,
                // and FNCLEX is before that; the control word is what it was when it is done.
                $(X87::$op => unsafe {
                    asm!(
                        "fnstcw word ptr [{host}]",
                        "fnclex",
                        "fldcw word ptr [{control}]",
                        $($text,)+
                        "fldcw word ptr [{host}]",
                        "/* {a} {b} {second} */",
                        a = in(reg) &a,
                        b = in(reg) &b,
                        result = in(reg) &mut answer.result,
                        second = in(reg) &mut answer.second,
                        status = in(reg) &mut answer.status,
                        control = in(reg) &control,
                        host = in(reg) &mut host,
                        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                        options(nostack, preserves_flags),
                    );
                },)*
            }
            answer
        }
    };
}

stack_instructions! {
    Add "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fadd st(0), st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Compare "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fcom st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Cos "fld tbyte ptr [{a}]", "fcos", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Div "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fdiv st(0), st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Exp2Minus1 "fld tbyte ptr [{a}]", "f2xm1", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Extract "fld tbyte ptr [{a}]", "fxtract", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp tbyte ptr [{second}]";
    FromBcd "fbld tbyte ptr [{a}]", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    FromF32 "fld dword ptr [{a}]", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    FromF64 "fld qword ptr [{a}]", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    FromI64 "fild qword ptr [{a}]", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    L2e "fldl2e", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    L2t "fldl2t", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Lg2 "fldlg2", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Ln2 "fldln2", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Mul "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fmul st(0), st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Patan "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fpatan", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Pi "fldpi", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Prem "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fprem", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Prem1 "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fprem1", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Ptan "fld tbyte ptr [{a}]", "fptan", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp tbyte ptr [{second}]";
    Round "fld tbyte ptr [{a}]", "frndint", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Scale "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fscale", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Sin "fld tbyte ptr [{a}]", "fsin", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    SinCos "fld tbyte ptr [{a}]", "fsincos", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp tbyte ptr [{second}]";
    Sqrt "fld tbyte ptr [{a}]", "fsqrt", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Sub "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fsub st(0), st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    ToBcd "fld tbyte ptr [{a}]", "fbstp tbyte ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex";
    ToF32 "fld tbyte ptr [{a}]", "fst dword ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex", "fstp st(0)";
    ToF64 "fld tbyte ptr [{a}]", "fst qword ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex", "fstp st(0)";
    ToI16 "fld tbyte ptr [{a}]", "fistp word ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex";
    ToI32 "fld tbyte ptr [{a}]", "fistp dword ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex";
    ToI64 "fld tbyte ptr [{a}]", "fistp qword ptr [{result}]", "fnstsw word ptr [{status}]", "fnclex";
    UnorderedCompare "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fucom st(1)", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]", "fstp st(0)";
    Yl2x "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fyl2x", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
    Yl2xp1 "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fyl2xp1", "fnstsw word ptr [{status}]", "fnclex", "fstp tbyte ptr [{result}]";
}
