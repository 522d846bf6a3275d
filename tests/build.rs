//! Builds the programs that the tests of sandboxes run: ordinary static Linux programs in C.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const SOURCES: &str = "guests/sandbox";
const NEEDED: &str = "a C compiler and a static C library are needed (Debian: gcc libc6-dev)";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=programs for the tests of sandboxes: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Makes `OUT_DIR/sandbox/NAME` of each `NAME.c`.
fn build() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
    let out = Path::new(&out).join("sandbox");
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let compiler = cc::Build::new().opt_level(1).debug(false).warnings(false).try_get_compiler();
    let compiler = compiler.map_err(|error| format!("{NEEDED}: {error}"))?;
    for source in sources()? {
        let name = source.file_stem().unwrap_or_default();
        compile(compiler.to_command(), &source, &out.join(name))?;
    }
    Ok(())
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(SOURCES).map_err(|error| format!("{SOURCES}: {error}"))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<Result<Vec<_>, _>>().map_err(|e| format!("{SOURCES}: {e}"))?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "c")).collect())
}

fn compile(mut compiler: Command, source: &Path, program: &Path) -> Result<(), String> {
    compiler.args(["-static", "-no-pie", "-w", "-I", "../vmm-sandbox/guest/include"]);
    // A file may ask for another way to be linked.
    let text = fs::read_to_string(source).unwrap_or_default();
    if text.contains("link: static-pie") {
        compiler.args(["-fPIE", "-static-pie"]);
    }
    compiler.arg("-o").arg(program).arg(source).arg("-lm");
    let output = compiler.output().map_err(|error| format!("{NEEDED}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{NEEDED}; {}: {said}", source.display()))
}
