//! The command line.

use std::{ffi::OsString, fs, path::PathBuf};

use vmm_core::boot::Protocol;

use crate::{
    arguments::{choice, number, split, text},
    keys::KEYS,
};

/// What is to be booted, and on what.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    /// In MiB.
    pub memory: u64,
    pub cpus: u32,
    pub backend: Backend,
    pub protocol: Protocol,
    /// Whether a guest that resets starts anew.
    pub reboot: bool,
    pub stats: bool,
    pub disks: Vec<Disk>,
    /// Whether this terminal is a virtio console, and not the serial port.
    pub console: bool,
    /// Whether the guest has the host's entropy.
    pub rng: bool,
}

/// A raw image, and what the guest may do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub access: Access,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// What the guest writes is kept in a file of its own, or nowhere.
    Overlay(Option<PathBuf>),
    ReadOnly,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best this host has.
    Auto,
    Kvm,
    Soft,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Boot(Options),
    Help,
}

/// `reboot=k`: by the keyboard controller, for a triple fault (`t`) cannot be told from a crash.
/// `panic=-1`: a panic resets at once.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1";
/// For a guest whose console this is: what its serial port says comes here, too.
const HVC_CMDLINE: &str = "console=hvc0 reboot=k panic=-1";
const MEMORY: u64 = 512;
/// 16 TiB, beyond any host.
const MOST_MEMORY: u64 = 16 << 20;
/// What a back end can do is its own to say.
const MOST_CPUS: u64 = 4096;

pub fn help() -> String {
    format!(
        "\
Boots Linux, with its serial port as the console on standard input and output.

Usage: cargo run --example linux -- --kernel FILE [OPTION]...

  --kernel FILE     a bzImage (vmlinuz, as distributions have it) or an uncompressed vmlinux
  --initrd FILE     an initial RAM disk
  --cmdline TEXT    the kernel's command line [{CMDLINE};
                    with --console: {HVC_CMDLINE}]
  --mem MIB         the guest's memory [{MEMORY}]
  --cpus N          the number of its processors [1]
  --backend NAME    what runs them: kvm, soft (a CPU in software), or auto for the best this host
                    has [auto]
  --disk IMAGE      a raw image as the next of /dev/vda, /dev/vdb...; behind it, after commas:
                    ro, it is not written; overlay, what is written is forgotten at the end;
                    overlay=FILE, it is kept in FILE, which is made if need be
  --console         standard input and output are a virtio console, hvc0, which is as large as the
                    terminal's window, and not the serial port, which still can be written to
  --rng             a source of random numbers
  --protocol NAME   how a vmlinux is entered: linux (64-bit boot protocol) or pvh [linux]
  --no-reboot       a guest that resets, as after a panic, is not started anew: the status is 1
  --stats           print on standard error what the guest was left for, and how long that took
  --help            this text

On a terminal each key goes to the guest, Ctrl-C too, but for these:
{KEYS}
A pipe or a file is sent as it is, at once; Linux drops a few bytes of what comes before its console
is open. The status is the code the guest powers off with (Linux: 0), or 1 after an error.

The drivers are modules in Debian's kernel: the RAM disk loads virtio_mmio and virtio_blk,
virtio_console, virtio_rng. Before that there is no hvc0, and a console=ttyS0 tells what goes wrong.

Examples:
  cargo run --example linux -- --kernel vmlinuz --initrd initrd.img \\
      --cmdline 'console=ttyS0 rdinit=/bin/sh'          # a shell in the RAM disk
  (sleep 5; echo 'nproc; poweroff -f') | cargo run -q --example linux -- --kernel vmlinuz \\
      --initrd initrd.img --cmdline 'console=ttyS0 rdinit=/bin/sh' --cpus 2 --stats
"
    )
}

/// Reads the arguments behind the program's name; an error is one line that names the option.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter().map(text);
    let (mut kernel, mut cmdline) = (None, None);
    let mut options = defaults();
    while let Some(argument) = arguments.next().transpose()? {
        let (name, mut given) = split(&argument);
        let mut value = || match given.take() {
            Some(value) => Ok(value.to_owned()),
            None => {
                arguments.next().unwrap_or_else(|| Err(format!("{name}: its value is missing")))
            }
        };
        match name {
            "--kernel" => kernel = Some(file(name, value()?)?),
            "--disk" => options.disks.push(disk(name, &value()?)?),
            "--initrd" => options.initrd = Some(file(name, value()?)?),
            "--cmdline" => cmdline = Some(value()?),
            "--mem" => options.memory = number(name, &value()?, 1..=MOST_MEMORY)?,
            "--cpus" => options.cpus = number(name, &value()?, 1..=MOST_CPUS)? as u32,
            "--backend" => options.backend = choice(name, &value()?, &BACKENDS)?,
            "--protocol" => options.protocol = choice(name, &value()?, &PROTOCOLS)?,
            "--no-reboot" => options.reboot = false,
            "--stats" => options.stats = true,
            "--console" => options.console = true,
            "--rng" => options.rng = true,
            "--help" | "-h" => return Ok(Request::Help),
            _ => return Err(format!("{name}: no such option; try --help")),
        }
        if let Some(value) = given {
            return Err(format!("{name}: takes no value, but got '{value}'"));
        }
    }
    let kernel = kernel.ok_or("--kernel is missing; try --help")?;
    let usual = if options.console { HVC_CMDLINE } else { CMDLINE };
    let cmdline = cmdline.unwrap_or_else(|| usual.to_owned());
    Ok(Request::Boot(Options { kernel, cmdline, ..options }))
}

const BACKENDS: [(&str, Backend); 3] =
    [("auto", Backend::Auto), ("kvm", Backend::Kvm), ("soft", Backend::Soft)];
const PROTOCOLS: [(&str, Protocol); 2] = [("linux", Protocol::Linux64), ("pvh", Protocol::Pvh)];

fn defaults() -> Options {
    Options {
        kernel: PathBuf::new(),
        initrd: None,
        cmdline: CMDLINE.to_owned(),
        memory: MEMORY,
        cpus: 1,
        backend: Backend::Auto,
        protocol: Protocol::Linux64,
        reboot: true,
        stats: false,
        disks: Vec::new(),
        console: false,
        rng: false,
    }
}

/// `IMAGE`, `IMAGE,ro`, `IMAGE,overlay` or `IMAGE,overlay=FILE`.
fn disk(name: &str, value: &str) -> Result<Disk, String> {
    let (path, access) = value.split_once(',').unwrap_or((value, ""));
    let access = match split(access) {
        ("", None) if path == value => Access::Write,
        ("ro", None) => Access::ReadOnly,
        ("overlay", top) => Access::Overlay(top.map(PathBuf::from)),
        _ => return Err(format!("{name}: '{access}' is not one of ro, overlay, overlay=FILE")),
    };
    Ok(Disk { path: file(name, path.to_owned())?, access })
}

/// A file that is there: the loader would say so too, but not for which option.
fn file(name: &str, path: String) -> Result<PathBuf, String> {
    match fs::metadata(&path) {
        Ok(_) => Ok(path.into()),
        Err(error) => Err(format!("{name}: {path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files that exist wherever tests run.
    const KERNEL: &str = "/proc/self/exe";
    const INITRD: &str = "/proc/self/maps";
    const DISK: &str = "/proc/self/maps,overlay=top=1";

    fn parsed(arguments: &[&str]) -> Result<Request, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn a_kernel_is_enough() {
        let expected = Options { kernel: KERNEL.into(), ..defaults() };
        assert_eq!(parsed(&["--kernel", KERNEL]), Ok(Request::Boot(expected)));
    }

    #[test]
    fn every_option_is_understood_in_both_forms() {
        let pairs = [
            ("--kernel", KERNEL),
            ("--initrd", INITRD),
            ("--cmdline", "a=b c"),
            ("--mem", "64"),
            ("--cpus", "2"),
            ("--backend", "kvm"),
            ("--disk", DISK),
            ("--protocol", "pvh"),
        ];
        let apart: Vec<&str> = pairs.iter().flat_map(|(name, value)| [*name, *value]).collect();
        let joined = pairs.map(|(name, value)| format!("{name}={value}"));
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        let expected = || {
            Ok(Request::Boot(Options {
                kernel: KERNEL.into(),
                initrd: Some(INITRD.into()),
                cmdline: "a=b c".to_owned(),
                memory: 64,
                cpus: 2,
                backend: Backend::Kvm,
                protocol: Protocol::Pvh,
                reboot: false,
                stats: true,
                console: true,
                rng: true,
                disks: vec![Disk {
                    path: INITRD.into(),
                    access: Access::Overlay(Some("top=1".into())),
                }],
            }))
        };
        let flags = ["--no-reboot", "--stats", "--console", "--rng"];
        assert_eq!(parsed(&[&apart[..], &flags].concat()), expected());
        assert_eq!(parsed(&[&flags, &joined[..]].concat()), expected());
    }

    #[test]
    fn a_console_is_told_to_the_kernel_unless_it_was_told_something() {
        let cmdline =
            |arguments: &[&str]| match parsed(&[&["--kernel", KERNEL], arguments].concat()) {
                Ok(Request::Boot(options)) => options.cmdline,
                other => format!("{other:?}"),
            };
        assert_eq!(cmdline(&[]), CMDLINE);
        assert_eq!(cmdline(&["--console"]), HVC_CMDLINE);
        assert_eq!(cmdline(&["--cmdline", "x", "--console"]), "x");
    }

    #[test]
    fn a_disk_is_written_unless_it_is_said_otherwise() {
        let parsed = |access: &str| disk("--disk", &format!("{KERNEL}{access}")).map(|d| d.access);
        assert_eq!(parsed(""), Ok(Access::Write));
        assert_eq!(parsed(",ro"), Ok(Access::ReadOnly));
        assert_eq!(parsed(",overlay"), Ok(Access::Overlay(None)));
        assert_eq!(parsed(",overlay=a,b"), Ok(Access::Overlay(Some("a,b".into()))));
    }

    #[test]
    fn each_refusal_names_the_option_and_the_value() {
        let cases: [(&[&str], &str); 18] = [
            (&[], "--kernel is missing; try --help"),
            (&["--frobnicate"], "--frobnicate: no such option; try --help"),
            (&["--frobnicate=1"], "--frobnicate: no such option; try --help"),
            (&["vmlinuz"], "vmlinuz: no such option; try --help"),
            (&["--kernel"], "--kernel: its value is missing"),
            (&["--initrd", "no/such"], "--initrd: no/such: No such file or directory (os error 2)"),
            (&["--disk", "no/such"], "--disk: no/such: No such file or directory (os error 2)"),
            (&["--disk", "/dev/null,"], "--disk: '' is not one of ro, overlay, overlay=FILE"),
            (&["--disk", "/dev/null,rw"], "--disk: 'rw' is not one of ro, overlay, overlay=FILE"),
            (
                &["--disk", "/dev/null,ro=1"],
                "--disk: 'ro=1' is not one of ro, overlay, overlay=FILE",
            ),
            (&["--mem", "0"], "--mem: '0' is not a number from 1 to 16777216"),
            (&["--mem", "16777217"], "--mem: '16777217' is not a number from 1 to 16777216"),
            (&["--mem=1G"], "--mem: '1G' is not a number from 1 to 16777216"),
            (&["--cpus", "-1"], "--cpus: '-1' is not a number from 1 to 4096"),
            (&["--cpus="], "--cpus: '' is not a number from 1 to 4096"),
            (&["--backend", "xen"], "--backend: 'xen' is not one of auto, kvm, soft"),
            (&["--protocol", "PVH"], "--protocol: 'PVH' is not one of linux, pvh"),
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
        let pairs = ["kernel", "initrd", "disk", "cmdline", "mem", "cpus", "backend", "protocol"];
        for name in pairs.iter().chain(&["console", "rng", "no-reboot", "stats", "help"]) {
            assert!(help.contains(&format!("\n  --{name} ")), "{name}");
        }
        assert!(help.lines().all(|line| line.len() <= 100));
    }
}
