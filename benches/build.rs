//! Compiles the programs that sandboxes are measured with.

use std::{path::Path, process::ExitCode};

#[path = "../tests/guests/program.rs"]
#[expect(dead_code, reason = "tests compile whole directories")]
mod program;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    for source in ["table/sandbox.c", "table/small.c"] {
        println!("cargo::rerun-if-changed={source}");
        if let Err(why) = program::one(Path::new(source)) {
            println!("cargo::error=compiling a program for sandboxes: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
