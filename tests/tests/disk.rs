//! Debian's kernel uses disks with its own driver: raw, read-only and an overlay, on one and two
//! vCPUs.
//!
//! As those of `linux.rs` they need a whole KVM, or the software CPU if `VMM_BACKEND` is `soft`, and the
//! guests of `tests/lab/run --guests`.
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
    sync::mpsc,
    thread,
    time::Duration,
};

use vmm_core::{Machine, boot::Linux, host, machine::Outcome};
use vmm_devices::{Block, I8042, Image, Overlay, RawFile, Rtc, Serial};

/// Far more than it takes; a machine may be very busy.
const LONG: Duration = Duration::from_secs(900);
const MIB: u64 = 1 << 20;
const DISK: u64 = 32 * MIB;

#[test]
fn a_guest_uses_its_disks_on_1_vcpu() {
    disks("a_guest_uses_its_disks_on_1_vcpu", 1);
}

#[test]
fn a_guest_uses_its_disks_on_2_vcpus() {
    disks("a_guest_uses_its_disks_on_2_vcpus", 2);
}

fn disks(test: &str, cpus: u32) {
    let Some(kernel) = kernel(test) else { return };
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let (disk, base, top) = (place("disk"), place("base"), place("top"));
    fs::write(&disk, pattern(DISK, 1)).unwrap();
    fs::write(&base, pattern(DISK / 2, 2)).unwrap();
    let (before, base_before) = (digest(&disk), digest(&base));

    let raw = Block::open(&disk).unwrap().serial("raw").unwrap();
    // Linux takes one for each processor, and leaves the others alone.
    let raw = raw.queues(if cpus > 1 { 8 } else { 1 }).unwrap();
    let statistics = raw.handle();
    let read_only = Block::open_read_only(&base).unwrap().serial("read-only").unwrap();
    let overlay = Overlay::create(&top, RawFile::open_read_only(&base).unwrap()).unwrap();
    let overlay = Block::image(overlay).unwrap().serial("overlay").unwrap();
    let said = run(&kernel, cpus, [raw, read_only, overlay]);

    let line = |start: &str| {
        let found =
            said.lines().filter_map(|line| line.strip_prefix("guest: ")?.strip_prefix(start));
        found.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let (sectors, half) = (DISK / 512, DISK / 1024);
    let cache = "cache write back";
    let [about, first, last] = &line("vda ")[..] else { panic!("{said}") };
    assert_eq!(
        about,
        &format!("sectors {sectors} ro 0 serial raw queues {cpus} {cache}"),
        "{said}"
    );
    assert_eq!(first, &before);
    let [about, only] = &line("vdb ")[..] else { panic!("{said}") };
    assert!(about.starts_with(&format!("sectors {half} ro 1 serial read-only queues 1")), "{said}");
    assert_eq!(only, &base_before);
    let [about, first, changed] = &line("vdc ")[..] else { panic!("{said}") };
    assert_eq!(about, &format!("sectors {half} ro 0 serial overlay queues 1 {cache}"), "{said}");
    assert_eq!(first, &base_before);
    assert_eq!(line("files"), ["1 8"], "each the same, and all there: {said}");
    assert_eq!(line("interrupts"), ["3"], "{said}");

    // What the guest read at last is what the host finds.
    assert_eq!(&digest(&disk), last, "{said}");
    assert_eq!(digest(&base), base_before, "the base of an overlay stays as it was");
    let overlay = Overlay::open(&top, RawFile::open_read_only(&base).unwrap()).unwrap();
    let mut whole = vec![0; overlay.len() as usize];
    overlay.read_at(0, &mut whole).unwrap();
    let copy = place("copy");
    fs::write(&copy, whole).unwrap();
    assert_eq!(&digest(&copy), changed, "{said}");
    let statistics = statistics.statistics();
    assert!(statistics.flushes > 0 && statistics.discards > 0, "{statistics:?}");
    assert_eq!(statistics.errors, 0);
}

/// Boots with these disks, until the guest powers off; what it said.
fn run(kernel: &Path, cpus: u32, disks: [Block; 3]) -> String {
    let linux = Linux::kernel(kernel)
        .initrd(kernel.with_file_name("initrd"))
        .cmdline("console=ttyS0 quiet panic=-1 run=disk");
    let (serial, said) = Serial::capture();
    let mut machine = Machine::builder()
        .hypervisor(host::named(&backend()).expect("it was asked for"))
        .memory(256 * MIB)
        .vcpus(cpus)
        .boot(linux)
        .device(serial)
        .device(Rtc::now())
        .device(I8042::new());
    for disk in disks {
        machine = machine.device(disk);
    }
    let machine = machine.build().unwrap();
    let handle = machine.handle();
    let outcome = thread::scope(|scope| {
        let (running, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            if ended.recv_timeout(LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                handle.stop().unwrap();
            }
        });
        let outcome = machine.run();
        drop(running);
        outcome
    });
    assert_eq!(outcome.unwrap(), Outcome::PowerOff(0), "{}", said.text());
    said.text()
}

fn kernel(test: &str) -> Option<PathBuf> {
    let Some(guests) = env::var_os("VMM_GUESTS") else {
        println!("skipped: {test}: no guests here; tests/run has them, in the lab");
        return None;
    };
    match backend().as_str() {
        "kvm" => println!("{test}: on {}", host::probe().kvm),
        name => println!("{test}: on {name}"),
    }
    Some(PathBuf::from(guests).join("vmlinuz"))
}

/// The name of what runs the guests.
fn backend() -> String {
    env::var("VMM_BACKEND").unwrap_or_else(|_| "kvm".to_owned())
}

/// Bytes no two sectors of which are alike.
fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let word = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed << 17).rotate_left(29);
    (0..len / 8).flat_map(|n| word(n).to_le_bytes()).collect()
}

fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap_or_default().to_owned()
}
