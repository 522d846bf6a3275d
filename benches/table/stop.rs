//! From `stop()` on one thread to the return of `run` on another, of a guest that spins; and how
//! long it takes to pause that guest and to let it go on.

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

use crate::sample::{Samples, nanoseconds, print};

/// out 0x80, al, then a jmp to itself.
const SPIN: &[u8] = &[0xe6, 0x80, 0xeb, 0xfe];

pub(crate) fn rows() {
    print("stop() to run() returned, spinning guest", &Samples::take(100, stop_once));
    print("pause() and resume() of a spinning guest", &pauses());
}

/// A machine whose guest spins, and what tells that it does.
fn spinning() -> (Machine, mpsc::Receiver<()>) {
    let (started, running) = mpsc::sync_channel(1);
    let machine = Machine::builder()
        .hypervisor(Kvm::open().unwrap())
        .memory(0x10000)
        .boot(Flat::real_mode(SPIN))
        .device(Started(started))
        .build()
        .unwrap();
    (machine, running)
}

fn stop_once() -> f64 {
    let (machine, running) = spinning();
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

fn pauses() -> Samples {
    let (machine, running) = spinning();
    let handle = machine.handle();
    thread::scope(|scope| {
        let runner = scope.spawn(|| machine.run().unwrap());
        running.recv().unwrap();
        let samples = Samples::take(100, || {
            // Back in the guest by then.
            thread::sleep(Duration::from_millis(1));
            nanoseconds(|| {
                handle.pause(Duration::from_secs(10)).unwrap();
                handle.resume().unwrap();
            })
        });
        handle.stop().unwrap();
        assert_eq!(runner.join().unwrap(), Outcome::Stopped);
        samples
    })
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
