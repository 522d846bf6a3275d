//! Programs of other languages and of other people: in a sandbox they print, leave behind and return
//! what they do natively.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use vmm_sandbox::{Access, Outcome, Sandbox};

use crate::{can_run, native::make_executable};

/// What `build.rs` made of a source in `guests/programs`, or nothing if it could not.
macro_rules! foreign {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/programs/", $name)).as_slice()
    };
}

const INPUT: &str = "the quick brown fox jumps over the lazy dog\nthe end";
const BASH: &str = "/bin/bash-static";

/// What a run shows and leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: i32,
    stdout: String,
    stderr: String,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// Runs a program both ways, each in an empty directory; asserts that one cannot tell them apart.
fn compare(image: &[u8], arguments: &[&str]) -> Seen {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    make_executable(&program, image);
    let of = |name: &str| {
        let directory = directory.path().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    };
    let (native, sandboxed) = (of("native"), of("sandboxed"));
    let native = run_native(&program, &native, arguments);
    let sandboxed = run_sandboxed(&program, &sandboxed, arguments);
    assert_eq!(sandboxed, native);
    sandboxed
}

fn run_native(program: &Path, directory: &Path, arguments: &[&str]) -> Seen {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("GREETING", "hello")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(INPUT.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Seen {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        files: files(directory),
    }
}

fn run_sandboxed(program: &Path, directory: &Path, arguments: &[&str]) -> Seen {
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = program.to_str().unwrap();
    let mut sandbox = Sandbox::program(program)
        .hypervisor(crate::backend())
        .args([&[name], arguments].concat())
        .env("GREETING", "hello")
        .root(directory, Access::ReadWrite)
        .user(user.0, user.1)
        .stdin(INPUT)
        .build()
        .unwrap();
    let outcome = sandbox.start().unwrap();
    let statistics = sandbox.statistics();
    let Outcome::Exited(status) = outcome else { panic!("{outcome} {statistics:?}") };
    Seen {
        status,
        stdout: String::from_utf8(sandbox.take_stdout()).unwrap(),
        stderr: String::from_utf8(sandbox.take_stderr()).unwrap(),
        files: files(directory),
    }
}

/// The regular files below a directory.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            let name = path.strip_prefix(directory).unwrap().to_path_buf();
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Whether the test can run: says where, or what is missing.
fn can_run_foreign(test: &str, image: &[u8], package: &str) -> bool {
    if image.is_empty() {
        println!("skipped: {test} (Debian: {package}): its package could not be had");
        return false;
    }
    can_run(test)
}

#[test]
fn cxx_throws_catches_and_streams() {
    let image = foreign!("exceptions");
    if can_run_foreign("cxx_throws_catches_and_streams", image, "g++") {
        let seen = compare(image, &[]);
        assert_eq!((seen.status, seen.stderr.as_str()), (5, "done\n"));
        assert!(seen.stdout.contains("caught the bottom"), "{}", seen.stdout);
        assert!(seen.files.contains_key(Path::new("numbers")));
    }
}

#[test]
fn rust_has_its_standard_library() {
    let image = foreign!("collections");
    if can_run_foreign("rust_has_its_standard_library", image, "a static C library: libc6-dev") {
        let seen = compare(image, &["one", "two words"]);
        assert_eq!((seen.status, seen.stderr.as_str()), (9, ""));
        for line in ["files: ok", "dropped while unwinding: true", "[\"one\", \"two words\"]"] {
            assert!(seen.stdout.contains(line), "{line}: {}", seen.stdout);
        }
    }
}

#[test]
fn sqlite_makes_the_same_database() {
    let image = foreign!("sqlite");
    if can_run_foreign("sqlite_makes_the_same_database", image, "libsqlite3-dev") {
        let seen = compare(image, &["items.db"]);
        assert_eq!((seen.status, seen.stderr.as_str()), (0, ""));
        assert!(seen.stdout.contains("all: n=100000 sum=624993750.0"), "{}", seen.stdout);
        assert!(seen.files.contains_key(Path::new("items.db")));
    }
}

#[test]
fn sqlite_works_on_files_in_memory() {
    let image = foreign!("sqlite");
    if can_run_foreign("sqlite_works_on_files_in_memory", image, "libsqlite3-dev") {
        let mut sandbox = Sandbox::image(image)
            .hypervisor(crate::backend())
            .args(["sqlite", "/tmp/items.db"])
            .build()
            .unwrap();
        assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0), "{:?}", sandbox.statistics());
        let stdout = String::from_utf8(sandbox.take_stdout()).unwrap();
        assert!(stdout.contains("check: integrity_check=ok"), "{stdout}");
    }
}

/// What bash does without other programs.
const SCRIPT: &str = r#"
set -u
declare -A counts
while read -r -a words; do
    for word in "${words[@]}"; do (( counts[$word] = ${counts[$word]:-0} + 1 )); done
done
for word in "${!counts[@]}"; do list+=("$word=${counts[$word]}"); done
# Sorted by insertion: sort is another program.
for (( i = 1; i < ${#list[@]}; i++ )); do
    item=${list[i]}
    for (( j = i; j > 0; j-- )); do
        [[ ${list[j-1]} > $item ]] || break
        list[j]=${list[j-1]}
    done
    list[j]=$item
done
printf '%s\n' "${list[@]}"
fib() { local a=0 b=1 i; for (( i = 0; i < $1; i++ )); do (( b += a, a = b - a )); done; printf -v "$2" %d "$a"; }
fib 90 result
echo "$result $GREETING ${GREETING^^} ${GREETING/l/L} ${#GREETING} ${1:-none} $#"
printf '%s\n' {a..c}{1,2} > made
mapfile -t lines < made
echo "${#lines[@]} ${lines[-1]} ${lines[*]:1:2}"
while IFS= read -r line <&3; do echo "read $line" >> copy; done 3< made
[[ -f copy && ! -e none && made -ot copy || -s made ]] && echo tests
for file in *; do echo "file $file"; done
cd none || echo "status $?"
case abc in a*) echo case ;; esac
[[ "key = value" =~ ^([a-z]+)\ =\ (.*)$ ]] && echo "${BASH_REMATCH[@]:1}"
umask; : <<< "a file of bash in /tmp"; echo "status $?"
trap 'echo leaving' EXIT
printf '%(%Y-%m-%d)T %q %05.2f\n' 0 'a b' 3.14159
exit 3
"#;

#[test]
fn bash_runs_a_script_of_builtins() {
    let image = fs::read(BASH).unwrap_or_default();
    if can_run_foreign("bash_runs_a_script_of_builtins", &image, "bash-static") {
        let seen = compare(&image, &["-c", SCRIPT, "script", "argument"]);
        assert_eq!(seen.status, 3, "{seen:?}");
        for line in ["the=2", "2880067194370816120", "file made", "key value", "leaving"] {
            assert!(seen.stdout.contains(line), "{line}: {seen:?}");
        }
    }
}
