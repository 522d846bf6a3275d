//! Where unsafe code may be, and that each file with it says why.

use crate::source::{Finding, Source};

/// The files and directories, without `.rs`, that may have unsafe code; ARCHITECTURE.md has the
/// same list.
const ALLOWED: &[&str] = &[
    "benches/table/bare",
    "tests/oracle/src/native",
    "tests/oracle/tests/steady",
    "tests/tests/kick_signal",
    "tests/tests/process",
    "tests/tests/virtio_steady",
    "vmm-capi/src",
    "vmm-core/src/hv/kick",
    "vmm-core/src/kvm",
    "vmm-core/src/memory/access",
    "vmm-core/src/memory/region",
    "vmm-core/src/process",
    "vmm-core/src/soft/layout",
    "vmm-cpu/src/fp",
    "vmm-cpu/src/ram",
    "vmm-devices/src/block/file",
    "vmm-sandbox/guest/src",
];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let allows = source.find(&["allow", "(", "unsafe_code"]);
    let mut found: Vec<_> = allows
        .map(|at| {
            source.finding(
                at,
                "allows unsafe_code: `expect` with a reason, which ends when the need ends",
            )
        })
        .collect();
    let Some(first) = source.find(&["unsafe"]).next() else {
        return found;
    };
    let allowed = |home: &str| {
        source.path.strip_prefix(home).is_some_and(|rest| rest.starts_with(['.', '/']))
    };
    if !ALLOWED.iter().any(|home| allowed(home)) {
        found.push(source.finding(
            first,
            "unsafe code outside the modules that may have it: few enough to be reviewed",
        ));
    }
    let opening = &["#", "!", "[", "expect", "(", "unsafe_code", ",", "reason"];
    if source.find(opening).next().is_none() {
        found.push(source.finding(
            first,
            "unsafe code in a file that does not open with #![expect(unsafe_code, reason = \"…\")]",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: &str = "//! x\n#![expect(\n    unsafe_code,\n    reason = \"y\"\n)]\n";

    fn found(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn a_file_of_the_list_that_says_why_may() {
        let text = format!("{OPENING} fn f() {{ unsafe {{ g() }} }}");
        assert_eq!(found("vmm-core/src/kvm/vm.rs", &text), 0);
        assert_eq!(found("vmm-core/src/hv/kick.rs", &text), 0);
        assert_eq!(found("vmm-core/src/bus.rs", "// unsafe\nconst A: &str = \"unsafe\";"), 0);
    }

    #[test]
    fn others_and_silent_ones_are_caught() {
        let text = format!("{OPENING} unsafe impl Send for X {{}}");
        for path in ["vmm-core/src/bus.rs", "vmm-core/src/hv/kicker.rs", "vmm-core/src/kvm2/a.rs"] {
            assert_eq!(found(path, &text), 1, "{path}");
        }
        assert_eq!(found("vmm-core/src/kvm/vm.rs", "unsafe fn f() {}"), 1);
        assert_eq!(found("vmm-core/src/bus.rs", "#[cfg(test)] mod tests { unsafe fn f() {} }"), 2);
        assert_eq!(found("vmm-core/src/kvm/vm.rs", "#[allow(unsafe_code)] mod x;"), 1);
    }
}
