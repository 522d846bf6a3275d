//! Files that are the sandbox's own: in memory, made up, between the ends of a pipe.

use std::path::Path;

use vmm_sandbox::{Access, Outcome, Sandbox};

use crate::can_run;

const BUSYBOX: &str = "/bin/busybox";

/// What a script for busybox's shell, of builtins only, prints; in a tree of so many bytes.
fn script(text: &str, limit: u64) -> Option<(i32, String)> {
    if !can_run("a script in memory") {
        return None;
    }
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: {BUSYBOX} is not there (Debian: busybox-static)");
        return None;
    }
    let arguments = ["sh", "-c", text];
    let mut sandbox = Sandbox::program(BUSYBOX)
        .hypervisor(crate::backend())
        .args(arguments)
        .file_limit(limit)
        .build()
        .unwrap();
    let Outcome::Exited(status) = sandbox.start().unwrap() else {
        panic!("{:?} {:?}", sandbox.state(), sandbox.statistics());
    };
    let both = [sandbox.take_stdout(), sandbox.take_stderr()].concat();
    Some((status, String::from_utf8(both).unwrap()))
}

#[test]
fn files_in_memory_keep_what_is_written() {
    let text = "cd /tmp; echo one > f; echo two >> f; while read x; do echo got $x; done < f
        echo three > f; read x < f; echo $x; test -s f && echo size; test -d /dev && echo dir; pwd";
    if let Some(result) = script(text, 1 << 20) {
        assert_eq!(result, (0, "got one\ngot two\nthree\nsize\ndir\n/tmp\n".into()));
    }
}

#[test]
fn nothing_of_the_host_is_there() {
    let text = "for f in /* /proc/* /proc/self/*; do echo $f; done
        test -e /etc/passwd || echo none; test -e /proc/1 || echo none; test -e /bin || echo none";
    let expected = "/dev\n/proc\n/tmp\n/proc/self\n/proc/self/exe\n/proc/self/fd\n/proc/self/maps\n\
        none\nnone\nnone\n";
    if let Some(result) = script(text, 1 << 20) {
        assert_eq!(result, (0, expected.into()));
    }
}

#[test]
fn files_in_memory_have_a_limit() {
    let text = "cd /tmp; x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8; do x=$x$x; done
        for i in 1 2 3 4 5 6; do echo $x > $i && echo wrote; done";
    if let Some((status, said)) = script(text, 16 << 10) {
        assert_eq!(said.matches("wrote").count(), 3, "{said}");
        assert!(said.contains("No space left on device"), "{said}");
        assert_ne!(status, 0);
    }
}

#[test]
fn devices_are_what_they_are_elsewhere() {
    let text = "echo gone > /dev/null && echo null; echo x > /dev/full || echo full
        read -n 3 x < /dev/zero; echo \"zero:$x\"; test -c /dev/urandom && echo character";
    if let Some((_, said)) = script(text, 1 << 20) {
        for word in ["null", "full", "zero:", "character"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[test]
fn a_mount_is_seen_where_it_was_put() {
    if !can_run("a_mount_is_seen_where_it_was_put") || !Path::new(BUSYBOX).exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "from the host\n").unwrap();
    let text = "read x < /data/in/file; echo $x; for f in /*; do echo $f; done; \
        echo new > /data/in/new || echo read-only; test -d /data && echo there";
    let mut sandbox = Sandbox::program(BUSYBOX)
        .hypervisor(crate::backend())
        .args(["sh", "-c", text])
        .mount(directory.path(), "/data/in", Access::ReadOnly)
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
    let said = String::from_utf8(sandbox.take_stdout()).unwrap();
    assert_eq!(said, "from the host\n/data\n/dev\n/proc\n/tmp\nread-only\nthere\n");
    assert!(!directory.path().join("new").exists());
}

#[test]
fn a_mount_that_cannot_be_is_refused() {
    if !can_run("a_mount_that_cannot_be_is_refused") {
        return;
    }
    let of =
        |host: &str, at: &str| {
            let builder = Sandbox::image(crate::program!("hello"))
                .hypervisor(crate::backend())
                .mount(host, at, Access::ReadOnly);
            builder.build().unwrap_err().to_string()
        };
    assert!(of("/nowhere/at/all", "/data").contains("/nowhere/at/all"));
    assert!(of("/", "data").contains("data"));
    assert!(of("/", "/a/../b").contains(".."));
}
