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
mod guest;
mod hostile;
mod limits;
mod native;
mod pool;
mod programs;
mod ring0;
mod run;
mod saved;
mod snapshot;
mod storm;
mod vm_cache;

use std::sync::Arc;

use vmm_core::{
    host::{self, Need},
    hv::Hypervisor,
};

/// The program that `build.rs` made of `guests/sandbox/NAME.c`.
macro_rules! program {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/", $name)).as_slice()
    };
}
use program;

/// The back end that sandboxes get: the best one here, or the one that `VMM_BACKEND` names.
fn backend() -> Arc<dyn Hypervisor> {
    let choice = match std::env::var("VMM_BACKEND") {
        Ok(name) => host::named(&name).unwrap(),
        Err(_) => host::best(Need::Program).unwrap(),
    };
    choice.into()
}

/// Whether programs can be run here; says where the test ran, or why not.
fn can_run(test: &str) -> bool {
    match backend().name() {
        "kvm" => println!("{test}: on {}", host::probe().kvm),
        name => println!("{test}: on {name}"),
    }
    true
}

/// Whether what takes long is tested too.
fn is_long() -> bool {
    std::env::var("VMM_LONG").as_deref() == Ok("1")
}
