//! Compiles guests: freestanding C and assembly. A module of the build scripts of those packages
//! that run them; paths are relative to such a package.

use std::{
    env,
    path::{Path, PathBuf},
};

const FLAGS: &[&str] = &[
    "-ffreestanding",
    // A guest that has not set up the FPU must not use it.
    "-mgeneral-regs-only",
    // An interrupt handler on the same stack would overwrite a red zone.
    "-mno-red-zone",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",
    "-fno-pie",
    "-no-pie",
    "-Wl,--build-id=none,-z,max-page-size=4096",
];

const GUESTS: &str = "../tests/guests";

/// The unikernels: how each is made.
const UNIKERNELS: &[Unikernel] = &[
    Unikernel {
        image: "multiboot.elf",
        sources: &["multiboot/header.S", "start32.S", "multiboot/main.c"],
        flags: &["-m32"],
    },
    Unikernel {
        image: "multiboot.bin",
        sources: &["multiboot/header.S", "start32.S", "multiboot/main.c"],
        flags: &["-m32", "-DADDRESS_FIELDS", "-Wl,--oformat=binary"],
    },
    Unikernel {
        image: "pvh.elf",
        sources: &["pvh/note.S", "start32.S", "pvh/main.c"],
        flags: &["-m32"],
    },
    Unikernel { image: "elf64.elf", sources: &["elf64/main.c"], flags: &[] },
];

struct Unikernel {
    image: &'static str,
    sources: &'static [&'static str],
    flags: &'static [&'static str],
}

/// Makes the unikernels in `OUT_DIR`.
pub(crate) fn unikernels() -> Result<(), String> {
    println!("cargo::rerun-if-changed={GUESTS}");
    let guests = Path::new(GUESTS);
    for unikernel in UNIKERNELS {
        let sources: Vec<_> = unikernel.sources.iter().map(|name| guests.join(name)).collect();
        link(unikernel.image, &sources, &guests.join("kernel.ld"), unikernel.flags)?;
    }
    Ok(())
}

/// Makes `OUT_DIR/IMAGE` of these sources.
pub(crate) fn link(
    image: &str,
    sources: &[PathBuf],
    script: &Path,
    flags: &[&str],
) -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?;
    let needed = "a C compiler is needed (Debian: apt install gcc), or CC set to one";
    let compiler = cc::Build::new().opt_level(2).debug(false).pic(false).try_get_compiler();
    let compiler = compiler.map_err(|error| format!("{needed}: {error}"))?;
    let mut command = compiler.to_command();
    command.args(FLAGS).args(flags).arg("-T").arg(script).args(sources);
    command.arg("-o").arg(Path::new(&out).join(image));
    let output = command
        .output()
        .map_err(|error| format!("{needed}: {}: {error}", compiler.path().display()))?;
    if output.status.success() {
        return Ok(());
    }
    // A cargo directive is one line.
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{image}: {said}"))
}
