//! Ring 0 of a sandbox gains nothing: what it changes of the stub and of the processor ends the
//! program, with a reason, and nobody else notices.

use std::time::Duration;

use vmm_sandbox::{Outcome, Sandbox, testing};

use crate::{can_run, program};

const ATTACKS: u64 = 15;

fn ready() -> Sandbox {
    let mut sandbox = Sandbox::image(program!("ring0"))
        .hypervisor(crate::backend())
        .memory(16 << 20)
        // Long enough for a busy host to start a program.
        .timeout(Duration::from_secs(4))
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox
}

#[test]
fn whatever_ring_0_does_its_run_ends_and_others_go_on() {
    if !can_run("whatever_ring_0_does_its_run_ends_and_others_go_on") {
        return;
    }
    let mut neighbour = ready();
    for which in 0..ATTACKS {
        let mut sandbox = ready();
        // That of a back end that cannot go on is an error, and has its words too.
        let ended = testing::ring0(&mut sandbox, "attack", which);
        let said = ended.unwrap_or_else(|error| error.to_string());
        println!("{which}: {said}");
        assert!(
            !said.is_empty() && !said.contains("ready") && !said.contains("returned"),
            "{said}"
        );
        drop(sandbox);
        assert_eq!(neighbour.call::<i64>("answer", (21_i64,)).unwrap(), 42, "after {which}");
    }
}
