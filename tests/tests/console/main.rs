//! The console against a driver in this process: one port and several, sizes, peers that are slow,
//! full or gone, a driver that does what none may, saved state under traffic.
#![expect(clippy::unwrap_used, reason = "what tests share, whose failure is the test's")]

mod moments;
mod one;
mod peers;
mod several;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};

use rustix::event::{EventfdFlags, eventfd};
use vmm_core::virtio::testing::Driver;
use vmm_devices::{Console, Peer};

/// Features of the device (section 5.3.3).
pub(crate) const SIZE: u64 = 1;
pub(crate) const MULTIPORT: u64 = 2;
pub(crate) const EMERG_WRITE: u64 = 4;

/// The queues of the first port.
pub(crate) const RECEIVE: usize = 0;
pub(crate) const TRANSMIT: usize = 1;

/// A peer in this process that has room only every now and then.
#[derive(Clone)]
pub(crate) struct Moody {
    pub(crate) sent: Arc<Mutex<Vec<u8>>>,
    pub(crate) input: Arc<Mutex<VecDeque<u8>>>,
    pub(crate) opened: Arc<Mutex<Vec<bool>>>,
    calls: u32,
    /// Readable and writable at all times.
    ready: Arc<OwnedFd>,
}

impl Moody {
    pub(crate) fn new() -> Self {
        let ready = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let (sent, input, opened) = Default::default();
        Self { sent, input, opened, calls: 0, ready: Arc::new(ready) }
    }

    pub(crate) fn sent(&self) -> Vec<u8> {
        self.sent.lock().unwrap().clone()
    }
}

impl Peer for Moody {
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        self.calls += 1;
        match self.calls % 3 {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Err(io::ErrorKind::Interrupted.into()),
            _ => {
                let taken = data.len().min(1 + self.calls as usize % 700);
                self.sent.lock().unwrap().extend(&data[..taken]);
                Ok(taken)
            }
        }
    }

    fn receive(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let mut input = self.input.lock().unwrap();
        let len = data.len().min(input.len());
        data.iter_mut().zip(input.drain(..len)).for_each(|(place, byte)| *place = byte);
        if len == 0 {
            // There will be no more, so that nobody waits for it for ever.
            return Ok(0);
        }
        Ok(len)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn opened(&mut self, is_open: bool) {
        self.opened.lock().unwrap().push(is_open);
    }
}

/// A driver of `console` that has agreed on everything.
pub(crate) fn start(console: Console) -> Driver {
    let mut driver = Driver::new(console).unwrap();
    driver.start(u64::MAX).unwrap();
    driver
}

/// Lends the device a buffer for input and gives what comes back.
pub(crate) fn receive(driver: &mut Driver, queue: usize, room: u32) -> Vec<u8> {
    driver.submit(queue, &[], &[room]).unwrap();
    let done = driver.wait(queue).unwrap();
    done.data[..done.written as usize].to_vec()
}

pub(crate) fn send(driver: &mut Driver, queue: usize, data: &[u8]) {
    driver.submit(queue, &[data], &[]).unwrap();
    driver.wait(queue).unwrap();
}

/// Bytes that tell where they are.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}
