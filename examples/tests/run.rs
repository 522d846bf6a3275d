//! The examples run as the README prints them.

use std::process::{Command, Output};

use vmm_core::host::{self, KvmKind};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Runs an example that cargo has built next to this test.
fn example(name: &str, arguments: &[&str]) -> std::io::Result<Output> {
    let mut path = std::env::current_exe()?;
    // target/PROFILE/deps/this-test
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(name)).args(arguments).output()
}

#[test]
fn hello_answers_or_says_why_it_cannot() -> Result {
    let output = example("hello", &[])?;
    let text = String::from_utf8(output.stdout)?;
    if host::probe().kvm == KvmKind::None {
        println!("skipped: hello_answers_or_says_why_it_cannot: no /dev/kvm here");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr)?.contains("/dev/kvm"));
        return Ok(());
    }
    println!("hello_answers_or_says_why_it_cannot: on {}", host::probe().kvm);
    assert!(text.starts_with("host:  running on kvm ("), "{text}");
    let answer = "guest: hello! 27 takes 111 steps to 1 and peaks at 9232\n";
    assert!(text.ends_with(answer), "{text}");
    assert_eq!(output.status.code(), Some(0));
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
