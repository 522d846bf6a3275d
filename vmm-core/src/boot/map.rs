//! The guest's memory map, and where in it a loader may put what it brings.

use std::ops;

use super::image::Opened;
use crate::{
    error::{Error, Result},
    memory::{GuestAddress, GuestMemory},
};

/// Where the extended BIOS data area begins on a PC; RAM below it is the guest's.
const LOW_END: u64 = 0x9_fc00;
/// RAM for kernels starts here.
pub(super) const HIGH_START: u64 = 0x10_0000;
/// Tables for the guest to read lie here, in what a PC has as BIOS memory.
pub(super) const TABLES_START: u64 = 0xe_0000;

/// What a range of the address space is (ACPI specification, 15.4, "Address Range Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) kind: Kind,
}

/// The map of a PC with this memory, in ascending order. The BIOS area is reserved.
pub(super) fn ranges(memory: &GuestMemory) -> Vec<Range> {
    let bios = Range { start: LOW_END, len: HIGH_START - LOW_END, kind: Kind::Reserved };
    let mut ranges = vec![bios];
    for region in memory.regions() {
        let (start, end) = (region.start().0, region.start().0 + region.len());
        for (from, to) in [(start, end.min(LOW_END)), (start.max(HIGH_START), end)] {
            if from < to {
                ranges.push(Range { start: from, len: to - from, kind: Kind::Ram });
            }
        }
    }
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The end of the RAM that starts at `start` and has no hole.
pub(super) fn ram_end(memory: &GuestMemory, start: u64) -> u64 {
    let ranges = ranges(memory);
    let ram = ranges.iter().filter(|range| range.kind == Kind::Ram);
    ram.fold(start, |end, range| if range.start == end { end + range.len } else { end })
}

/// Says in the BIOS data area where low memory ends: some kernels of the PC believe only that (Xen,
/// `xen/arch/x86/boot/head.S`).
pub(super) fn write_bios_data(memory: &GuestMemory) -> Result<()> {
    const EBDA_SEGMENT: GuestAddress = GuestAddress(0x40e);
    const KIB: GuestAddress = GuestAddress(0x413);
    memory.write_obj(EBDA_SEGMENT, (LOW_END >> 4) as u16)?;
    memory.write_obj(KIB, (LOW_END >> 10) as u16)
}

/// Checks that an image which says itself where it goes leaves alone what lies below `floor` and
/// the BIOS area, where the loader's tables are.
pub(super) fn check_places(image: &Opened, taken: &[ops::Range<u64>], floor: u64) -> Result<()> {
    for range in taken {
        let place = format!("loaded at {:#x}..{:#x}", range.start, range.end);
        if range.start < floor {
            return Err(image.bad(format!("{place}: tables for the entry lie below {floor:#x}")));
        }
        if range.start < HIGH_START && range.end > LOW_END {
            let why = format!("{place}: {LOW_END:#x}..{HIGH_START:#x} is the BIOS's");
            return Err(image.bad(why));
        }
    }
    Ok(())
}

/// The lowest place in low memory, not below `floor`, where `size` bytes overlap nothing of
/// `taken`; page-aligned.
pub(super) fn lowest_place(
    memory: &GuestMemory,
    what: &str,
    size: u64,
    floor: u64,
    taken: &[ops::Range<u64>],
) -> Result<GuestAddress> {
    let mut at = floor;
    // Each turn leaves one range behind.
    for _ in 0..=taken.len() {
        let end = at.saturating_add(size);
        if end > LOW_END || !memory.has(GuestAddress(at), size) {
            break;
        }
        match taken.iter().find(|range| range.start < end && at < range.end) {
            Some(range) => at = range.end.saturating_add(0xfff) & !0xfff,
            None => return Ok(GuestAddress(at)),
        }
    }
    Err(Error::bad_image(format!(
        "no room for {what}, {size:#x} bytes, between {floor:#x} and {LOW_END:#x}"
    )))
}

/// The highest place below `limit` and not below `floor` where `size` bytes of RAM are free,
/// page-aligned; for an initrd, which the kernel wants out of its own way.
pub(super) fn highest_place(
    memory: &GuestMemory,
    what: &str,
    size: u64,
    floor: u64,
    limit: u64,
) -> Result<GuestAddress> {
    let fits = |range: &Range| {
        let end = (range.start + range.len).min(limit);
        let at = end.checked_sub(size)? & !0xfff;
        (range.kind == Kind::Ram && at >= range.start.max(floor)).then_some(GuestAddress(at))
    };
    ranges(memory).iter().filter_map(fits).max().ok_or_else(|| {
        let most = memory.size();
        Error::bad_image(format!(
            "{what} of {size:#x} bytes does not fit above {floor:#x} and below {limit:#x} in \
             {most:#x} bytes of RAM"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_cut_at_the_bios_and_continues_above_the_hole() {
        let memory = GuestMemory::anonymous((3 << 30) + (1 << 20)).unwrap();
        let ram: Vec<_> = ranges(&memory)
            .iter()
            .filter(|range| range.kind == Kind::Ram)
            .map(|range| (range.start, range.len))
            .collect();
        let expected = [(0, LOW_END), (HIGH_START, (3 << 30) - HIGH_START), (4 << 30, 1 << 20)];
        assert_eq!(ram, expected);
    }

    #[test]
    fn tables_go_as_low_as_the_image_leaves_room() {
        let memory = GuestMemory::anonymous(1 << 20).unwrap();
        let place = |size, taken: &[(u64, u64)]| {
            let taken: Vec<_> = taken.iter().map(|&(start, end)| start..end).collect();
            lowest_place(&memory, "x", size, 0x2000, &taken)
        };
        assert_eq!(place(0x1000, &[]).unwrap().0, 0x2000);
        assert_eq!(place(0x1000, &[(0x3000, 0x4000)]).unwrap().0, 0x2000);
        let taken = [(0x2fff, 0x4001), (0x6000, 0x7000), (0x1000, 0x2001)];
        assert_eq!(place(0x1000, &taken).unwrap().0, 0x5000);
        assert_eq!(place(0x1001, &taken).unwrap().0, 0x7000);
        assert_eq!(place(LOW_END - 0x2000, &[]).unwrap().0, 0x2000);
        for size in [LOW_END - 0x1fff, u64::MAX] {
            assert!(place(size, &[]).is_err());
        }
        assert!(place(0x1000, &[(0, u64::MAX)]).is_err());
        assert_eq!(ram_end(&memory, 0), LOW_END);
        assert_eq!(ram_end(&memory, HIGH_START), HIGH_START);
    }

    #[test]
    fn an_initrd_goes_as_high_as_it_may() {
        let memory = GuestMemory::anonymous(16 << 20).unwrap();
        let place = |size, floor, limit| highest_place(&memory, "initrd", size, floor, limit);
        assert_eq!(place(5000, HIGH_START, u64::MAX).unwrap().0, (16 << 20) - 0x2000);
        assert_eq!(place(4096, HIGH_START, 8 << 20).unwrap().0, (8 << 20) - 0x1000);
        assert!(place(15 << 20, HIGH_START + 1, u64::MAX).is_err());
        assert!(place(u64::MAX, 0, u64::MAX).is_err());
    }
}
