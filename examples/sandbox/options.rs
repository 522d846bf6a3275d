//! The command line.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use crate::arguments::{choice, number, split, text};

/// What is to be run, on what, and what it is given.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub program: PathBuf,
    /// The program's name first.
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<(String, String)>,
    pub grants: Vec<Grant>,
    /// In MiB.
    pub memory: u64,
    /// In milliseconds.
    pub timeout: Option<u64>,
    pub backend: Backend,
    pub stats: bool,
}

/// A directory of the host, and where the program finds it.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    pub directory: PathBuf,
    pub at: String,
    pub writable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best this host has.
    Auto,
    Kvm,
    /// The CPU in software.
    Soft,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Run(Options),
}

const MEMORY: u64 = 64;
/// 16 TiB, beyond any host.
const MOST_MEMORY: u64 = 16 << 20;
const BACKENDS: [(&str, Backend); 3] =
    [("auto", Backend::Auto), ("kvm", Backend::Kvm), ("soft", Backend::Soft)];

pub fn help() -> String {
    format!(
        "\
Runs one static Linux program in a micro-VM without a kernel. It sees nothing of the host but its
standard streams, and what it is given here.

Usage: cargo run --example sandbox -- [OPTION]... PROGRAM [ARGUMENT]...

  --root DIR[:rw]      a directory that the program finds as its root, read-only unless :rw follows;
                       without this the root is in memory and empty but for /dev, /proc and /tmp
  --mount DIR:AT[:rw]  a directory that it finds at the path AT; may be repeated
  --env NAME=VALUE     a variable of its environment, which is empty otherwise; may be repeated
  --mem MIB            all its memory [{MEMORY}]
  --timeout MS         how long it may take, in milliseconds [for ever]
  --backend NAME       what runs it: kvm, soft (a CPU in software), or auto for the best here [auto]
  --stats              print on standard error what it used, and which system calls it missed
  --help               this text

PROGRAM is a path of the host, whatever the program itself can see: an x86-64 executable linked with
-static, in any language. It starts in /, as user 1000. It has one thread, no network and no children.

The status is the program's, or
  128 + N  signal N ended it, or an exception of the processor that is signal N on Linux:
           132 an invalid instruction, 133 a trap, 135 an unaligned access, 136 an error in
           arithmetic, 139 memory that may not be accessed
  124      it took longer than --timeout
  125      it could not be run, or was ended for another reason
Ctrl-C stops it, whatever it does.

Examples (Debian: busybox-static):
  cargo run -q --example sandbox -- --root . /bin/busybox grep -c sandbox README.md
  cargo run -q --example sandbox -- /bin/busybox sh -c 'echo $((6 * 7)) > /tmp/x; cat /tmp/x'
  cargo run -q --example sandbox -- --timeout 500 --stats /bin/busybox sh -c 'while :; do :; done'
  seq 9 | cargo run -q --example sandbox -- --mount .:/here /bin/busybox awk '{{ s += $1 }} END {{ print s }}'
"
    )
}

/// Reads the arguments behind this program's name; an error is one line that names the option.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter();
    let mut options = defaults();
    let program = loop {
        let argument = arguments.next().ok_or("PROGRAM is missing; try --help")?;
        if argument == "--" {
            break arguments.next().ok_or("PROGRAM is missing; try --help")?;
        }
        if !argument.as_encoded_bytes().starts_with(b"-") {
            break argument;
        }
        let argument = text(argument)?;
        let (name, mut given) = split(&argument);
        let mut value = || match given.take() {
            Some(value) => Ok(value.to_owned()),
            None => text(arguments.next().ok_or(format!("{name}: its value is missing"))?),
        };
        match name {
            "--root" => options.grants.push(root(value()?)),
            "--mount" => options.grants.push(mount(name, &value()?)?),
            "--env" => options.environment.push(variable(name, &value()?)?),
            "--mem" => options.memory = number(name, &value()?, 1..=MOST_MEMORY)?,
            "--timeout" => options.timeout = Some(number(name, &value()?, 1..=u64::MAX)?),
            "--backend" => options.backend = choice(name, &value()?, &BACKENDS)?,
            "--stats" => options.stats = true,
            "--help" | "-h" => return Ok(Request::Help),
            _ => return Err(format!("{name}: no such option; try --help")),
        }
        if let Some(value) = given {
            return Err(format!("{name}: takes no value, but got '{value}'"));
        }
    };
    let rest = arguments.map(OsString::into_vec);
    options.arguments = std::iter::once(program.clone().into_vec()).chain(rest).collect();
    Ok(Request::Run(Options { program: program.into(), ..options }))
}

fn defaults() -> Options {
    Options {
        program: PathBuf::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        grants: Vec::new(),
        memory: MEMORY,
        timeout: None,
        backend: Backend::Auto,
        stats: false,
    }
}

fn root(value: String) -> Grant {
    let (directory, writable) = writable(&value);
    Grant { directory: directory.into(), at: "/".to_owned(), writable }
}

fn mount(name: &str, value: &str) -> Result<Grant, String> {
    let (places, writable) = writable(value);
    // The path in the sandbox comes last: a directory of the host may have any name.
    match places.rsplit_once(':') {
        Some((directory, at)) if !directory.is_empty() && at.starts_with('/') => {
            Ok(Grant { directory: directory.into(), at: at.to_owned(), writable })
        }
        _ => Err(format!("{name}: '{value}' is not DIR:AT or DIR:AT:rw, where AT begins with /")),
    }
}

fn writable(value: &str) -> (&str, bool) {
    match value.strip_suffix(":rw") {
        Some(value) => (value, true),
        None => (value, false),
    }
}

fn variable(name: &str, value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((variable, value)) if !variable.is_empty() => Ok((variable.into(), value.into())),
        _ => Err(format!("{name}: '{value}' is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Request, String> {
        parse(arguments.iter().map(OsString::from))
    }

    fn of(program: &[&str]) -> Options {
        let arguments = program.iter().map(|word| word.as_bytes().to_vec()).collect();
        Options { program: program[0].into(), arguments, ..defaults() }
    }

    #[test]
    fn what_follows_the_program_is_the_programs() {
        for command in [&["cat"][..], &["./cat", "--stats", "-", "--", "--mem"]] {
            assert_eq!(parsed(command), Ok(Request::Run(of(command))));
        }
        assert_eq!(parsed(&["--", "--stats", "a"]), Ok(Request::Run(of(&["--stats", "a"]))));
        let bytes = [OsString::from("cat"), OsString::from_vec(b"\xff".to_vec())];
        let Ok(Request::Run(options)) = parse(bytes) else { unreachable!() };
        assert_eq!(options.arguments, [b"cat".to_vec(), b"\xff".to_vec()]);
    }

    #[test]
    fn every_option_is_understood_in_both_forms() {
        let pairs = [
            ("--root", "/a:b:rw"),
            ("--mount", "h:i:/g"),
            ("--mount", "h:/g:rw"),
            ("--env", "A=b=c"),
            ("--env", "B="),
            ("--mem", "32"),
            ("--timeout", "7"),
            ("--backend", "kvm"),
        ];
        let grant = |directory: &str, at: &str, writable| Grant {
            directory: directory.into(),
            at: at.into(),
            writable,
        };
        let expected = || {
            Ok(Request::Run(Options {
                grants: vec![
                    grant("/a:b", "/", true),
                    grant("h:i", "/g", false),
                    grant("h", "/g", true),
                ],
                environment: vec![("A".into(), "b=c".into()), ("B".into(), String::new())],
                memory: 32,
                timeout: Some(7),
                backend: Backend::Kvm,
                stats: true,
                ..of(&["cat"])
            }))
        };
        let apart: Vec<&str> = pairs.iter().flat_map(|(name, value)| [*name, *value]).collect();
        let joined = pairs.map(|(name, value)| format!("{name}={value}"));
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        assert_eq!(parsed(&[&apart[..], &["--stats", "cat"]].concat()), expected());
        assert_eq!(parsed(&[&["--stats"], &joined[..], &["cat"]].concat()), expected());
    }

    #[test]
    fn each_refusal_names_the_option_and_the_value() {
        let form = "is not DIR:AT or DIR:AT:rw, where AT begins with /";
        let cases: [(&[&str], &str); 12] = [
            (&[], "PROGRAM is missing; try --help"),
            (&["--stats", "--"], "PROGRAM is missing; try --help"),
            (&["--frobnicate"], "--frobnicate: no such option; try --help"),
            (&["--root"], "--root: its value is missing"),
            (&["--mount", "/a"], &format!("--mount: '/a' {form}")),
            (&["--mount", "/a:b"], &format!("--mount: '/a:b' {form}")),
            (&["--mount=:/b"], &format!("--mount: ':/b' {form}")),
            (&["--env", "=b"], "--env: '=b' is not NAME=VALUE"),
            (&["--mem", "0"], "--mem: '0' is not a number from 1 to 16777216"),
            (
                &["--timeout", "1s"],
                &format!("--timeout: '1s' is not a number from 1 to {}", u64::MAX),
            ),
            (&["--backend", "xen"], "--backend: 'xen' is not one of auto, kvm, soft"),
            (&["--stats=no"], "--stats: takes no value, but got 'no'"),
        ];
        for (arguments, refusal) in cases {
            assert_eq!(parsed(arguments), Err(refusal.to_owned()), "{arguments:?}");
        }
    }

    #[test]
    fn help_shows_every_option() {
        assert_eq!(parsed(&["--mem", "1", "--help", "--frobnicate"]), Ok(Request::Help));
        let help = help();
        for name in ["root", "mount", "env", "mem", "timeout", "backend", "stats", "help"] {
            assert!(help.contains(&format!("\n  --{name} ")), "{name}");
        }
    }
}
