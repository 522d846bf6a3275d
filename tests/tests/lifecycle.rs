//! A machine takes everything with it when it is dropped. Alone in its process, because it counts
//! what the process has.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod each;
mod held;
mod this_host;

use std::sync::Arc;

use vmm_core::{
    Machine,
    boot::Flat,
    hv::{Hypervisor, IrqConfig},
    machine::Outcome,
};
use vmm_devices::{DebugExit, Serial};

use self::held::Held;

/// mov al, 7; out 0xf4, al.
const GUEST: &[u8] = &[0xb0, 7, 0xe6, 0xf4];

fn build_run_drop(hypervisor: &Arc<dyn Hypervisor>, n: u32) {
    // Closing a VM with interrupt controllers takes 20 ms on some hosts, so not every one has them.
    let whole = n.is_multiple_of(10);
    let (serial, _output) = Serial::capture();
    let machine = Machine::builder()
        .hypervisor(Arc::clone(hypervisor))
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
    for hypervisor in each::back_end("a_thousand_machines_leave_nothing_behind") {
        // The first ones bring the allocator and lazily made statics to where they stay.
        (0..30).for_each(|n| build_run_drop(&hypervisor, n));
        let before = Held::now();
        (0..1_000).for_each(|n| build_run_drop(&hypervisor, n));
        held::nothing_is_left(&before);
    }
}
