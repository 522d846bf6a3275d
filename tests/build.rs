//! Compiles the programs that the tests of sandboxes run.

use std::{path::Path, process::ExitCode};

#[path = "guests/foreign.rs"]
mod foreign;
#[path = "guests/program.rs"]
mod program;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    let portable = Path::new("guests/portable/portable.c");
    let made = program::all("guests/sandbox").and_then(|()| program::freestanding(portable));
    match made.and_then(|()| foreign::all()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=compiling programs for sandboxes: {why}");
            ExitCode::FAILURE
        }
    }
}
