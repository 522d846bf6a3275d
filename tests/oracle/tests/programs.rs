//! Static programs on the software CPU and on this processor: the same output.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test, which says what it did")]

use std::{path::PathBuf, process::Command};

use vmm_oracle::program::{End, Program};

/// Builds a program; `None`, and says so, if there is no C compiler with a static library.
fn build(name: &str) -> Option<PathBuf> {
    let source = format!("{}/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let flags = ["-static", "-no-pie", "-O2", "-march=x86-64", "-o"];
    let built = Command::new("cc").args(flags).arg(&binary).args([&source, "-lm"]).output();
    match built {
        Ok(built) if built.status.success() => Some(binary),
        Ok(built) => {
            println!("skipped: {name}: {}", String::from_utf8_lossy(&built.stderr));
            None
        }
        Err(error) => {
            println!("skipped: {name}: no C compiler: {error}");
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn same_output(name: &str) {
    let Some(binary) = build(name) else { return };
    let native = Command::new(&binary).output().unwrap();
    let mut program = Program::load(&std::fs::read(&binary).unwrap(), &[name], 1 << 14).unwrap();
    let end = program.run();
    println!("{name}: {} million instructions", program.instructions() / 1_000_000);
    assert_eq!(end, End::Exited(native.status.code().unwrap()));
    let (ours, native) = (text(program.output()), text(&native.stdout));
    let first: Vec<_> = ours.lines().zip(native.lines()).filter(|(a, b)| a != b).take(3).collect();
    assert_eq!(first, [], "lines that differ");
    assert!(ours == native, "not as many lines");
    assert!(native.len() > 16, "the program says something");
}

#[test]
fn sieve() {
    same_output("sieve");
}

#[test]
fn sha256_of_16_mib() {
    same_output("sha256");
}

#[test]
fn quicksort() {
    same_output("quicksort");
}

#[test]
fn matrix_product_in_doubles() {
    same_output("matrix");
}

#[test]
fn ten_thousand_floats_printed() {
    same_output("floats");
}

#[test]
fn copies_at_all_alignments_and_page_borders() {
    same_output("memory");
}
