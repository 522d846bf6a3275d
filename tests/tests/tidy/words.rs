//! Laws that say what is absent, and names that say nothing.

use crate::source::{Finding, Source};

/// A module is a noun of the domain; these attract whatever has no place.
const BANNED_NAMES: &[&str] = &["common", "handler", "helpers", "manager", "misc", "util", "utils"];

/// Names of modules that say nothing: of files, directories and modules written out.
pub(crate) fn module_names(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in source.path.trim_end_matches(".rs").split('/') {
        if BANNED_NAMES.contains(&name) {
            found.push(source.finding(0, format!("a module called {name}: say what it is")));
        }
    }
    for at in source.find(&["mod"]).filter(|&at| source.text(at + 2) == "{") {
        let name = source.text(at + 1);
        if BANNED_NAMES.contains(&name) {
            found.push(source.finding(at, format!("a module called {name}: say what it is")));
        }
    }
    found
}

/// Conditional compilation inside of functions: what is off has a twin that says so.
pub(crate) fn cfg_in_bodies(source: &Source) -> Vec<Finding> {
    let bodies: Vec<_> = source.functions().filter_map(|function| function.body).collect();
    let condition = |at: usize| {
        let bracket = at + 1 + usize::from(source.text(at + 1) == "!");
        source.has(bracket, &["[", "cfg", "("]) || source.has(bracket, &["[", "cfg_attr", "("])
    };
    let conditions = source.find(&["#"]).filter(|&at| condition(at));
    conditions
        .filter(|at| bodies.iter().any(|body| body.contains(at)))
        .map(|at| source.finding(at, "#[cfg] inside a function: each set of features would be another function, mostly untested"))
        .collect()
}

/// What no file, or only one place, may have.
pub(crate) fn absent(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let macro_call = source.text(at + 1) == "!";
        let why = match token.text.as_str() {
            "todo" | "unimplemented" if macro_call => "what is not done is not merged",
            word if is_ioctl(word) && !may_ioctl(source) => {
                "only vmm-core/src/kvm speaks to the kernel's KVM"
            }
            "no_mangle" | "export_name" if !may_export(source) => "only vmm-capi exports C symbols",
            "extern" if is_extern_c(source, at) => {
                "vmm-core has no C function but the signal handler in hv/kick"
            }
            "print" | "println" | "eprint" | "eprintln" | "dbg"
                if macro_call && in_library(source, at) =>
            {
                "a library does not print"
            }
            "exit" | "abort" if ends_process(source, at) => "a library does not end the process",
            _ => continue,
        };
        found.push(source.finding(at, format!("{}: {why}", token.text)));
    }
    found
}

fn is_ioctl(word: &str) -> bool {
    ["kvm_ioctls", "kvm_bindings"].contains(&word) || word.starts_with("ioctl")
}

/// The back end, and the floor it is measured against.
fn may_ioctl(source: &Source) -> bool {
    ["vmm-core/src/kvm/", "benches/table/"].iter().any(|home| source.path.starts_with(home))
}

fn in_library(source: &Source, at: usize) -> bool {
    source.in_library() && !source.tokens[at].test
}

fn may_export(source: &Source) -> bool {
    !source.in_library() || source.package() == "vmm-capi"
}

fn is_extern_c(source: &Source, at: usize) -> bool {
    let elsewhere = source.package() == "vmm-core" && source.path != "vmm-core/src/hv/kick.rs";
    let abi = usize::from(source.text(at + 1).starts_with('"'));
    elsewhere && source.text(at + 1 + abi) == "fn"
}

fn ends_process(source: &Source, at: usize) -> bool {
    at > 1 && source.has(at - 2, &["process", "::"]) && in_library(source, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &str, text: &str) -> Vec<String> {
        absent(&Source::new(path, text)).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn names_that_say_nothing_are_caught() {
        let found = |path, text| module_names(&Source::new(path, text)).len();
        assert_eq!(found("vmm-core/src/hv/common.rs", ""), 1);
        assert_eq!(found("vmm-core/src/utils/mod.rs", ""), 1);
        assert_eq!(found("vmm-core/src/bus.rs", "mod helpers { }"), 1);
        assert_eq!(found("vmm-core/src/bus.rs", "// mod helpers {\nmod commonplace;"), 0);
    }

    #[test]
    fn cfg_is_caught_in_functions_only() {
        let found = |text| cfg_in_bodies(&Source::new("vmm-core/src/bus.rs", text)).len();
        assert_eq!(found("fn f() { #[cfg(unix)] g(); #![cfg(x)] #[cfg_attr(a, b)] { } }"), 3);
        assert_eq!(found("impl X { fn f(&self) { if a { #[cfg(unix)] g(); } } }"), 1);
        assert_eq!(
            found("#[cfg(unix)] fn f() { #[expect(x)] g(); } #[cfg(a)] mod b { fn c() {} }"),
            0
        );
    }

    #[test]
    fn what_must_be_absent_is_caught() {
        for text in [
            "use kvm_ioctls::Kvm;",
            "use kvm_bindings::CpuId;",
            "fn f() { libc::ioctl(fd, 1); }",
            "ioctl_iow_nr!(A, B, 1, u8);",
            "extern \"C\" fn f() {}",
            "pub extern fn f() {}",
            "#[unsafe(no_mangle)] fn f() {}",
            "fn f() { println!(\"a\"); }",
            "fn f() { eprintln!(); }",
            "fn f() { std::process::exit(1) }",
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"a\") }",
        ] {
            assert_eq!(words("vmm-core/src/host/mod.rs", text).len(), 1, "{text}");
        }
        assert_eq!(words("vmm-devices/src/net.rs", "fn f() { println!() }").len(), 1);
        assert_eq!(
            words("vmm-core/src/bus.rs", "#[cfg(test)] mod tests { fn f() { todo!() } }").len(),
            1
        );
    }

    #[test]
    fn what_has_its_place_is_fine_there() {
        for (path, text) in [
            ("vmm-core/src/kvm/vm.rs", "use kvm_ioctls::VmFd; fn f() { ioctl(); }"),
            ("benches/table/bare.rs", "use kvm_ioctls::Kvm;"),
            ("vmm-core/src/hv/kick.rs", "extern \"C\" fn ignore(_: i32) {}"),
            ("vmm-core/src/bus.rs", "/// println!(\"a\"); todo!()\nfn f() { machine.exit(); }"),
            ("vmm-core/src/bus.rs", "#[cfg(test)] mod tests { fn f() { println!(); } }"),
            ("vmm-core/build.rs", "fn main() { println!(\"cargo::rerun-if-changed=x\"); }"),
            ("vmm-capi/src/lib.rs", "#[unsafe(no_mangle)] pub extern \"C\" fn vmm_free() {}"),
            ("examples/hello.rs", "fn main() { println!(); std::process::exit(1) }"),
        ] {
            assert_eq!(words(path, text), [""; 0], "{path}");
        }
    }
}
