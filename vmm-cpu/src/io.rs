//! Who answers what is not RAM, and what is not in the CPU.

use std::ops::ControlFlow;

/// Answers accesses outside RAM, on the thread of [`Cpu::run`](crate::Cpu::run).
///
/// `data` is 1, 2, 4 or 8 bytes, little-endian; reads fill it. A `Break` is a wish to leave: the
/// instruction is completed with what was answered, then `run` returns
/// [`Exit::Io`](crate::Exit::Io).
///
/// What a local APIC would answer has defaults for a CPU without one.
pub trait Io {
    /// A load from a physical address.
    fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()>;
    /// A store to a physical address.
    fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()>;
    /// An IN, or one element of an INS.
    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()>;
    /// An OUT, or one element of an OUTS.
    fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()>;

    /// The vector of the interrupt that is taken now; it counts as acknowledged. `None`: there is
    /// none any more. Asked for after [`Cpu::interrupt`](crate::Cpu::interrupt), whenever the CPU
    /// may take one, until there is none.
    fn acknowledge(&self) -> Option<u8> {
        None
    }

    /// What RDMSR reads from a register that the CPU does not have itself; `None` is #GP(0).
    fn read_msr(&self, _index: u32) -> Option<u64> {
        None
    }

    /// WRMSR to a register that the CPU does not have itself; `None` is #GP(0), with nothing done.
    fn write_msr(&self, _index: u32, _value: u64) -> Option<()> {
        None
    }

    /// CR8 as it is read, if it is kept elsewhere: bits 4 to 7 of an APIC's task priority.
    fn task_priority(&self) -> Option<u8> {
        None
    }

    /// CR8 was written: 0 to 15.
    fn set_task_priority(&self, _priority: u8) {}

    /// Does `act` while no other CPU that shares memory with this one executes anything: each is
    /// between two instructions, or asks its `Io`. Whoever waits for this counts as such. The
    /// default is for a CPU that is alone.
    fn exclusive(&self, act: &mut dyn FnMut()) {
        act();
    }

    /// PAUSE was executed many times: guest code waits for another CPU, which may be waiting for
    /// this one's thread to yield.
    fn spins(&self) {}
}

/// Nobody: loads and IN are all ones, stores and OUT go nowhere, as on a bus where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nobody;

impl Io for Nobody {
    fn read(&self, _: u64, data: &mut [u8]) -> ControlFlow<()> {
        data.fill(0xff);
        ControlFlow::Continue(())
    }

    fn write(&self, _: u64, _: &[u8]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn port_in(&self, _: u16, data: &mut [u8]) -> ControlFlow<()> {
        data.fill(0xff);
        ControlFlow::Continue(())
    }

    fn port_out(&self, _: u16, _: &[u8]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
