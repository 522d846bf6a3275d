//! How long files and functions and how wide signatures and traits may be.
//!
//! Only lines with code count, and not those that only tests have: a comment or a test must never
//! cost anything.

use crate::source::{Finding, Source};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;
const PARAMETERS: usize = 6;
const TRAIT_METHODS: usize = 12;

/// What may be larger: the file, what in it (a function, a trait, or `file`), and why.
const ALLOWED: &[(&str, &str, &str)] = &[];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    check_but(sources, ALLOWED)
}

fn check_but(sources: &[Source], allowed: &[(&str, &str, &str)]) -> Vec<Finding> {
    let mut found: Vec<_> = sources.iter().flat_map(oversized).collect();
    for (file, name, why) in allowed {
        let before = found.len();
        found.retain(|(of, finding)| (finding.file.as_str(), of.as_str()) != (file, name));
        if found.len() == before {
            let what =
                format!("{name} is allowed to be larger ('{why}') and is not: drop the entry");
            found.push((String::new(), Finding { file: (*file).into(), line: 1, what }));
        }
    }
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// What is too large, and its name.
fn oversized(source: &Source) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    let lines = source.lines(0..source.tokens.len(), |token| !token.test);
    if lines > FILE_LINES {
        let what = format!("{lines} lines of code, at most {FILE_LINES}: a file has one topic");
        found.push(("file".to_owned(), source.finding(0, what)));
    }
    for function in source.functions().filter(|function| !source.tokens[function.start].test) {
        let name = &function.name;
        let mut add =
            |what: String| found.push((name.clone(), source.finding(function.start, what)));
        let lines =
            function.body.map_or(0, |body| source.lines(function.start..body.end, |_| true));
        if lines > FUNCTION_LINES {
            add(format!(
                "fn {name} has {lines} lines, at most {FUNCTION_LINES}: one screen, one thought"
            ));
        }
        let parameters = function.parameters;
        if parameters > PARAMETERS {
            add(format!(
                "fn {name} has {parameters} parameters, at most {PARAMETERS}: name them in a struct"
            ));
        }
    }
    for at in source.find(&["trait"]) {
        let Some(open) = (at..source.tokens.len()).find(|&i| ["{", ";"].contains(&source.text(i)))
        else {
            continue;
        };
        let methods = methods(source, open);
        if methods > TRAIT_METHODS {
            let name = source.text(at + 1);
            let what = format!(
                "trait {name} has {methods} methods, at most {TRAIT_METHODS}: who implements it writes them all"
            );
            found.push((name.into(), source.finding(at, what)));
        }
    }
    found
}

/// The functions right inside the block at `open`.
fn methods(source: &Source, open: usize) -> usize {
    let (mut at, end, mut count) = (open + 1, source.behind(open), 0);
    while at < end {
        count += usize::from(source.text(at) == "fn");
        at = if source.text(at) == "{" { source.behind(at) } else { at + 1 };
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let found = check_but(&[Source::new("vmm-core/src/bus.rs", text)], &[]);
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn long_files_are_caught_but_not_for_comments_and_tests() {
        let free = "// a comment\n\n/* and\none\nmore */".repeat(FILE_LINES);
        let tests =
            format!("#[cfg(test)] mod tests {{{}}}", "\nconst A: u8 = 0;".repeat(FILE_LINES));
        let code = "const A: u8 = 0;\n".repeat(FILE_LINES);
        assert!(found(&format!("{code}{free}{tests}")).is_empty());
        assert_eq!(found(&format!("{code}const B: u8 = 0;")).len(), 1);
    }

    #[test]
    fn long_functions_are_caught_also_with_strings_over_lines() {
        let body = "\n// why\nx();".repeat(FUNCTION_LINES - 2);
        assert!(found(&format!("fn f() {{{body}\n}}")).is_empty());
        assert_eq!(found(&format!("fn f() {{{body}\ny();\n}}")).len(), 1);
        assert_eq!(found(&format!("impl X {{ fn f(&self) {{{body}\n\"\n\n}}\" }} }}")).len(), 1);
    }

    #[test]
    fn wide_signatures_and_traits_are_caught() {
        assert!(
            found("fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: Map<u8, u8>,) {}").is_empty()
        );
        assert_eq!(found("fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8);").len(), 1);
        let methods = "fn m() { fn inner() {} } fn n(f: [u8; 2]);".repeat(6);
        assert!(found(&format!("trait T: Send {{ {methods} }}")).is_empty());
        assert_eq!(found(&format!("trait T: Send {{ {methods} fn o(); }}")).len(), 1);
    }

    #[test]
    fn what_is_allowed_is_not_found_unless_it_is_no_longer_needed() {
        let wide = Source::new("a.rs", "fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8) {}");
        assert!(check_but(&[wide], &[("a.rs", "f", "reason")]).is_empty());
        assert_eq!(check_but(&[], &[("a.rs", "f", "reason")]).len(), 1);
    }
}
