//! Floating point by the host's own unit, under the guest's control word.
#![expect(unsafe_code, reason = "no stable API reaches the host's MXCSR and x87 control word")]

use std::arch::asm;

use super::{MASKS, Sse, Unit, flag};
use crate::vector::Vector;

/// The processor this runs on.
#[derive(Debug)]
pub(crate) struct Host;

/// Rows of operation and instructions, on `{a}` and `{b}`, by way of `{r}`.
macro_rules! instructions {
    ($($op:ident $($text:literal),+;)*) => {
        impl Unit for Host {
            #[inline(always)]
            fn sse(op: Sse, a: Vector, b: Vector, mxcsr: u32) -> (Vector, u32) {
                let mut result = a;
                let mut status = mxcsr & !flag::ALL | flag::ALL << MASKS;
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
    RoundPd "roundpd {a}, {b}, 4";
    RoundPs "roundps {a}, {b}, 4";
    RoundSd "roundsd {a}, {b}, 4";
    RoundSs "roundss {a}, {b}, 4";
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
