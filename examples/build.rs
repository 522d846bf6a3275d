//! Compiles the guests: freestanding C, linked to flat binaries that a machine loads as they are.

use std::{env, error::Error, path::Path, process::ExitCode};

const FLAGS: &[&str] = &[
    "-ffreestanding",
    // A guest that has not set up the FPU must not use it.
    "-mgeneral-regs-only",
    // An interrupt handler on the same stack would overwrite a red zone.
    "-mno-red-zone",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--oformat=binary,--build-id=none",
    "-Tguests/flat.ld",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guests");
    match build("hello") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=compiling the examples' guests: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes `OUT_DIR/NAME.bin` of `guests/NAME.c`.
fn build(name: &str) -> Result<(), Box<dyn Error>> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
    let needed = "a C compiler is needed (Debian: apt install gcc), or CC set to one";
    let compiler = cc::Build::new().opt_level(2).debug(false).pic(false).try_get_compiler();
    let compiler = compiler.map_err(|error| format!("{needed}: {error}"))?;
    let mut command = compiler.to_command();
    command.args(FLAGS).arg("guests/start.S").arg(format!("guests/{name}.c"));
    command.arg("-o").arg(Path::new(&out).join(name).with_extension("bin"));
    let output = command
        .output()
        .map_err(|error| format!("{needed}: {}: {error}", compiler.path().display()))?;
    if output.status.success() {
        return Ok(());
    }
    // A cargo directive is one line.
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ").into())
}
