//! Compiles the program that sandboxes are measured with.

use std::{path::Path, process::ExitCode};

#[path = "../tests/guests/program.rs"]
#[expect(dead_code, reason = "tests compile whole directories")]
mod program;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=table/sandbox.c");
    match program::one(Path::new("table/sandbox.c")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=compiling a program for sandboxes: {why}");
            ExitCode::FAILURE
        }
    }
}
