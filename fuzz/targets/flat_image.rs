//! Flat images of any bytes at any address: loaded where they say, or an error; never a panic, and no other byte of RAM changes.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use vmm_core::{
    ErrorKind,
    boot::{BoardInfo, Flat, Loader},
    memory::{GuestAddress, GuestMemory},
};

const RAM: u64 = 1 << 20;
/// Where the tables of long mode lie, as `Flat::long_mode` says.
const TABLES: std::ops::Range<usize> = 0x1000..0x8000;

#[derive(Arbitrary, Debug)]
struct Input {
    long_mode: bool,
    at: Address,
    entry: Address,
    arguments: [u64; 3],
    image: Vec<u8>,
}

/// Addresses of every magnitude, and those near both ends of RAM and of the first 64 KiB.
#[derive(Arbitrary, Debug)]
enum Address {
    Default,
    Any { value: u64, shift: u8 },
    FirstSegment(u16),
    NearEnd(i8),
}

impl Address {
    fn given(&self) -> Option<GuestAddress> {
        match *self {
            Self::Default => None,
            Self::Any { value, shift } => Some(value >> (shift % 64)),
            Self::FirstSegment(at) => Some(at.into()),
            Self::NearEnd(by) => Some(RAM.wrapping_add_signed(by.into())),
        }
        .map(GuestAddress)
    }
}

fuzz_target!(|input: Input| {
    let Input { long_mode, at, entry, arguments, image } = input;
    let flat = if long_mode { Flat::long_mode(&*image) } else { Flat::real_mode(&*image) };
    let flat = at.given().into_iter().fold(flat, Flat::at);
    let flat = entry.given().into_iter().fold(flat, Flat::entry).arguments(arguments);

    let memory = GuestMemory::anonymous(RAM).expect("the host has 1 MiB");
    let loaded = flat.load(&memory, &BoardInfo::new(1));
    let mut ram = vec![0; RAM as usize];
    memory.read(GuestAddress(0), &mut ram).expect("RAM can be read");
    // Compared as a whole, which is far faster than byte by byte under a sanitizer.
    let mut expected = vec![0; ram.len()];
    match loaded {
        Ok(start) => {
            let default = if long_mode { 0x1_0000 } else { 0x7c00 };
            let at = at.given().map_or(default, |at| at.0) as usize;
            expected[at..at + image.len()].copy_from_slice(&image);
            assert!((at..at + image.len()).contains(&(start.regs.rip as usize)));
            assert_eq!([start.regs.rdi, start.regs.rsi, start.regs.rdx], arguments);
            if long_mode {
                expected[TABLES].copy_from_slice(&ram[TABLES]);
            }
        }
        Err(error) => {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::BadImage | ErrorKind::GuestMemory), "{error}");
        }
    }
    assert!(ram == expected, "RAM does not hold the image alone");
});
