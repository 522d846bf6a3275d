//! A sandbox takes everything with it when it is dropped. Alone in its process, because it counts
//! what the process has.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod held;

use std::sync::Arc;

use vmm_core::{
    host::{self, Need},
    hv::Hypervisor,
};
use vmm_sandbox::{Outcome, Sandbox};

use self::held::Held;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/calls"));

fn ready(hypervisor: &Arc<dyn Hypervisor>) -> Sandbox {
    let mut sandbox = Sandbox::image(PROGRAM)
        .hypervisor(Arc::clone(hypervisor))
        .host_fn("lookup", |key: &str| key.to_uppercase())
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox
}

fn use_and_drop(hypervisor: &Arc<dyn Hypervisor>, n: i64) {
    let mut sandbox = ready(hypervisor);
    assert_eq!(sandbox.call::<i64>("add", (n, 1_i64)).unwrap(), n + 1);
    assert_eq!(sandbox.call::<i64>("ask", ("key",)).unwrap(), 3);
    if n % 10 == 0 {
        sandbox.call::<()>("crash", ()).unwrap_err();
    }
}

#[test]
fn ten_thousand_calls_and_a_thousand_sandboxes_leave_nothing_behind() {
    let hypervisor: Arc<dyn Hypervisor> = host::best(Need::Program).unwrap().into();
    let test = "ten_thousand_calls_and_a_thousand_sandboxes_leave_nothing_behind";
    match hypervisor.name() {
        "kvm" => println!("{test}: on {}", host::probe().kvm),
        name => println!("{test}: on {name}"),
    }
    // The first ones bring the allocator and lazily made statics to where they stay.
    (0..30).for_each(|n| use_and_drop(&hypervisor, n));
    let before = Held::now();
    let mut sandbox = ready(&hypervisor);
    let (own, used) = (Held::now(), sandbox.statistics().memory);
    for n in 0..10_000_i64 {
        assert_eq!(sandbox.call::<i64>("add", (n, 1_i64)).unwrap(), n + 1);
    }
    held::nothing_is_left(&own);
    assert!(sandbox.statistics().memory <= used + 8192, "a call lays out its arguments once");
    drop(sandbox);
    (0..1_000).for_each(|n| use_and_drop(&hypervisor, n));
    held::nothing_is_left(&before);
}
