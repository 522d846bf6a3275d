//! What a snapshot is good for: pools, files, a thousand children, and time-outs, which a reset takes
//! back.

use std::{
    env, fs, process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sandbox::{Pool, Sandbox, Snapshot};

use crate::{
    create::measure,
    memory::anonymous_kib,
    sample::{Samples, nanoseconds, pairs, print, print_pair},
    sandbox::{on_kvm, ready},
};

/// Calls in a sample of a pool.
const CALLS: u64 = 500;

pub(crate) fn rows() {
    let mut parent = ready(64 << 20);
    parent.call::<()>("touch", (8192_i64,)).unwrap();
    let warm = parent.snapshot().unwrap();
    for threads in [1, 2] {
        for (what, pages) in [("an empty call", 0), ("one that writes 16 pages", 16)] {
            let samples = Samples::take(20, || pooled(&warm, threads, pages));
            let a_second = 1e9 / samples.at(0.5);
            print(&format!("pool: {what} and its reset, {threads} threads"), &samples);
            println!("{:<44} {:>6} {a_second:>11.0} a second", "", "");
        }
    }
    files(&warm);
    timeouts();
    large();
    many(&warm);
}

/// Nanoseconds for one call, of all threads together.
fn pooled(warm: &Snapshot, threads: u64, pages: i64) -> f64 {
    let pool = Pool::new(warm, 2 * threads as usize).unwrap();
    let done = AtomicU64::new(0);
    let calls = || {
        while done.fetch_add(1, Relaxed) < CALLS {
            pool.take().unwrap().call::<()>("touch", (pages,)).unwrap();
        }
    };
    // All are there, and have been used.
    let leases: Vec<_> = (0..2 * threads).map(|_| pool.take().unwrap()).collect();
    drop(leases);
    let time = nanoseconds(|| {
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(calls))));
    });
    time / CALLS as f64
}

/// Of 32 MiB, none of which is zeros.
fn files(warm: &Snapshot) {
    let path = env::temp_dir().join(format!("vmm-benches-{}.vmm", process::id()));
    let save = Samples::take(10, || nanoseconds(|| warm.save(&path).unwrap()));
    print("snapshot of 32 MiB to a file, synced", &save);
    let saved = || Sandbox::saved(&path).hypervisor(crate::sandbox::hypervisor());
    let open = Samples::take(10, || measure(|| saved().build().unwrap()));
    print("  opened", &open);
    let answer = || {
        let mut opened = saved().build().unwrap();
        opened.call::<()>("nothing", ()).unwrap();
        opened
    };
    print("  opened and called", &Samples::take(10, || measure(answer)));
    println!("  its size: {} KiB", fs::metadata(&path).unwrap().len() >> 10);
    fs::remove_file(&path).unwrap();
}

/// How long it really takes to be stopped, beside what was asked for.
fn timeouts() {
    // What it takes to start is not to count.
    let path = env::temp_dir().join(format!("vmm-benches-{}-small.vmm", process::id()));
    ready(64 << 20).snapshot().unwrap().save(&path).unwrap();
    for limit in [1, 10, 100].map(Duration::from_millis) {
        let builder = Sandbox::saved(&path).hypervisor(crate::sandbox::hypervisor());
        let mut app = builder.timeout(limit).build().unwrap();
        let warm = app.snapshot().unwrap();
        for function in ["spin", "call_always", "map_always"] {
            let stopped = || {
                let time = nanoseconds(|| app.call::<()>(function, ()).unwrap_err());
                app.reset(&warm).unwrap();
                time
            };
            let row = pairs(30, stopped, || limit.as_nanos() as f64);
            print_pair(&format!("time-out of {limit:?} in {function}"), &row);
        }
    }
    fs::remove_file(&path).unwrap();
}

/// All 4 GiB of a sandbox are in use.
fn large() {
    const SIZE: u64 = 4 << 30;
    if available_kib() < 3 * (SIZE >> 10) {
        println!("a sandbox of 4 GiB in use: skipped: the host has too little memory");
        return;
    }
    let mut parent = ready(SIZE + (256 << 20));
    let filled = nanoseconds(|| parent.call::<()>("commit", (SIZE as i64,)).unwrap());
    let warm = parent.snapshot().unwrap();
    println!("4 GiB in use: written in {:.1?}", Duration::from_nanos(filled as u64));
    print("  fork", &Samples::take(20, || measure(|| warm.fork().unwrap())));
    let first = || {
        let mut child = warm.fork().unwrap();
        child.call::<()>("nothing", ()).unwrap();
        child
    };
    print("  fork and first call", &Samples::take(20, || measure(first)));
    print("  the same and drop", &Samples::take(20, || nanoseconds(first)));
    let mut child = first();
    let reset = || {
        child.call::<()>("touch", (16_i64,)).unwrap();
        nanoseconds(|| child.reset(&warm).unwrap())
    };
    print("  reset after 16 pages", &Samples::take(50, reset));
}

/// Children that are all there at once.
fn many(warm: &Snapshot) {
    const CHILDREN: usize = 1000;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(8192, |most| most.min(8192));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();
    let (own, host) = (anonymous_kib(), available_kib());
    let begun = Instant::now();
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        let mut child = warm.fork().unwrap();
        child.call::<()>("nothing", ()).unwrap();
        children.push(child);
    }
    let made = begun.elapsed();
    let each = |kib: u64| kib as f64 / CHILDREN as f64;
    let own = each(anonymous_kib().saturating_sub(own));
    let host = each(host.saturating_sub(available_kib()));
    let begun = Instant::now();
    drop(children);
    println!(
        "{CHILDREN} children: forked and called in {made:.2?}, dropped in {:.2?}; each {own:.1} KiB \
         anonymous, {host:.1} KiB of the host's memory in all",
        begun.elapsed()
    );
    if on_kvm() {
        println!("  (two descriptors each)");
    }
}

/// What the host could still give out (proc(5), meminfo).
fn available_kib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
