//! A machine takes everything with it when it is dropped. Alone in its process, because it counts
//! what the process has.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod this_host;

use std::{
    fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Machine,
    boot::Flat,
    hv::{Hypervisor, IrqConfig},
    machine::Outcome,
};
use vmm_devices::{DebugExit, Serial};

/// mov al, 7; out 0xf4, al.
const GUEST: &[u8] = &[0xb0, 7, 0xe6, 0xf4];

/// What a leak would show in.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    mappings: usize,
    threads: usize,
    anonymous_kib: usize,
}

impl Held {
    fn now() -> Self {
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

fn build_run_drop(kvm: &Arc<dyn Hypervisor>, n: u32) {
    // Closing a VM with interrupt controllers takes 20 ms on some hosts, so not every one has them.
    let whole = n.is_multiple_of(10);
    let (serial, _output) = Serial::capture();
    let machine = Machine::builder()
        .hypervisor(Arc::clone(kvm))
        .memory(64 << 20)
        .vcpus(if whole { 2 } else { 1 })
        .interrupts(whole.then(IrqConfig::default))
        .boot(Flat::real_mode(GUEST))
        .device(serial)
        .device(DebugExit::new())
        .build()
        .unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff(7));
    if n.is_multiple_of(20) {
        machine.reset().unwrap();
        assert_eq!(machine.run().unwrap(), Outcome::PowerOff(7));
    }
}

#[test]
fn a_thousand_machines_leave_nothing_behind() {
    let Some(kvm) = this_host::kvm_for("a_thousand_machines_leave_nothing_behind") else { return };
    // The first ones bring the allocator and lazily made statics to where they stay.
    (0..30).for_each(|n| build_run_drop(&kvm, n));
    let before = Held::now();
    (0..1_000).for_each(|n| build_run_drop(&kvm, n));
    let after = settled(before.threads);
    println!("before {before:?}, after {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.threads, before.threads);
    // The allocator may split or join a mapping of its own; a leak would show a thousand.
    assert!(after.mappings <= before.mappings + 4);
    assert!(after.anonymous_kib <= before.anonymous_kib + 1024);
}

/// Waits for kernel threads: KVM has one a VM, which ends some time after the VM is closed.
fn settled(threads: usize) -> Held {
    let start = Instant::now();
    loop {
        let held = Held::now();
        if held.threads <= threads || start.elapsed() > Duration::from_secs(10) {
            return held;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
