//! `include/vmm.h` is what the sources make, and its functions are what the library exports.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests panic")]

use std::{collections::BTreeSet, env, fs, path::Path};

mod library;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn made() -> String {
    let config = cbindgen::Config::from_file(Path::new(HERE).join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new().with_crate(HERE).with_config(config).generate().unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_what_the_sources_make() {
    let path = Path::new(HERE).join("../include/vmm.h");
    let made = made();
    if env::var_os("VMM_UPDATE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "VMM_UPDATE=1 cargo test -p vmm-capi --test header makes it anew");
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let text = made();
    let before_brackets = text.split('(').map(|before| {
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        name.unwrap_or_default().to_owned()
    });
    before_brackets.filter(|name| name.starts_with("vmm_")).collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    assert_eq!(library::exported(), declared());
    // What tests inject is in no library that is built without it.
    let testing = library::symbols("vmm_testing_");
    assert_eq!(!testing.is_empty(), cfg!(feature = "testing"), "{testing:?}");
}
