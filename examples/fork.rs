//! A program that is started once, and forked: every child is a VM of its own.
//!
//! `cargo run --release --example fork` makes 100 children that are alive at once (`-- 1000` makes a
//! thousand). Each answers from what the parent had prepared, and with its own identity; then each
//! is reset. The table says what that took.

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sandbox::Sandbox;

/// Compiled by `build.rs`.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/fork"));

/// Descriptors that a child may take, generously.
const DESCRIPTORS: u64 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let children: u64 = std::env::args().nth(1).map_or(Ok(100), |word| word.parse())?;
    allow_descriptors(100 + DESCRIPTORS * children)?;

    let begun = Instant::now();
    let mut app = Sandbox::image(PROGRAM).build()?;
    app.start()?;
    let started = begun.elapsed();
    let warm = app.snapshot()?;

    let (mut alive, mut seen) = (Vec::new(), BTreeSet::new());
    let [mut forks, mut calls, mut resets] = [(); 3].map(|()| Vec::new());
    let before = resident_kib()?;
    for _ in 0..children {
        let (fork, mut child) = timed(|| warm.fork());
        let child_ref = child.as_mut().map_err(|error| error.to_string())?;
        let (call, answer) = timed(|| child_ref.call::<bool>("is_prime", (3_999_971_u64,)));
        if !answer? || !seen.insert(child_ref.call::<u64>("identity", ())?) {
            return Err("a child gave a wrong answer, or another's identity".into());
        }
        forks.push(fork);
        calls.push(call);
        alive.push(child?);
    }
    let each = (resident_kib()?.saturating_sub(before)) / children.max(1);
    for child in &mut alive {
        let (reset, done) = timed(|| child.reset(&warm));
        done?;
        resets.push(reset);
    }

    println!("{} children answered, each with an identity of its own", seen.len());
    println!("{:<22} {:>10} {:>10}", "", "median", "p99");
    println!("{:<22} {started:>10.1?}", "start, once");
    for (what, times) in [("fork", forks), ("first call", calls), ("reset", resets)] {
        println!("{what:<22} {:>10.1?} {:>10.1?}", part(&times, 50), part(&times, 99));
    }
    println!("{:<22} {each:>6} KiB", "resident, a child");
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

/// The value below which so many of a hundred lie.
fn part(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// Raises this process's own limit of open files, as far as it may. The library never does.
fn allow_descriptors(wanted: u64) -> Result<(), rustix::io::Errno> {
    let limit = getrlimit(Resource::Nofile);
    let now = limit.current.unwrap_or(u64::MAX);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let current = Some(now.max(wanted.min(most)));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })
}

/// What of this process is in memory (proc(5), smaps_rollup).
fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = smaps.lines().find(|line| line.starts_with("Pss:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(word.ok_or("smaps_rollup has no Pss")?.parse()?)
}
