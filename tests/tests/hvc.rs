//! Debian's kernel with its own drivers at virtio consoles, an entropy device and a disk, while the
//! machine it runs on is saved and restored into another one again and again.
//!
//! As those of `linux.rs` this needs a whole KVM, or the software CPU if `VMM_BACKEND` is `soft`,
//! and the guests of `tests/lab/run --guests`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use vmm_core::{
    Machine, Result,
    boot::Linux,
    host,
    machine::{Accounting, Outcome},
    memory::GuestMemory,
    persist::{StateReader, StateWriter},
};
use vmm_devices::{Block, Console, ConsoleHandle, I8042, Rng, Rtc, Serial, SerialOutput, Stream};

/// Far more than anything takes; a machine may be very busy.
const LONG: Duration = Duration::from_secs(1800);
const MIB: u64 = 1 << 20;
const DATA: usize = 1 << 20;

#[test]
fn a_guest_talks_by_its_consoles_and_is_moved_meanwhile() {
    let test = "a_guest_talks_by_its_consoles_and_is_moved_meanwhile";
    let Some(guests) = env::var_os("VMM_GUESTS").map(PathBuf::from) else {
        println!("skipped: {test}: no guests here; tests/run has them, in the lab");
        return;
    };
    println!("{test}: on {}", backend());
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::write(&disk, vec![0; MIB as usize]).unwrap();
    let (place, mut ends) = Place::new(guests.join("vmlinuz"), disk);
    let mut guest = Guest::boot(&place);

    for (n, hvc) in ["/dev/hvc0", "/dev/hvc1"].into_iter().enumerate() {
        ends[n].until("ready\n");
        ends[n].write(b"hello\n");
        ends[n].until("you said hello\n");
        guest = guest.moved(&place);
        let sent = pattern(DATA, n as u64);
        let (mut to_guest, data) = (ends[n].0.try_clone().unwrap(), sent.clone());
        let writer = thread::spawn(move || to_guest.write_all(&data).unwrap());
        // In the middle of it, and of what comes back.
        for _ in 0..3 {
            guest = guest.moved(&place);
        }
        let mut received = ends[n].read(DATA / 2);
        guest = guest.moved(&place);
        received.extend(ends[n].read(DATA / 2));
        writer.join().unwrap();
        ends[n].until("resize\n");
        guest.consoles[n].resize(132, 43);
        guest.wait_for(&format!("{hvc} size 43 132"));
        guest.expect(&format!("{hvc} received {}", digest(&sent)));
        guest.expect(&format!("{hvc} sent {}", digest(&received)));
        guest.expect(&format!("{hvc} size 25 80"));
    }
    ends[1].until("port\n");
    let (agent, mut end) = stream(&place.serial);
    guest.consoles[1].add_port("agent", agent).unwrap();
    end.write(b"its master\n");
    end.until("agent heard its master\n");
    guest.ends();
    guest.expect("entropy by virtio_rng.0, bytes 8192");
    guest.expect("entropy differs 4");
    guest.expect("disk rounds enough");
    assert!(!guest.said().contains("disk differs"), "{}", guest.said());
    let report = guest.machine.exits().unwrap().virtio;
    let names: Vec<&str> = report.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["console", "console", "rng", "block"]);
    assert!(report.iter().all(|(_, traffic)| traffic.errors == 0), "{report:?}");
}

/// What machines that become one another have in common: a kernel, a disk, and the consoles' other
/// ends.
struct Place {
    kernel: PathBuf,
    disk: PathBuf,
    peers: [UnixStream; 2],
    serial: SerialOutput,
}

impl Place {
    fn new(kernel: PathBuf, disk: PathBuf) -> (Self, [End; 2]) {
        let [(a, end_a), (b, end_b)] = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
        let serial = SerialOutput::default();
        let ends = [End::new(end_a, &serial), End::new(end_b, &serial)];
        (Self { kernel, disk, peers: [a, b], serial }, ends)
    }

    fn console(&self, n: usize) -> Console {
        let copy = || self.peers[n].try_clone().unwrap();
        let console = Console::new(Stream::new(copy(), copy())).unwrap().size(80, 25);
        if n == 0 { console } else { console.room(1).unwrap() }
    }

    fn build(&self) -> Result<(Machine, [ConsoleHandle; 2])> {
        let linux = Linux::kernel(&self.kernel)
            .initrd(self.kernel.with_file_name("initrd"))
            .cmdline("console=ttyS0 quiet panic=-1 run=console");
        let consoles = [self.console(0), self.console(1)];
        let handles = [consoles[0].handle(), consoles[1].handle()];
        let machine = Machine::builder()
            .hypervisor(host::named(&backend()).expect("it was asked for"))
            .memory(192 * MIB)
            .account(Accounting::Counts)
            .boot(linux)
            .device(Serial::new(self.serial.clone()))
            .device(Rtc::now())
            .device(I8042::new());
        let machine =
            consoles.into_iter().fold(machine, |machine, console| machine.device(console));
        let disk = Block::open(&self.disk)?;
        Ok((machine.device(Rng::new()?).device(disk).build()?, handles))
    }
}

/// A machine that runs on a thread of its own.
struct Guest {
    machine: Arc<Machine>,
    consoles: [ConsoleHandle; 2],
    running: JoinHandle<Result<Outcome>>,
    serial: SerialOutput,
}

impl Guest {
    fn boot(place: &Place) -> Self {
        let (machine, consoles) = place.build().unwrap();
        Self::start(machine, consoles, place)
    }

    fn start(machine: Machine, consoles: [ConsoleHandle; 2], place: &Place) -> Self {
        let machine = Arc::new(machine);
        let running = machine.start().unwrap();
        Self { machine, consoles, running, serial: place.serial.clone() }
    }

    /// Goes on in another machine, of which nothing but the description is the same.
    fn moved(self, place: &Place) -> Self {
        let Self { machine, running, .. } = self;
        machine.handle().pause(LONG).unwrap();
        let mut state = StateWriter::new();
        machine.save(&mut state).unwrap();
        let (state, ram) = (state.into_bytes().unwrap(), ram(machine.memory()));
        machine.handle().stop().unwrap();
        assert_eq!(running.join().unwrap().unwrap(), Outcome::Stopped);
        // The disk is its alone.
        drop(machine);
        let (machine, consoles) = place.build().unwrap();
        for (at, page) in &ram {
            machine.memory().write(vmm_core::memory::GuestAddress(*at), page).unwrap();
        }
        let mut from = StateReader::from_bytes(&state).unwrap();
        machine.restore(&mut from).unwrap();
        from.finish().unwrap();
        Self::start(machine, consoles, place)
    }

    fn said(&self) -> String {
        self.serial.text()
    }

    fn expect(&self, fact: &str) {
        let line = format!("guest: {fact}\r\n");
        assert!(self.said().contains(&line), "'{fact}' is missing:\n{}", self.said());
    }

    fn wait_for(&self, fact: &str) {
        self.wait(fact, || self.said().contains(fact));
    }

    /// Waits until the guest has powered off.
    fn ends(&mut self) {
        self.wait("its end", || self.running.is_finished());
        let ended = self.machine.next_event().unwrap();
        assert!(format!("{ended:?}").contains("PowerOff(0)"), "{ended:?}\n{}", self.said());
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LONG, "waiting for {what}:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// All of it, in pieces with their addresses.
fn ram(memory: &GuestMemory) -> Vec<(u64, Vec<u8>)> {
    let mut pages = Vec::new();
    for region in memory.regions() {
        let (start, end) = (region.start().0, region.start().0 + region.len());
        for at in (start..end).step_by(MIB as usize) {
            let mut piece = vec![0; MIB as usize];
            memory.read(vmm_core::memory::GuestAddress(at), &mut piece).unwrap();
            pages.push((at, piece));
        }
    }
    pages
}

/// The host's end of a port, and what the guest says of itself meanwhile.
struct End(UnixStream, SerialOutput);

fn stream(serial: &SerialOutput) -> (Stream<UnixStream, UnixStream>, End) {
    let (peer, end) = UnixStream::pair().unwrap();
    (Stream::new(peer.try_clone().unwrap(), peer), End::new(end, serial))
}

impl End {
    fn new(stream: UnixStream, serial: &SerialOutput) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(stream, serial.clone())
    }

    fn write(&mut self, data: &[u8]) {
        self.0.write_all(data).unwrap();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let read = self.0.read_exact(&mut data);
        read.unwrap_or_else(|error| panic!("{len} bytes of it: {error}\n{}", self.1.text()));
        data
    }

    /// What comes next must be this; a new line may have a carriage return before it.
    fn until(&mut self, text: &str) {
        let mut read = Vec::new();
        while !read.ends_with(text.as_bytes()) {
            read.extend(self.read(1).into_iter().filter(|byte| *byte != b'\r'));
            assert!(read.len() < 1000, "not '{text}' but {}", String::from_utf8_lossy(&read));
        }
    }
}

fn backend() -> String {
    env::var("VMM_BACKEND").unwrap_or_else(|_| "kvm".to_owned())
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let word = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed << 17).rotate_left(29);
    (0..len as u64 / 8).flat_map(|n| word(n).to_le_bytes()).collect()
}

fn digest(data: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path: &Path = &directory.path().join("data");
    fs::write(path, data).unwrap();
    let output = Command::new("sha256sum").arg(path).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap_or_default().to_owned()
}
