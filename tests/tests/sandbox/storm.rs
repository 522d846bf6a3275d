//! Programs that make calls without sense hurt nobody but themselves.

use std::{
    fs,
    time::{Duration, Instant},
};

use vmm_sandbox::{Cause, Outcome, Sandbox};

use crate::{can_run, program};

/// A run may wait for ever in a call; then its time is up.
const PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn calls_without_sense_end_in_an_outcome() {
    if !can_run("calls_without_sense_end_in_an_outcome") {
        return;
    }
    let (mut ended, mut killed, mut calls) = (0, 0, 0);
    for seed in 0..20 {
        let arguments = ["storm".into(), seed.to_string(), "1500".into()];
        let builder = Sandbox::image(program!("storm"))
            .hypervisor(crate::backend())
            .memory(16 << 20)
            .timeout(PATIENCE);
        let mut sandbox = builder.args(arguments).build().unwrap();
        let began = Instant::now();
        match sandbox.start().unwrap() {
            Outcome::Exited(_) => ended += 1,
            Outcome::Killed(cause @ (Cause::Fault(_) | Cause::Signal(_) | Cause::TimedOut(_))) => {
                killed += 1;
                println!("seed {seed}: {cause}");
            }
            outcome => panic!("seed {seed}: {outcome}"),
        }
        assert!(began.elapsed() < 100 * PATIENCE, "seed {seed} took {:?}", began.elapsed());
        let statistics = sandbox.statistics();
        assert!(statistics.memory <= 16 << 20, "seed {seed}: {statistics:?}");
        calls += statistics.system_calls;
    }
    println!("{ended} came to their end, {killed} did not, after {calls} calls");
    assert!(calls > 3_000);
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(descriptors < 200, "{descriptors} descriptors are open");
}
