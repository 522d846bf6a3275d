//! Compiles the guests of the examples.

use std::{path::Path, process::ExitCode};

#[path = "../tests/guests/compile.rs"]
mod compile;
#[path = "../tests/guests/program.rs"]
#[expect(dead_code, reason = "tests compile whole directories")]
mod program;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guests");
    match guests() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=compiling the examples' guests: {why}");
            ExitCode::FAILURE
        }
    }
}

fn guests() -> Result<(), String> {
    hello()?;
    compile::unikernels()?;
    program::one(Path::new("guests/fork.c"))?;
    program::one(Path::new("guests/hostcall.c"))?;
    program::one(Path::new("guests/serve.c"))?;
    program::one(Path::new("../tests/guests/sandbox/visitor.c"))
}

/// A flat binary, which a machine loads as it is.
fn hello() -> Result<(), String> {
    let guests = Path::new("guests");
    let sources = ["start.S", "hello.c"].map(|name| guests.join(name));
    compile::link("hello.bin", &sources, &guests.join("flat.ld"), &["-Wl,--oformat=binary"])
}
