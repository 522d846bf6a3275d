//! From an access to a device and back without any CPU: 32 devices on the bus, played by
//! `hv::script`.

use std::sync::Arc;

use vmm_core::{
    Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    hv::script::{Access, Script},
    machine::{Accounting, Builder, Device, Place, Slot},
    memory::GuestAddress,
};

use crate::sample::{Samples, nanoseconds, print};

const DEVICES: u64 = 32;
const ACCESSES: u64 = 32_000;
const BASE: u64 = 0xd000_0000;

pub(crate) fn rows() {
    let store = |n: u64| Access::store(BASE + n % DEVICES * 0x1000, &[0; 4]);
    let out = |n: u64| Access::port_out(0x1000 + (n % DEVICES * 8) as u16, &[0]);
    measure("dispatch of a store among 32 devices", store, |builder| builder);
    measure("dispatch of an OUT among 32 devices", out, |builder| builder);
    measure("  the same, exits counted", out, |b| b.account(Accounting::Counts));
    measure("  the same, exits timed", out, |b| b.account(Accounting::Times));
}

fn measure(what: &str, access: impl Fn(u64) -> Access, set: impl Fn(Builder) -> Builder) {
    let mut script: Vec<_> = (0..ACCESSES).map(&access).collect();
    script.push(Access::Halt);
    let sample = || {
        let mut builder = Machine::builder()
            .hypervisor(Script::new(script.as_slice()))
            .memory(0x10000)
            .interrupts(None)
            .boot(Flat::real_mode([0xf4]));
        for n in 0..DEVICES {
            builder = builder.device(Sink(n));
        }
        let machine = set(builder).build().unwrap();
        nanoseconds(|| machine.run().unwrap()) / ACCESSES as f64
    };
    print(what, &Samples::take(100, sample));
}

/// Takes every write.
struct Sink(u64);

impl BusDevice for Sink {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, offset: u64, _: &[u8]) -> Flow {
        std::hint::black_box(offset);
        CONTINUE
    }
}

impl Device for Sink {
    fn name(&self) -> &str {
        "sink"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let (n, device) = (self.0, Arc::new(*self));
        slot.ports((0x1000 + n * 8) as u16, 8, Arc::clone(&device) as Arc<dyn BusDevice>)?;
        slot.mmio(Place::At(GuestAddress(BASE + n * 0x1000)), 0x1000, device).map(|_| ())
    }
}
