//! The example sandbox, with a program that does what it is told; and the unit tests of its command
//! line, which cargo would build instead of the example if they were run there.

#[path = "../arguments/mod.rs"]
mod arguments;
#[path = "../sandbox/options.rs"]
mod options;

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use vmm_core::host::{self, KvmKind};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Made by `build.rs` of `tests/guests/sandbox/visitor.c`.
const VISITOR: &str = concat!(env!("OUT_DIR"), "/sandbox/visitor");

/// The example, which cargo has built next to this test.
fn example(options: &[&str]) -> Command {
    // target/PROFILE/deps/this-test
    let test = std::env::current_exe().unwrap_or_default();
    let profile = test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
    let mut command = Command::new(profile.join("examples/sandbox"));
    command.args(options);
    command
}

fn visitor(options: &[&str], arguments: &[&str]) -> std::io::Result<Output> {
    example(options).arg(VISITOR).args(arguments).stdin(Stdio::null()).output()
}

fn started(arguments: &[&str]) -> std::io::Result<Child> {
    let mut command = example(&[VISITOR]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
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

#[test]
fn a_program_gets_its_arguments_and_environment_only() -> Result {
    if !runs_here("a_program_gets_its_arguments_and_environment_only") {
        return Ok(());
    }
    let output = visitor(&["--env", "A=b c", "--mem=16"], &["--stats", "two words"])?;
    let said = "argument --stats\nargument two words\nvariable A=b c\n";
    assert_eq!(String::from_utf8(output.stdout)?, said);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    Ok(())
}

#[test]
fn statuses_tell_how_it_ended() -> Result {
    if !runs_here("statuses_tell_how_it_ended") {
        return Ok(());
    }
    let cases: [(&[&str], &[&str], i32, &str); 8] = [
        (&[], &["exit", "7"], 7, ""),
        (&[], &["abort"], 128 + 6, "sandbox: killed: signal 6\n"),
        (&[], &["crash"], 128 + 11, "write to memory that may not be at address 0x8"),
        (&[], &["divide"], 128 + 8, "division error"),
        (&[], &["trap"], 128 + 5, "breakpoint"),
        (&[], &["undefined"], 128 + 4, "invalid instruction"),
        (&["--timeout", "200"], &["loop"], 124, "sandbox: killed: took longer than 200ms\n"),
        (&["--stats"], &["missing"], 0, "sandbox: system call clone, not known here: 1\n"),
    ];
    for (options, arguments, status, says) in cases {
        let output = visitor(options, arguments)?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!says.is_empty() || said.is_empty(), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn it_sees_the_directories_it_was_granted() -> Result {
    if !runs_here("it_sees_the_directories_it_was_granted") {
        return Ok(());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("granted");
    fs::create_dir_all(&directory)?;
    let file = directory.join("file");
    fs::write(&file, "of the host\n")?;
    let directory = directory.to_str().ok_or("the path is not UTF-8")?;
    let seen = |options: &[&str], path| visitor(options, &["show", path]);

    let hidden = seen(&[], file.to_str().ok_or("the path is not UTF-8")?)?;
    assert_eq!(hidden.status.code(), Some(1));
    assert_eq!(seen(&["--root", directory], "/file")?.stdout, b"of the host\n");
    let mount = format!("{directory}:/a/b");
    assert_eq!(seen(&["--mount", &mount], "/a/b/file")?.stdout, b"of the host\n");

    let refused = visitor(&["--mount", &mount], &["save", "/a/b/file", "changed"])?;
    assert!(String::from_utf8(refused.stderr)?.contains("Read-only file system"));
    assert_eq!(fs::read_to_string(&file)?, "of the host\n");
    let root = format!("{directory}:rw");
    let done = visitor(&["--root", &root], &["save", "file", "changed"])?;
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(fs::read_to_string(&file)?, "changed");
    Ok(())
}

#[test]
fn standard_input_reaches_it() -> Result {
    if !runs_here("standard_input_reaches_it") {
        return Ok(());
    }
    let mut child = started(&["show"])?;
    // More than a pipe holds.
    let text = "a line of text\n".repeat(20_000);
    let mut input = child.stdin.take().ok_or("no pipe")?;
    let bytes = text.clone();
    let writer = std::thread::spawn(move || input.write_all(bytes.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| "the writer panicked")??;
    assert_eq!(String::from_utf8(output.stdout)?, text);
    Ok(())
}

#[test]
fn a_signal_stops_whatever_it_does() -> Result {
    if !runs_here("a_signal_stops_whatever_it_does") {
        return Ok(());
    }
    // Computing, and waiting for input that does not come.
    for (arguments, expected) in [(["loop"], "looping\n"), (["show"], "a")] {
        let mut child = started(&arguments)?;
        let mut input = child.stdin.take().ok_or("no pipe")?;
        if arguments == ["show"] {
            // What is read is put out at the latest when this much has come.
            input.write_all(&[b'a'; 1 << 15])?;
        }
        let mut said = vec![0; expected.len()];
        child.stdout.as_mut().ok_or("no pipe")?.read_exact(&mut said)?;
        assert_eq!(String::from_utf8(said)?, expected);
        let pid = Pid::from_raw(child.id().try_into()?).ok_or("no process")?;
        kill_process(pid, Signal::INT)?;
        assert_eq!(child.wait()?.signal(), Some(2), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_run_is_refused_with_a_reason() -> Result {
    let cases: [(&[&str], &str); 4] = [
        (&[], "PROGRAM is missing"),
        (&["--frobnicate"], "--frobnicate: no such option"),
        (&["/no/such/program"], "/no/such/program"),
        (&[concat!(env!("OUT_DIR"), "/hello.bin")], "ELF"),
    ];
    for (arguments, says) in cases {
        let output = example(arguments).output()?;
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains(says), "{arguments:?}: '{said}' does not say '{says}'");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
    }
    let help = example(&["--help"]).output()?;
    assert!(help.status.success() && String::from_utf8(help.stdout)?.contains("Usage:"));
    Ok(())
}
