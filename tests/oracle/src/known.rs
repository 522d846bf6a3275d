//! Codes that are known to come out differently in rare cases, and why.
//!
//! The tests leave them out and say so; the program runs them. A code is taken off as soon as it
//! comes out alike.

use iced_x86::Code;

/// A cause, and the codes that it is in.
pub type Cause = (&'static str, &'static [Code]);

/// Sorted by cause, then by the code's name.
pub const KNOWN: &[Cause] = &[
    ("MASKMOVQ sets TOP to 0 before its fault", &[Code::Maskmovq_rDI_mm_mm]),
    (
        "MXCSR.MM, which only AMD's processors have",
        &[Code::Fxrstor64_m512byte, Code::Fxrstor_m512byte],
    ),
    (
        "SSE: an overflow or underflow that is not masked",
        &[
            Code::Addpd_xmm_xmmm128,
            Code::Addps_xmm_xmmm128,
            Code::Addsd_xmm_xmmm64,
            Code::Addss_xmm_xmmm32,
            Code::Addsubpd_xmm_xmmm128,
            Code::Addsubps_xmm_xmmm128,
            Code::Cvtpd2pi_mm_xmmm128,
            Code::Cvtpd2ps_xmm_xmmm128,
            Code::Cvtpi2ps_xmm_mmm64,
            Code::Cvtps2pi_mm_xmmm64,
            Code::Cvtsd2ss_xmm_xmmm64,
            Code::Cvttpd2pi_mm_xmmm128,
            Code::Cvttps2pi_mm_xmmm64,
            Code::Divpd_xmm_xmmm128,
            Code::Divps_xmm_xmmm128,
            Code::Divsd_xmm_xmmm64,
            Code::Divss_xmm_xmmm32,
            Code::Dppd_xmm_xmmm128_imm8,
            Code::Dpps_xmm_xmmm128_imm8,
            Code::Haddpd_xmm_xmmm128,
            Code::Haddps_xmm_xmmm128,
            Code::Hsubpd_xmm_xmmm128,
            Code::Hsubps_xmm_xmmm128,
            Code::Ldmxcsr_m32,
            Code::Mulpd_xmm_xmmm128,
            Code::Mulps_xmm_xmmm128,
            Code::Mulsd_xmm_xmmm64,
            Code::Mulss_xmm_xmmm32,
            Code::Subpd_xmm_xmmm128,
            Code::Subps_xmm_xmmm128,
            Code::Subsd_xmm_xmmm64,
            Code::Subss_xmm_xmmm32,
        ],
    ),
];

/// Whether a code is known to differ.
pub fn is_known(code: Code) -> bool {
    KNOWN.iter().any(|(_, codes)| codes.contains(&code))
}

/// The line that a test prints which leaves them out; `None` if there are none.
pub fn skipped() -> Option<String> {
    let count: usize = KNOWN.iter().map(|(_, codes)| codes.len()).sum();
    let causes: Vec<_> =
        KNOWN.iter().map(|(cause, codes)| format!("{cause} ({})", codes.len())).collect();
    let causes = causes.join("; ");
    (count > 0).then(|| format!("skipped: oracle: {count} codes known to differ: {causes}"))
}
