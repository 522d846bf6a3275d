//! Who answers what is not RAM.

use std::ops::ControlFlow;

/// Answers accesses outside RAM, on the thread of [`Cpu::run`](crate::Cpu::run).
///
/// `data` is 1, 2, 4 or 8 bytes, little-endian; reads fill it. A `Break` is a wish to leave: the
/// instruction is completed with what was answered, then `run` returns
/// [`Exit::Io`](crate::Exit::Io).
pub trait Io {
    /// A load from a physical address.
    fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()>;
    /// A store to a physical address.
    fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()>;
    /// An IN, or one element of an INS.
    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()>;
    /// An OUT, or one element of an OUTS.
    fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()>;
}
