//! The software CPU: static programs, in million guest instructions a second of processor time,
//! beside the same programs on this processor and in QEMU's user mode (`qemu-x86_64`, or what
//! `QEMU_USER` names), if it is there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use vmm_oracle::program::{End, Program};

use crate::sample::Samples;

const SAMPLES: usize = 15;

/// A program, and how much of it takes about half a second.
struct Row {
    what: &'static str,
    /// In this package.
    source: &'static str,
    ours: u32,
    native: u32,
    qemu: u32,
}

const ROWS: [Row; 4] = [
    Row { what: "registers only", source: "table/registers.c", ours: 80, native: 2000, qemu: 400 },
    Row { what: "every other to memory", source: "table/walk.c", ours: 40, native: 400, qemu: 200 },
    Row {
        what: "SHA-256",
        source: "../tests/guests/sandbox/sha256.c",
        ours: 4,
        native: 64,
        qemu: 12,
    },
    Row {
        what: "matrix of doubles",
        source: "../tests/guests/sandbox/matrix.c",
        ours: 16,
        native: 800,
        qemu: 16,
    },
];

pub(crate) fn rows() {
    let qemu = env::var_os("QEMU_USER").unwrap_or("qemu-x86_64".into());
    let has_qemu = Command::new(&qemu).arg("--version").stdout(Stdio::null()).status().is_ok();
    println!(
        "{:<44} {:>6} {:>11} {:>11} {:>11} {:>11} {:>6}",
        "cpu, million instructions a second",
        "n",
        "median",
        "p99",
        "bare median",
        "bare p99",
        "ratio"
    );
    for row in ROWS {
        let Some(binary) = build(row.source) else {
            println!("{}: skipped: no C compiler with a static library", row.what);
            continue;
        };
        let file = fs::read(&binary).unwrap();
        // What native runs do takes long here: their instructions follow from two counts.
        let [one, more] = [1, row.ours].map(|amount| count(&file, amount));
        let each = (more - one) / f64::from(row.ours - 1);
        let of = |amount: u32| one + each * f64::from(amount - 1);
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let ours = {
                let mut program = load(&file, row.ours);
                per(more, processor_time(|| program.run()))
            };
            let native = per(of(row.native), spawn(&mut Command::new(&binary), row.native));
            let qemu = has_qemu
                .then(|| per(of(row.qemu), spawn(Command::new(&qemu).arg(&binary), row.qemu)));
            samples.push((ours, native, qemu));
        }
        let ours = || samples.iter().map(|sample| sample.0);
        print(&format!("{}, native", row.what), ours(), samples.iter().map(|sample| sample.1));
        if has_qemu {
            let qemu = samples.iter().filter_map(|sample| sample.2);
            print(&format!("{}, QEMU's user mode", row.what), ours(), qemu);
        }
    }
}

/// Million instructions a second.
fn per(instructions: f64, nanoseconds: f64) -> f64 {
    instructions * 1e3 / nanoseconds
}

fn print(what: &str, ours: impl Iterator<Item = f64>, bare: impl Iterator<Item = f64>) {
    let (ours, bare): (Vec<_>, Vec<_>) = (ours.collect(), bare.collect());
    let ratios = Samples::of(ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect());
    let (ours, bare) = (Samples::of(ours), Samples::of(bare));
    // The p99 of a rate is what 99 of 100 samples reach.
    println!(
        "{what:<44} {SAMPLES:>6} {:>11.0} {:>11.0} {:>11.0} {:>11.0} {:>6.3}",
        ours.at(0.5),
        ours.at(0.01),
        bare.at(0.5),
        bare.at(0.01),
        ratios.at(0.5)
    );
}

/// How many instructions so much of a program executes, start and end included.
fn count(file: &[u8], amount: u32) -> f64 {
    let mut program = load(file, amount);
    assert_eq!(program.run(), End::Exited(0));
    program.instructions() as f64
}

fn load(file: &[u8], amount: u32) -> Program {
    Program::load(file, &["program", &amount.to_string()], 1 << 14).unwrap()
}

/// The processor's time for something this process does, in nanoseconds: whatever else runs here
/// does not count.
fn processor_time<T>(work: impl FnOnce() -> T) -> f64 {
    let begin = clock_gettime(ClockId::ProcessCPUTime);
    std::hint::black_box(work());
    let time = clock_gettime(ClockId::ProcessCPUTime) - begin;
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The processor's time for a program, in nanoseconds.
fn spawn(command: &mut Command, amount: u32) -> f64 {
    command.arg(amount.to_string()).stdout(Stdio::null());
    let begin = children();
    assert!(command.status().unwrap().success());
    (children() - begin) as f64 * 1e9 / clock_ticks_per_second() as f64
}

/// The time of children that have ended, in ticks (proc(5), /proc/pid/stat: cutime and cstime).
fn children() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

fn build(source: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_stem()?);
    let flags = ["-static", "-no-pie", "-O2", "-march=x86-64", "-o"];
    let mut cc = Command::new("cc");
    cc.args(flags).arg(&binary).arg(source);
    cc.status().is_ok_and(|status| status.success()).then_some(binary)
}
