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
    /// Of memfds, as far as it is mapped.
    pub(crate) shared_kib: usize,
}

impl Held {
    pub(crate) fn now() -> Self {
        let smaps = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let kib = |name: &str| {
            let value = smaps.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            anonymous_kib: kib("Anonymous:"),
            shared_kib: kib("Pss_Shmem:"),
        }
    }
}

/// Waits for kernel threads: KVM has one a VM, which ends some time after the VM is closed.
fn settled(threads: usize) -> Held {
    let start = Instant::now();
    loop {
        let held = Held::now();
        if held.threads <= threads || start.elapsed() > Duration::from_secs(300) {
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
    assert!(after.threads <= before.threads);
    assert!(after.is_small_change_of(before), "memory is left");
}

/// Fails if each round of some work leaves something. The allocator keeps what it gave out, and more
/// of it after the first rounds; a leak comes with every one.
#[allow(dead_code, reason = "for tests whose work takes much from the allocator")]
pub(crate) fn no_round_leaves_anything(mut round: impl FnMut()) {
    for left in (0..40).rev() {
        let before = Held::now();
        round();
        let after = settled(before.threads);
        println!("before {before:?}, after {after:?}");
        assert_eq!(after.descriptors, before.descriptors);
        assert!(after.threads <= before.threads);
        if after.is_small_change_of(&before) {
            return;
        }
        assert!(left > 0, "each round leaves memory");
    }
}

impl Held {
    /// The allocator may split or join a mapping of its own; a leak would show a thousand.
    fn is_small_change_of(&self, before: &Self) -> bool {
        self.mappings <= before.mappings + 4
            && self.anonymous_kib <= before.anonymous_kib + 1024
            && self.shared_kib <= before.shared_kib + 1024
    }
}
