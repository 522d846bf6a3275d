//! Builds the guest programs of the conformance suite, if the feature `conformance` is on.

fn main() -> std::process::ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    match guests::build() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=guest programs of the feature `conformance`: {why}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "conformance"))]
mod guests {
    pub(super) fn build() -> Result<(), String> {
        Ok(())
    }
}

#[cfg(feature = "conformance")]
mod guests {
    use std::{
        env, fs,
        path::{Path, PathBuf},
        process::Command,
    };

    const SOURCES: &str = "src/hv/conformance/guests";

    const NEEDED: &str =
        "a C compiler with GNU as and ld is needed (Debian: gcc), or CC set to one";

    /// Makes `OUT_DIR/conformance/NAME.bin` of each `NAME.S`.
    pub(super) fn build() -> Result<(), String> {
        println!("cargo::rerun-if-changed={SOURCES}");
        let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
        let out = Path::new(&out).join("conformance");
        fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let compiler =
            cc::Build::new().opt_level(0).debug(false).warnings(false).try_get_compiler();
        let compiler = compiler.map_err(|error| format!("{NEEDED}: {error}"))?;
        for source in sources()? {
            let name = source.file_stem().unwrap_or_default();
            assemble(compiler.to_command(), &source, &out.join(name).with_extension("bin"))?;
        }
        Ok(())
    }

    fn sources() -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(SOURCES).map_err(|error| format!("{SOURCES}: {error}"))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<Result<Vec<_>, _>>().map_err(|e| format!("{SOURCES}: {e}"))?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "S")).collect())
    }

    /// Assembles and links one program, flat; the linker script says where.
    fn assemble(mut compiler: Command, source: &Path, binary: &Path) -> Result<(), String> {
        let script = Path::new(SOURCES).join("guest.ld");
        compiler.args(["-nostdlib", "-static", "-no-pie", "-I", SOURCES]);
        compiler.args(["-Wl,--oformat=binary,--build-id=none", "-T"]).arg(script);
        compiler.arg("-o").arg(binary).arg(source);
        let output = compiler
            .output()
            .map_err(|error| format!("{NEEDED}; {}: {error}", compiler.get_program().display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", source.display(), said.trim().replace('\n', "; ")))
    }
}
