//! A program that is started, watched and ended.

use std::{
    fs,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// What any boot takes is far below this; a guest that hangs is to be named.
const LIMIT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
const TRACING: &str = "/sys/kernel/tracing";

pub(crate) struct Program {
    pub(crate) name: String,
    command: Vec<String>,
}

/// What one start of it came to.
pub(crate) struct Run {
    /// From before the program was started until the line was read.
    pub(crate) nanoseconds: f64,
    pub(crate) memory: Memory,
}

/// Resident memory in KiB.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) all: u64,
    /// Without what a child of fork() would not inherit, which is how some mark guest RAM.
    pub(crate) own: u64,
}

impl Program {
    /// A name and the words of a command, separated by tabs.
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split('\t').map(str::to_owned);
        Self { name: words.next().unwrap(), command: words.collect() }
    }

    /// Starts it and ends it once it has printed `line`.
    pub(crate) fn run(&self, line: &str) -> Run {
        // Some programs insist on a terminal.
        let (_keyboard, terminal) = terminal();
        let mut command = self.command();
        command.stdin(terminal).stdout(Stdio::piped()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let seen = read_until(line, &mut output);
        let nanoseconds = start.elapsed().as_nanos() as f64;
        let memory = memory(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        if !seen.contains(line) {
            panic!("{}: printed no '{line}', but '{seen}'", self.name);
        }
        Run { nanoseconds, memory }
    }

    /// Nanoseconds from before its start until its first vCPU enters the guest, by the kernel's
    /// trace. With the trace, a run takes longer.
    pub(crate) fn until_first_entry(&self, line: &str) -> f64 {
        let set = |file: &str, value: &str| {
            fs::write(format!("{TRACING}/{file}"), value).unwrap();
        };
        set("trace_clock", "mono");
        set("events/kvm/kvm_entry/enable", "1");
        set("trace", "");
        set("events/kvm/kvm_entry/trigger", "traceoff:1");
        set("tracing_on", "1");
        set("trace_marker", "start");
        self.run(line);
        set("events/kvm/kvm_entry/trigger", "!traceoff");
        set("events/kvm/kvm_entry/enable", "0");
        let trace = fs::read_to_string(format!("{TRACING}/trace")).unwrap();
        // "task-pid [cpu] flags seconds.microseconds: event: ..."
        let at = |event: &str| {
            let entry = trace.lines().find(|entry| entry.contains(event)).unwrap();
            let time = entry.split(": ").next().unwrap().split_whitespace().next_back().unwrap();
            time.parse::<f64>().unwrap() * 1e9
        };
        at(" kvm_entry: ") - at(" tracing_mark_write: ")
    }

    /// What it says of its exits when its guest has ended.
    pub(crate) fn statistics(&self) -> String {
        let output = self.command().arg("--stats").stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn command(&self) -> Command {
        let (program, arguments) = self.command.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }
}

/// Reads until there is `line`, the end or a time-out; gives all that was read.
fn read_until(line: &str, output: &mut ChildStdout) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let ready = poll(&mut [PollFd::new(&*output, PollFlags::IN)], Some(&LIMIT)).unwrap();
        let count = if ready == 0 { 0 } else { output.read(&mut buffer).unwrap() };
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen);
        if count == 0 || text.contains(line) {
            return text.into_owned();
        }
    }
}

/// Both sides of a new terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keyboard = openpt(flags).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let path = ptsname(&keyboard, Vec::new()).unwrap();
    // Or it would become this program's controlling terminal, and its end this program's end.
    let terminal = open(&path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (keyboard, terminal)
}

/// Sums up a process's mappings (proc(5), smaps).
fn memory(child: &Child) -> Memory {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
    let mut memory = Memory::default();
    let mut resident = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") => resident = words.next().unwrap().parse().unwrap(),
            // The last line of a mapping. "dc": not copied by fork().
            Some("VmFlags:") => {
                memory.all += resident;
                if !words.any(|flag| flag == "dc") {
                    memory.own += resident;
                }
            }
            _ => {}
        }
    }
    memory
}
