//! Debian's kernel boots and its user space gets work done, by every way in, on one, two and four
//! vCPUs; kernels of others come as far as they can on this board.
//!
//! They need a whole KVM, or the software CPU if `VMM_BACKEND` is `soft`, and the guests of
//! `tests/lab/run --guests`, whose directory the variable `VMM_GUESTS` names: `tests/run` runs them
//! in the lab, twice each, or `VMM_BOOTS` times; and some of them here, on the software CPU.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Barrier, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use vmm_core::{
    Machine,
    boot::{Linux, Loader, Multiboot, Protocol},
    host::{self, Choice},
    machine::Outcome,
};
use vmm_devices::{I8042, Rtc, Serial};

/// How long a guest may take. A boot in the lab takes 5 s on an idle machine, and ten at once take that ten
/// times; a machine may be very busy.
fn patience() -> Duration {
    Duration::from_secs(if is_long() { 3600 } else { 600 })
}

/// Whether there is time for more.
fn is_long() -> bool {
    env::var_os("VMM_LONG").is_some()
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What Linux does not count as RAM: the first page, which it keeps clear of, and the hole between
/// the BIOS's data and 1 MiB (`boot::map`).
const NOT_RAM: u64 = 0x1000 + (0x10_0000 - 0x9_fc00);

const QUIET: &str = "console=ttyS0 quiet panic=-1";

/// One test for each boot: how many vCPUs, which image, by which protocol.
macro_rules! boots {
    ($($name:ident: $cpus:literal $image:literal $protocol:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let Some(image) = guest(stringify!($name), $image) else { return };
                let boot = Boot {
                    cpus: $cpus,
                    protocol: Protocol::$protocol,
                    ..Boot::of(image)
                };
                for _ in 0..times() {
                    boot.works_and_powers_off();
                }
            }
        )*
    };
}

boots! {
    a_bzimage_works_on_1_vcpu: 1 "vmlinuz" Linux64;
    a_bzimage_works_on_2_vcpus: 2 "vmlinuz" Linux64;
    a_bzimage_works_on_4_vcpus: 4 "vmlinuz" Linux64;
    a_vmlinux_by_the_linux_protocol_works_on_1_vcpu: 1 "vmlinux" Linux64;
    a_vmlinux_by_the_linux_protocol_works_on_2_vcpus: 2 "vmlinux" Linux64;
    a_vmlinux_by_the_linux_protocol_works_on_4_vcpus: 4 "vmlinux" Linux64;
    a_vmlinux_by_pvh_works_on_1_vcpu: 1 "vmlinux" Pvh;
    a_vmlinux_by_pvh_works_on_2_vcpus: 2 "vmlinux" Pvh;
    a_vmlinux_by_pvh_works_on_4_vcpus: 4 "vmlinux" Pvh;
}

#[test]
fn a_reboot_ends_in_a_reset_after_which_the_same_machine_boots_again() {
    let Some(image) = guest("a_reboot_ends_in_a_reset", "vmlinuz") else { return };
    for by in ["reboot=acpi", "reboot=kbd"] {
        let (cpus, then) = (2, format!("then=reboot {by}"));
        let boot = Boot { cpus, then, ..Boot::of(image.clone()) };
        let guest = boot.build();
        for _ in 0..times() {
            boot.check(&guest, &Outcome::Reset);
            guest.machine.reset().unwrap();
        }
    }
}

#[test]
fn memory_above_the_hole_is_seen() {
    let Some(image) = guest("memory_above_the_hole_is_seen", "vmlinuz") else { return };
    Boot { memory: 5 * GIB, ..Boot::of(image) }.works_and_powers_off();
}

/// One vCPU does some of it; all numbers of vCPUs do all of it if `VMM_SIZE` is 16: SHA-256 of 64 MiB
/// and the rest in proportion.
#[test]
fn what_users_do_comes_to_the_same_as_on_the_host() {
    const TEST: &str = "what_users_do_comes_to_the_same";
    let (Some(image), Some(bash)) = (guest(TEST, "vmlinuz"), guest(TEST, "bash-static")) else {
        return;
    };
    let size = env::var("VMM_SIZE").unwrap_or_else(|_| "1".to_owned());
    let counts: &[u32] = if size == "16" { &[1, 2, 4] } else { &[1] };
    let here = user_on_the_host(bash.parent().unwrap(), &size);
    let here: Vec<_> = here.lines().collect();
    assert!(here.len() > 20, "{here:#?}");
    for &cpus in counts {
        let boot =
            Boot { run: "user", then: format!("size={size}"), cpus, ..Boot::of(image.clone()) };
        let said = boot.build().run_until("no such thing", &Outcome::PowerOff(0));
        let there = said.text.lines().filter(|line| line.starts_with("guest: "));
        assert_eq!(there.collect::<Vec<_>>(), here, "{cpus} vCPUs: {}", said.text);
    }
}

/// What the script says that the guest runs, run here by the busybox and the bash that the guest has.
fn user_on_the_host(guests: &Path, size: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let (tools, work) = (place.path().join("tools"), place.path().join("work"));
    fs::create_dir(&tools).unwrap();
    fs::create_dir(&work).unwrap();
    let busybox = |arguments: &[&OsStr]| {
        let mut command = Command::new("/bin/busybox");
        command.args(arguments).env_clear().env("size", size).env("TMPDIR", &work);
        let path = [tools.as_path(), guests];
        let output = command.env("PATH", env::join_paths(path).unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    busybox(&["--install".as_ref(), "-s".as_ref(), tools.as_ref()]);
    busybox(&["sh".as_ref(), concat!(env!("CARGO_MANIFEST_DIR"), "/guests/linux/user").as_ref()])
}

#[test]
fn ten_guests_work_at_once() {
    let Some(image) = guest("ten_guests_work_at_once", "vmlinuz") else { return };
    let (boot, all_are_built) = (Boot::of(image), Barrier::new(10));
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let guest = boot.build();
                all_are_built.wait();
                boot.check(&guest, &Outcome::PowerOff(0));
            });
        }
    });
}

/// It begins; with `VMM_LONG` it completes a pass of all its tests.
#[test]
fn memtest_finds_no_error_in_32_mib() {
    let Some(image) = guest("memtest_finds_no_error_in_32_mib", "memtest") else { return };
    let guest = Guest::build(Linux::kernel(image).cmdline("console=ttyS0,115200"), 1, 32 * MIB);
    let enough = if is_long() { "Pass:  1        Errors: " } else { "Pass:  0        Errors: " };
    let Said { text, .. } = guest.run_until(enough, &Outcome::Stopped);
    assert!(text.contains("Memtest86+ v6") && text.contains(enough), "{text}");
    // It tells how many there were again and again, and where; the last telling may have been cut off.
    let told = text.split("Errors: ").skip(1).filter_map(|rest| rest.split_once(' '));
    let errors: BTreeSet<_> = told.map(|(count, _)| count).collect();
    assert!(errors.iter().all(|count| *count == "0"), "{errors:?}: {text}");
    assert!(!text.contains("Failing Address"), "{text}");
    if is_long() {
        for test in ["#3  [Moving inversions, 1s", "#6  [Moving inversions, 64", "#9  [Modulo 20"] {
            assert!(text.contains(test), "{test}: {text}");
        }
    }
}

#[test]
fn gnu_mach_starts_until_it_wants_its_modules() {
    let Some(image) = guest("gnu_mach_starts", "gnumach") else { return };
    let guest = Guest::build(Multiboot::kernel(image).cmdline("console=com0"), 1, 64 * MIB);
    // Then it would print a stack and reset.
    let said = guest.run_until("No bootstrap code loaded with the kernel!", &Outcome::Stopped);
    assert!(said.text.starts_with("GNU Mach 1.8"), "{}", said.text);
    let ram = "biosmem: 000000000000100000:000000000004000000, available";
    assert!(said.text.contains(ram), "{}", said.text);
}

/// A guest's image; `None` where it is not to be had.
fn guest(test: &str, name: &str) -> Option<PathBuf> {
    let Some(guests) = env::var_os("VMM_GUESTS") else {
        println!("skipped: {test}: no guests here; tests/run has them, in the lab");
        return None;
    };
    let image = PathBuf::from(guests).join(name);
    if !image.exists() {
        println!("skipped: {test}: its package could not be had");
        return None;
    }
    match backend().as_str() {
        "kvm" => println!("{test}: on {}", host::probe().kvm),
        name => println!("{test}: on {name}"),
    }
    Some(image)
}

/// The name of what runs the guests.
fn backend() -> String {
    env::var("VMM_BACKEND").unwrap_or_else(|_| "kvm".to_owned())
}

fn hypervisor() -> Choice {
    host::named(&backend()).expect("it was asked for")
}

fn times() -> u32 {
    env::var("VMM_BOOTS").map_or(2, |times| times.parse().expect("VMM_BOOTS is a number"))
}

/// Debian's kernel and a RAM disk whose script says what it found and did.
struct Boot {
    image: PathBuf,
    protocol: Protocol,
    cpus: u32,
    memory: u64,
    /// The script in the RAM disk that is run.
    run: &'static str,
    /// More of the command line.
    then: String,
}

impl Boot {
    fn of(image: PathBuf) -> Self {
        let (protocol, then) = (Protocol::Linux64, String::new());
        Self { image, protocol, cpus: 1, memory: 256 * MIB, run: "work", then }
    }

    fn build(&self) -> Guest {
        let linux = Linux::kernel(&self.image)
            .initrd(self.image.with_file_name("initrd"))
            .cmdline(format!("{QUIET} run={} {}", self.run, self.then))
            .protocol(self.protocol);
        Guest::build(linux, self.cpus, self.memory)
    }

    fn works_and_powers_off(&self) {
        self.check(&self.build(), &Outcome::PowerOff(0));
    }

    /// Runs the guest to its end, which must be this one, and looks at what it has done.
    fn check(&self, guest: &Guest, outcome: &Outcome) {
        let said = guest.run_until("no such thing", outcome);
        let (facts, told): (Vec<_>, Vec<_>) = said.facts().unzip();
        let expected = [
            format!("processors {}", self.cpus),
            format!("memory {}", self.memory - NOT_RAM),
            "digest f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a".to_owned(),
            "sum 5050".to_owned(),
        ];
        let [kernel, work @ .., date] = &facts[..] else {
            panic!("it did nothing:\n{}", said.text)
        };
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        // The lab runs the same kernel.
        let release = if backend() == "kvm" { release.trim() } else { "" };
        assert!(kernel.starts_with(&format!("running Linux {release}")), "{kernel}");
        assert_eq!(work, expected, "{}", said.text);
        let date: u64 = date.strip_prefix("date ").and_then(|date| date.parse().ok()).unwrap();
        let here = told.last().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        // A busy host may take its time from the guest's look at its clock to the end of the line.
        assert!(date.abs_diff(here) <= 60, "the guest's date is {date}, the host's {here}");
    }
}

/// A machine and what it prints.
struct Guest {
    machine: Machine,
    console: Console,
}

impl Guest {
    fn build(loader: impl Loader + 'static, cpus: u32, memory: u64) -> Self {
        let console = Console::default();
        let machine = Machine::builder()
            .hypervisor(hypervisor())
            .memory(memory)
            .vcpus(cpus)
            .boot(loader)
            .device(Serial::new(console.clone()))
            .device(Rtc::now())
            .device(I8042::new())
            .build()
            .expect("the guest fits");
        Self { machine, console }
    }

    /// Runs it until it has said this, ends, or takes too long; it must end like this. Gives what
    /// it said.
    fn run_until(&self, enough: &str, expected: &Outcome) -> Said {
        let (start, handle) = (Instant::now(), self.machine.handle());
        *self.console.said() = Said::default();
        let outcome = thread::scope(|scope| {
            let (running, ended) = mpsc::channel::<()>();
            let console = &self.console;
            scope.spawn(move || {
                let wait = || ended.recv_timeout(Duration::from_millis(20));
                while wait() == Err(mpsc::RecvTimeoutError::Timeout) {
                    if start.elapsed() > patience() || console.said().text.contains(enough) {
                        handle.stop().unwrap();
                    }
                }
            });
            let outcome = self.machine.run();
            drop(running);
            outcome
        });
        let (said, seconds) = (self.console.said().clone(), start.elapsed().as_secs());
        match outcome {
            Ok(outcome) if outcome == *expected => said,
            Ok(outcome) => panic!("after {seconds} s it {outcome}, not {expected}:\n{}", said.text),
            Err(error) => panic!("after {seconds} s: {error}:\n{}", said.text),
        }
    }
}

/// What a guest prints.
#[derive(Clone, Debug, Default)]
struct Console(Arc<Mutex<Said>>);

#[derive(Clone, Debug, Default)]
struct Said {
    text: String,
    /// When each line was complete.
    lines: Vec<SystemTime>,
}

impl Said {
    /// What the script in the RAM disk told, and when.
    fn facts(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        let lines = self.text.lines().zip(self.lines.iter().copied());
        lines.filter_map(|(line, when)| Some((line.strip_prefix("guest: ")?, when)))
    }
}

impl Console {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap()
    }
}

impl io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = self.said();
        for byte in bytes {
            said.text.push((*byte).into());
            if *byte == b'\n' {
                said.lines.push(SystemTime::now());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
