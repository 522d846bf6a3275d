//! A machine with several vCPUs and a reactor: a thread each, only while it runs.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod each;
mod starter;
mod this_host;

use std::{
    fs,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Machine, Result,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    hv::Hypervisor,
    machine::{Device, Outcome, Slot},
};
use vmm_devices::DebugExit;

#[test]
fn further_vcpus_and_the_reactor_run_on_threads_that_end_with_the_run() {
    let test = "further_vcpus_and_the_reactor_run_on_threads_that_end_with_the_run";
    for (hypervisor, reactor) in each::back_end(test).into_iter().flat_map(both) {
        let threads = if reactor { 4 } else { 3 };
        let machine = Machine::builder()
            .hypervisor(hypervisor)
            .memory(1 << 20)
            .vcpus(4)
            .boot(starter::image())
            .device(DebugExit::new())
            .device(Count { threads, reactor, seen: Mutex::new(false) })
            .build()
            .unwrap();
        assert_eq!(our_threads(), 0);
        assert_eq!(machine.run().unwrap(), Outcome::PowerOff(9));
        // The kernel takes a thread that was joined out of its list a moment later.
        wait_for_threads(0);
    }
}

/// Without a reactor and with one.
fn both(hypervisor: Arc<dyn Hypervisor>) -> [(Arc<dyn Hypervisor>, bool); 2] {
    [(Arc::clone(&hypervisor), false), (hypervisor, true)]
}

/// Looks at the threads while an application processor is running.
struct Count {
    threads: usize,
    /// Asks for the reactor, with nothing to watch.
    reactor: bool,
    /// One processor has found them all; the others wait for it.
    seen: Mutex<bool>,
}

impl BusDevice for Count {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        let mut seen = self.seen.lock().unwrap();
        if !*seen {
            // A thread gives itself its name a moment after it was started.
            wait_for_threads(self.threads);
            // The next one may come when threads have ended.
            *seen = true;
        }
        CONTINUE
    }
}

impl Device for Count {
    fn name(&self) -> &str {
        "count"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        if self.reactor {
            slot.reactor()?;
        }
        slot.ports(0x80, 1, Arc::new(*self))
    }
}

fn wait_for_threads(count: usize) {
    let start = Instant::now();
    while our_threads() != count {
        assert!(start.elapsed() < Duration::from_secs(60), "{} threads", our_threads());
        thread::yield_now();
    }
}

/// The threads of ours, by their names; KVM may have some of its own in this process.
fn our_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("vcpu") || name.starts_with("reactor")).count()
}
