//! Assembles the stub (`stub/stub.S`) to the flat page that `src/cpu/stub.rs` includes.

use std::{env, path::Path, process::ExitCode};

const SOURCE: &str = "stub/stub.S";
const SCRIPT: &str = "stub/stub.ld";
const NEEDED: &str = "a C compiler with GNU as and ld is needed (Debian: gcc), or CC set to one";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=stub");
    match assemble() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=the sandbox's stub: {why}");
            ExitCode::FAILURE
        }
    }
}

fn assemble() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
    let compiler = cc::Build::new().opt_level(0).debug(false).warnings(false).try_get_compiler();
    let mut command = compiler.map_err(|error| format!("{NEEDED}: {error}"))?.to_command();
    command.args(["-nostdlib", "-static", "-no-pie", "-Wl,--oformat=binary,--build-id=none"]);
    command.args(["-T", SCRIPT, "-o"]).arg(Path::new(&out).join("stub.bin")).arg(SOURCE);
    let output = command
        .output()
        .map_err(|error| format!("{NEEDED}; {}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
}
