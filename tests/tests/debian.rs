//! A whole Debian boots from a virtio disk to systemd's multi-user target and powers off, and its
//! file system was left as it should be: straight on a raw disk, and on an overlay whose base stays
//! as it is.
//!
//! It needs a whole KVM, or the software CPU if `VMM_BACKEND` is `soft`; the guests of
//! `tests/lab/run --guests`, and `VMM_ROOT`, a copy of `tests/lab/run --root` that is written to, as
//! a file or a block device. `tests/run --long` runs it.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use vmm_core::{Machine, boot::Linux, host, machine::Outcome};
use vmm_devices::{Block, I8042, Overlay, RawFile, Rtc, Serial};

/// Far more than it takes; a machine may be very busy.
const LONG: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
/// Nothing is to be given up because the host is busy.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 run=debian systemd.getty_auto=no \
    systemd.default_timeout_start_sec=3600 systemd.default_device_timeout_sec=3600";

#[test]
fn a_whole_debian_comes_up_and_powers_off() {
    let test = "a_whole_debian_comes_up_and_powers_off";
    let (Some(guests), Some(root)) = (env::var_os("VMM_GUESTS"), env::var_os("VMM_ROOT")) else {
        println!("skipped: {test}: no Debian here; tests/run --long has one, in the lab");
        return;
    };
    let backend = env::var("VMM_BACKEND").unwrap_or_else(|_| "kvm".to_owned());
    println!("{test}: on {backend}");
    let (kernel, root) = (PathBuf::from(guests).join("vmlinuz"), PathBuf::from(root));

    let before = digest(&root);
    let overlay = Overlay::temporary(RawFile::open_read_only(&root).unwrap()).unwrap();
    comes_up(&backend, &kernel, Block::image(overlay).unwrap());
    assert_eq!(digest(&root), before, "the base of an overlay stays as it was");

    comes_up(&backend, &kernel, Block::open(&root).unwrap());
    assert_ne!(digest(&root), before);
    // As the guest left it: unmounted, with nothing in its journal.
    assert!(
        shown(Command::new("dumpe2fs").arg("-h").arg(&root)).contains("state:         clean\n")
    );
    shown(Command::new("e2fsck").args(["-f", "-n"]).arg(&root));
    let date = shown(Command::new("debugfs").args(["-R", "cat /var/lib/was-up"]).arg(&root));
    println!("{test}: it was up at {}", date.trim());
    assert!(date.contains("20"), "{date}");
}

fn comes_up(backend: &str, kernel: &Path, disk: Block) {
    let linux = Linux::kernel(kernel).initrd(kernel.with_file_name("initrd")).cmdline(CMDLINE);
    let (serial, said) = Serial::capture();
    let handle = disk.handle();
    let machine = Machine::builder()
        .hypervisor(host::named(backend).expect("it was asked for"))
        .memory(512 * MIB)
        .boot(linux)
        .device(serial)
        .device(Rtc::now())
        .device(I8042::new())
        .device(disk)
        .build()
        .unwrap();
    let stop = machine.handle();
    let outcome = thread::scope(|scope| {
        let (running, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            if ended.recv_timeout(LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                stop.stop().unwrap();
            }
        });
        let outcome = machine.run();
        drop(running);
        outcome
    });
    let said = said.text();
    assert_eq!(outcome.unwrap(), Outcome::PowerOff(0), "{said}");
    assert!(said.contains("guest: active, 0 failed, /dev/vda ext4"), "{said}");
    let statistics = handle.statistics();
    assert_eq!(statistics.errors, 0, "{statistics:?}");
    assert!(statistics.flushes > 0, "{statistics:?}");
}

/// What it says, if it succeeds.
fn shown(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn digest(path: &Path) -> String {
    let said = shown(Command::new("sha256sum").arg(path));
    said.split(' ').next().unwrap_or_default().to_owned()
}
