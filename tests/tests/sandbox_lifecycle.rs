//! A sandbox takes everything with it when it is dropped, however its program ended. Alone in its
//! process, because it counts what the process has.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod held;
mod this_host;

use std::{sync::Arc, time::Duration};

use vmm_core::hv::Hypervisor;
use vmm_sandbox::{Cause, Outcome, Sandbox};

use self::held::Held;

const CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/calls"));
const GREEDY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/greedy"));

/// One that is called forty times, one that ends, one that is stopped, one that is never started.
fn four(kvm: &Arc<dyn Hypervisor>) {
    let calls = || {
        let builder = Sandbox::image(CALLS).hypervisor(Arc::clone(kvm));
        builder.host_fn("sum", |n: i64, plus: f64| n as f64 + plus)
    };
    let mut called = calls().build().unwrap();
    assert_eq!(called.start().unwrap(), Outcome::Ready);
    for n in 0..40 {
        assert_eq!(called.call::<i64>("ask_sum", (n,)).unwrap(), 2 * n + 1);
    }
    let mut ended = calls().args(["calls", "end"]).build().unwrap();
    assert_eq!(ended.start().unwrap(), Outcome::Exited(7));
    let limit = Duration::from_millis(2);
    let spin = Sandbox::image(GREEDY).hypervisor(Arc::clone(kvm)).args(["greedy", "spin"]);
    let mut stopped = spin.timeout(limit).build().unwrap();
    assert_eq!(stopped.start().unwrap(), Outcome::Killed(Cause::TimedOut(limit)));
    calls().build().unwrap();
}

#[test]
fn a_thousand_sandboxes_and_ten_thousand_calls_leave_nothing_behind() {
    let test = "a_thousand_sandboxes_and_ten_thousand_calls_leave_nothing_behind";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    // The first ones bring the allocator and lazily made statics to where they stay.
    (0..5).for_each(|_| four(&kvm));
    let before = Held::now();
    (0..250).for_each(|_| four(&kvm));
    held::nothing_is_left(&before);
}
