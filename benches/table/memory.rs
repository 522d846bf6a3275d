//! What an idle machine holds of this process, beside its guest's RAM.

use vmm_core::{Machine, boot::Flat, kvm::Kvm, machine::Outcome, memory::GuestMemory};

const MACHINES: u64 = 200;

pub(crate) fn rows() {
    let mut machines = vec![idle_machine()];
    let before = anonymous_kib();
    machines.extend((0..MACHINES).map(|_| idle_machine()));
    let each = (anonymous_kib() - before) as f64 / MACHINES as f64;
    println!("{:<44} {MACHINES:>6} {each:>7.1} KiB", "anonymous memory of an idle machine, 64 MiB");
}

/// A machine that has run and waits. Its RAM is a memfd, which does not count as anonymous.
fn idle_machine() -> Machine {
    let machine = Machine::builder()
        .hypervisor(Kvm::open().unwrap())
        .guest_memory(GuestMemory::memfd(64 << 20).unwrap())
        .interrupts(None)
        .boot(Flat::real_mode([0xf4]))
        .build()
        .unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::Halted);
    machine
}

/// This process's anonymous memory in KiB (proc(5), smaps_rollup).
pub(crate) fn anonymous_kib() -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = smaps.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
