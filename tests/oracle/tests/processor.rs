//! Slices of the oracle's cases that run every time: always the same ones, new ones, and those that
//! once came out differently.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test, which says what it did")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iced_x86::Code;
use vmm_oracle::{
    codes,
    operands::Form,
    report::{from_file, to_file},
    survey::{Row, Sides},
};

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");

/// Every code and form, a few cases of each, for so long at most.
fn slice(seed: u64, cases: usize, time: Duration) -> Vec<(Code, Row)> {
    let mut sides = Sides::start().unwrap();
    let begin = Instant::now();
    let mut rows = Vec::new();
    let mut candidates = codes::candidates();
    // Which codes go short if time runs out is not always the same.
    let middle = seed as usize % candidates.len();
    candidates.rotate_left(middle);
    for code in candidates {
        for form in forms(code) {
            if begin.elapsed() < time {
                rows.push((code, sides.survey(code, form, cases, seed).unwrap()));
            }
        }
    }
    rows
}

fn forms(code: Code) -> impl Iterator<Item = Form> {
    let (memory, registers) = codes::forms(code);
    let forms = [(registers, Form::Registers), (memory, Form::Memory)];
    forms.into_iter().filter(|(has, _)| *has).map(|(_, form)| form)
}

fn summary(name: &str, seed: u64, rows: &[(Code, Row)]) -> usize {
    let cases: usize = rows.iter().map(|(_, row)| row.cases).sum();
    let differ: usize = rows.iter().map(|(_, row)| row.differences).sum();
    println!("{name}: seed {seed}, {cases} cases, {differ} differences");
    for (code, row) in rows.iter().filter(|(_, row)| row.differences > 0) {
        println!("== {code:?}: {} of {}\n{}", row.differences, row.cases, row.found[0].text());
    }
    let empty = rows.iter().filter(|(_, row)| row.cases == 0 || row.unbuilt > 0);
    let empty: Vec<_> = empty.map(|(code, _)| code).collect();
    assert!(empty.is_empty(), "not built, or no case could be made: {empty:?}");
    assert!(cases > 10_000, "hardly anything was tested");
    differ
}

#[test]
fn the_same_cases_come_out_as_on_this_processor() {
    let rows = slice(1, 1000, Duration::MAX);
    let differences = summary("fixed slice", 1, &rows);
    if vendor_is_followed("fixed slice") {
        assert_eq!(differences, 0);
    }
}

/// Whether this processor is of the vendor that the software CPU follows where vendors differ;
/// elsewhere differences are told of, and no test fails by them.
fn vendor_is_followed(test: &str) -> bool {
    let is_followed = codes::is_amd();
    if !is_followed {
        println!("skipped: oracle: {test}: nothing is demanded of another vendor's processor");
    }
    is_followed
}

/// What once differed does no more. Then new cases, others each time: a difference is kept as a file
/// and told of; it is the next run that fails by it.
#[test]
fn new_cases_are_kept_if_they_come_out_differently() {
    replay();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let rows = slice(seed, 200, Duration::from_secs(60));
    if summary("new slice", seed, &rows) > 0 {
        std::fs::create_dir_all(REGRESSIONS).unwrap();
        for (code, row) in rows.iter().filter(|(_, row)| row.differences > 0) {
            let path = format!("{REGRESSIONS}/{code:?}-{seed}.case");
            std::fs::write(&path, to_file(&row.found[0].case)).unwrap();
            println!("warning: a new difference, kept as {path}");
        }
    }
}

/// The cases that are kept as files come out alike.
fn replay() {
    let Ok(directory) = std::fs::read_dir(REGRESSIONS) else { return };
    let mut sides = Sides::start().unwrap();
    for path in directory.map(|entry| entry.unwrap().path()) {
        let case = from_file(&std::fs::read_to_string(&path).unwrap());
        assert!(case.is_some(), "{} is no case", path.display());
        let row = sides.check(&case.unwrap()).unwrap();
        assert_eq!(row.cases, 1, "{}: the instruction is not built", path.display());
        assert_eq!(row.differences, 0, "{}: {}", path.display(), row.found[0].text());
    }
}
