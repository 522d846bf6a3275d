//! What comes from outside, whatever it is: an error or a value, never a panic and nothing beside
//! it touched.
//!
//! Twins of the targets in fuzz/, short enough for every run; saved state has its own in
//! vmm-core/src/persist.rs.

use proptest::prelude::*;
use vmm_core::{
    ErrorKind,
    boot::{BoardInfo, Flat, Loader},
    memory::{GuestAddress, GuestMemory},
};

const RAM: u64 = 1 << 20;
/// Where the tables of long mode lie, as `Flat::long_mode` says.
const TABLES: std::ops::Range<usize> = 0x1000..0x8000;

/// Addresses of every magnitude, and those near the ends of RAM, of the tables and of the first 64
/// KiB.
fn address() -> impl Strategy<Value = u64> {
    let near = |at: u64| at.saturating_sub(300)..at.saturating_add(300);
    prop_oneof![
        (any::<u64>(), 0..64u32).prop_map(|(at, shift)| at >> shift),
        near(0x8000),
        near(0x1_0000),
        near(RAM),
        near(u64::MAX),
    ]
}

/// An entry in the image, just outside it, or anywhere.
fn entry(at: u64, len: usize) -> impl Strategy<Value = u64> {
    prop_oneof![(0..=len as u64).prop_map(move |by| at.wrapping_add(by)), address()]
}

proptest! {
    #[test]
    fn a_flat_image_is_loaded_where_it_says_or_refused(
        long_mode: bool,
        (image, at, entry) in (prop::collection::vec(any::<u8>(), 0..600), address())
            .prop_flat_map(|(image, at)| {
                let entry = entry(at, image.len());
                (Just(image), Just(at), entry)
            }),
    ) {
        let flat = if long_mode { Flat::long_mode(&*image) } else { Flat::real_mode(&*image) };
        let flat = flat.at(GuestAddress(at)).entry(GuestAddress(entry));
        let memory = GuestMemory::anonymous(RAM).unwrap();
        let loaded = flat.load(&memory, &BoardInfo::new(1));
        let mut ram = vec![0; RAM as usize];
        memory.read(GuestAddress(0), &mut ram).unwrap();
        match loaded {
            Ok(start) => {
                prop_assert_eq!(start.regs.rip, entry);
                let placed = &mut ram[at as usize..][..image.len()];
                prop_assert_eq!(&*placed, &*image);
                placed.fill(0);
                if long_mode {
                    ram[TABLES].fill(0);
                }
            }
            Err(error) => {
                let kind = error.kind();
                prop_assert!(matches!(kind, ErrorKind::BadImage | ErrorKind::GuestMemory), "{error}");
            }
        }
        prop_assert!(ram.iter().all(|&byte| byte == 0), "bytes beside the image have changed");
    }
}
