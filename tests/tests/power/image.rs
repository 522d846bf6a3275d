//! File systems in files of the host: made, mended, and looked into without a mount.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const MIB: u64 = 1 << 20;

/// Versions of files.
pub(crate) type Versions = BTreeMap<String, u64>;

/// An ext4 with a small journal, so that it goes round it often.
pub(crate) fn format(path: &Path, block: u32) {
    fs::File::create(path).unwrap().set_len(32 * MIB).unwrap();
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-J", "size=4", "-b", &block.to_string()]);
    good("mke2fs", command.arg(path));
}

/// Runs it; fails unless it succeeds.
fn good(name: &str, command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = text(&output);
    assert!(output.status.success(), "{name}: {}: {said}", output.status);
    said
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Replays the journal; then there is nothing that would need mending.
pub(crate) fn replay(path: &Path) {
    good("replay", Command::new("e2fsck").args(["-y", "-E", "journal_only"]).arg(path));
    is_sound(path);
}

/// Nothing is wrong with it, nor does its journal hold anything.
pub(crate) fn is_sound(path: &Path) {
    good("e2fsck", Command::new("e2fsck").args(["-f", "-n"]).arg(path));
}

/// What `writer check` says of the files in it.
pub(crate) fn holds(path: &Path, writer: &Path) -> Versions {
    let directory = tempfile::tempdir().unwrap();
    let dump = format!("rdump / {}", directory.path().display());
    good("debugfs", Command::new("debugfs").args(["-R", &dump]).arg(path));
    let files = directory.path().join("files");
    // The guest makes it first of all.
    fs::create_dir_all(&files).unwrap();
    let said = good("writer", Command::new(writer).arg("check").arg(files));
    found(&said)
}

/// What is said to be there.
pub(crate) fn found(said: &str) -> Versions {
    assert!(said.contains("checked") && !said.contains("broken"), "{said}");
    said.lines().filter_map(|line| version(line, "holds ")).collect()
}

/// What was acknowledged, in whole lines.
pub(crate) fn acknowledged(said: &str) -> Versions {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| version(line, "synced ")).collect()
}

fn version(line: &str, word: &str) -> Option<(String, u64)> {
    let (file, version) = line.strip_prefix(word)?.trim_end().split_once(' ')?;
    Some((file.to_owned(), version.parse().ok()?))
}

/// Which of the files that were acknowledged are not there, or are older.
pub(crate) fn lost(acknowledged: &Versions, found: &Versions) -> Vec<String> {
    let is_lost = |(file, version): (&String, &u64)| {
        let found = found.get(file).copied().unwrap_or(0);
        (found < *version).then(|| format!("{file}: {version} acknowledged, {found} found"))
    };
    acknowledged.iter().filter_map(is_lost).collect()
}

/// Where the program that writes and checks is.
pub(crate) fn writer(kernel: &Path) -> PathBuf {
    kernel.with_file_name("writer")
}
