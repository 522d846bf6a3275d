//! Compiles programs whose compiler or library may be missing: C++, Rust, C with SQLite. What cannot
//! be had becomes an empty file, and the test that wants it says so. A module of the build script;
//! paths are relative to its package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const DIRECTORY: &str = "guests/programs";

/// Makes `OUT_DIR/programs/NAME` of each source.
pub(crate) fn all() -> Result<(), String> {
    println!("cargo::rerun-if-changed={DIRECTORY}");
    println!("cargo::rerun-if-changed=/usr/include/sqlite3.h");
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("programs");
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let rustc = env::var_os("RUSTC").ok_or("RUSTC is not set: build with cargo")?;
    let mut rust = Command::new(rustc);
    rust.args(["--edition", "2024", "-C", "opt-level=1", "-C", "target-feature=+crt-static"]);
    // With a target, flags do not go to what the compiler itself runs.
    rust.args(["--target", "x86_64-unknown-linux-gnu"]);
    make(rust, "collections.rs", &out, &[])?;
    let mut cxx = Command::new("c++");
    cxx.args(["-std=c++17", "-O1", "-static", "-Wall", "-Wextra", "-Werror"]);
    make(cxx, "exceptions.cpp", &out, &[])?;
    let mut c = Command::new("cc");
    c.args(["-O1", "-static", "-Wall", "-Wextra", "-Werror"]);
    // The linker warns of what static programs should not call and this one does not.
    make(c, "sqlite.c", &out, &["-lsqlite3", "-lm"])
}

fn make(mut compiler: Command, source: &str, out: &Path, end: &[&str]) -> Result<(), String> {
    let source = Path::new(DIRECTORY).join(source);
    let program = out.join(source.file_stem().unwrap_or_default());
    let missing = match compiler.arg("-o").arg(&program).arg(&source).args(end).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => error.to_string(),
    };
    println!("cargo::warning=left out: {}: {missing}", source.display());
    fs::write(&program, "").map_err(|error| format!("{}: {error}", program.display()))
}
