//! The power is cut, or the process is killed, while Debian's kernel writes files to an ext4: what the
//! guest was told to be durable is there afterwards, and the file system needs no mending.
//!
//! The guest is that of `tests/guests/linux/writer.c`; what it acknowledges comes over its serial
//! port. As those of `linux.rs` these tests need a whole KVM, or the software CPU if `VMM_BACKEND` is
//! `soft`, and the guests of `tests/lab/run --guests`; and e2fsprogs.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

mod console;
mod image;
mod volatile;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use vmm_core::{
    Machine,
    boot::Linux,
    host,
    machine::{Handle, Outcome},
};
use vmm_devices::{Block, I8042, Rtc, Serial};

use self::{
    console::Console,
    image::{Versions, acknowledged, lost},
    volatile::Volatile,
};

/// Far more than it takes; a machine may be very busy.
const LONG: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 run=power";

#[test]
fn what_was_synced_before_a_power_cut_is_there() {
    let Some(kernel) = kernel("what_was_synced_before_a_power_cut_is_there") else { return };
    let (boots, cuts) = if is_long() { (10, 20) } else { (1, 5) };
    // One of them alone, where a long run did not come to its end.
    let boot = env::var("VMM_BOOT").ok().and_then(|boot| boot.parse().ok());
    for boot in boot.map_or(0..boots, |boot| boot..boot + 1) {
        let mut numbers = Numbers::new();
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        image::format(&image, if boot % 2 == 0 { 1024 } else { 4096 });
        let disk = Volatile::new(fs::read(&image).unwrap());
        let writers = if boot % 4 < 2 { 1 } else { 3 };
        let last = while_it_writes(&kernel, &disk, writers, |console| {
            let (told, _) = console.cut_after_lines(1, &mut numbers);
            // A disk that loses what was flushed would be found out.
            assert!(!lost(&told, &image::holds(&image, &image::writer(&kernel))).is_empty());
            let mut last = told;
            for cut in 0..cuts {
                let medium;
                (last, medium) = match cut % 3 {
                    0 => console.cut_after_requests(numbers.next(300) + 1, &mut numbers),
                    _ => console.cut_after_lines(numbers.next(60) + 1, &mut numbers),
                };
                fs::write(&image, medium).unwrap();
                let copy = place.path().join("copy");
                fs::copy(&image, &copy).unwrap();
                image::replay(&copy);
                assert_kept(&last, &image::holds(&copy, &image::writer(&kernel)));
            }
            last
        });
        let versions = last.values().sum::<u64>();
        println!("boot {boot}: {cuts} cuts, {versions} versions acknowledged");
        // The last of them by a boot.
        assert_kept(&last, &found_by_a_guest(&kernel, &image));
        image::is_sound(&image);
    }
}

#[test]
fn what_was_synced_before_a_kill_is_there() {
    let test = "what_was_synced_before_a_kill_is_there";
    let Some(kernel) = kernel(test) else { return };
    let program = env::current_exe().unwrap();
    let program = program.ancestors().nth(2).unwrap().join("examples/linux");
    if !program.exists() {
        println!("skipped: {test}: not built: the example linux");
        return;
    }
    for _ in 0..if is_long() { 30 } else { 1 } {
        let image = tempfile::NamedTempFile::new().unwrap();
        image::format(image.path(), 1024);
        let told = kill_while_it_writes(&program, &kernel, image.path(), Numbers::new().next(300));
        println!("killed: {} versions acknowledged", told.values().sum::<u64>());
        image::replay(image.path());
        assert_kept(&told, &image::holds(image.path(), &image::writer(&kernel)));
    }
}

fn assert_kept(told: &Versions, found: &Versions) {
    let lost = lost(told, found);
    assert!(!told.is_empty() && lost.is_empty(), "lost: {lost:?}");
}

/// Boots a guest that writes to `disk`, and stops it after `work`.
fn while_it_writes<T>(
    kernel: &Path,
    disk: &Volatile,
    writers: u32,
    work: impl FnOnce(&Console) -> T,
) -> T {
    let console = Console::new(disk);
    let (disk, serial) = (Block::new(disk.clone()).unwrap(), Serial::new(console.clone()));
    let machine = machine(kernel, &format!("writers={writers}"), disk, serial);
    let stop = Stop(machine.handle());
    thread::scope(|scope| {
        let run = scope.spawn(|| machine.run());
        let stop = stop;
        let result = work(&console);
        drop(stop);
        assert_eq!(run.join().unwrap().unwrap(), Outcome::Stopped);
        result
    })
}

/// Stops the machine when a test is over, or fails.
struct Stop(Handle);

impl Drop for Stop {
    fn drop(&mut self) {
        let _ = self.0.stop();
    }
}

/// What a guest finds that mounts the image.
fn found_by_a_guest(kernel: &Path, image: &Path) -> Versions {
    let (serial, said) = Serial::capture();
    let machine = machine(kernel, "then=check", Block::open(image).unwrap(), serial);
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
    image::found(&said.text())
}

fn machine(kernel: &Path, then: &str, disk: Block, serial: Serial) -> Machine {
    let linux = Linux::kernel(kernel)
        .initrd(kernel.with_file_name("initrd"))
        .cmdline(format!("{CMDLINE} {then}"));
    let machine = Machine::builder()
        .hypervisor(host::named(&backend()).expect("it was asked for"))
        .memory(192 * MIB)
        .boot(linux)
        .device(serial)
        .device(Rtc::now())
        .device(I8042::new())
        .device(disk);
    machine.build().unwrap()
}

/// Starts the program and kills it once its guest has acknowledged so many versions more than none:
/// what it had acknowledged by then.
fn kill_while_it_writes(program: &Path, kernel: &Path, image: &Path, after: u64) -> Versions {
    let child = Command::new(program)
        .args(["--backend", &backend(), "--mem", "192"])
        .args(["--cmdline", &format!("{CMDLINE} writers=3")])
        .arg("--kernel")
        .arg(kernel)
        .arg("--initrd")
        .arg(kernel.with_file_name("initrd"))
        .arg("--disk")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.unwrap());
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let (line, lines) = mpsc::channel();
    thread::spawn(move || {
        // Of a process that was killed, a line may end anywhere.
        for read in output.split(b'\n').map_while(Result::ok) {
            let _ = line.send(String::from_utf8_lossy(&read).into_owned() + "\n");
        }
    });
    let (mut said, mut left) = (String::new(), after + 1);
    while left > 0 {
        let line = lines.recv_timeout(LONG).unwrap_or_else(|error| panic!("{error}: {said}"));
        left -= u64::from(line.starts_with("synced "));
        said.push_str(&line);
    }
    drop(child);
    acknowledged(&said)
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel; `None` where what is needed is not to be had.
fn kernel(test: &str) -> Option<PathBuf> {
    let Some(guests) = env::var_os("VMM_GUESTS") else {
        println!("skipped: {test}: no guests here; tests/run has them, in the lab");
        return None;
    };
    if ["mke2fs", "e2fsck", "debugfs"].iter().any(|tool| Command::new(tool).output().is_err()) {
        println!("skipped: {test}: e2fsprogs: its package could not be had");
        return None;
    }
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

fn is_long() -> bool {
    env::var_os("VMM_LONG").is_some()
}

/// Other ones each time, told so that they can be had again.
struct Numbers(u64);

impl Numbers {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = env::var("VMM_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64);
        println!("VMM_SEED={seed}");
        Self(seed)
    }

    /// Less than `most`.
    fn next(&mut self, most: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % most
    }
}
