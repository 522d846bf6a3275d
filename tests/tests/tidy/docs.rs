//! What the documents must say, and what no file may: that it was written on one certain machine.

use std::collections::BTreeSet;

use crate::source::{Finding, Source, Workspace};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const README: &str = "README.md";

/// Directories of the machines this was written on. Written in two halves, for this file too is
/// read.
const MACHINE_PATHS: &[&str] = &[concat!("/", "work/"), concat!("/", "root/")];

/// The modules of the top two levels of the libraries that ARCHITECTURE.md does not
/// name.
pub(crate) fn modules(workspace: &Workspace) -> Vec<Finding> {
    let Some(text) = workspace.text(ARCHITECTURE) else {
        return vec![absent(ARCHITECTURE, "is missing: it names every module".into())];
    };
    let code = code_of(text);
    let described = |source: &&Source| {
        ["vmm-core", "vmm-devices", "vmm-sandbox"].contains(&source.package())
            && source.in_library()
            && source.tokens.iter().any(|token| !token.test)
            && (1..=2).contains(&source.module().len())
    };
    let unnamed = workspace
        .sources
        .iter()
        .filter(described)
        .filter(|source| source.module().last().is_some_and(|name| !has_word(&code, name)));
    unnamed
        .map(|source| absent(ARCHITECTURE, format!("does not name {}, in code font", source.path)))
        .collect()
}

/// The examples that README.md does not name.
pub(crate) fn examples(workspace: &Workspace) -> Vec<Finding> {
    let Some(text) = workspace.text(README) else {
        return vec![absent(README, "is missing: it names every example".into())];
    };
    let unnamed = example_names(workspace).into_iter().filter(|name| !has_word(text, name));
    unnamed.map(|name| absent(README, format!("does not name the example {name}"))).collect()
}

/// The programs in examples/: a file, or a directory with a `main` file.
fn example_names(workspace: &Workspace) -> BTreeSet<&str> {
    let programs = || {
        let below = workspace.files.iter().filter_map(|(path, _)| path.strip_prefix("examples/"));
        below.filter_map(|path| {
            let (path, kind) = path.rsplit_once('.')?;
            let (home, name) = path.rsplit_once('/').unwrap_or(("", path));
            ["c", "py", "rs"].contains(&kind).then_some((home, name))
        })
    };
    let homes: BTreeSet<_> =
        programs().filter(|(_, name)| *name == "main").map(|(home, _)| home).collect();
    let files = programs()
        .filter(|(home, name)| !homes.contains(home) && !["build", "lib", "mod"].contains(name))
        .map(|(_, name)| name);
    let directories = homes.iter().filter_map(|home| home.rsplit('/').next());
    files.chain(directories).filter(|name| !name.is_empty()).collect()
}

/// Absolute paths of one machine.
pub(crate) fn machine_paths(workspace: &Workspace) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, text) in &workspace.files {
        for (number, line) in text.lines().enumerate() {
            for path in MACHINE_PATHS.iter().filter(|path| has_absolute(line, path)) {
                let what = format!("{path} is a directory of one machine: nobody else has it");
                found.push(Finding { file: file.clone(), line: number + 1, what });
            }
        }
    }
    found
}

/// Whether `path` stands in `line` other than as the end of a longer path.
fn has_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.*~}>)".contains(c))
    })
}

fn absent(file: &str, what: String) -> Finding {
    Finding { file: file.into(), line: 1, what }
}

/// What a Markdown text has in code font, inline and in blocks.
fn code_of(markdown: &str) -> String {
    let mut code = String::new();
    let mut in_block = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            code.extend([line, "\n"]);
        } else {
            code.extend(line.split('`').skip(1).step_by(2).flat_map(|span| [span, "\n"]));
        }
    }
    code
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(files: &[(&str, &str)]) -> Workspace {
        Workspace::new(files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect())
    }

    #[test]
    fn modules_without_a_word_on_them_are_caught() {
        let text = "The `bus` and exit.\n```\nhv/{kick,script}  seam\n```\nscripted";
        let files = [
            (ARCHITECTURE, text),
            ("vmm-core/src/bus.rs", "x"),
            ("vmm-core/src/exit.rs", "x"),
            ("vmm-core/src/hv/mod.rs", "x"),
            ("vmm-core/src/hv/kick.rs", "x"),
            ("vmm-core/src/hv/page.rs", "x"),
            ("vmm-core/src/hv/kick/deep.rs", "x"),
            ("vmm-core/src/lib.rs", "#[cfg(test)] mod testing;"),
            ("vmm-core/src/testing.rs", "x"),
        ];
        let found: Vec<_> = modules(&workspace(&files)).into_iter().map(|f| f.what).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("exit.rs") && found[1].contains("page.rs"));
        assert_eq!(modules(&workspace(&[])).len(), 1);
    }

    #[test]
    fn examples_without_a_word_on_them_are_caught() {
        let files = [
            (README, "probe, hello-world"),
            ("examples/Cargo.toml", ""),
            ("examples/hello.c", ""),
            ("examples/linux/main.rs", ""),
            ("examples/linux/part.rs", ""),
            ("examples/probe.rs", ""),
        ];
        let found: Vec<_> = examples(&workspace(&files)).into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["does not name the example linux"]);
        assert_eq!(examples(&workspace(&[])).len(), 1);
    }

    #[test]
    fn paths_of_one_machine_are_caught() {
        let bad = format!("see {}x", MACHINE_PATHS[0]);
        let fine = format!("https://x.org{0}x $HOME{0} ..{0}", MACHINE_PATHS[1]);
        let found = machine_paths(&workspace(&[("a.md", &bad), ("b.txt", &fine)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, "a.md");
    }
}
