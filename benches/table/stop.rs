//! From `stop()` on one thread to the return of `run` on another, of a guest that spins.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::{Machine, boot::Flat, kvm::Kvm, machine::Outcome};

use crate::sample::{Samples, print};

/// jmp to itself.
const SPIN: &[u8] = &[0xeb, 0xfe];

pub(crate) fn rows() {
    print("stop() to run() returned, spinning guest", &Samples::take(100, stop_once));
}

fn stop_once() -> f64 {
    let machine = Machine::builder()
        .hypervisor(Kvm::open().unwrap())
        .memory(0x10000)
        .boot(Flat::real_mode(SPIN))
        .build()
        .unwrap();
    let handle = machine.handle();
    let (sender, returned) = mpsc::channel();
    let runner = thread::spawn(move || {
        let outcome = machine.run().unwrap();
        sender.send(Instant::now()).unwrap();
        assert_eq!(outcome, Outcome::Stopped);
    });
    thread::sleep(Duration::from_millis(5));
    let start = Instant::now();
    handle.stop().unwrap();
    let took = returned.recv().unwrap() - start;
    runner.join().unwrap();
    took.as_nanos() as f64
}
