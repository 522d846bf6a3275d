//! Compiles programs for sandboxes: ordinary static Linux programs in C. A module of the build
//! scripts of those packages that run them; paths are relative to such a package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const NEEDED: &str = "a C compiler and a static C library are needed (Debian: gcc libc6-dev)";

/// Where `vmm_guest.h` is.
const HEADERS: &str = "../vmm-sandbox/guest/include";

/// Makes `OUT_DIR/sandbox/NAME` of each `NAME.c` in a directory.
pub(crate) fn all(directory: &str) -> Result<(), String> {
    println!("cargo::rerun-if-changed={directory}");
    let entries = fs::read_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{directory}: {error}"))?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            one(&path)?;
        }
    }
    Ok(())
}

/// Makes `OUT_DIR/sandbox/NAME` of `NAME.c`.
pub(crate) fn one(source: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={HEADERS}");
    let compiler = cc::Build::new().opt_level(1).debug(false).warnings(false).try_get_compiler();
    let compiler = compiler.map_err(|error| format!("{NEEDED}: {error}"))?;
    compile(compiler.to_command(), source, &place(source)?)
}

/// Makes `OUT_DIR/sandbox/NAME` of a `NAME.c` that needs no library and starts at `_start`.
pub(crate) fn freestanding(source: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", source.display());
    let compiler = cc::Build::new().opt_level(1).debug(false).warnings(false).try_get_compiler();
    let mut command = compiler.map_err(|error| format!("{NEEDED}: {error}"))?.to_command();
    command.args(["-nostdlib", "-fno-stack-protector", "-march=x86-64", "-Wl,--build-id=none"]);
    compile(command, source, &place(source)?)
}

fn place(source: &Path) -> Result<PathBuf, String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
    let out = Path::new(&out).join("sandbox");
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(out.join(source.file_stem().unwrap_or_default()))
}

fn compile(mut compiler: Command, source: &Path, program: &Path) -> Result<(), String> {
    compiler.args(["-static", "-no-pie", "-fno-pie", "-Wall", "-Wextra", "-Werror"]);
    compiler.args(["-I", HEADERS, "-o"]).arg(program).args([source]);
    compiler.arg("-lm");
    let output = compiler.output().map_err(|error| format!("{NEEDED}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{}: {said}", source.display()))
}
