//! The software CPU: static programs of `tests/oracle/programs`, in million guest instructions a
//! second, beside the same programs on this processor and in QEMU's user mode, if it is there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::time::{ClockId, clock_gettime};
use vmm_oracle::program::{End, Program};

use crate::sample::nanoseconds;

/// Program, how much of it, how much more of it natively: startup should not count.
const PROGRAMS: [(&str, &str, u32, u32); 4] = [
    ("registers only", "registers", 20, 20),
    ("every other instruction to memory", "walk", 10, 20),
    ("SHA-256", "sha256", 1, 16),
    ("matrix of doubles", "matrix", 4, 60),
];

pub(crate) fn rows() {
    let qemu = env::var_os("QEMU_USER").unwrap_or("qemu-x86_64".into());
    let has_qemu = Command::new(&qemu).arg("--version").stdout(Stdio::null()).status().is_ok();
    println!(
        "{:<44} {:>9} {:>9} {:>9}",
        "cpu, million instructions a second", "ours", "native", "QEMU"
    );
    for (what, name, amount, times) in PROGRAMS {
        let Some(binary) = build(name) else {
            println!("{what}: skipped: no C compiler with a static library");
            continue;
        };
        let file = fs::read(&binary).unwrap();
        let once = count(&file, amount);
        let per = |nanoseconds: f64, times: u32| once * f64::from(times) * 1e3 / nanoseconds;
        let best = |run: &dyn Fn() -> f64| (0..5).map(|_| run()).fold(f64::MAX, f64::min);
        let ours = best(&|| {
            let mut program = load(&file, amount);
            // The processor's time: whatever else runs here does not count.
            let begin = clock_gettime(ClockId::ProcessCPUTime);
            program.run();
            let time = clock_gettime(ClockId::ProcessCPUTime) - begin;
            time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
        });
        let native = best(&|| spawn(&mut Command::new(&binary), amount * times));
        let tcg = has_qemu.then(|| best(&|| spawn(Command::new(&qemu).arg(&binary), amount * 4)));
        let tcg = tcg.map_or("-".into(), |time| format!("{:.0}", per(time, 4)));
        let (ours, native) = (per(ours, 1), per(native, times));
        println!("{what:<44} {ours:>9.0} {native:>9.0} {tcg:>9}");
    }
}

/// How many instructions, in all, a program executes.
fn count(file: &[u8], amount: u32) -> f64 {
    let mut program = load(file, amount);
    assert_eq!(program.run(), End::Exited(0));
    program.instructions() as f64
}

fn load(file: &[u8], amount: u32) -> Program {
    Program::load(file, &["program", &amount.to_string()], 1 << 14).unwrap()
}

fn spawn(command: &mut Command, amount: u32) -> f64 {
    command.arg(amount.to_string()).stdout(Stdio::null());
    nanoseconds(|| assert!(command.status().unwrap().success()))
}

fn build(name: &str) -> Option<PathBuf> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/oracle/programs/{name}.c"));
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let flags = ["-static", "-no-pie", "-O2", "-march=x86-64", "-o"];
    let mut cc = Command::new("cc");
    cc.args(flags).arg(&binary).arg(source);
    cc.status().is_ok_and(|status| status.success()).then_some(binary)
}
