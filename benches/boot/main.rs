//! What a program that boots a guest takes from its start to a line of the guest's, and the memory
//! it holds then.
//!
//! It knows nothing of virtual machines but the kernel's tracepoint for their start.
//! `benches/boot/run` describes programs to it and runs it in the counted lab, where a nanosecond
//! is an instruction.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program to be looked at; what cannot be measured ends it"
)]

mod floor;
mod program;

use std::{env, fs};

use self::program::{Program, Run};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let [line, runs, programs, kernel] = arguments.as_slice() else {
        println!("boot: skipped: it is benches/boot/run that starts this, in the lab");
        return;
    };
    let runs: usize = runs.parse().unwrap();
    let programs = fs::read_to_string(programs).unwrap();
    let programs: Vec<Program> = programs.lines().map(Program::parse).collect();
    boots(&programs, line, runs);
    let [ours, ..] = programs.as_slice() else { return };
    println!();
    let entries: Vec<f64> = (0..runs).map(|_| ours.until_first_entry(line)).collect();
    let floors: Vec<f64> = (0..runs).map(|_| floor::map_and_read(kernel)).collect();
    let (entry, floor) = (median(&entries), median(&floors));
    println!("{}, to the first KVM_RUN: {:.1} M", ours.name, entry / 1e6);
    println!("map RAM, read the kernel's segments: {:.1} M", floor / 1e6);
    println!("what is beyond 1.1 times that: {:.1} M", (entry - 1.1 * floor) / 1e6);
    println!("\n{}, exits of a whole run:", ours.name);
    print!("{}", ours.statistics());
}

/// A table of all programs, started in turn, so that all see the same host.
fn boots(programs: &[Program], line: &str, runs: usize) {
    println!(
        "{:<28} {:>4} {:>10} {:>10} {:>10} {:>9} {:>9}",
        "to init's first line", "n", "median M", "least M", "most M", "RSS MiB", "own MiB"
    );
    let mut results: Vec<Vec<Run>> = programs.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (program, results) in programs.iter().zip(&mut results) {
            results.push(program.run(line));
        }
    }
    for (program, runs) in programs.iter().zip(&results) {
        let times: Vec<f64> = runs.iter().map(|run| run.nanoseconds / 1e6).collect();
        let (least, most) = (least(&times), -least(&times.iter().map(|t| -t).collect::<Vec<_>>()));
        let all = median(&runs.iter().map(|run| run.memory.all as f64).collect::<Vec<_>>());
        let own = median(&runs.iter().map(|run| run.memory.own as f64).collect::<Vec<_>>());
        // Not all of them mark guest RAM.
        let own = if own < all { format!("{:.1}", own / 1024.0) } else { String::new() };
        println!(
            "{:<28} {:>4} {:>10.1} {least:>10.1} {most:>10.1} {:>9.1} {own:>9}",
            program.name,
            runs.len(),
            median(&times),
            all / 1024.0,
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}
