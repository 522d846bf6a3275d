//! A small program, as an image: every kind of header, no instruction that means anything.

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Where what lies in the file; the first page has everything.
const HEADERS: u64 = 64;
const NOTE: u64 = 0x200;
const SYMBOLS: u64 = 0x280;
const NAMES: u64 = 0x300;
const SECTIONS: u64 = 0x380;
const SIZE: usize = 0x1000;

/// The image.
pub(super) fn program() -> Vec<u8> {
    let mut image = vec![0xcc; SIZE];
    let mut put = |at: u64, bytes: &[u8]| {
        let places = image.iter_mut().skip(at as usize);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    // ELF64, little-endian, EXEC, x86-64; three program headers, four section headers.
    put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    put(24, &words(&[BASE + 0x800, HEADERS, SECTIONS]));
    put(48, &halves(&[0, 0, 64, 56, 3, 64, 4, 3]));
    for (n, (kind, flags, fields)) in (0..).zip([
        (1_u32, 5_u32, [0, BASE, BASE, SIZE as u64, SIZE as u64, 4096]),
        (1, 6, [0, BASE + 0x1000, BASE + 0x1000, 0x400, 0x3000, 4096]),
        (4, 4, [NOTE, BASE + NOTE, BASE + NOTE, 20, 20, 4]),
    ]) {
        let at = HEADERS + 56 * n;
        put(at, &[kind.to_le_bytes(), flags.to_le_bytes()].concat());
        put(at + 8, &words(&fields));
    }
    put(NOTE, b"\x04\0\0\0\x04\0\0\0\x01\0\0\0vmm\0\x01\0\0\0");
    // A null symbol, and a global function `main`.
    put(SYMBOLS, &[0; 24]);
    put(SYMBOLS + 24, b"\x01\0\0\0\x12\0\x01\0");
    put(SYMBOLS + 32, &words(&[BASE + 0x800, 16]));
    put(NAMES, b"\0main\0");
    put(SECTIONS, &[0; 256]);
    for (n, (kind, at, size, link, entry)) in (0..).zip([
        (0_u32, 0, 0, 0_u32, 0),
        (1, 0x800, 16, 0, 0),
        (2, SYMBOLS, 48, 3, 24),
        (3, NAMES, 6, 0, 0),
    ]) {
        let header = SECTIONS + 64 * n;
        put(header + 4, &kind.to_le_bytes());
        put(header + 24, &words(&[at, size]));
        put(header + 40, &link.to_le_bytes());
        put(header + 56, &words(&[entry]));
    }
    image
}

/// The image with changes: each a place, a width and that many bytes.
pub(super) fn changed(mut changes: &[u8]) -> Vec<u8> {
    let mut image = program();
    while let Some(([low, high, width], rest)) = changes.split_first_chunk() {
        let width = usize::from(width % 8 + 1).min(rest.len());
        let (bytes, rest) = rest.split_at(width);
        // Most of what matters is in the headers.
        let at = usize::from(u16::from_le_bytes([*low, *high])) % 0x480;
        image.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
        changes = rest;
    }
    image
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn halves(halves: &[u16]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Program;

    #[test]
    fn the_image_is_a_program_with_a_symbol() {
        let mut program = Program::parse(&program().into()).unwrap();
        assert_eq!(program.symbol("main"), Some(BASE + 0x800));
        assert_eq!(program.symbol("mai"), None);
        assert!(Program::parse(&changed(&[0x10, 2, 0, 2]).into()).is_err(), "another version");
    }
}
