//! What the devices' tests share: any accesses at all, and a machine without a CPU to plug into.

use proptest::prelude::*;
use vmm_core::{
    Machine,
    boot::Flat,
    bus::Bus,
    hv::script::{Access, Record, Script},
    machine::{Device, Outcome},
};

/// A read of so many bytes or a write of these, at an address.
#[derive(Clone, Debug)]
pub(crate) enum Any {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

/// Accesses of every width around the window of `len` addresses at `start`.
pub(crate) fn accesses(start: u64, len: u64) -> impl Strategy<Value = Vec<Any>> {
    let at = start.saturating_sub(2)..start + len + 2;
    let read = (at.clone(), 1..=8_usize).prop_map(|(at, len)| Any::Read(at, len));
    let data = prop::collection::vec(any::<u8>(), 1..=8);
    let write = (at, data).prop_map(|(at, data)| Any::Write(at, data));
    prop::collection::vec(prop_oneof![read, write], 0..200)
}

pub(crate) fn perform(bus: &Bus, accesses: &[Any]) {
    for access in accesses {
        let _ = match access {
            Any::Read(at, len) => bus.read(*at, &mut vec![0; *len]),
            Any::Write(at, data) => bus.write(*at, data),
        };
    }
}

/// A machine with `device` whose guest does what `script` says.
pub(crate) fn machine(device: impl Device + 'static, script: &Script) -> Machine {
    let builder = Machine::builder().hypervisor(script.clone()).memory(1 << 20);
    builder.boot(Flat::real_mode([0xf4])).device(device).build().unwrap()
}

/// Runs `accesses` on a machine with `device`.
pub(crate) fn play(
    device: impl Device + 'static,
    accesses: impl Into<Vec<Access>>,
) -> (Outcome, Record) {
    let script = Script::new(accesses);
    let outcome = machine(device, &script).run().unwrap();
    (outcome, script.record())
}
