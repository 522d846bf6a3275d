//! Whether two outcomes are the same, as far as the manuals say what they are to be.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, RflagsBits};

use crate::{
    arena::DATA,
    case::{Case, Outcome, Registers},
};

/// What differs, a line each: name, ours, the processor's. Empty: nothing.
pub fn differences(i: &Instruction, case: &Case, ours: &Outcome, host: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |name: &str, ours: String, host: String| {
        found.push(format!("{name:8} {ours:>34}  {host:>34}"));
    };
    if ours.fault != host.fault {
        let text = |o: &Outcome| {
            o.fault.map_or("none".into(), |f| {
                format!("#{} code {:x} at {:x}", f.vector, f.code, f.address)
            })
        };
        differ("fault", text(ours), text(host));
        return found;
    }
    let (a, b) = (&ours.after, &host.after);
    for (n, name) in NAMES.iter().enumerate() {
        if a.general[n] != b.general[n] && !is_undefined(i, case, n) {
            differ(name, format!("{:016x}", a.general[n]), format!("{:016x}", b.general[n]));
        }
    }
    let fields = [("rip", a.rip, b.rip), ("fs", a.fs, b.fs), ("gs", a.gs, b.gs)];
    for (name, ours, host) in fields.into_iter().filter(|(_, a, b)| a != b) {
        differ(name, format!("{ours:016x}"), format!("{host:016x}"));
    }
    let mask = if host.fault.is_some() { COMPARED } else { COMPARED & !undefined_flags(i, case) };
    if (a.rflags ^ b.rflags) & mask != 0 {
        differ("rflags", flags(a.rflags & mask), flags(b.rflags & mask));
    }
    floating_point(i, a, b, host.fault.is_some(), &mut differ);
    let ignored = ignored_memory(i, case, host.fault.is_some());
    for (ours, host) in ours.windows.iter().zip(&host.windows) {
        if ours.bytes == host.bytes {
            continue;
        }
        let bytes = ours.bytes.iter().zip(&host.bytes).zip(ours.offset..);
        let differ_at: Vec<_> = bytes
            .filter(|((a, b), at)| a != b && !ignored.iter().any(|r| r.contains(at)))
            .collect();
        if let Some((_, at)) = differ_at.first() {
            let part = |bytes: &[u8]| {
                hex(&bytes[at - ours.offset..].iter().copied().take(16).collect::<Vec<_>>())
            };
            let name = format!("{:x}", DATA as usize + at);
            differ(&name, part(&ours.bytes), part(&host.bytes));
        }
    }
    found
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// All but TF and RF, which are the single step's and the kernel's.
const COMPARED: u64 = 0x3f_7fff & !(1 << 8 | 1 << 16);

/// The flags that the manuals leave open.
fn undefined_flags(i: &Instruction, case: &Case) -> u64 {
    let bits = [
        (RflagsBits::CF, 1 << 0),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::OF, 1 << 11),
    ];
    let undefined = i.rflags_undefined();
    let mask = bits.iter().filter(|(bit, _)| undefined & bit != 0).map(|(_, flag)| flag).sum();
    // A count of 0 changes nothing at all.
    let shifts = matches!(
        i.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Shld
            | Mnemonic::Shrd
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
    );
    let size = operand_size(i);
    let count = count(i, case) & if size == 8 { 63 } else { 31 };
    match i.mnemonic() {
        _ if shifts && count == 0 => 0,
        // A count beyond 1, whatever remains of it once it went around.
        Mnemonic::Rcl | Mnemonic::Rcr if count != 1 => mask | 1 << 11,
        // CF is the last bit out, which there is not if the count is beyond the operand.
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr if count > size * 8 => mask | 1,
        Mnemonic::Shld | Mnemonic::Shrd if count > size * 8 => 0x8d5,
        _ => mask,
    }
}

/// The count of a shift.
fn count(i: &Instruction, case: &Case) -> u64 {
    let last = i.op_count().saturating_sub(1);
    i.try_immediate(last).unwrap_or(case.before.general[1] & 0xff)
}

fn operand_size(i: &Instruction) -> u64 {
    match i.memory_size().size() {
        0 => i.op0_register().size() as u64,
        size => size as u64,
    }
}

/// Whether the manuals leave the instruction's result in this register open.
fn is_undefined(i: &Instruction, case: &Case, n: usize) -> bool {
    let is_result = i.op0_register().is_gpr() && i.op0_register().full_register().number() == n;
    match i.mnemonic() {
        Mnemonic::Shld | Mnemonic::Shrd => is_result && count(i, case) & 31 > operand_size(i) * 8,
        Mnemonic::Bswap => is_result && i.op0_register().size() == 2,
        _ => false,
    }
}

fn floating_point(
    i: &Instruction,
    a: &Registers,
    b: &Registers,
    fault: bool,
    differ: &mut impl FnMut(&str, String, String),
) {
    let (a, b) = (&a.fx, &b.fx);
    for n in 0..16 {
        let register = 160 + n * 16..176 + n * 16;
        let (ours, host) = (&a[register.clone()], &b[register]);
        if ours != host && !(is_approximate(i) && close(ours, host)) {
            let big = |bytes: &[u8]| hex(&bytes.iter().rev().copied().collect::<Vec<_>>());
            differ(&format!("xmm{n}"), big(ours), big(host));
        }
    }
    if a[24..28] != b[24..28] {
        let word = |x: &[u8]| format!("{:08x}", u32::from_le_bytes([x[24], x[25], x[26], x[27]]));
        differ("mxcsr", word(a), word(b));
    }
    if !uses_x87(i) {
        return;
    }
    let word = |x: &[u8], at: usize| u16::from_le_bytes([x[at], x[at + 1]]);
    let conditions = [
        (RflagsBits::C0, 1 << 8),
        (RflagsBits::C1, 1 << 9),
        (RflagsBits::C2, 1 << 10),
        (RflagsBits::C3, 1 << 14),
    ];
    let undefined = if fault { 0 } else { i.rflags_undefined() };
    let open: u16 = conditions.iter().filter(|(c, _)| undefined & c != 0).map(|(_, bit)| bit).sum();
    for (name, at, mask) in [("fcw", 0, 0), ("fsw", 2, open), ("ftw", 4, 0)] {
        let (ours, host) = (word(a, at) & !mask, word(b, at) & !mask);
        if ours != host {
            differ(name, format!("{ours:04x}"), format!("{host:04x}"));
        }
    }
    let long =
        |x: &[u8], at: usize| x[at..at + 8].iter().rev().fold(0, |l, b| l << 8 | u64::from(*b));
    for (name, at, mask) in [("fop", 0, 0xffff << 48), ("fip", 8, u64::MAX), ("fdp", 16, u64::MAX)]
    {
        let (ours, host) = (long(a, at) & mask, long(b, at) & mask);
        if ours != host {
            differ(name, format!("{ours:016x}"), format!("{host:016x}"));
        }
    }
    for n in 0..8 {
        let register = 32 + n * 16..42 + n * 16;
        if a[register.clone()] != b[register.clone()] {
            let big =
                |x: &[u8]| hex(&x[register.clone()].iter().rev().copied().collect::<Vec<_>>());
            differ(&format!("st{n}"), big(a), big(b));
        }
    }
}

/// Whether the instruction has to do with x87 or MMX.
fn uses_x87(i: &Instruction) -> bool {
    let features = i.code().cpuid_features();
    let theirs = |f: &CpuidFeature| {
        use CpuidFeature as F;
        matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::FXSR | F::XSAVE | F::XSAVEOPT)
    };
    let mmx = (0..i.op_count()).any(|n| i.op_register(n).is_mm());
    mmx || features.iter().any(theirs)
}

fn is_approximate(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss
    )
}

/// Within the error that either may make (Intel SDM 2, RCPPS: 1.5 * 2^-12, relative).
fn close(ours: &[u8], host: &[u8]) -> bool {
    const BOUND: f64 = 2.0 * 1.5 / 4096.0;
    let lane = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    ours.chunks_exact(4).zip(host.chunks_exact(4)).all(|(a, b)| {
        let (a, b) = (lane(a), lane(b));
        let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
        a == b || x.is_finite() && y.is_finite() && (x - y).abs() <= y.abs() * BOUND
    })
}

/// Parts of memory that the manuals or the processors leave open, as offsets in the data.
fn ignored_memory(i: &Instruction, case: &Case, fault: bool) -> Vec<std::ops::Range<usize>> {
    let doubles = matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    let open = doubles && count(i, case) & 31 > operand_size(i) * 8;
    // The part of a frame that was pushed before the stack proved too small.
    let unfinished = fault && i.mnemonic() == Mnemonic::Enter;
    if open || unfinished {
        return std::iter::once(0..usize::MAX).collect();
    }
    let saves = matches!(
        i.mnemonic(),
        Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
    );
    if !saves {
        return Vec::new();
    }
    let at = case.operand(i).wrapping_sub(DATA) as usize;
    let part = |from: usize, to: usize| at.wrapping_add(from)..at.wrapping_add(to);
    // MXCSR_MASK: what the processor has; the end: nobody's.
    vec![part(28, 32), part(416, 512)]
}

/// The flags' names.
pub fn flags(image: u64) -> String {
    let names = [
        (0, "cf"),
        (2, "pf"),
        (4, "af"),
        (6, "zf"),
        (7, "sf"),
        (9, "if"),
        (10, "df"),
        (11, "of"),
        (14, "nt"),
        (16, "rf"),
        (18, "ac"),
        (21, "id"),
    ];
    let set = names.iter().filter(|(bit, _)| image >> bit & 1 != 0).map(|(_, name)| *name);
    let set: Vec<_> = set.collect();
    format!("{image:x} {}", set.join(" "))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
