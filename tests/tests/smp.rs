//! A machine with several vCPUs and a reactor: a thread each, only while it runs.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod this_host;

use std::{
    fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    machine::{Device, Outcome, Slot},
    memory::GuestAddress,
};
use vmm_devices::DebugExit;

/// The first vCPU enters at offset 16, in long mode, and starts the others; SIPI vector 0x10 is
/// address 0x10000, where the image is. The first of them to get there ends the machine.
const GUEST: &[u8] = &[
    0xe6, 0x80, //                      out 0x80, al
    0xb0, 9, //                         mov al, 9
    0xe6, 0xf4, //                      out 0xf4, al
    0xf4, //                            hlt
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
    0xbe, 0x00, 0x03, 0xe0, 0xfe, //    mov esi, 0xfee00300, the interrupt command register
    0xc7, 0x06, 0x00, 0x45, 0x0c, 0x00, // mov dword [rsi], INIT to all others
    0xc7, 0x06, 0x10, 0x46, 0x0c, 0x00, // mov dword [rsi], SIPI to all others
    0xc7, 0x06, 0x10, 0x46, 0x0c, 0x00, // and once more, as the manual has it
    0xeb, 0xfe, //                      jmp to itself
];

#[test]
fn further_vcpus_and_the_reactor_run_on_threads_that_end_with_the_run() {
    let test = "further_vcpus_and_the_reactor_run_on_threads_that_end_with_the_run";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    for reactor in [false, true] {
        let threads = if reactor { 4 } else { 3 };
        let machine = Machine::builder()
            .hypervisor(Arc::clone(&kvm))
            .memory(1 << 20)
            .vcpus(4)
            .boot(Flat::long_mode(GUEST).entry(GuestAddress(0x1_0010)))
            .device(DebugExit::new())
            .device(Count { threads, reactor })
            .build()
            .unwrap();
        assert_eq!(our_threads(), 0);
        assert_eq!(machine.run().unwrap(), Outcome::PowerOff(9));
        // The kernel takes a thread that was joined out of its list a moment later.
        wait_for_threads(0);
    }
}

/// Looks at the threads while an application processor is running.
struct Count {
    threads: usize,
    /// Asks for the reactor, with nothing to watch.
    reactor: bool,
}

impl BusDevice for Count {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        // A thread gives itself its name a moment after it was started.
        wait_for_threads(self.threads);
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
