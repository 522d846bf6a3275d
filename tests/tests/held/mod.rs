//! What a process holds, to see whether something was left behind. For tests that are alone in their
//! process.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// What a leak would show in.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
    pub(crate) anonymous_kib: usize,
}

impl Held {
    pub(crate) fn now() -> Self {
        let smaps = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let anonymous = smaps.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        Self {
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            anonymous_kib: anonymous.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

/// Waits for kernel threads: KVM has one a VM, which ends some time after the VM is closed.
fn settled(threads: usize) -> Held {
    let start = Instant::now();
    loop {
        let held = Held::now();
        if held.threads <= threads || start.elapsed() > Duration::from_secs(60) {
            return held;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fails unless as much is held as before.
pub(crate) fn nothing_is_left(before: &Held) {
    let after = settled(before.threads);
    println!("before {before:?}, after {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.threads, before.threads);
    // The allocator may split or join a mapping of its own; a leak would show a thousand.
    assert!(after.mappings <= before.mappings + 4);
    assert!(after.anonymous_kib <= before.anonymous_kib + 1024);
}
