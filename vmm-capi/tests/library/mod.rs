//! The libraries that this package makes.

use std::{collections::BTreeSet, env, path::PathBuf, process::Command};

/// The directory that has them: this test's own.
pub(crate) fn directory() -> PathBuf {
    let test = env::current_exe().expect("this test's own path");
    test.parent().expect("the directory it is in").into()
}

/// What the shared one exports, whose names begin so.
pub(crate) fn symbols(start: &str) -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["--dynamic", "--defined-only", "--format=posix"])
        .arg(directory().join("libvmm.so"))
        .output()
        .expect("nm runs");
    let text = String::from_utf8(output.stdout).expect("names");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with(start)).map(str::to_owned).collect()
}

/// What the shared one exports, but for what tests inject.
#[allow(dead_code, reason = "not every test asks")]
pub(crate) fn exported() -> BTreeSet<String> {
    &symbols("") - &symbols("vmm_testing_")
}
