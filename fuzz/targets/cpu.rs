//! Any bytes as code, state and page tables of the software CPU: no panic, no hang, no access outside of RAM.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vmm_oracle::anything::survives(input));
