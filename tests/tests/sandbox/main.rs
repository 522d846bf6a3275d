//! Ordinary static programs in sandboxes, on whichever KVM this host has.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

mod busybox;
mod calls;
mod files;
mod hostile;
mod limits;
mod native;
mod programs;
mod run;
mod storm;

use vmm_core::host::{self, KvmKind};

/// The program that `build.rs` made of `guests/sandbox/NAME.c`.
macro_rules! program {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/", $name)).as_slice()
    };
}
use program;

/// Whether programs can be run here; says where the test ran, or why not.
fn can_run(test: &str) -> bool {
    let kind = host::probe().kvm;
    match kind {
        KvmKind::None => println!("skipped: {test}: no /dev/kvm here"),
        kind => println!("{test}: on {kind}"),
    }
    kind != KvmKind::None
}
