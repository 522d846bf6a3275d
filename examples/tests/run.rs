//! The examples run as the README prints them.

use std::process::{Command, Output};

use vmm_core::host::{self, KvmKind};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Runs an example that cargo has built next to this test.
fn example(name: &str, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(example_path(name)?).args(arguments).output()
}

fn example_path(name: &str) -> std::io::Result<std::path::PathBuf> {
    let mut path = std::env::current_exe()?;
    // target/PROFILE/deps/this-test
    path.pop();
    path.pop();
    Ok(path.join("examples").join(name))
}

#[test]
fn hello_answers_on_any_host_and_says_where_it_ran() -> Result {
    let kind = host::probe().kvm;
    let words = match kind {
        KvmKind::None => "soft (no KVM: ",
        KvmKind::UserMode => "soft (/dev/kvm emulates ring 0",
        KvmKind::Whole => "kvm (",
    };
    println!("hello_answers_on_any_host_and_says_where_it_ran: on {kind}");
    answers(&example("hello", &[])?, words)
}

#[test]
fn hello_answers_on_the_software_cpu() -> Result {
    answers(&example("hello", &["--backend", "soft"])?, "soft (as asked for)")?;
    let unknown = example("hello", &["--backend", "xen"])?;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr)?.contains("xen"));
    Ok(())
}

/// In a mount namespace of its own, with /dev/null where /dev/kvm was.
#[test]
fn hello_answers_with_dev_kvm_hidden() -> Result {
    let hello = example_path("hello")?;
    let hidden = "mount --bind /dev/null /dev/kvm && exec \"$0\"";
    let run = |namespaces| {
        Command::new("unshare").args([namespaces, "sh", "-c", hidden]).arg(&hello).output()
    };
    if !std::path::Path::new("/dev/kvm").exists() {
        println!("skipped: hello_answers_with_dev_kvm_hidden: no /dev/kvm here");
        return Ok(());
    }
    for namespaces in ["-m", "-rm"] {
        match run(namespaces) {
            Ok(output) if output.status.success() => {
                return answers(&output, "soft (no KVM: /dev/kvm opens, but it is not KVM");
            }
            Ok(output) => println!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => println!("unshare: {error}"),
        }
    }
    println!("skipped: hello_answers_with_dev_kvm_hidden: no mount namespace to be had here");
    Ok(())
}

fn answers(output: &Output, place: &str) -> Result {
    let text = String::from_utf8(output.stdout.clone())?;
    assert!(text.starts_with(&format!("host:  running on {place}")), "{text}");
    let answer = "guest: hello! 27 takes 111 steps to 1 and peaks at 9232\n";
    assert!(text.ends_with(answer), "{text}");
    assert_eq!(output.status.code(), Some(0));
    Ok(())
}

#[test]
fn forks_answer_each_with_its_own_identity() -> Result {
    let output = example("fork", &["20"])?;
    let said = String::from_utf8(output.stdout)?;
    println!("forks_answer_each_with_its_own_identity: on {}", host::probe().kvm);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("20 children answered, each with an identity of its own\n"), "{said}");
    assert!(["fork ", "first call", "reset", "resident"].iter().all(|row| said.contains(row)));
    Ok(())
}

#[test]
fn hostcall_scores_or_says_why_it_cannot() -> Result {
    let output = example("hostcall", &[])?;
    if host::probe().kvm == KvmKind::None {
        println!("skipped: hostcall_scores_or_says_why_it_cannot: no /dev/kvm here");
        assert_eq!(output.status.code(), Some(1));
        return Ok(());
    }
    println!("hostcall_scores_or_says_why_it_cannot: on {}", host::probe().kvm);
    assert_eq!(String::from_utf8(output.stdout)?, "score: 16\n");
    assert!(output.status.success());
    Ok(())
}

#[test]
fn device_tells_the_time_in_three_places() -> Result {
    let output = example("device", &[])?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    let [ticks, times @ ..] = &lines[..] else { return Err(text.into()) };
    assert_eq!(*ticks, "a second has 1000 ticks");
    let minutes = |line: &str| -> Option<u32> {
        let (hour, minute) = line.split_once(": ")?.1.split_once(':')?;
        Some(hour.parse::<u32>().ok()? * 60 + minute.parse::<u32>().ok()?)
    };
    let found: Vec<_> = times.iter().filter_map(|line| minutes(line)).collect();
    let [here, tokyo, lima] = found[..] else { return Err(text.into()) };
    // Minutes may pass between two answers.
    let is_ahead = |time: u32, by: u32| (time + 1440 - here - by) % 1440 <= 10;
    assert!(is_ahead(tokyo, 9 * 60) && is_ahead(lima + 1440, 19 * 60), "{text}");
    Ok(())
}

#[test]
fn probe_prints_a_table_for_people_and_json_for_programs() -> Result {
    let table = String::from_utf8(example("probe", &[])?.stdout)?;
    let kind = host::probe().kvm;
    assert!(table.starts_with(&format!("This host has {kind}.")), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&example("probe", &["--json"])?.stdout)?;
    assert_eq!(json["kvm"], serde_json::to_value(kind)?);
    assert!(json["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{json}");
    Ok(())
}

#[test]
fn probe_explains_itself_and_refuses_what_it_does_not_know() -> Result {
    let help = example("probe", &["--help"])?;
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout)?.contains("Usage:"));
    let unknown = example("probe", &["--frobnicate"])?;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr)?.contains("--frobnicate"));
    Ok(())
}
