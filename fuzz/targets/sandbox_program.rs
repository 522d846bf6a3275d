//! Any file as a program for a sandbox: it is loaded or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vmm_sandbox::testing::program(input));
