//! Snapshots, forks and resets: nothing passes between sandboxes, and all of one comes back.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use vmm_core::ErrorKind;
use vmm_sandbox::{Access, Outcome, Sandbox, Snapshot, State};

use crate::{can_run, program};

/// What the program writes before it is ready, as one number.
fn hash(sandbox: &mut Sandbox) -> u64 {
    sandbox.call("hash", ()).unwrap()
}

fn warm() -> Sandbox {
    let mut sandbox = Sandbox::image(program!("warm"))
        .hypervisor(crate::backend())
        .host_fn("add", |n: i64| n + 1)
        .stdin("first\nsecond\n")
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox
}

#[test]
fn what_parent_and_children_write_reaches_nobody_else() {
    if !can_run("what_parent_and_children_write_reaches_nobody_else") {
        return;
    }
    let mut parent = warm();
    let before = hash(&mut parent);
    let snapshot = parent.snapshot().unwrap();
    let mut child = snapshot.fork().unwrap();
    let mut sibling = snapshot.fork().unwrap();
    parent.call::<()>("rewrite", (2_i64,)).unwrap();
    let parents = hash(&mut parent);
    assert_ne!(parents, before);
    assert_eq!(hash(&mut child), before, "the parent's writes");
    child.call::<()>("rewrite", (3_i64,)).unwrap();
    let childs = hash(&mut child);
    assert!(childs != before && childs != parents);
    assert_eq!((hash(&mut parent), hash(&mut sibling)), (parents, before), "the child's writes");
    drop(parent);
    assert_eq!(hash(&mut snapshot.fork().unwrap()), before, "after the parent");
}

#[test]
fn forks_of_forks_go_on_where_their_parents_stood() {
    if !can_run("forks_of_forks_go_on_where_their_parents_stood") {
        return;
    }
    let mut generations = vec![warm()];
    let mut hashes = vec![hash(&mut generations[0])];
    for generation in 1..=5 {
        let parent = generations.last_mut().unwrap();
        let mut child = parent.snapshot().unwrap().fork().unwrap();
        assert_eq!(hash(&mut child), *hashes.last().unwrap());
        assert_eq!(child.call::<i64>("count", ()).unwrap(), generation);
        child.call::<()>("touch", (100 * generation,)).unwrap();
        assert_eq!(child.call::<i64>("churn", (20_i64,)).unwrap(), 0, "{generation}");
        hashes.push(0);
        generations.push(child);
        // What it let go of is not part of the hash that the next one compares.
        let last = generations.pop().unwrap();
        let mut last = remapped(last);
        *hashes.last_mut().unwrap() = hash(&mut last);
        generations.push(last);
    }
    for (sandbox, before) in generations.iter_mut().zip(&hashes) {
        assert_eq!(hash(sandbox), *before);
    }
}

/// Maps again what `churn` has taken from the middle.
fn remapped(mut sandbox: Sandbox) -> Sandbox {
    assert_eq!(sandbox.call::<i64>("mend", ()).unwrap(), 0);
    sandbox
}

#[test]
fn a_reset_puts_everything_back() {
    if !can_run("a_reset_puts_everything_back") {
        return;
    }
    let mut parent = warm();
    let before = hash(&mut parent);
    let snapshot = parent.snapshot().unwrap();
    let child = snapshot.fork().unwrap();
    for mut sandbox in [child, parent] {
        for round in 0..4 {
            let used = sandbox.statistics().memory;
            let deeds: [&dyn Fn(&mut Sandbox); 9] = [
                &|s| s.call::<()>("nothing", ()).unwrap(),
                &|s| s.call::<()>("touch", (16_i64,)).unwrap(),
                &|s| s.call::<()>("touch", (2000_i64,)).unwrap(),
                &|s| s.call::<()>("rewrite", (9_i64,)).unwrap(),
                &|s| assert_eq!(s.call::<i64>("churn", (200_i64,)).unwrap(), 0),
                &|s| assert_eq!(s.call::<i64>("scatter", (3_i64,)).unwrap(), 3),
                &|s| assert_eq!(s.call::<i64>("scatter", (60_i64,)).unwrap(), 60),
                &|s| assert_eq!(s.call::<i64>("set_thread_pointer", ()).unwrap(), 0),
                &|s| assert!(s.call::<i64>("die", ()).is_err()),
            ];
            for (n, deed) in deeds.iter().enumerate() {
                deed(&mut sandbox);
                sandbox.reset(&snapshot).unwrap();
                assert_eq!(hash(&mut sandbox), before, "deed {n} of round {round}");
                assert_eq!(sandbox.call::<i64>("count", ()).unwrap(), 1);
                let error = sandbox.call::<i64>("peek", (0_i64,)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Poisoned, "deed {n}: {error}");
                sandbox.reset(&snapshot).unwrap();
            }
            assert!(sandbox.statistics().memory.abs_diff(used) <= 16 * 4096);
        }
    }
}

#[test]
fn page_tables_that_a_reset_left_are_in_the_next_snapshot() {
    if !can_run("page_tables_that_a_reset_left_are_in_the_next_snapshot") {
        return;
    }
    let first = warm().snapshot().unwrap();
    let mut child = first.fork().unwrap();
    assert_eq!(child.call::<i64>("scatter", (3_i64,)).unwrap(), 3);
    child.reset(&first).unwrap();
    let second = child.snapshot().unwrap();
    for mut sandbox in [child, second.fork().unwrap()] {
        assert_eq!(sandbox.call::<i64>("scatter", (3_i64,)).unwrap(), 3);
        assert_eq!(sandbox.call::<i64>("peek", (2_i64,)).unwrap(), 1);
    }
}

#[test]
fn a_reset_revives_what_has_ended_and_goes_to_any_snapshot() {
    if !can_run("a_reset_revives_what_has_ended_and_goes_to_any_snapshot") {
        return;
    }
    let mut sandbox = warm();
    let canceller = sandbox.canceller();
    let first = sandbox.snapshot().unwrap();
    let before = hash(&mut sandbox);
    sandbox.call::<()>("touch", (50_i64,)).unwrap();
    let after = hash(&mut sandbox);
    let second = sandbox.snapshot().unwrap();
    assert_eq!(sandbox.call::<i64>("leave", ()).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(*sandbox.state(), State::Exited(3));
    assert_eq!(sandbox.snapshot().unwrap_err().kind(), ErrorKind::WrongState);
    for (snapshot, wanted) in
        [(&first, before), (&second, after), (&second, after), (&first, before)]
    {
        sandbox.reset(snapshot).unwrap();
        assert_eq!(hash(&mut sandbox), wanted);
    }
    // A cancellation ends what it was meant for, and nothing after a reset.
    canceller.cancel();
    sandbox.reset(&second).unwrap();
    assert_eq!(hash(&mut sandbox), after);
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        canceller.cancel();
    });
    assert_eq!(sandbox.call::<i64>("spin", ()).unwrap_err().kind(), ErrorKind::Poisoned);
    stopper.join().unwrap();
    sandbox.reset(&second).unwrap();
    assert_eq!(hash(&mut sandbox), after);
}

#[test]
fn a_new_program_is_forked_before_it_has_begun() {
    if !can_run("a_new_program_is_forked_before_it_has_begun") {
        return;
    }
    let new = Sandbox::image(program!("warm")).hypervisor(crate::backend()).build();
    let snapshot = new.unwrap().snapshot().unwrap();
    assert_eq!(*snapshot.state(), State::New);
    for _ in 0..2 {
        let mut child = snapshot.fork().unwrap();
        assert_eq!(child.start().unwrap(), Outcome::Ready);
        assert_eq!(child.take_stdout(), b"warm\n");
        assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
        child.reset(&snapshot).unwrap();
        assert_eq!(child.start().unwrap(), Outcome::Ready);
    }
}

#[test]
fn a_fork_has_an_identity_and_streams_of_its_own() {
    if !can_run("a_fork_has_an_identity_and_streams_of_its_own") {
        return;
    }
    let mut parent = warm();
    assert_eq!(parent.identity(), [0; 16]);
    let line = |sandbox: &mut Sandbox| {
        let mut text = [0_u8; 16];
        let len: u64 = sandbox.call("line", (text.as_mut_slice(),)).unwrap();
        String::from_utf8(text[..len as usize].to_vec()).unwrap()
    };
    assert_eq!(line(&mut parent), "first");
    let uptime: i64 = parent.call("uptime", ()).unwrap();
    let snapshot = parent.snapshot().unwrap();
    let (mut identities, mut numbers) = (vec![parent.identity()], vec![]);
    let mut child = snapshot.fork().unwrap();
    for _ in 0..3 {
        let mut seen = [0_u8; 16];
        child.call::<()>("identity", (seen.as_mut_slice(),)).unwrap();
        assert_eq!(seen, child.identity());
        identities.push(seen);
        numbers.push(child.call::<i64>("random_number", ()).unwrap());
        assert_eq!(line(&mut child), "second");
        assert_eq!(child.take_stdout(), b"");
        child.call::<()>("say", ("mine",)).unwrap();
        assert_eq!(child.take_stdout(), b"mine\n");
        child.call::<()>("say", ("forgotten",)).unwrap();
        assert_eq!(child.call::<i64>("call_host", (41_i64,)).unwrap(), 42);
        assert!(child.call::<i64>("uptime", ()).unwrap() > uptime);
        child.reset(&snapshot).unwrap();
    }
    identities.sort_unstable();
    identities.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((identities.len(), numbers.len()), (4, 3));
    assert_eq!(line(&mut parent), "second");
    assert_eq!(parent.take_stdout(), b"warm\n");
}

#[test]
fn files_in_memory_belong_to_one_sandbox() {
    if !can_run("files_in_memory_belong_to_one_sandbox") {
        return;
    }
    let mut parent = warm();
    let snapshot = parent.snapshot().unwrap();
    let mut child = snapshot.fork().unwrap();
    assert_eq!(parent.call::<i64>("log_line", ("parent",)).unwrap(), 14);
    assert_eq!(child.call::<i64>("log_length", ()).unwrap(), 8);
    for _ in 0..2 {
        assert_eq!(child.call::<i64>("log_line", ("a child's\n",)).unwrap(), 18);
        assert_eq!(child.call::<i64>("through_pipe", (7_i64,)).unwrap(), 7);
        assert_eq!(child.call::<i64>("remove_log", ()).unwrap(), 0);
        assert_eq!(child.call::<i64>("log_length", ()).unwrap(), -2);
        assert_eq!(child.call::<i64>("log_line", ("it is still open",)).unwrap(), 34);
        child.reset(&snapshot).unwrap();
    }
    assert_eq!(parent.call::<i64>("log_length", ()).unwrap(), 14);
}

#[test]
fn files_of_the_host_are_opened_anew() {
    if !can_run("files_of_the_host_are_opened_anew") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut parent = Sandbox::image(program!("warm"))
        .hypervisor(crate::backend())
        .mount(directory.path(), "/tmp", Access::ReadWrite)
        .build()
        .unwrap();
    assert_eq!(parent.start().unwrap(), Outcome::Ready);
    let snapshot = parent.snapshot().unwrap();
    let mut child = snapshot.fork().unwrap();
    assert_eq!(parent.call::<i64>("log_line", ("parent\n",)).unwrap(), 15);
    assert_eq!(child.call::<i64>("log_line", ("child\n",)).unwrap(), 21);
    child.reset(&snapshot).unwrap();
    drop(parent);
    assert_eq!(child.call::<i64>("log_line", ("again\n",)).unwrap(), 27);
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(log, "started\nparent\nchild\nagain\n");
}

#[test]
fn a_computation_goes_on_from_wherever_it_was_snapshot() {
    if !can_run("a_computation_goes_on_from_wherever_it_was_snapshot") {
        return;
    }
    let soft = crate::backend().name() == "soft";
    let (rounds, moments) = if soft { ("8", 20) } else { ("40", 100) };
    let moments = if crate::is_long() { 100 } else { moments };
    let new = || {
        let builder = Sandbox::image(program!("compute")).args(["compute", rounds]);
        builder.hypervisor(crate::backend()).build().unwrap()
    };
    let mut plain = new();
    let begun = Instant::now();
    assert_eq!(plain.start().unwrap(), Outcome::Exited(0));
    let (whole, result) = (begun.elapsed(), plain.take_stdout());
    let finish = |mut sandbox: Sandbox| {
        assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
        assert_eq!(sandbox.take_stdout(), result);
    };
    // The moments are spread over the run, whatever this host makes of its length.
    let mut step = whole.mul_f64(0.9) / 10;
    let mut taken = 0;
    while taken < moments {
        let mut sandbox = new();
        let canceller = sandbox.canceller();
        let taken_before = taken;
        let interrupter = thread::spawn(move || {
            for _ in 0..10 {
                thread::sleep(step);
                canceller.interrupt();
            }
        });
        let outcome = loop {
            match sandbox.start() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    let snapshot = sandbox.snapshot().unwrap();
                    finish(snapshot.fork().unwrap());
                    taken += 1;
                }
                outcome => break outcome.unwrap(),
            }
        };
        assert_eq!(outcome, Outcome::Exited(0));
        assert_eq!(sandbox.take_stdout(), result);
        interrupter.join().unwrap();
        if taken == taken_before {
            // The run that was timed had less of the processor than this one.
            step /= 2;
        }
    }
}

#[test]
fn threads_fork_and_reset_at_once() {
    if !can_run("threads_fork_and_reset_at_once") {
        return;
    }
    let mut parent = warm();
    let before = hash(&mut parent);
    let snapshot = parent.snapshot().unwrap();
    let (begun, forks) = (Instant::now(), AtomicU64::new(0));
    let long = Duration::from_secs(if crate::is_long() { 60 } else { 0 });
    thread::scope(|scope| {
        for number in 0..8_i64 {
            let (snapshot, forks): (&Snapshot, _) = (&snapshot, &forks);
            scope.spawn(move || {
                let mut own = 0;
                while own < 3 || begun.elapsed() < long {
                    own += 1;
                    forks.fetch_add(1, Relaxed);
                    let mut child = snapshot.fork().unwrap();
                    for round in 0..4 {
                        child.call::<()>("touch", (number * 10 + round,)).unwrap();
                        assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
                        child.reset(snapshot).unwrap();
                    }
                    assert_eq!(hash(&mut child), before);
                }
            });
        }
        parent.call::<()>("rewrite", (5_i64,)).unwrap();
    });
    println!("{} forks by 8 threads", forks.into_inner());
}
