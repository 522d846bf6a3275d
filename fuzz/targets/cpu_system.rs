//! Any page tables, descriptors, gates, task states and model-specific registers of the software CPU, in any mode: no
//! panic, no hang, no access outside of RAM.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vmm_oracle::disorder::survives(input));
