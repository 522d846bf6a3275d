//! Cases as text: to be read, and to be kept as regressions.

use std::fmt::Write;

use iced_x86::{Formatter, GasFormatter, Instruction};

use crate::{
    case::{Case, Registers, Window},
    compare::{flags, hex},
    generate::decode,
};

/// A case that came out differently on the two sides.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The case.
    pub case: Case,
    /// What differs, a line each.
    pub what: Vec<String>,
}

impl Difference {
    /// Everything that is known of it.
    pub fn text(&self) -> String {
        let case = &self.case;
        let i = decode(&case.code, case.before.rip);
        let mut text = format!("{}   {}   ({:?})\n", hex(&case.code), assembly(&i), i.code());
        let before = &case.before;
        for (n, row) in before.general.chunks(4).enumerate() {
            let row: Vec<_> = row.iter().map(|value| format!("{value:016x}")).collect();
            let _ = writeln!(text, "  r{:<3} {}", n * 4, row.join(" "));
        }
        let _ = writeln!(
            text,
            "  rip {:x} rflags {} fs {:x} gs {:x} mxcsr {} fcw {} fsw {} ftw {}",
            before.rip,
            flags(before.rflags),
            before.fs,
            before.gs,
            hex(&[before.fx[27], before.fx[26], before.fx[25], before.fx[24]]),
            hex(&[before.fx[1], before.fx[0]]),
            hex(&[before.fx[3], before.fx[2]]),
            hex(&before.fx[4..5]),
        );
        for used in i.code().op_code().op_kinds() {
            let _ = write!(text, "  {used:?}");
        }
        text.push('\n');
        vectors(&i, before, &mut text);
        for window in &case.windows {
            let at = crate::arena::DATA as usize + window.offset;
            let _ = writeln!(
                text,
                "  memory {at:x}: {}",
                hex(&window.bytes[..window.bytes.len().min(192)])
            );
        }
        let _ = writeln!(text, "           {:>34}  {:>34}", "ours", "the processor's");
        self.what.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
        text
    }
}

fn vectors(i: &Instruction, before: &Registers, text: &mut String) {
    let mut line = |name: String, bytes: &[u8]| {
        let _ =
            writeln!(text, "  {name} {}", hex(&bytes.iter().rev().copied().collect::<Vec<_>>()));
    };
    for register in (0..i.op_count()).map(|n| i.op_register(n)) {
        let n = register.number();
        if register.is_xmm() {
            line(format!("xmm{n}"), &before.fx[160 + n * 16..][..16]);
        } else if register.is_mm() || register.is_st() {
            line(format!("st{n}"), &before.fx[32 + n * 16..][..10]);
        }
    }
}

/// The instruction in assembly.
pub fn assembly(i: &Instruction) -> String {
    let mut text = String::new();
    GasFormatter::new().format(i, &mut text);
    text
}

/// A case as a file.
pub fn to_file(case: &Case) -> String {
    let i = decode(&case.code, case.before.rip);
    let mut text = format!("# {} ({:?})\n", assembly(&i), i.code());
    let _ = writeln!(text, "code {}\njumps {}", hex(&case.code), u8::from(case.jumps));
    for (name, value) in [
        ("rip", case.before.rip),
        ("rflags", case.before.rflags),
        ("fs", case.before.fs),
        ("gs", case.before.gs),
    ] {
        let _ = writeln!(text, "{name} {value:x}");
    }
    let general: Vec<_> = case.before.general.iter().map(|value| format!("{value:x}")).collect();
    let _ = writeln!(text, "general {}", general.join(" "));
    let _ = writeln!(text, "fx {}", hex(&case.before.fx));
    for window in &case.windows {
        let _ = writeln!(text, "window {:x} {}", window.offset, hex(&window.bytes));
    }
    text
}

/// A case from a file; `None` if it is none.
pub fn from_file(text: &str) -> Option<Case> {
    let mut case =
        Case { before: Registers::default(), code: Vec::new(), windows: Vec::new(), jumps: false };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let first = words.next()?;
        let number = |word: &str| u64::from_str_radix(word, 16).ok();
        match name {
            "code" => case.code = bytes(first)?,
            "jumps" => case.jumps = first == "1",
            "rip" => case.before.rip = number(first)?,
            "rflags" => case.before.rflags = number(first)?,
            "fs" => case.before.fs = number(first)?,
            "gs" => case.before.gs = number(first)?,
            "general" => {
                let all = std::iter::once(first).chain(words);
                for (register, word) in case.before.general.iter_mut().zip(all) {
                    *register = number(word)?;
                }
            }
            "fx" => case.before.fx = bytes(first)?.try_into().ok()?,
            "window" => {
                let bytes = bytes(words.next()?)?;
                case.windows.push(Window { offset: number(first)? as usize, bytes });
            }
            _ => return None,
        }
    }
    (!case.code.is_empty()).then_some(case)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}
