//! The floor of a start: RAM is mapped, and the kernel's segments are read into it.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom},
    time::Instant,
};

use vm_memory::{Bytes, GuestAddress};
use vmm_core::memory::GuestMemory;

const RAM: u64 = 256 << 20;
const LOAD: u64 = 1;

/// Nanoseconds for that, with a 64-bit ELF kernel.
pub(crate) fn map_and_read(kernel: &str) -> f64 {
    let headers = fs::read(kernel).unwrap();
    let word = |at: usize| u64::from_le_bytes(headers[at..at + 8].try_into().unwrap());
    let (first, count) = (word(32) as usize, word(56) & 0xffff);
    let segments: Vec<_> = (0..count as usize)
        .map(|n| first + n * 56)
        .filter(|at| word(*at) & 0xffff_ffff == LOAD)
        .map(|at| (word(at + 8), word(at + 24), word(at + 32) as usize))
        .collect();
    drop(headers);

    let start = Instant::now();
    let memory = GuestMemory::anonymous(RAM).unwrap();
    let mut file = File::open(kernel).unwrap();
    for (offset, address, size) in segments {
        file.seek(SeekFrom::Start(offset)).unwrap();
        let view = memory.view();
        view.read_exact_volatile_from(GuestAddress(address), &mut file, size).unwrap();
    }
    start.elapsed().as_nanos() as f64
}
