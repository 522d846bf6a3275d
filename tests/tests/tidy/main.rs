//! Reads the workspace's own sources and holds them to the rules that the compiler does not know.
//!
//! Each test lists what it found as `file:line: what`, with the reason of the rule; each rule's own
//! module feeds it bad snippets, so that one that finds nothing is not believed blindly. It wants
//! neither network nor cargo.

mod docs;
mod layers;
mod lexer;
mod size;
mod source;
mod unsafety;
mod words;

use source::{Finding, Source, Workspace};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn none(found: &[Finding]) -> Outcome {
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = found.iter().map(Finding::to_string).collect();
    Err(format!("{} findings:\n{}", lines.len(), lines.join("\n")).into())
}

/// Applies `rule` to each source file on its own.
fn each(rule: impl Fn(&Source) -> Vec<Finding>) -> Outcome {
    let sources = Workspace::open()?.sources;
    none(&sources.iter().flat_map(rule).collect::<Vec<_>>())
}

#[test]
fn the_workspace_is_seen() -> Outcome {
    let workspace = Workspace::open()?;
    for path in ["vmm-core/src/lib.rs", "vmm-core/src/kvm/vm.rs", "tests/tests/tidy/main.rs"] {
        let source = workspace.sources.iter().find(|source| source.path == path);
        let source = source.ok_or_else(|| format!("{path} was not found"))?;
        assert!(!source.tokens.is_empty(), "{path} has no tokens");
    }
    Ok(())
}

#[test]
fn modules_import_only_from_lower_lines() -> Outcome {
    none(&layers::check(&Workspace::open()?.sources))
}

#[test]
fn files_functions_and_traits_are_small() -> Outcome {
    none(&size::check(&Workspace::open()?.sources))
}

#[test]
fn modules_are_named_by_what_they_are() -> Outcome {
    each(words::module_names)
}

#[test]
fn unsafe_code_is_where_it_may_be() -> Outcome {
    each(unsafety::check)
}

#[test]
fn features_choose_items_not_statements() -> Outcome {
    each(words::cfg_in_bodies)
}

#[test]
fn what_must_be_absent_is_absent() -> Outcome {
    each(words::absent)
}

#[test]
fn the_architecture_names_every_module() -> Outcome {
    none(&docs::modules(&Workspace::open()?))
}

#[test]
fn the_readme_names_every_example() -> Outcome {
    none(&docs::examples(&Workspace::open()?))
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() -> Outcome {
    none(&docs::machine_paths(&Workspace::open()?))
}
