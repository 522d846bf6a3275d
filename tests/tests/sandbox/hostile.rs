//! Calls about files with hostile arguments: each answers, and the host is as it was.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use vmm_sandbox::{Access, Builder, Outcome, Sandbox};

use crate::{can_run, program};

/// Nothing takes that long but a call that waits for ever.
const LONG: Duration = Duration::from_secs(1200);

fn hostile(arguments: &[&str]) -> Builder {
    let arguments = [&["hostile"], arguments].concat();
    Sandbox::image(program!("hostile")).hypervisor(crate::backend()).args(arguments).timeout(LONG)
}

/// Runs the table of calls, of which these never work.
fn run(builder: Builder, refused: &[&str]) {
    let mut sandbox = builder.build().unwrap();
    let outcome = sandbox.start().unwrap();
    let said = String::from_utf8_lossy(&sandbox.take_stdout()).into_owned();
    assert_eq!(outcome, Outcome::Exited(0), "{said}");
    // A call that never worked was not tested much.
    let idle: Vec<_> = said.lines().filter_map(|line| line.strip_suffix(" never worked")).collect();
    assert_eq!(idle, refused);
    let last = said.lines().last().unwrap_or_default();
    println!("{last}");
    let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!((numbers.len(), numbers.get(2)), (3, Some(&0)), "{said}");
    assert!(numbers[0] > 3_000 && numbers[1] > numbers[0] / 20, "{last}");
}

/// What this process has open below a directory.
fn open_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let targets = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|path| path.starts_with(directory)).collect()
}

#[test]
fn every_call_answers_whatever_it_is_given() {
    if can_run("every_call_answers_whatever_it_is_given") {
        // Nothing there is a device with requests.
        run(hostile(&["/tmp/home"]), &["ioctl"]);
    }
}

#[test]
fn every_call_that_is_not_about_files_answers_too() {
    if can_run("every_call_that_is_not_about_files_answers_too") {
        run(hostile(&["other"]), &[]);
    }
}

/// The program's table has every call that is answered, but for those that end it.
#[test]
fn the_table_of_hostile_calls_is_whole() {
    let source = include_str!("../../guests/sandbox/hostile.c");
    for number in vmm_sandbox::testing::numbers() {
        let name = vmm_sandbox::testing::name(number);
        let ends = ["exit", "exit_group"].contains(&name);
        assert!(ends || source.contains(&format!("CALL({name},")), "{name} is not in the table");
    }
}

#[test]
fn a_granted_directory_is_all_that_changes() {
    if !can_run("a_granted_directory_is_all_that_changes") {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    let (inner, beside) = (outer.path().join("inner"), outer.path().join("beside"));
    fs::create_dir(&inner).unwrap();
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../beside", inner.join("out")).unwrap();
    std::os::unix::fs::symlink(&beside, inner.join("away")).unwrap();
    let seen = || {
        let mut names: Vec<_> =
            fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let secret = beside.join("secret");
        let meta = fs::metadata(&secret).unwrap();
        let directory = fs::metadata(outer.path()).unwrap().modified().unwrap();
        let secret = fs::read(secret).unwrap();
        (names, secret, meta.permissions(), meta.modified().unwrap(), directory)
    };
    let (before, here) = (seen(), std::env::current_dir().unwrap());
    for (home, access) in [("/home", Access::ReadWrite), ("/out/home", Access::ReadWrite)] {
        let builder = hostile(&[home]).root(&inner, access);
        if home == "/home" {
            // A second name could be one of what was not granted.
            run(builder, &["ioctl", "link", "linkat"]);
        } else {
            // There is no such place in what was granted.
            assert_eq!(builder.build().unwrap().start().unwrap(), Outcome::Exited(2));
        }
        assert_eq!(seen(), before, "{home}");
        assert_eq!(open_below(outer.path()), [""; 0].map(PathBuf::from), "{home}");
    }
    assert_eq!(std::env::current_dir().unwrap(), here);
}

/// A name that the host changes between a directory and a link that leads out, all the time.
#[test]
fn a_link_that_races_with_a_walk_does_not_lead_out() {
    if !can_run("a_link_that_races_with_a_walk_does_not_lead_out") {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    let (inner, beside) = (outer.path().join("inner"), outer.path().join("beside"));
    for (directory, text) in [(inner.join("swap"), "inside"), (beside, "secret")] {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), text).unwrap();
    }
    std::os::unix::fs::symlink("../beside", inner.join("link")).unwrap();
    let ended = AtomicBool::new(false);
    let swap = |one: &Path, two: &Path| renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                swap(&inner.join("swap"), &inner.join("link")).unwrap();
            }
        });
        let builder = hostile(&["race", "/swap/file"]).root(&inner, Access::ReadOnly);
        let mut sandbox = builder.build().unwrap();
        let outcome = sandbox.start();
        ended.store(true, Relaxed);
        let said = String::from_utf8(sandbox.take_stdout()).unwrap();
        println!("{said}");
        assert_eq!(outcome.unwrap(), Outcome::Exited(0), "{said}");
        // Both happened, or nothing was tested.
        assert!(!said.starts_with("0 ") && !said.contains(" 0 "), "{said}");
    });
}
