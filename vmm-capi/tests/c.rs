//! The C examples and the misuse suite, compiled without a warning and run under the address and
//! undefined-behaviour sanitizers.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

#[cfg(feature = "testing")]
use std::collections::BTreeSet;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

mod library;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Compiles and links a C program with the static library; `directory` is where it goes.
fn compile(source: &str, directory: &Path) -> PathBuf {
    let source = Path::new(ROOT).join(source);
    let program = directory.join(source.file_stem().unwrap());
    run(Command::new("cc")
        .args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-g", "-fsanitize=address,undefined"])
        .args(["-fno-sanitize-recover=all"])
        .args(WARNINGS)
        .arg(format!("-I{ROOT}/include"))
        .arg(source)
        .arg(library::directory().join("libvmm.a"))
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&program));
    program
}

#[test]
fn the_header_is_c99_and_c11_and_cxx17() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("only.c");
    std::fs::write(
        &source,
        "#include \"vmm.h\"\nint main(void) { return vmm_abi_check(VMM_ABI) ? 0 : 1; }\n",
    )
    .unwrap();
    for (compiler, standard) in [("cc", "c99"), ("cc", "c11"), ("c++", "c++17")] {
        let language = if compiler == "cc" { "c" } else { "c++" };
        run(Command::new(compiler)
            .args([&format!("-std={standard}"), "-x", language, "-fsyntax-only"])
            .args(WARNINGS)
            .arg(format!("-I{ROOT}/include"))
            .arg(&source));
    }
}

#[test]
fn a_guest_says_hello() {
    let directory = tempfile::tempdir().unwrap();
    let hello = compile("examples/hello.c", directory.path());
    for backend in ["auto", "soft"] {
        let said = text(&run(Command::new(&hello).arg(backend)));
        println!("a_guest_says_hello: {said}");
        assert!(
            said.contains("\nguest: hello from C :)\nhost:  powered off with code 0\n"),
            "{said}"
        );
    }
    let refused = Command::new(&hello).arg("steam").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.starts_with("hello: ") && why.contains("steam"), "{why}");
}

#[test]
fn the_probe_reports() {
    let directory = tempfile::tempdir().unwrap();
    let probe = compile("examples/probe.c", directory.path());
    let said = text(&run(&mut Command::new(probe)));
    assert!(said.starts_with("This host has "), "{said}");
}

#[test]
fn a_device_in_c_drives_a_guest() {
    let directory = tempfile::tempdir().unwrap();
    let counter = compile("examples/counter.c", directory.path());
    let said = text(&run(&mut Command::new(counter)));
    assert_eq!(said, "powered off with code 5; the counter is at 6\n");
}

/// Compiles the program that the examples call.
fn program(directory: &Path) -> PathBuf {
    program_of("examples/guests/hostcall.c", directory)
}

/// Compiles a program for sandboxes.
fn program_of(source: &str, directory: &Path) -> PathBuf {
    let guest = directory.join("guest");
    run(Command::new("cc")
        .args(["-static", "-O1"])
        .arg(format!("-I{ROOT}/vmm-sandbox/guest/include"))
        .arg(format!("{ROOT}/{source}"))
        .arg("-o")
        .arg(&guest));
    guest
}

#[test]
fn a_timer_in_c_interrupts_a_guest() {
    let directory = tempfile::tempdir().unwrap();
    let device = compile("examples/device.c", directory.path());
    let said = text(&run(&mut Command::new(device)));
    assert_eq!(said, "3 ticks; the guest powered off with code 3\n");
}

#[test]
fn a_unikernel_is_run_by_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let unikernel = compile("examples/unikernel.c", directory.path());
    let guest = bare("vmm-capi/tests/guests/driver.c", directory.path());
    // It knows no such command.
    let ran = Command::new(&unikernel).args([&guest, Path::new("?")]).output().unwrap();
    assert_eq!(ran.status.code(), Some(99), "{ran:?}");
    let source = Path::new(ROOT).join("examples/unikernel.c");
    let refused = Command::new(&unikernel).arg(source).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125), "{why}");
    assert!(why.contains("cannot be started:\nnot "), "{why}");
}

#[test]
fn linux_boots_from_c() {
    let directory = tempfile::tempdir().unwrap();
    let linux = compile("examples/linux.c", directory.path());
    let refused = Command::new(&linux).arg("no/such/kernel").output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains("no/such/kernel"), "{why}");
    let Some(guests) = std::env::var_os("VMM_GUESTS").map(PathBuf::from) else {
        println!("skipped: linux_boots_from_c: no kernel (VMM_GUESTS is not set)");
        return;
    };
    let disk = directory.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    // Far more than it takes; a machine may be very busy.
    let said = run(Command::new("timeout")
        .arg("1500")
        .arg(linux)
        .args([guests.join("vmlinuz"), guests.join("initrd")])
        .arg("console=ttyS0 quiet panic=-1 run=work")
        .arg(disk)
        .stdin(std::process::Stdio::null()));
    let said = text(&said);
    assert!(said.contains("guest: running Linux "), "{said}");
    assert!(said.contains("guest: date "), "{said}");
}

/// What the example `fork` prints.
const FORKED: &str = "child 0: 1\nchild 1: 2\nchild 2: 3\nafter a reset: 16\n";

#[test]
fn a_program_is_called_and_calls_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let guest = program(directory.path());
    let host = compile("examples/hostcall.c", directory.path());
    let said = text(&run(Command::new(host).arg(&guest)));
    assert_eq!(said, "score: 16 (4 calls of the host)\n");
    assert_eq!(
        text(&run(Command::new(compile("examples/fork.c", directory.path())).arg(&guest))),
        FORKED
    );
}

#[test]
fn a_program_has_its_streams_and_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("three.c");
    std::fs::write(
        &source,
        "#include <stdio.h>\nint main(int n, char **v) { puts(v[n - 1]); return 3; }\n",
    )
    .unwrap();
    let guest = directory.path().join("three");
    run(Command::new("cc").arg("-static").arg(source).arg("-o").arg(&guest));
    let sandbox = compile("examples/sandbox.c", directory.path());
    let ran = Command::new(sandbox).arg(guest).arg("last").output().unwrap();
    assert_eq!((ran.status.code(), text(&ran).as_str()), (Some(3), "last\n"));
}

#[test]
fn misuse_is_an_error_and_nothing_worse() {
    let directory = tempfile::tempdir().unwrap();
    let misuse = compile("vmm-capi/tests/misuse.c", directory.path());
    println!("misuse: {}", text(&run(&mut Command::new(misuse))));
}

#[test]
fn pools_lend_and_take_back() {
    let directory = tempfile::tempdir().unwrap();
    let pool = compile("vmm-capi/tests/pool.c", directory.path());
    println!("pool: {}", text(&run(Command::new(pool).arg(program(directory.path())))));
}

#[test]
fn snapshots_go_to_files_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let guest = program_of("vmm-capi/tests/guests/adder.c", directory.path());
    let saved = compile("vmm-capi/tests/saved.c", directory.path());
    println!("saved: {}", text(&run(Command::new(saved).arg(guest).arg(directory.path()))));
}

#[test]
fn misuse_is_clean_in_valgrind() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: misuse_is_clean_in_valgrind: valgrind is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let misuse = directory.path().join("misuse");
    run(Command::new("cc")
        .args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-g"])
        .arg(format!("-I{ROOT}/include"))
        .arg(Path::new(ROOT).join("vmm-capi/tests/misuse.c"))
        .arg(library::directory().join("libvmm.a"))
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&misuse));
    // It does not know what ioctls of /dev/kvm do to memory, nor pointers to the middle of what Rust
    // counts, so that only blocks to which nothing points are lost for certain.
    run(Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--trace-children=no"])
        .args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"])
        .args([&misuse, Path::new("soft")]));
}

/// Compiles a guest without a kernel.
fn bare(source: &str, directory: &Path) -> PathBuf {
    let guest = directory.join("bare");
    run(Command::new("cc")
        .args(["-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mgeneral-regs-only"])
        .args(["-mno-red-zone", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"])
        .args(["-Wl,-N", "-Wl,-e,entry", "-Wl,-Ttext=0x100000", "-Wall", "-Wextra", "-Werror"])
        .arg(Path::new(ROOT).join(source))
        .arg("-o")
        .arg(&guest));
    guest
}

#[test]
fn disks_and_virtio_devices_in_c_serve_a_guest() {
    let directory = tempfile::tempdir().unwrap();
    let guest = bare("vmm-capi/tests/guests/driver.c", directory.path());
    let devices = compile("vmm-capi/tests/devices.c", directory.path());
    println!("devices: {}", text(&run(Command::new(devices).arg(guest).arg(directory.path()))));
}

/// What stands in README.md as C and is a whole program.
fn readme() -> String {
    let text = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let blocks = text.split("```c\n").skip(1).filter_map(|rest| rest.split("```").next());
    let whole = blocks.filter(|block| block.contains("int main(")).collect::<Vec<_>>();
    let [program] = whole[..] else { panic!("{} programs", whole.len()) };
    program.to_owned()
}

#[test]
fn what_the_readme_says_works_as_pasted() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("readme.c");
    std::fs::write(&source, readme()).unwrap();
    // As a reader would: without a flag but where the library is.
    let pasted = directory.path().join("readme");
    run(Command::new("cc")
        .arg(format!("-I{ROOT}/include"))
        .arg(source)
        .arg(library::directory().join("libvmm.a"))
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&pasted));
    std::fs::rename(program(directory.path()), directory.path().join("hostcall")).unwrap();
    let works = |command: &mut Command| {
        let ran = command.arg(&pasted).current_dir(&directory).output();
        ran.map(|ran| (text(&ran), String::from_utf8_lossy(&ran.stderr).into_owned()))
    };
    assert_eq!(works(&mut Command::new("env")).unwrap().0, "score: 16\n");

    // And where there is no /dev/kvm.
    if !Path::new("/dev/kvm").exists() {
        return;
    }
    let hidden = "mount --bind /dev/null /dev/kvm && echo hidden && exec \"$1\"";
    let mut without = Command::new("unshare");
    match works(without.args(["--user", "--map-root-user", "--mount", "sh", "-c", hidden, "sh"])) {
        Ok((said, _)) if !said.is_empty() => assert_eq!(said, "hidden\nscore: 16\n"),
        refused => {
            println!("{refused:?}");
            println!(
                "skipped: what_the_readme_says_works_as_pasted: no mount namespace to be had here"
            );
        }
    }
}

/// Those that only give a constant, or their argument as a value.
#[cfg(feature = "testing")]
const CANNOT_PANIC: [&str; 10] = [
    "vmm_abi_check",
    "vmm_bool",
    "vmm_buffer",
    "vmm_bytes",
    "vmm_double",
    "vmm_float",
    "vmm_int32",
    "vmm_int64",
    "vmm_text",
    "vmm_version",
];

#[cfg(feature = "testing")]
#[test]
fn a_panic_under_any_function_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let panics = compile("vmm-capi/tests/panics.c", directory.path());
    let listed = text(&run(&mut Command::new(&panics)));
    let tried: BTreeSet<_> = listed.lines().chain(CANNOT_PANIC).map(str::to_owned).collect();
    let exported = library::exported();
    let missed: Vec<_> = exported.symmetric_difference(&tried).collect();
    assert!(missed.is_empty(), "functions that are not tried, or do not exist: {missed:?}");
    let guest = bare("vmm-capi/tests/guests/driver.c", directory.path());
    let program = program(directory.path());
    println!("panics: {}", text(&run(Command::new(panics).arg(program).arg(guest))));
}

#[test]
fn what_is_installed_needs_pkg_config_only() {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        println!("skipped: what_is_installed_needs_pkg_config_only: pkg-config is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("prefix");
    let install = Path::new(ROOT).join("vmm-capi/install.sh");
    run(Command::new(install).arg(&prefix).arg(library::directory()));
    let flags = run(Command::new("pkg-config")
        .args(["--cflags", "--libs", "vmm"])
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
    let hello = directory.path().join("hello");
    run(Command::new("cc")
        .arg("-std=c99")
        .arg(Path::new(ROOT).join("examples/hello.c"))
        .args(text(&flags).split_whitespace())
        .arg("-o")
        .arg(&hello));
    let said = text(&run(Command::new(hello).env("LD_LIBRARY_PATH", prefix.join("lib"))));
    assert!(said.contains("guest: hello from C :)"), "{said}");
}
