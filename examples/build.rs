//! Compiles the guests of the examples.

use std::{path::Path, process::ExitCode};

#[path = "../tests/guests/compile.rs"]
mod compile;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guests");
    match hello().and_then(|()| compile::unikernels()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=compiling the examples' guests: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A flat binary, which a machine loads as it is.
fn hello() -> Result<(), String> {
    let guests = Path::new("guests");
    let sources = ["start.S", "hello.c"].map(|name| guests.join(name));
    compile::link("hello.bin", &sources, &guests.join("flat.ld"), &["-Wl,--oformat=binary"])
}
