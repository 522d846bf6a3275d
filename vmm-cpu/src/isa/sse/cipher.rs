//! AES rounds and carry-less multiplication (FIPS 197; Intel SDM 2, AESENC and PCLMULQDQ).
//!
//! By tables of bytes, which are worked out when this is compiled: what is looked up there can be
//! told from its time by who shares the host's caches, as with AES in the guest's own software.

use crate::vector::{Lane, Vector};

super::functions! {
    Aesdec(a, b, _) xor(unmixed(each(rows(a, 13), &INVERSE)), b);
    Aesdeclast(a, b, _) xor(each(rows(a, 13), &INVERSE), b);
    Aesenc(a, b, _) xor(mixed(each(rows(a, 5), &BOX)), b);
    Aesenclast(a, b, _) xor(each(rows(a, 5), &BOX), b);
    Aesimc(_, b, _) unmixed(b);
    Aeskeygenassist(_, b, imm) assist(b, imm);
    Pclmulqdq(a, b, imm) {
        multiply(u64::lanes(a)[usize::from(imm & 1)], u64::lanes(b)[usize::from(imm >> 4 & 1)])
    };
}

/// Twice an element of the field, whose polynomial is x^8 + x^4 + x^3 + x + 1.
const fn doubled(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

/// The box that bytes are replaced by: inverses in the field, mapped affinely. They are found by
/// going through the field by a generator, 3, and its inverse, 0xf6.
const BOX: [u8; 256] = {
    let mut table = [0x63; 256];
    let (mut a, mut inverse) = (1_u8, 1_u8);
    loop {
        let b = inverse;
        let mapped = b ^ b.rotate_left(1) ^ b.rotate_left(2) ^ b.rotate_left(3) ^ b.rotate_left(4);
        table[a as usize] = mapped ^ 0x63;
        a ^= doubled(a);
        // Divided by 3.
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        if inverse & 0x80 != 0 {
            inverse ^= 0x09;
        }
        if a == 1 {
            break table;
        }
    }
};

/// The other direction.
const INVERSE: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[BOX[n] as usize] = n as u8;
        n += 1;
    }
    table
};

fn xor(a: Vector, b: Vector) -> Vector {
    u64::zip(a, b, |a, b| a ^ b)
}

fn each(a: Vector, table: &[u8; 256]) -> Vector {
    u8::map(a, |byte| table[usize::from(byte)])
}

/// Rotates the rows, columns being four bytes each: by 5 bytes a step to the left, by 13 back.
fn rows(a: Vector, step: usize) -> Vector {
    let bytes = u8::lanes(a);
    u8::each(|n| bytes[(n * step) % 16])
}

/// Multiplies the columns by the polynomial {03}x^3 + {01}x^2 + {01}x + {02}.
fn mixed(a: Vector) -> Vector {
    let bytes = u8::lanes(a);
    u8::each(|n| {
        let at = |row: usize| bytes[n / 4 * 4 + (n + row) % 4];
        doubled(at(0)) ^ doubled(at(1)) ^ at(1) ^ at(2) ^ at(3)
    })
}

/// Undoes that: the inverse polynomial is the same one times {04}x^2 + {05}.
fn unmixed(a: Vector) -> Vector {
    let bytes = u8::lanes(a);
    mixed(u8::each(|n| {
        let opposite = bytes[n / 4 * 4 + (n + 2) % 4];
        bytes[n] ^ doubled(doubled(bytes[n] ^ opposite))
    }))
}

/// What a key is expanded by.
fn assist(b: Vector, constant: u8) -> Vector {
    let words = u32::lanes(each(b, &BOX));
    let turned = |word: u32| word.rotate_right(8) ^ u32::from(constant);
    u32::vector([words[1], turned(words[1]), words[3], turned(words[3])])
}

/// The product of polynomials over the field of two elements.
fn multiply(a: u64, b: u64) -> Vector {
    let (mut low, mut high) = (0, 0);
    for n in 0..64 {
        let mask = (b >> n & 1).wrapping_neg();
        low ^= a << n & mask;
        // Of no shift there is nothing above.
        high ^= (a >> 1 >> (63 - n)) & mask;
    }
    u64::vector([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vector {
        let byte = |n: usize| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap();
        u8::each(byte)
    }

    /// FIPS 197, appendix B and C.1.
    #[test]
    fn a_block_is_ciphered_and_deciphered_as_the_standard_says() {
        let mut keys = vec![bytes("000102030405060708090a0b0c0d0e0f")];
        for constant in [1, 2, 4, 8, 16, 32, 64, 0x80, 0x1b, 0x36] {
            let last = *keys.last().unwrap();
            let word = u32::lanes(assist(last, constant))[3];
            let mut words = u32::lanes(last);
            words[0] ^= word;
            for n in 1..4 {
                words[n] ^= words[n - 1];
            }
            keys.push(u32::vector(words));
        }
        let plain = bytes("00112233445566778899aabbccddeeff");
        let mut state = xor(plain, keys[0]);
        for key in &keys[1..10] {
            state = xor(mixed(each(rows(state, 5), &BOX)), *key);
        }
        state = xor(each(rows(state, 5), &BOX), keys[10]);
        assert_eq!(state, bytes("69c4e0d86a7b0430d8cdb78070b4c55a"));
        // By the equivalent inverse cipher, with keys that AESIMC has made.
        state = xor(state, keys[10]);
        for key in keys[1..10].iter().rev() {
            state = xor(unmixed(each(rows(state, 13), &INVERSE)), unmixed(*key));
        }
        assert_eq!(xor(each(rows(state, 13), &INVERSE), keys[0]), plain);
    }

    #[test]
    fn products_have_no_carries() {
        let product = |a, b| u64::lanes(multiply(a, b));
        assert_eq!(product(3, 3), [5, 0]);
        assert_eq!(product(1 << 63, 1 << 63), [0, 1 << 62]);
        assert_eq!(product(u64::MAX, u64::MAX), [0x5555_5555_5555_5555; 2]);
        assert_eq!(product(1 << 63, 2), [0, 1]);
        assert_eq!(product(0x1234, 1), [0x1234, 0]);
    }
}
