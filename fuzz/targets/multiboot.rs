//! Multiboot kernels, by ELF headers or address fields; what is checked is in tests/tests/untrusted/image.rs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/tests/untrusted/image.rs"]
mod image;

fuzz_target!(|input: &[u8]| {
    image::check(image::Parser::Multiboot, input);
});
