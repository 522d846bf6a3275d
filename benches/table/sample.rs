//! Samples, pairs and rows.

use std::time::{Duration, Instant};

/// Nanoseconds per operation, one value a sample.
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Takes `n` samples of `run` after one that is thrown away.
    pub(crate) fn take(n: usize, mut run: impl FnMut() -> f64) -> Self {
        run();
        Self((0..n).map(|_| run()).collect())
    }

    /// Values that were measured one by one.
    pub(crate) fn of(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// The sample that such a part of all is not greater than.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * part) as usize]
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }

    fn p99(&self) -> f64 {
        self.at(0.99)
    }
}

/// Takes `n` pairs of samples, one of each in turn, so that both see the same host.
pub(crate) fn pairs(
    n: usize,
    mut ours: impl FnMut() -> f64,
    mut bare: impl FnMut() -> f64,
) -> (Samples, Samples) {
    ours();
    bare();
    let both: Vec<_> = (0..n).map(|_| (ours(), bare())).collect();
    (Samples(both.iter().map(|p| p.0).collect()), Samples(both.iter().map(|p| p.1).collect()))
}

/// The time of `work` in nanoseconds.
pub(crate) fn nanoseconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_nanos() as f64
}

pub(crate) fn print_head() {
    println!();
    println!(
        "{:<44} {:>6} {:>11} {:>11} {:>11} {:>11} {:>6}",
        "what", "n", "median", "p99", "bare median", "bare p99", "ratio"
    );
}

/// A row with nothing to compare to.
pub(crate) fn print(what: &str, samples: &Samples) {
    let n = samples.0.len();
    println!("{what:<44} {n:>6} {:>11} {:>11}", time(samples.median()), time(samples.p99()));
}

/// A row of two that were measured in pairs; the ratio is the median of the pairs' ratios.
pub(crate) fn print_pair(what: &str, (ours, bare): &(Samples, Samples)) {
    let ratios = Samples(ours.0.iter().zip(&bare.0).map(|(ours, bare)| ours / bare).collect());
    println!(
        "{what:<44} {:>6} {:>11} {:>11} {:>11} {:>11} {:>6.3}",
        ours.0.len(),
        time(ours.median()),
        time(ours.p99()),
        time(bare.median()),
        time(bare.p99()),
        ratios.median()
    );
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e4 => format!("{n:.1} ns"),
        n => format!("{:.1?}", Duration::from_nanos(n as u64)),
    }
}
