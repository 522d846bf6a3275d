//! Debian's static busybox, applet by applet: in a sandbox it prints, leaves behind and returns
//! what it does natively.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use vmm_sandbox::{Access, Cause, Outcome, Sandbox};

use crate::can_run;

const BUSYBOX: &str = "/bin/busybox";

/// Arguments; standard input is always the same.
const RUNS: &[&[&str]] = &[
    &["awk", "{ s += $1; n[$2]++ } END { printf \"%.3f %d\\n\", s / NR, length(n) }", "numbers"],
    &["awk", "BEGIN { for (i = 0; i < 20; i++) printf \"%g \", sin(i) * exp(i / 3) }"],
    &["cat", "text", "-", "none"],
    &["cmp", "text", "copy"],
    &["cmp", "text", "numbers"],
    &["cp", "text", "new"],
    &["cp", "-r", "sub", "other"],
    &["cut", "-d", " ", "-f", "2", "numbers"],
    &["date", "-u", "-d@0"],
    &["dd", "if=binary", "of=part", "bs=100", "skip=3", "count=5", "status=none"],
    &["dd", "if=/dev/zero", "of=zeros", "bs=4k", "count=3", "status=none"],
    &["du", "-b", "text"],
    &["echo", "-e", "a\\tb\\n", "c"],
    &["egrep", "-n", "(lazy|one) ", "text"],
    &["expand", "tabs"],
    &["expr", "12", "*", "(", "3", "+", "4", ")"],
    &["expr", "abc", ":", "a\\(.\\)c"],
    &["factor", "1234567890", "97"],
    &["find", "sub", "-name", "*.c"],
    &["find", ".", "-type", "d"],
    &["fold", "-w", "11", "text"],
    &["grep", "-c", "o", "text"],
    &["grep", "-r", "deep", "sub"],
    &["head", "-n", "2", "text"],
    &["hexdump", "-C", "binary"],
    &["id"],
    &["ls", "-1"],
    &["ls", "-l", "sub/c.c"],
    &["ls", "none"],
    &["md5sum", "binary", "text"],
    &["mkdir", "-p", "x/y/z"],
    &["mv", "text", "sub/moved"],
    &["nl", "text"],
    &["od", "-x", "binary"],
    &["paste", "text", "numbers"],
    &["printf", "%05d %s %x %.4f\\n", "42", "str", "255", "3.14159"],
    &["readlink", "link"],
    &["rev", "text"],
    &["rm", "text"],
    &["rm", "-r", "sub"],
    &["rmdir", "empty"],
    &["rmdir", "sub"],
    &["sed", "-e", "s/\\(l.\\)/[\\1]/g", "-e", "2d", "text"],
    &["sed", "-i", "s/quick/slow/", "text"],
    &["seq", "-s", ",", "1", "3", "40"],
    &["sh", "-c", "i=0; while [ $i -lt 50 ]; do i=$((i * 3 + 1)); echo $i; done; exit 7"],
    &[
        "sh",
        "-c",
        "read line; echo \"got $line\" > made; while read x; do set -- $x; echo ${2:-no}; done",
    ],
    &["sh", "-c", "cd sub && echo * && for f in *; do test -f $f && echo file $f; done"],
    &["sha1sum", "binary"],
    &["sha256sum", "binary", "-"],
    &["sha512sum", "binary"],
    &["sort", "-n", "numbers"],
    &["sort", "-k2", "-r", "numbers"],
    &["stat", "-c", "%s %F %a", "text", "sub", "link"],
    &["strings", "binary"],
    &["tac", "text"],
    &["tail", "-n", "2", "text"],
    &["tail", "-c", "20", "binary"],
    &["tar", "-cf", "all.tar", "--exclude", "all.tar", "sub"],
    &["tar", "-tf", "given.tar"],
    &["tar", "-xf", "given.tar"],
    &["tee", "one", "two"],
    &["test", "-d", "sub"],
    &["test", "-x", "text"],
    &["touch", "-d", "@1000", "text", "fresh"],
    &["tr", "a-z", "A-Z"],
    &["truncate", "-s", "100", "text"],
    &["unexpand", "-a", "text"],
    &["uniq", "-c", "repeated"],
    &["uudecode", "-o", "decoded", "coded"],
    &["uuencode", "binary", "name"],
    &["wc", "text", "binary"],
    &["xxd", "binary"],
    &["xxd", "-r", "-p", "hex"],
];

const INPUT: &str = "first line of input\nsecond one\n\nlast, without an end";

#[test]
fn applets_do_what_they_do_natively() {
    if !can_run("applets_do_what_they_do_natively") || !has_busybox() {
        return;
    }
    let mut wrong = Vec::new();
    for run in RUNS {
        let (native, sandboxed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_tree(native.path());
        make_tree(sandboxed.path());
        let one = run_native(native.path(), run);
        let two = run_sandboxed(sandboxed.path(), run, Access::ReadWrite);
        if one != two {
            wrong.push(format!("{run:?}\n  native    {one:?}\n  sandboxed {two:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn applets_whose_output_is_never_the_same() {
    if !can_run("applets_whose_output_is_never_the_same") || !has_busybox() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_tree(directory.path());
    let sorted = |result: &Result| {
        let mut lines: Vec<_> = result.stdout.split("\\n").map(str::to_owned).collect();
        lines.sort();
        (result.status, lines, result.stderr.clone())
    };
    for run in [&["shuf", "numbers"][..], &["shuf", "-i", "1-99"], &["shuf", "-e", "a", "b", "c"]] {
        let native = sorted(&run_native(directory.path(), run));
        let sandboxed = sorted(&run_sandboxed(directory.path(), run, Access::ReadOnly));
        assert_eq!(sandboxed, native, "{run:?}");
    }
    // Where it is granted, it is the root.
    let here = run_sandboxed(directory.path(), &["pwd"], Access::ReadOnly);
    assert_eq!((here.status, here.stdout.as_str()), (0, "/\\n"));
    let below = ["sh", "-c", "cd sub/deeper; pwd; cd ../..; pwd"];
    let below = run_sandboxed(directory.path(), &below, Access::ReadOnly);
    assert_eq!((below.status, below.stdout.as_str()), (0, "/sub/deeper\\n/\\n"));
}

#[test]
fn yes_ends_with_its_output() {
    if !can_run("yes_ends_with_its_output") || !has_busybox() {
        return;
    }
    let builder = Sandbox::program(BUSYBOX).hypervisor(crate::backend()).args(["busybox", "yes"]);
    let mut sandbox = builder.output_limit(10_000).build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Killed(Cause::Output(10_000)));
    assert_eq!(sandbox.take_stdout(), b"y\n".repeat(5_000));
}

#[test]
fn a_read_only_tree_stays_as_it_is() {
    if !can_run("a_read_only_tree_stays_as_it_is") || !has_busybox() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_tree(directory.path());
    let before = tree(directory.path());
    let writes: [&[&str]; 8] = [
        &["rm", "-rf", "sub", "text"],
        &["cp", "text", "new"],
        &["mv", "text", "moved"],
        &["mkdir", "made"],
        &["touch", "text"],
        &["chmod", "777", "text"],
        &["truncate", "-s", "0", "text"],
        &["ln", "-s", "a", "b"],
    ];
    for arguments in writes {
        let result = run_sandboxed(directory.path(), arguments, Access::ReadOnly);
        assert_ne!(result.status, 0, "{arguments:?}");
        assert!(result.stderr.contains("Read-only file system"), "{arguments:?}: {result:?}");
        assert_eq!(tree(directory.path()), before, "{arguments:?}");
    }
}

#[test]
fn links_and_dots_do_not_lead_out() {
    if !can_run("links_and_dots_do_not_lead_out") || !has_busybox() {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "host's secret").unwrap();
    let inner = outer.path().join("granted");
    fs::create_dir(&inner).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, inner.join(name)).unwrap();
    };
    link("../secret", "up");
    link(outer.path().join("secret").to_str().unwrap(), "absolute");
    link("/proc/self/fd/../../../secret", "around");
    link("self", "self");
    for path in ["up", "absolute", "around", "self", "../secret", "../../secret", "/../secret"] {
        let result = run_sandboxed(&inner, &["cat", path], Access::ReadWrite);
        assert_eq!((result.status, result.stdout.as_str()), (1, ""), "{path}: {result:?}");
    }
}

fn has_busybox() -> bool {
    let there = Path::new(BUSYBOX).exists();
    if !there {
        println!("skipped: {BUSYBOX} is not there (Debian: busybox-static)");
    }
    there
}

/// What a run shows and leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    status: i32,
    stdout: String,
    stderr: String,
    tree: BTreeMap<PathBuf, String>,
}

fn run_native(directory: &Path, arguments: &[&str]) -> Result {
    let mut child = Command::new(BUSYBOX)
        .args(arguments)
        .env_clear()
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read has gone already.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), INPUT.as_bytes());
    let output = child.wait_with_output().unwrap();
    Result {
        status: output.status.code().unwrap(),
        stdout: shown(&output.stdout),
        stderr: shown(&output.stderr),
        tree: tree(directory),
    }
}

fn run_sandboxed(directory: &Path, arguments: &[&str], access: Access) -> Result {
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut sandbox = Sandbox::program(BUSYBOX)
        .hypervisor(crate::backend())
        .args([&["busybox"], arguments].concat())
        .root(directory, access)
        .user(user.0, user.1)
        .stdin(INPUT)
        .build()
        .unwrap();
    let outcome = sandbox.start().unwrap();
    let Outcome::Exited(status) = outcome else {
        panic!("{arguments:?}: {outcome} {:?}", sandbox.statistics());
    };
    Result {
        status,
        stdout: shown(&sandbox.take_stdout()),
        stderr: shown(&sandbox.take_stderr()),
        tree: tree(directory),
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What is below a directory: kind, permissions, content.
fn tree(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".into()
        } else if meta.is_symlink() {
            shown(fs::read_link(&path).unwrap().as_os_str().as_bytes())
        } else {
            shown(&fs::read(&path).unwrap())
        };
        let mode = meta.permissions().mode();
        let name = path.strip_prefix(directory).unwrap().to_path_buf();
        // The times of a tar's members are in it.
        if name != Path::new("all.tar") {
            found.insert(name, format!("{mode:o} {content}"));
        }
    }
    found
}

fn make_tree(root: &Path) {
    let write = |name: &str, content: &[u8]| {
        let path = root.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    };
    for directory in ["sub", "sub/deeper", "empty", "etc"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    // Whom numbers belong to is looked up at home.
    for name in ["etc/passwd", "etc/group"] {
        write(name, &fs::read(Path::new("/").join(name)).unwrap());
    }
    let text = b"the quick brown fox\njumps over\tthe lazy dog\n\none more line of text here\n";
    write("text", text);
    write("copy", text);
    write("sub/c.c", b"int main(void) { return 0; }\n");
    write("sub/deeper/file", b"deep down\n");
    write("tabs", b"a\tb\t\tc\n\td\n");
    write("repeated", b"a\na\nb\na\na\na\n");
    write("hex", b"48656c6c6f0a\n");
    let numbers: String = (0..40).map(|n| format!("{} w{}\n", n * 7919 % 101, n % 7)).collect();
    write("numbers", numbers.as_bytes());
    let binary: Vec<u8> = (0..2000u32).map(|n| (n * n / 7 % 256) as u8).collect();
    write("binary", &binary);
    write("coded", b"begin 644 name\n#0V%T\n`\nend\n");
    write("given.tar", &archive());
    std::os::unix::fs::symlink("text", root.join("link")).unwrap();
}

/// A tar of one directory with one file, in the format of POSIX.1-1988.
fn archive() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in [("given/", b'5', ""), ("given/file", b'0', "from the archive\n")]
    {
        let mut header = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, if kind == b'5' { "0000755" } else { "0000644" });
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "07346545000");
        put(148, "        ");
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
