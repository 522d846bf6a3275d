//! What comes from outside, whatever it is: an error or a value, never a panic and nothing beside
//! it touched.
//!
//! What the targets in fuzz/ check, short enough for every run; saved state has its own in
//! vmm-core/src/persist.rs.

mod image;
mod program;

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

/// What a fuzzer would give: an image with some fields changed; the first byte tells which.
fn described_image() -> impl Strategy<Value = Vec<u8>> {
    let machine = (0..8u8, any::<u16>(), 0..2100u16, 0..100u16);
    (machine, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(machine, changes)| {
        let (kind, ram, cmdline, extra) = machine;
        let words = [ram, cmdline, extra].map(u16::to_le_bytes).concat();
        [&[kind], &*words, &*changes].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_image_is_loaded_as_its_headers_say_or_refused_by_name(input in described_image()) {
        use image::Parser::{Elf64, Inspect, Linux, Multiboot, Pvh};
        for parser in [Elf64, Inspect, Linux, Multiboot, Pvh] {
            image::check(parser, &input);
        }
    }
}

#[test]
fn an_image_without_damage_loads_where_there_is_room() {
    use image::Parser::{Elf64, Inspect, Linux, Multiboot, Pvh};
    let ways = [
        (0, Linux),
        (2, Linux),
        (2, Pvh),
        (2, Elf64),
        (4, Multiboot),
        (4, Pvh),
        (6, Multiboot),
        (6, Inspect),
    ];
    for (kind, parser) in ways {
        // Pages of RAM less one, and bytes of command line and initrd, little-endian.
        let loads = |ram: [u8; 2], cmdline: [u8; 2], initrd: [u8; 2]| {
            image::check(parser, &[&[kind], &ram[..], &cmdline, &initrd].concat())
        };
        let (enough, small, huge) = ([0x7f, 0x02], [0x80, 0], [0xff, 0xff]);
        assert!(loads(enough, [20, 0], [0, 7]), "{kind} {parser:?}");
        if parser != Inspect {
            assert!(!loads(small, [20, 0], [0, 7]), "RAM too small: {kind} {parser:?}");
        }
        if matches!(parser, Linux | Pvh) {
            assert!(!loads(enough, [0, 8], [0, 7]), "command line too long: {kind} {parser:?}");
        }
        if matches!(parser, Linux | Pvh | Multiboot) {
            assert!(!loads(enough, [20, 0], huge), "initrd larger than RAM: {kind} {parser:?}");
        }
    }
}

#[test]
fn a_pvh_entry_outside_ram_is_refused() {
    // A 64-bit ELF in 1 MiB and more, with one change: the 4 bytes of the note that are the entry.
    let entry_at = |entry: u64| {
        let machine = [2, 0x7f, 0x02, 0, 0, 0, 0];
        let change = [&[1, 0x90, 0x03, 2 << 3], &entry.to_le_bytes()[..]].concat();
        image::check(image::Parser::Pvh, &[&machine[..], &change].concat())
    };
    assert!(entry_at(0x10_0200));
    assert!(!entry_at(0xfff0_0000));
}
