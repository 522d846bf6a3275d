//! The block device against a driver in this process: what it reads and writes on each kind of disk,
//! what it makes of bad requests and bad disks, resets and saved state under traffic.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "what tests share, whose failure is the test's"
)]

mod bad;
mod files;
mod requests;
mod traffic;

use vmm_core::virtio::testing::Driver;
use vmm_devices::Block;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const OK: u8 = 0;
pub(crate) const IO_ERROR: u8 = 1;
pub(crate) const UNSUPPORTED: u8 = 2;

/// A driver of `block` that has agreed on everything.
pub(crate) fn start(block: Block) -> Driver {
    let mut driver = Driver::new(block).unwrap();
    driver.start(u64::MAX).unwrap();
    driver
}

pub(crate) fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

/// What a discard or write of zeros is about.
pub(crate) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [sector.to_le_bytes().as_slice(), &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Has a request done; its status, and what was read.
pub(crate) fn ask(
    driver: &mut Driver,
    kind: u32,
    sector: u64,
    data: &[u8],
    len: u32,
) -> (u8, Vec<u8>) {
    let header = header(kind, sector);
    let readable: &[&[u8]] = if data.is_empty() { &[&header] } else { &[&header, data] };
    let writable: &[u32] = if len == 0 { &[1] } else { &[len, 1] };
    driver.submit(0, readable, writable).unwrap();
    let mut data = driver.wait(0).unwrap().data;
    (data.pop().unwrap(), data)
}

pub(crate) fn read(driver: &mut Driver, sector: u64, len: u32) -> Vec<u8> {
    let (status, data) = ask(driver, IN, sector, &[], len);
    assert_eq!(status, OK, "reading {len} bytes at sector {sector}");
    data
}

pub(crate) fn write(driver: &mut Driver, sector: u64, data: &[u8]) {
    let (status, _) = ask(driver, OUT, sector, data, 0);
    assert_eq!(status, OK, "writing {} bytes at sector {sector}", data.len());
}

pub(crate) fn flush(driver: &mut Driver) {
    assert_eq!(ask(driver, FLUSH, 0, &[], 0).0, OK);
}

/// Numbers that look like chance and are always the same (xorshift).
#[derive(Clone)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.next(u64::MAX);
        (0..len as u64).map(|n| (n.wrapping_mul(0x9e37).wrapping_add(seed) >> 7) as u8).collect()
    }
}
