//! What Rust can do, C can do: a table says by which function, or why it is for Rust only.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

#[allow(dead_code, reason = "other tests ask for more")]
mod library;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Lines such as `core Machine::run = vmm_machine_run`, or with ` - ` and why it is for Rust only;
/// `Chain::*` speaks of all that the table does not name.
const TABLE: &str = include_str!("parity.txt");
/// What users meet, and where it is.
const SOURCES: [(&str, &str); 6] = [
    ("core", "vmm-core/src/boot"),
    ("core", "vmm-core/src/host"),
    ("core", "vmm-core/src/machine"),
    ("core", "vmm-core/src/virtio"),
    ("devices", "vmm-devices/src"),
    ("sandbox", "vmm-sandbox/src"),
];

/// The public functions of a file as rustfmt has it: functions of modules begin their line, those of
/// types are a step in.
fn functions(source: &str) -> Vec<String> {
    let (mut found, mut of) = (Vec::new(), None);
    for line in source.lines().take_while(|line| *line != "mod tests {") {
        let named = |rest: &str| {
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            name.unwrap_or_default().to_owned()
        };
        if let Some(header) = line.strip_prefix("impl") {
            // Of traits the names are known.
            let generic = header.strip_prefix('<').and_then(|header| header.split_once("> "));
            let header = generic.map_or(header, |(_, rest)| rest).trim_start();
            of = (!line.contains(" for ")).then(|| named(header));
        } else if line.starts_with('}') {
            of = None;
        } else if let Some(rest) = line.strip_prefix("pub fn ") {
            found.push(named(rest));
        } else if let (Some(of), Some(rest)) = (&of, line.strip_prefix("    pub fn ")) {
            found.push(format!("{of}::{}", named(rest)));
        }
    }
    found
}

/// The sources of a directory and those below it, but for `testing`.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "testing") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(fs::read_to_string(path).unwrap_or_default());
        }
    }
}

/// What C has for something: a function of its own, or a reason.
enum Entry<'a> {
    Functions(Vec<&'a str>),
    Reason,
}

fn table() -> BTreeMap<&'static str, Entry<'static>> {
    let entry = |line: &'static str| {
        if let Some((what, by)) = line.split_once(" = ") {
            return (what, Entry::Functions(by.split(' ').collect()));
        }
        let (what, why) = line.split_once(" - ").unwrap_or_else(|| panic!("'{line}'"));
        assert!(why.len() > 5, "{what}: why?");
        (what, Entry::Reason)
    };
    TABLE.lines().filter(|line| !line.is_empty()).map(entry).collect()
}

#[test]
fn c_has_what_rust_has() {
    let (table, exported) = (table(), library::exported());
    let mut unused: BTreeSet<_> = table.keys().copied().collect();
    let mut missing = Vec::new();
    for (package, directory) in SOURCES {
        let mut texts = Vec::new();
        sources(&Path::new(ROOT).join(directory), &mut texts);
        for function in texts.iter().flat_map(|text| functions(text)) {
            let name = format!("{package} {function}");
            let all = name.split_once("::").map(|(of, _)| format!("{of}::*")).unwrap_or_default();
            let known = if table.contains_key(name.as_str()) { &name } else { &all };
            if table.contains_key(known.as_str()) {
                unused.remove(known.as_str());
            } else {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "neither in C nor said why in tests/parity.txt: {missing:#?}");
    assert!(unused.is_empty(), "in tests/parity.txt, but no longer there: {unused:#?}");
    for (what, entry) in &table {
        let Entry::Functions(functions) = entry else { continue };
        for function in functions {
            assert!(exported.contains(*function), "{what}: there is no {function}");
        }
    }
}

#[test]
fn public_functions_are_seen() {
    let source = "pub fn a() {}\nimpl<T: B> C<T> {\n    pub fn d() {}\n    fn e() {}\n}\n\
                  impl F for G {\n    pub fn h() {}\n}\nimpl I {\n    pub fn j() {}\n}\nmod tests {\npub fn k() {}\n";
    assert_eq!(functions(source), ["a", "C::d", "I::j"]);
}
