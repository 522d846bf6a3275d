//! Any system calls of a program in a sandbox: no panic, no hang, memory within its limits.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vmm_sandbox::testing::calls(input, None));
