//! The unikernels of tests/guests run by the example `unikernel`, each by its own protocol.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use vmm_core::host::{self, KvmKind};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// What the guests say they were entered by, and what it is called.
const GUESTS: [(&str, &str, &str); 4] = [
    ("elf64.elf", "at ring 0 with 64 bits, by a plain ELF", "plain 64-bit ELF"),
    ("multiboot.bin", "with EAX 0x2badb002, by Multiboot 1 from vmm", "Multiboot 1"),
    ("multiboot.elf", "with EAX 0x2badb002, by Multiboot 1 from vmm", "Multiboot 1"),
    ("pvh.elf", "with magic 0x336ec578, by PVH, ACPI tables at 0x000e0000", "PVH"),
];

/// A file that `build.rs` made.
fn built(name: &str) -> String {
    format!("{}/{name}", env!("OUT_DIR"))
}

/// Runs the example, which cargo has built next to this test.
fn unikernel(arguments: &[&str]) -> std::io::Result<Output> {
    unikernel_os(arguments.iter().map(OsStr::new))
}

fn unikernel_os<'a>(arguments: impl Iterator<Item = &'a OsStr>) -> std::io::Result<Output> {
    // target/PROFILE/deps/this-test
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).map(Path::to_owned).unwrap_or_else(PathBuf::new);
    Command::new(profile.join("examples/unikernel")).args(arguments).output()
}

/// Says where a test runs; not at all without KVM.
fn runs_here(test: &str) -> bool {
    let kind = host::probe().kvm;
    match kind {
        KvmKind::None => println!("skipped: {test}: no /dev/kvm here"),
        _ => println!("{test}: on {kind}"),
    }
    kind != KvmKind::None
}

/// RAM as the memory map has it: without the BIOS area.
fn ram(mib: u32) -> String {
    format!("guest: memory map of 3 ranges, {} KiB of RAM\n", 639 + (mib - 1) * 1024)
}

/// The back ends of this host, by name.
fn backends() -> &'static [&'static str] {
    match host::probe().kvm {
        KvmKind::None => &["soft"],
        _ => &["kvm", "soft"],
    }
}

/// One and two vCPUs, by name and as this host would choose.
#[test]
fn each_unikernel_is_entered_by_its_protocol_and_ends_alike_on_every_back_end() -> Result {
    let answer = "guest: the greatest common divisor of '1071 462 --mem' is 21\n";
    for (image, entered, way) in GUESTS {
        for backend in [&["auto"], backends()].concat() {
            for (mib, cpus) in [(64, "1"), (5, "2")] {
                let (image, mem) = (built(image), mib.to_string());
                let options = [&image, "--mem", &mem, "--cpus", cpus, "--backend", backend];
                let output = unikernel(&[&options[..], &["--", "1071", "462", "--mem"]].concat())?;
                let (text, said) =
                    (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
                let all = format!("guest: entered {entered}\n{}{answer}", ram(mib));
                assert_eq!(text, all, "on {backend}: {said}");
                assert!(said.contains(&format!("{image}: started by {way}: ")), "{said}");
                assert_eq!(output.status.code(), Some(21), "on {backend}");
            }
        }
    }
    Ok(())
}

#[test]
fn modules_reach_the_guest_in_their_order() -> Result {
    let [first, second] = ["hello.bin", "multiboot.bin"].map(built);
    let line = |file: &str, text: &str| -> std::io::Result<String> {
        let bytes = std::fs::read(file)?;
        let (size, sum) = (bytes.len(), bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>());
        Ok(format!("guest: module '{text}' of {size} bytes, their sum is {sum}\n"))
    };
    let with_text = format!("{first}=a=b c");
    for backend in backends() {
        let by = ["--backend", backend];
        for image in ["multiboot.bin", "multiboot.elf"].map(built) {
            let modules = [&image, "--module", &with_text, "--module", &second];
            let output = unikernel(&[&modules[..], &by].concat())?;
            let text = String::from_utf8(output.stdout)?;
            let lines = line(&first, "a=b c")? + &line(&second, "")?;
            assert!(text.contains(&lines), "on {backend}: {text}\ninstead of\n{lines}");
            assert_eq!(output.status.code(), Some(0), "on {backend}");
        }
        let output = unikernel(&[&[&built("pvh.elf"), "--module", &first], &by[..]].concat())?;
        let text = String::from_utf8(output.stdout)?;
        assert!(text.contains(&line(&first, "")?), "on {backend}: {text}");
    }
    Ok(())
}

#[test]
fn an_inspection_tells_of_each_way_whether_and_why() -> Result {
    for (image, _, way) in GUESTS {
        let image = built(image);
        let output = unikernel(&["--inspect", &image])?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.starts_with(&format!("{image}: can be started by {way}\n")), "{text}");
        let lines: Vec<_> = text.lines().skip(1).collect();
        let ways = lines.iter().filter(|line| line.starts_with("  "));
        assert_eq!((lines.len(), ways.count()), (4, 1), "{text}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_run_is_refused_with_a_reason() -> Result {
    let (image, garbage) = (built("elf64.elf"), built("hello.bin"));
    let cases: &[(&[&str], &str)] = &[
        (&[], "no image given"),
        (&[&image, &image], "unknown argument"),
        (&[&image, "--frobnicate"], "unknown argument: --frobnicate"),
        (&[&image, "--mem"], "--mem wants a value"),
        (&[&image, "--mem", "-1"], "--mem: -1 is no number that fits"),
        (&[&image, "--cpus", "5000000000"], "--cpus: 5000000000 is no number that fits"),
        (&[&image, "--backend", "xen"], "xen is none of auto, kvm, soft"),
        (&["no/such/image"], "no/such/image: No such file"),
        (&["/"], "not a regular file"),
        (&[&garbage], "no magic 0x1badb002"),
    ];
    for (arguments, says) in cases {
        let output = unikernel(arguments)?;
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains(says), "{arguments:?}: '{said}' does not say '{says}'");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
    }
    let output = unikernel(&["--inspect", &garbage])?;
    assert!(String::from_utf8(output.stdout)?.contains("cannot be started\n! the Linux boot"));
    assert_eq!(output.status.code(), Some(125));
    let not_utf8 = OsStr::from_bytes(b"\xff");
    let output = unikernel_os([not_utf8].into_iter())?;
    assert!(String::from_utf8(output.stderr)?.contains("is not UTF-8"));

    let help = unikernel(&["--help"])?;
    assert!(help.status.success() && String::from_utf8(help.stdout)?.contains("Usage:"));
    Ok(())
}

#[test]
fn what_does_not_fit_the_machine_is_refused_with_a_reason() -> Result {
    if !runs_here("what_does_not_fit_the_machine_is_refused_with_a_reason") {
        return Ok(());
    }
    let (elf64, pvh) = (built("elf64.elf"), built("pvh.elf"));
    let module = format!("{pvh}=text");
    let cases: &[(&[&str], &str)] = &[
        (&[&elf64, "--mem", "0"], "guest memory: "),
        (&[&elf64, "--mem", "1"], "to guest address 0x100000"),
        (&[&elf64, "--mem", "99999999999999"], "--mem: too much"),
        (&[&elf64, "--cpus", "0"], "0 vCPUs"),
        (&[&elf64, "--cpus", "1000000"], "1000000 vCPUs"),
        (&[&elf64, "--module", &pvh], "modules cannot be passed"),
        (&[&pvh, "--module", &module], "PVH takes one module, without"),
    ];
    for (arguments, says) in cases {
        let output = unikernel(arguments)?;
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains(says), "{arguments:?}: '{said}' does not say '{says}'");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
    }
    Ok(())
}
