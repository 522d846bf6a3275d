//! The same program on Linux itself and in a sandbox: what it prints is the same.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{self, Command, Stdio},
};

use vmm_sandbox::{Outcome, Sandbox};

use crate::{can_run, program};

/// Makes a file that can be executed at once. Another process writes it: had this one it open, a process
/// that another test starts just then would have it open too for a moment (ETXTBSY).
pub(crate) fn make_executable(path: &Path, image: &[u8]) {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(image).unwrap();
    assert!(writer.wait().unwrap().success(), "{}", path.display());
}

/// Runs it on this host; gives standard output and the exit status.
fn natively(name: &str, image: &[u8], arguments: &[&str]) -> (String, Option<i32>) {
    let path = std::env::temp_dir().join(format!("vmm-{}-{name}", process::id()));
    make_executable(&path, image);
    let output = Command::new(&path).args(arguments).env_clear().output();
    fs::remove_file(&path).unwrap();
    let output = output.unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// Compares line by line, which is easier to read than a wall of text.
fn same(name: &str, image: &'static [u8], arguments: &[&str]) {
    let (expected, status) = natively(name, image, arguments);
    let all = [name].into_iter().chain(arguments.iter().copied());
    let mut sandbox = Sandbox::image(image).hypervisor(crate::backend()).args(all).build().unwrap();
    let outcome = sandbox.start().unwrap();
    let text = String::from_utf8(sandbox.take_stdout()).unwrap();
    for (ours, native) in text.lines().zip(expected.lines()) {
        assert_eq!(ours, native, "{name}");
    }
    assert_eq!(text, expected, "{name}");
    assert_eq!(Some(outcome), status.map(Outcome::Exited), "{name}");
}

#[test]
fn memory_calls_answer_and_do_as_linux_does() {
    if can_run("memory_calls_answer_and_do_as_linux_does") {
        same("memory", program!("memory"), &[]);
    }
}

/// Programs that compute: their results depend on every instruction in between.
macro_rules! computations {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        fn $test() {
            if can_run(stringify!($test)) {
                same($name, program!($name), &[]);
            }
        }
    )*};
}

computations! {
    copies_at_all_alignments_and_page_borders "copies"
    matrix_product_in_doubles "matrix"
    prime_sieve "sieve"
    quicksort "quicksort"
    sha256_of_16_mib "sha256"
    ten_thousand_floats_printed_and_read "floats"
}
