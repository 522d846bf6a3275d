//! The workspace's files, and what the rules ask of a Rust source.
//!
//! Not a parser of Rust: it knows brackets, functions and what is compiled for tests only.

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::lexer::{self, Token};

/// Something that breaks a rule.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// The text files of the workspace, without those git ignores.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Path from the root, and text.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) sources: Vec<Source>,
}

impl Workspace {
    pub(crate) fn open() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let ignored = fs::read_to_string(root.join(".gitignore"))?;
        let mut skip: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
        skip.push(".git");
        let mut files = Vec::new();
        read_tree(&root, Path::new(""), &skip, &mut files)?;
        files.sort();
        Ok(Self::new(files))
    }

    pub(crate) fn new(files: Vec<(String, String)>) -> Self {
        let rust = files.iter().filter(|(path, _)| path.ends_with(".rs"));
        let mut sources: Vec<_> = rust.map(|(path, text)| Source::new(path, text)).collect();
        let only_tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let of = |module: &String| {
                source.path.strip_prefix(module.as_str()).is_some_and(|r| r.starts_with(['.', '/']))
            };
            if only_tests.iter().any(of) {
                source.tokens.iter_mut().for_each(|token| token.test = true);
            }
        }
        Self { files, sources }
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|(name, _)| name == path).map(|(_, text)| text.as_str())
    }
}

fn read_tree(
    root: &Path,
    at: &Path,
    skip: &[&str],
    files: &mut Vec<(String, String)>,
) -> io::Result<()> {
    for entry in fs::read_dir(root.join(at))? {
        let entry = entry?;
        let path: PathBuf = at.join(entry.file_name());
        let name = path.to_string_lossy().into_owned();
        if skip.contains(&name.as_str()) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_tree(root, &path, skip, files)?;
        } else if kind.is_file()
            && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
        {
            files.push((name, text));
        }
    }
    Ok(())
}

/// One function with a name.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Where the word `fn` is.
    pub(crate) start: usize,
    /// Without `self`.
    pub(crate) parameters: usize,
    /// With its braces.
    pub(crate) body: Option<Range<usize>>,
}

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the workspace's root.
    pub(crate) path: String,
    pub(crate) tokens: Vec<Token>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut source = Self { path: path.into(), tokens: lexer::tokens(text) };
        source.mark_tests();
        source
    }

    /// The crate or other package it belongs to.
    pub(crate) fn package(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether it is part of the library of its package.
    pub(crate) fn in_library(&self) -> bool {
        self.package().starts_with("vmm-") && self.path.split('/').nth(1) == Some("src")
    }

    /// Its module's path in the library; none for the root.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs");
        let mut parts: Vec<_> = path.split('/').skip(2).collect();
        parts.pop_if(|last| ["lib", "main", "mod"].contains(last));
        parts
    }

    pub(crate) fn finding(&self, at: usize, what: impl Into<String>) -> Finding {
        let line = self.tokens.get(at).map_or(1, |token| token.line);
        Finding { file: self.path.clone(), line, what: what.into() }
    }

    /// The token at `at`; nothing beyond the end.
    pub(crate) fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    /// Whether these tokens stand at `at`.
    pub(crate) fn has(&self, at: usize, tokens: &[&str]) -> bool {
        tokens.iter().enumerate().all(|(i, token)| self.text(at + i) == *token)
    }

    /// Every place where these tokens stand.
    pub(crate) fn find(&self, tokens: &[&str]) -> impl Iterator<Item = usize> {
        (0..self.tokens.len()).filter(move |&at| self.has(at, tokens))
    }

    /// The number of lines with code in this range of tokens, as far as `counted`.
    pub(crate) fn lines(&self, range: Range<usize>, counted: impl Fn(&Token) -> bool) -> usize {
        let tokens = self.tokens[range].iter().filter(|token| counted(token));
        let mut lines: Vec<_> =
            tokens.flat_map(|t| t.line..=t.line + t.text.matches('\n').count()).collect();
        lines.dedup();
        lines.len()
    }

    /// The index behind the bracket that closes the one at `open`.
    pub(crate) fn behind(&self, open: usize) -> usize {
        let mut depth = 0;
        for at in open..self.tokens.len() {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.tokens.len()
    }

    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        self.find(&["fn"]).filter_map(|start| self.function(start))
    }

    fn function(&self, start: usize) -> Option<Function> {
        // `fn(` is a type; in a macro, a name may be `$name`.
        let name = start + 1 + usize::from(self.text(start + 1) == "$");
        if !self.tokens.get(name)?.is_word() {
            return None;
        }
        let open = self.outside_brackets(name + 1, "(")?;
        let close = self.behind(open);
        let mut parameters = 0;
        let mut at = open + 1;
        while at + 1 < close {
            let end = self.outside_brackets(at, ",").map_or(close - 1, |end| end.min(close - 1));
            let is_self = (at..end).take_while(|&i| self.text(i) != ":");
            parameters += usize::from(!is_self.into_iter().any(|i| self.text(i) == "self"));
            at = end + 1;
        }
        let body = self.outside_brackets(close, "{").map(|open| open..self.behind(open));
        let end = self.outside_brackets(close, ";").unwrap_or(usize::MAX);
        let body = body.filter(|body| body.start < end);
        Some(Function { name: self.text(name).into(), start, parameters, body })
    }

    /// The next `wanted` from `at` on that no bracket encloses, angle brackets included: for
    /// signatures, where `<` does not compare.
    fn outside_brackets(&self, mut at: usize, wanted: &str) -> Option<usize> {
        let mut angles = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                text if text == wanted && angles == 0 => return Some(at),
                "<" => angles += 1,
                ">" => angles -= 1,
                "(" | "[" | "{" => {
                    at = self.behind(at);
                    continue;
                }
                ")" | "]" | "}" => return None,
                _ => {}
            }
            at += 1;
        }
        None
    }

    fn mark_tests(&mut self) {
        for at in 0..self.tokens.len() {
            let outer = self.has(at, &["#", "[", "cfg", "("]);
            let inner = self.has(at, &["#", "!", "[", "cfg", "("]);
            if self.tokens[at].test || !(outer || inner) {
                continue;
            }
            let bracket = at + 1 + usize::from(inner);
            let condition = bracket..self.behind(bracket);
            let says = |word| condition.clone().any(|i| self.text(i) == word);
            if says("test") && !says("not") && !says("any") {
                let end = if inner { self.tokens.len() } else { self.item_end(condition.end) };
                self.tokens[at..end].iter_mut().for_each(|token| token.test = true);
            }
        }
    }

    /// The index behind the item at `at`, which further attributes may open.
    fn item_end(&self, mut at: usize) -> usize {
        while at < self.tokens.len() {
            match self.text(at) {
                ";" => return at + 1,
                "{" => {
                    at = self.behind(at);
                    // A `use` or a constant goes on to its semicolon.
                    if self.text(at) != ";" {
                        return at;
                    }
                }
                "(" | "[" => at = self.behind(at),
                "}" => return at,
                _ => at += 1,
            }
        }
        at
    }

    /// The modules in files of their own that only tests have: their paths without `.rs` or
    /// `/mod.rs`.
    fn test_modules(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let home = if ["lib", "main", "mod"].contains(&name) { directory } else { path };
        let modules = self.find(&["mod"]).filter(|&at| self.text(at + 2) == ";");
        let tests = modules.filter(|&at| self.tokens[at].test);
        tests.map(|at| format!("{home}/{}", self.text(at + 1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_only_tests_have_is_marked() {
        let text = "a; #[cfg(test)] use x::{b}; c; #[cfg(all(test, unix))] #[allow(d)] mod tests { e } \
                #[cfg(not(test))] f; #[cfg(test)] mod g; h;";
        let source = Source::new("vmm-core/src/lib.rs", text);
        let marked = |word: &str| source.find(&[word]).all(|at| source.tokens[at].test);
        assert!(["b", "d", "e", "g"].into_iter().all(marked));
        assert!(!["a", "c", "f", "h"].into_iter().any(marked));
        let g = ("vmm-core/src/g/x.rs".into(), "y".into());
        let workspace = Workspace::new(vec![("vmm-core/src/lib.rs".into(), text.into()), g]);
        assert!(workspace.sources[1].tokens[0].test);
    }

    #[test]
    fn functions_are_read() {
        let text = "trait T { fn a<'x, F: Fn(u8, u8) -> u8>(&'x self, f: F, (b, c): (u8, Vec<(u8, u8)>)) -> [u8; 4]; }
                fn b() -> Box<dyn Fn(u8)> where [u8; 2]: Sized { x }  type P = fn(u8, u8);";
        let source = Source::new("x.rs", text);
        let functions: Vec<_> = source.functions().collect();
        assert_eq!(functions.len(), 2);
        assert_eq!((functions[0].name.as_str(), functions[0].parameters), ("a", 2));
        assert!(functions[0].body.is_none());
        assert_eq!(functions[1].parameters, 0);
        assert!(
            functions[1].body.as_ref().is_some_and(|body| source.has(body.start, &["{", "x", "}"]))
        );
    }

    #[test]
    fn a_source_that_is_cut_off_ends() {
        for cut_off in ["\"a\\", "r#\"a", "/* a", "'", "b'\\", "r#", "fn f("] {
            assert!(Source::new("x.rs", cut_off).functions().count() < 2, "{cut_off}");
        }
    }
}
