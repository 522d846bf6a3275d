//! Any file as a snapshot, and a good one with changes behind good checksums: it is refused, or what it
//! becomes is whole.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vmm_sandbox::testing::snapshot(input));
