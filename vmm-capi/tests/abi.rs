//! What programs were compiled with stays as it is: the header beside its committed baseline, by
//! libabigail.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A library of empty functions: the header as a compiler sees it, without what Rust has behind it.
fn stand_in(header: &str, directory: &Path) -> PathBuf {
    let (before, functions) = header.split_once("extern \"C\" {\n#endif // __cplusplus\n").unwrap();
    let (functions, _) = functions.split_once("#ifdef __cplusplus").unwrap();
    let before = before.strip_suffix("#ifdef __cplusplus\n").unwrap();
    let bodies = functions.replace(";\n", " { __builtin_trap(); }\n");
    let (source, library) = (directory.join("vmm.c"), directory.join("libvmm.so.0"));
    fs::write(&source, format!("{before}\n{bodies}\n#endif\n")).unwrap();
    let compiled = Command::new("cc")
        .args(["-g", "-w", "-shared", "-fPIC", "-Wl,-soname,libvmm.so.0", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// What changed from `baseline` to this library; empty if nothing did.
fn difference(baseline: &Path, library: &Path) -> String {
    let output = Command::new("abidiff").args([baseline, library]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // The first two bits are failures of the tool.
    let code = output.status.code().unwrap();
    assert_eq!(code & 3, 0, "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(code == 0, said.is_empty(), "{said}");
    said
}

#[test]
fn programs_that_were_compiled_go_on_working() {
    if Command::new("abidiff").arg("--version").output().is_err() {
        println!("skipped: programs_that_were_compiled_go_on_working: abidiff is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let header = fs::read_to_string(Path::new(HERE).join("../include/vmm.h")).unwrap();
    let library = stand_in(&header, directory.path());
    let baseline = Path::new(HERE).join("abi/libvmm.abi");
    if env::var_os("VMM_UPDATE").is_some() {
        let made = Command::new("abidw")
            .args(["--no-corpus-path", "--no-comp-dir-path", "--no-show-locs"])
            .arg("--out-file")
            .args([&baseline, &library])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let changed = difference(&baseline, &library);
    assert!(
        changed.is_empty(),
        "{changed}\nWhat was added grows VMM_ABI; what is no longer there, or different, grows the \
         soname. Then VMM_UPDATE=1 cargo test -p vmm-capi --test abi makes the baseline anew."
    );

    // One that finds nothing is not believed blindly.
    for (from, to) in [
        ("bool vmm_abi_check(uint32_t abi);", ""),
        ("uint64_t reads;", "uint32_t reads;"),
        ("VMM_STATUS_HOST = 4,", "VMM_STATUS_HOST = 5,"),
    ] {
        assert!(header.contains(from));
        let library = stand_in(&header.replacen(from, to, 1), directory.path());
        assert_ne!(difference(&baseline, &library), "", "{from}");
    }
}
