//! From `stop()` on one thread to the return of `run` on another, of a guest that spins.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    kvm::Kvm,
    machine::{Device, Outcome, Slot},
};

use crate::sample::{Samples, print};

/// out 0x80, al, then a jmp to itself.
const SPIN: &[u8] = &[0xe6, 0x80, 0xeb, 0xfe];

pub(crate) fn rows() {
    print("stop() to run() returned, spinning guest", &Samples::take(100, stop_once));
}

fn stop_once() -> f64 {
    let (started, running) = mpsc::sync_channel(1);
    let machine = Machine::builder()
        .hypervisor(Kvm::open().unwrap())
        .memory(0x10000)
        .boot(Flat::real_mode(SPIN))
        .device(Started(started))
        .build()
        .unwrap();
    let handle = machine.handle();
    let (sender, returned) = mpsc::channel();
    let runner = thread::spawn(move || {
        let outcome = machine.run().unwrap();
        sender.send(Instant::now()).unwrap();
        assert_eq!(outcome, Outcome::Stopped);
    });
    running.recv().unwrap();
    thread::sleep(Duration::from_millis(1));
    let start = Instant::now();
    handle.stop().unwrap();
    let took = returned.recv().unwrap() - start;
    runner.join().unwrap();
    took.as_nanos() as f64
}

/// Tells that the guest runs.
struct Started(mpsc::SyncSender<()>);

impl BusDevice for Started {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        self.0.send(()).unwrap();
        CONTINUE
    }
}

impl Device for Started {
    fn name(&self) -> &str {
        "started"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(0x80, 1, Arc::new(*self))
    }
}
