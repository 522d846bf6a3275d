//! Programs for sandboxes, their system calls, and their snapshots in files; what the targets
//! `sandbox_calls`, `sandbox_program` and `snapshot` in fuzz/ check.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{fs, path::Path};

use proptest::prelude::*;
use vmm_sandbox::testing;

/// What of the host could suffer: everything beside the directory that was granted.
fn beside(outer: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(outer).unwrap().map(|entry| entry.unwrap());
    let mut seen: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path())))
        .map(|(name, content)| (name, content.unwrap_or_default()))
        .collect();
    seen.sort();
    seen
}

/// What fails is printed, and goes into the tests beside the code.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn any_calls_of_a_program_are_answered(input in bytes(3000)) {
        testing::calls(&input, None);
    }

    #[test]
    fn any_program_is_loaded_or_refused(input in bytes(200)) {
        testing::program(&input);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn any_snapshot_is_opened_or_refused(kind in any::<u8>(), input in bytes(60)) {
        testing::snapshot(&[&[kind], &input[..]].concat());
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn calls_change_nothing_of_the_host_but_what_was_granted(input in bytes(3000)) {
        let outer = tempfile::tempdir().unwrap();
        let granted = outer.path().join("granted");
        fs::create_dir(&granted).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("..", granted.join("out")).unwrap();
        let before = beside(outer.path());
        testing::calls(&input, Some(&granted));
        prop_assert_eq!(beside(outer.path()), before);
    }
}

/// What random inputs have found: a segment that nobody may read, and that ends within a page of the
/// file.
#[test]
fn a_segment_without_rights_is_loaded() {
    testing::program(&[1, 124, 0, 0, 0]);
}
