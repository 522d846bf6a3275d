//! A port by which a guest ends itself with a code: the simplest way to power off.
//!
//! It sits at port 0xF4, where QEMU's `isa-debug-exit` is by convention; there the exit status is
//! `code * 2 + 1`, here it is the code itself.

use std::{ops::ControlFlow, sync::Arc};

use vmm_core::{
    Result,
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    machine::{Device, Legacy, Slot},
    persist::{StateReader, StateWriter},
};

/// The debug-exit port. A write ends [`run`](vmm_core::Machine::run) with
/// [`Outcome::PowerOff`](vmm_core::machine::Outcome::PowerOff) and the value written, 1 to 4 bytes
/// little-endian; only one of 4 bytes can be negative. Reads give ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit(());

impl DebugExit {
    /// A debug-exit port.
    pub fn new() -> Self {
        Self(())
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _: u64, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        CONTINUE
    }

    fn write(&self, _: u64, data: &[u8]) -> Flow {
        let code = data.iter().take(4).rev().fold(0, |code, &byte| code << 8 | i32::from(byte));
        ControlFlow::Break(VcpuExit::PowerOff(code))
    }

    fn save(&self, _: &mut StateWriter) -> Result<()> {
        Ok(())
    }

    fn restore(&self, _: &mut StateReader) -> Result<()> {
        Ok(())
    }
}

impl Device for DebugExit {
    fn name(&self) -> &str {
        "debug-exit"
    }

    /// # Errors
    /// `BadConfig` if the machine has one already.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.legacy(Legacy::DebugExit, |_| Arc::new(*self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_core::{bus::Bus, hv::script::Access, machine::Outcome};

    use super::*;
    use crate::testing::{self, play};

    fn bus() -> Bus {
        let mut bus: Bus = Bus::new();
        bus.insert(0xf4, 4, Arc::new(DebugExit::new())).unwrap();
        bus
    }

    #[test]
    fn the_value_written_is_the_code() {
        let cases: [(&[u8], i32); 5] = [
            (&[0], 0),
            (&[0xff], 255),
            (&[0x34, 0x12], 0x1234),
            (&[0xff; 4], -1),
            (&[0, 0, 0, 0x80], i32::MIN),
        ];
        for (data, code) in cases {
            let ControlFlow::Break(VcpuExit::PowerOff(got)) = bus().write(0xf4, data) else {
                panic!("no exit for {data:?}");
            };
            assert_eq!(got, code);
        }
    }

    #[test]
    fn a_machine_ends_with_the_code() {
        let script = [Access::port_in(0xf4, 4), Access::port_out(0xf4, &[42]), Access::Spin];
        let (outcome, record) = play(DebugExit::new(), script);
        assert_eq!(outcome, Outcome::PowerOff(42));
        assert_eq!(record.replies, [[0xff; 4]]);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in testing::accesses(0xf4, 4)) {
            testing::perform(&bus(), &accesses);
        }
    }
}
