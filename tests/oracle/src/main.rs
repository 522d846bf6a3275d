//! `oracle`: puts the instructions of the software CPU to the test against this processor.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a program for people who build the CPU"
)]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use iced_x86::Code;
use vmm_oracle::{
    codes,
    operands::Form,
    report::to_file,
    survey::{Row, Sides},
};

const HELP: &str = "\
Usage: oracle [--seed N] [--cases N] [--code NAME]... [--table] [--threads N] [--show N] [--save DIR]

Executes random cases of each instruction that the software CPU has on it and on this processor,
and compares registers, memory, flags and exceptions.

  --cases N    how many of each code and form, in registers and in memory (1000)
  --code NAME  only codes whose name begins like this, as iced-x86 has it (Add_rm32_r32)
  --save DIR   keeps a difference of each code as a file there
  --seed N     the same cases again (else by the clock)
  --show N     how many differences of each code and form are printed (1)
  --table      prints every code with its number of cases
  --threads N  how many at once (1)";

struct Options {
    seed: u64,
    cases: usize,
    codes: Vec<String>,
    table: bool,
    threads: usize,
    show: usize,
    save: Option<String>,
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("oracle: {problem}; try --help");
            std::process::exit(2);
        }
    };
    let begin = Instant::now();
    let rows = survey(&options);
    let total: usize = rows.iter().map(|(_, _, row)| row.cases).sum();
    let different: usize = rows.iter().map(|(_, _, row)| row.differences).sum();
    if options.table {
        println!("{:36} {:9} {:>9} {:>9} {:>11}", "code", "form", "cases", "faults", "differences");
        for (code, form, row) in rows.iter().filter(|(_, _, row)| row.cases > 0) {
            let name = format!("{code:?}");
            let form = format!("{form:?}").to_lowercase();
            println!("{name:36} {form:9} {:9} {:9} {:11}", row.cases, row.faults, row.differences);
        }
    }
    for (code, form, row) in rows.iter().filter(|(_, _, row)| row.differences > 0) {
        println!("\n== {code:?} {form:?}: {} of {} differ", row.differences, row.cases);
        row.found.iter().take(options.show).for_each(|found| println!("{}", found.text()));
        if let (Some(directory), Some(found)) = (&options.save, row.found.first()) {
            let path = format!("{directory}/{code:?}-{form:?}.case");
            if let Err(error) = std::fs::write(&path, to_file(&found.case)) {
                eprintln!("oracle: {path}: {error}");
            }
        }
    }
    let empty = rows.iter().filter(|(_, _, row)| row.cases == 0 || row.unbuilt > 0);
    let empty: Vec<_> = empty.map(|(code, form, _)| format!("{code:?} {form:?}")).collect();
    if !empty.is_empty() {
        println!("\nnot built, or no case could be made: {}", empty.join(", "));
    }
    let mut built: Vec<_> = rows.iter().filter(|r| r.2.cases > 0).map(|r| r.0 as u32).collect();
    built.dedup();
    println!(
        "seed {}: {} codes, {total} cases, {different} differences, {:.1} s",
        options.seed,
        built.len(),
        begin.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(different > 0 || !empty.is_empty()));
}

fn survey(options: &Options) -> Vec<(Code, Form, Row)> {
    let wanted = |code: &Code| {
        let name = format!("{code:?}");
        options.codes.is_empty() || options.codes.iter().any(|start| name.starts_with(start))
    };
    let mut work = Vec::new();
    for code in codes::candidates().into_iter().filter(wanted) {
        let (memory, registers) = codes::forms(code);
        work.extend(registers.then_some((code, Form::Registers)));
        work.extend(memory.then_some((code, Form::Memory)));
    }
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut sides = Sides::start().unwrap_or_else(|error| {
                    eprintln!("oracle: the processor's side: {error}");
                    std::process::exit(1);
                });
                while let Some(&(code, form)) = work.get(next.fetch_add(1, Relaxed)) {
                    match sides.survey(code, form, options.cases, options.seed) {
                        Ok(row) => {
                            if let Ok(mut rows) = rows.lock() {
                                rows.push((code, form, row));
                            }
                        }
                        Err(error) => eprintln!("oracle: {code:?}: {error}"),
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_default();
    rows.sort_by_key(|(code, form, _)| (*code as u32, *form as u32));
    rows
}

fn options() -> Result<Options, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    let mut options = Options {
        seed: clock,
        cases: 1000,
        codes: Vec::new(),
        table: false,
        threads: 1,
        show: 1,
        save: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            "--cases" => options.cases = number(value()?)? as usize,
            "--code" => options.codes.push(value()?),
            "--save" => options.save = Some(value()?),
            "--seed" => options.seed = number(value()?)?,
            "--show" => options.show = number(value()?)? as usize,
            "--table" => options.table = true,
            "--threads" => options.threads = number(value()?)?.max(1) as usize,
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(options)
}
