//! One table of numbers: what this library costs beside the bare system calls under it, measured in
//! pairs in one run.
//!
//! `cargo bench` prints it, `cargo bench -- exit` only the rows with that word, and with
//! `VMM_BACKEND=soft` those of sandboxes are of the software CPU. Nothing is asserted
//! here: SPECIFICATION.md has the promises, and a promise is kept or not by the ratio, since
//! absolute times differ between hosts and hours.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program to be looked at; what cannot be measured ends it"
)]

mod bare;
mod cpu;
mod create;
mod dispatch;
mod exit;
mod fork;
mod memory;
mod sample;
mod sandbox;
mod stop;
mod trip;
mod virtio;
mod warm;

use vmm_core::host::{self, KvmKind};

/// A group of rows; prints them.
type Group = (&'static str, fn());

const GROUPS: &[Group] = &[
    ("cpu", cpu::rows),
    ("dispatch", dispatch::rows),
    ("create", create::rows),
    ("exit", exit::rows),
    ("stop", stop::rows),
    ("memory", memory::rows),
    ("sandbox", sandbox::rows),
    ("fork", fork::rows),
    ("warm", warm::rows),
    ("virtio", virtio::rows),
];

fn main() {
    // Cargo passes --bench; every other word selects.
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with('-')).collect();
    let report = host::probe();
    println!("host: {}", report.kvm);
    for finding in report.findings.iter().filter(|finding| !finding.good) {
        println!("      {}: {}", finding.what, finding.found);
    }
    sample::print_head();
    for (name, rows) in GROUPS {
        let chosen = words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
        let any = ["cpu", "dispatch", "fork", "sandbox", "virtio", "warm"].contains(name);
        let possible = report.kvm != KvmKind::None || any;
        match (chosen, possible) {
            (true, true) => rows(),
            (true, false) => println!("{name}: skipped: no KVM on this host"),
            (false, _) => {}
        }
    }
}
