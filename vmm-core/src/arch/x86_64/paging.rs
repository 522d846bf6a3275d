//! 4-level page tables as data (Intel SDM volume 3, 4.5): the words to put into guest memory.

/// The page is present.
pub const PRESENT: u64 = 1 << 0;
/// It may be written.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// The entry maps a large page instead of pointing to a table.
pub const LARGE: u64 = 1 << 7;

/// Entries in a table.
pub const ENTRIES: usize = 512;
/// Bytes in a table.
pub const TABLE_SIZE: u64 = 4096;

/// The GiB that [`identity_map`] maps.
pub const IDENTITY_GIB: u64 = 4;
/// The bytes that [`identity_map`] takes.
pub const IDENTITY_SIZE: u64 = (2 + IDENTITY_GIB) * TABLE_SIZE;

/// Tables that map the first 4 GiB one to one with pages of 2 MiB, to be placed at guest address
/// `base`.
///
/// CR3 is `base`. `flags` are given to every entry, for instance [`WRITABLE`]` | `[`USER`];
/// [`PRESENT`] is added. The hole for devices is mapped too.
pub fn identity_map(base: u64, flags: u64) -> Vec<u64> {
    let table = |index: u64| (base + index * TABLE_SIZE) | flags | PRESENT;
    let mut words = vec![0; ENTRIES * (2 + IDENTITY_GIB) as usize];
    words[0] = table(1);
    for gib in 0..IDENTITY_GIB {
        words[ENTRIES + gib as usize] = table(2 + gib);
    }
    let leaves = words[2 * ENTRIES..].iter_mut();
    for (page, word) in leaves.enumerate() {
        *word = (page as u64) << 21 | flags | PRESENT | LARGE;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_below_four_gib_maps_to_itself() {
        let base = 0x9000;
        let words = identity_map(base, WRITABLE);
        assert_eq!(words.len() as u64 * 8, IDENTITY_SIZE);
        let entry =
            |table: u64, index: u64| words[((table & !0xfff) - base) as usize / 8 + index as usize];
        for address in [0u64, 0x1000, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xfee0_0000] {
            let pdpt = entry(base, address >> 39);
            let directory = entry(pdpt, (address >> 30) & 511);
            let leaf = entry(directory, (address >> 21) & 511);
            assert_eq!(leaf & LARGE, LARGE);
            assert_eq!((leaf & !0x1f_ffff) | (address & 0x1f_ffff), address);
        }
    }
}
