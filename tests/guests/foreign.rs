//! Compiles programs whose compiler or library may be missing: C++, Rust, C with SQLite. What cannot
//! be had becomes an empty file, and the test that wants it says so. A module of the build script;
//! paths are relative to its package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const DIRECTORY: &str = "guests/programs";

/// The crate `vmm-guest`.
const GUEST: &str = "../vmm-sandbox/guest/src";

/// Makes `OUT_DIR/programs/NAME` of each source.
pub(crate) fn all() -> Result<(), String> {
    println!("cargo::rerun-if-changed={DIRECTORY}");
    println!("cargo::rerun-if-changed=/usr/include/sqlite3.h");
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("programs");
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    make(rust()?, "collections.rs", &out, &[])?;
    let guest = guest(&out, "guest", &["--cfg", "feature=\"alloc\""])?;
    for source in ["score.rs", "typed.rs"] {
        make(rust()?, source, &out, &["--extern", &guest])?;
    }
    // Without `std` nobody else names what C programs are linked with. The core library is compiled
    // anew, because it was compiled to unwind.
    let bare = ["-C", "panic=abort"];
    let guest = self::guest(&out, "bare_guest", &bare)?;
    let libraries = "link-args=-Wl,-Bstatic,--start-group -lc -lgcc -lgcc_eh -Wl,--end-group";
    let flags = ["-C", "lto=fat", "-C", libraries, "--extern", &guest];
    make(rust()?, "bare.rs", &out, &[&bare[..], &flags].concat())?;
    let mut cxx = Command::new("c++");
    cxx.args(["-std=c++17", "-O1", "-static", "-Wall", "-Wextra", "-Werror"]);
    make(cxx, "exceptions.cpp", &out, &[])?;
    let mut c = Command::new("cc");
    c.args(["-O1", "-static", "-Wall", "-Wextra", "-Werror"]);
    // The linker warns of what static programs should not call and this one does not.
    make(c, "sqlite.c", &out, &["-lsqlite3", "-lm"])
}

fn rust() -> Result<Command, String> {
    let rustc = env::var_os("RUSTC").ok_or("RUSTC is not set: build with cargo")?;
    let mut rust = Command::new(rustc);
    rust.args(["--edition", "2024", "-C", "opt-level=1", "-C", "target-feature=+crt-static"]);
    // With a target, flags do not go to what the compiler itself runs.
    rust.args(["--target", "x86_64-unknown-linux-gnu"]);
    Ok(rust)
}

/// Compiles the crate `vmm-guest`; gives what `--extern` wants.
fn guest(out: &Path, name: &str, flags: &[&str]) -> Result<String, String> {
    println!("cargo::rerun-if-changed={GUEST}");
    let library = out.join(format!("lib{name}.rlib"));
    let mut rust = rust()?;
    rust.args(["--crate-type", "rlib", "--crate-name", "vmm_guest"]).args(flags);
    rust.arg("-o").arg(&library).arg(Path::new(GUEST).join("lib.rs"));
    let output = rust.output().map_err(|error| format!("rustc: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(format!("vmm-guest: {said}"));
    }
    Ok(format!("vmm_guest={}", library.display()))
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
