//! The table of layers: a module imports only from lower lines, never sideways.
//!
//! Links in documentation are comments and may point anywhere; what only tests have may use
//! anything.

use crate::source::{Finding, Source};

/// The modules of `vmm-core`, the lowest line first. `process` is private and stands between the
/// lines of the picture: it answers with the `Error` below it.
const LINES: &[&[&str]] = &[
    &["error"],
    &["process"],
    &["arch", "exit", "irq", "memory", "persist"],
    &["bus", "hv"],
    &["boot", "kvm", "soft", "virtio"],
    &["host", "machine"],
    &["gdb", "migrate", "snapshot"],
];

/// What devices see of `vmm-core`: whole modules, and names.
const DEVICES_SEE_MODULES: &[&str] = &["bus", "exit", "irq", "memory", "persist", "virtio"];
const DEVICES_SEE: &[&str] = &[
    "Error",
    "ErrorKind",
    "Result",
    "machine::Device",
    "machine::Interest",
    "machine::Legacy",
    "machine::Next",
    "machine::Place",
    "machine::Reactor",
    "machine::Slot",
    "machine::Wake",
    "machine::Watch",
];

/// What sandboxes see of it: the seam, and what it speaks of.
const SANDBOX_SEES: &[&str] = &[
    "Error",
    "ErrorKind",
    "Result",
    "arch",
    "exit",
    "host",
    "hv",
    "memory",
    "persist",
    "snapshot",
];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let exports = exports(sources);
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.in_library()) {
        match source.package() {
            "vmm-core" => core(source, &exports, &mut found),
            "vmm-devices" => devices(source, &mut found),
            "vmm-sandbox" => sandbox(source, &mut found),
            "vmm-cpu" => found.extend(source.find(&["vmm_core"]).map(|at| {
                source.finding(
                    at,
                    "vmm-cpu names vmm_core: it stands on its own, without VM or device",
                )
            })),
            _ => {}
        }
    }
    found
}

/// The names that the root of `vmm-core` gives to things of its modules: the name, and the module.
fn exports(sources: &[Source]) -> Vec<(String, String)> {
    let root = sources.iter().find(|source| source.path == "vmm-core/src/lib.rs");
    let paths = root.into_iter().flat_map(|root| {
        root.find(&["pub", "use"]).flat_map(|at| {
            let mut paths = Vec::new();
            expand(root, at + 2, &[], &mut paths);
            paths
        })
    });
    paths.filter_map(|(path, _)| Some((path.last()?.clone(), path.first()?.clone()))).collect()
}

fn core(source: &Source, exports: &[(String, String)], found: &mut Vec<Finding>) {
    let Some(&own) = source.module().first() else {
        return; // The root declares the modules.
    };
    let Some(line) = line_of(own) else {
        found.push(source.finding(0, format!("{own} is not in the table of layers")));
        return;
    };
    for (path, at) in paths(source) {
        let target = path.first().map_or("the root of the crate", String::as_str);
        let export = exports.iter().find(|(name, _)| name == target);
        let module = export.map_or(target, |(_, module)| module);
        let why = match line_of(module) {
            _ if module == own => continue,
            Some(other) if other < line => continue,
            Some(other) if other == line => "beside it, and nothing is imported sideways",
            Some(_) => "above it, and modules import only from lower lines",
            None => "not in the table of layers",
        };
        let path = path.join("::");
        found.push(source.finding(at, format!("{own} uses {path}: {module} is {why}")));
    }
    if own != "soft" {
        found.extend(source.find(&["vmm_cpu"]).map(|at| {
            source.finding(at, format!("{own} names vmm_cpu: only soft knows the software CPU"))
        }));
    }
}

fn devices(source: &Source, found: &mut Vec<Finding>) {
    for at in source.find(&["vmm_core"]).filter(|&at| !source.tokens[at].test) {
        let mut paths = Vec::new();
        if source.text(at + 1) == "::" {
            expand(source, at + 2, &[], &mut paths);
        } else {
            paths.push((vec!["self".into()], at));
        }
        for (path, at) in paths {
            let name = path.join("::");
            let whole =
                path.first().is_some_and(|first| DEVICES_SEE_MODULES.contains(&first.as_str()));
            let named = |seen: &str| {
                name.strip_prefix(seen).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            };
            if !whole && !DEVICES_SEE.iter().any(|seen| named(seen)) {
                found.push(source.finding(at, format!(
                    "uses vmm_core::{name}: of the machine a device sees only Device, Slot and where it sits, \
                     and cannot tell back ends apart"
                )));
            }
        }
    }
}

/// A sandbox needs only the seam: no machine, no loader of kernels, no one back end, no device.
fn sandbox(source: &Source, found: &mut Vec<Finding>) {
    found.extend(source.find(&["vmm_devices"]).map(|at| {
        source.finding(at, "names vmm_devices: it is beside it, and nothing is imported sideways")
    }));
    for at in source.find(&["vmm_core", "::"]).filter(|&at| !source.tokens[at].test) {
        let mut paths = Vec::new();
        expand(source, at + 2, &[], &mut paths);
        let strange = paths.into_iter().filter(|(path, _)| {
            path.first().is_none_or(|first| !SANDBOX_SEES.contains(&first.as_str()))
        });
        found.extend(strange.map(|(path, at)| {
            let name = path.join("::");
            source.finding(at, format!("uses vmm_core::{name}: a sandbox needs only the seam"))
        }));
    }
}

fn line_of(module: &str) -> Option<usize> {
    LINES.iter().position(|line| line.contains(&module))
}

/// The paths in this file that leave its module or could, from the root of the crate, each with the
/// place of its last name.
fn paths(source: &Source) -> Vec<(Vec<String>, usize)> {
    let mut module: Vec<String> = source.module().into_iter().map(String::from).collect();
    // Where the modules written out in this file end.
    let mut ends = Vec::new();
    let mut paths = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        while ends.pop_if(|end| *end <= at).is_some() {
            module.pop();
        }
        if token.text == "mod" && source.text(at + 2) == "{" {
            module.push(source.text(at + 1).into());
            ends.push(source.behind(at + 2));
        }
        let starts = at == 0 || source.text(at - 1) != "::";
        let goes_on = ["::", "as"].contains(&source.text(at + 1));
        if token.test || !starts || !goes_on {
            continue;
        }
        match token.text.as_str() {
            "crate" => expand(source, at, &[], &mut paths),
            "self" | "super" => expand(source, at, &module, &mut paths),
            _ => {}
        }
    }
    paths
}

/// Adds the paths of the tree at `at`, which starts in the module `from`.
fn expand(source: &Source, mut at: usize, from: &[String], paths: &mut Vec<(Vec<String>, usize)>) {
    let mut path = from.to_vec();
    loop {
        match source.text(at) {
            "crate" => path.clear(),
            "self" => {}
            "super" => drop(path.pop()),
            "{" => {
                let end = source.behind(at);
                at += 1;
                while at + 1 < end {
                    expand(source, at, &path, paths);
                    at = next_branch(source, at, end);
                }
                return;
            }
            name => path.push(name.into()),
        }
        if source.text(at + 1) != "::" || source.text(at + 2) == "<" {
            paths.push((path, at));
            return;
        }
        at += 2;
    }
}

/// The index behind the comma that ends the branch at `at` of a group, whose end is `end`.
fn next_branch(source: &Source, mut at: usize, end: usize) -> usize {
    while at < end && source.text(at) != "," {
        at = if source.text(at) == "{" { source.behind(at) } else { at + 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let root = "pub mod hv; pub use error::{Error, Result}; pub use machine::Machine;";
        let sources = [Source::new("vmm-core/src/lib.rs", root), Source::new(path, text)];
        check(&sources).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn lower_lines_one_s_own_module_and_docs_are_fine() {
        let text = "//! [`crate::machine::Machine`]
            use std::io; use super::{Caps, kick::{self, Kicker}};
            use crate::{Error, arch::{x86_64::{Regs, msr}, Segment}, memory::GuestAddress};
            pub(in crate::hv) fn f() { let _ = $crate::exit::CONTINUE; \"crate::machine::x\"; }
            mod inner { use super::super::X; use super::super::super::Y; }
            #[cfg(test)] mod tests { use crate::machine::Machine; }";
        assert!(found("vmm-core/src/hv/script/play.rs", text).is_empty());
        assert!(found("vmm-core/src/process.rs", "use crate::error::Error;").is_empty());
    }

    #[test]
    fn higher_and_sideways_imports_are_caught() {
        let cases = [
            ("use crate::machine::Machine;", "above"),
            ("use crate::Machine;", "machine is above"),
            ("use crate::{arch::Regs, kvm::{self, Kvm}};", "kvm is above"),
            ("use super::bus::Bus;", "bus is beside"),
            ("mod inner { use super::super::bus::Bus; }", "bus is beside"),
            ("mod inner { use super::X; } use super::bus::Bus;", "bus is beside"),
            ("fn f() { crate::host::best() }", "host is above"),
            ("use {std::io, crate::gdb};", "gdb is above"),
            ("use crate::*;", "not in the table"),
            ("use crate as all;", "not in the table"),
            ("use crate::unknown::X;", "not in the table"),
            ("use vmm_cpu::Cpu;", "only soft"),
        ];
        for (text, why) in cases {
            let found = found("vmm-core/src/hv/mod.rs", text);
            assert!(found.iter().any(|line| line.contains(why)), "{text}: {found:?}");
        }
        assert_eq!(found("vmm-core/src/hv/mod.rs", "use crate::{a, arch, b};").len(), 2);
        assert!(!found("vmm-core/src/error.rs", "use crate::process::Owner;").is_empty());
        assert!(!found("vmm-core/src/other.rs", "").is_empty());
    }

    #[test]
    fn devices_see_what_they_may() {
        let text = "use vmm_core::{Result, bus::{Bus, BusDevice}, machine::{Device, Slot}};
            fn f() { vmm_core::Error::new() } #[cfg(test)] mod tests { use vmm_core::hv::script; }";
        assert!(found("vmm-devices/src/rtc.rs", text).is_empty());
        for text in [
            "use vmm_core::hv::Vm;",
            "use vmm_core::{bus::Bus, kvm::{self}};",
            "use vmm_core::machine::{Device, Machine};",
            "use vmm_core::machine::DeviceList;",
            "use vmm_core::machine;",
            "use vmm_core::*;",
            "use vmm_core as core;",
            "use vmm_core::{self, bus};",
        ] {
            assert_eq!(found("vmm-devices/src/rtc.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn sandboxes_see_the_seam() {
        let text = "use vmm_core::{Error, arch::{Regs, cr0}, host, hv::Vcpu}; vmm_core::exit::X;
            #[cfg(test)] mod tests { use vmm_core::machine::Machine; }";
        assert!(found("vmm-sandbox/src/cpu/mod.rs", text).is_empty());
        for text in [
            "use vmm_core::Machine;",
            "use vmm_core::{arch::Regs, kvm::Kvm};",
            "use vmm_core::boot::Elf64;",
            "use vmm_core::*;",
            "use vmm_devices::Serial;",
        ] {
            assert_eq!(found("vmm-sandbox/src/cpu/mod.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn the_software_cpu_stands_on_its_own() {
        assert_eq!(found("vmm-cpu/src/lib.rs", "use vmm_core::arch::Regs;").len(), 1);
    }
}
