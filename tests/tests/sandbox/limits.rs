//! Programs that take more than they may are stopped, and the reason is the right one.

use std::{
    fs::File,
    io::Write,
    ops::ControlFlow,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use vmm_sandbox::{Builder, Cause, Outcome, Sandbox, State};

use crate::{can_run, native::make_executable, program};

fn greedy(what: &str) -> Builder {
    Sandbox::image(program!("greedy"))
        .hypervisor(crate::backend())
        .args(["greedy", what])
        .memory(16 << 20)
}

/// How it was killed, and how long that took.
fn killed(builder: Builder) -> (Cause, Duration) {
    let mut sandbox = builder.build().unwrap();
    let began = Instant::now();
    let outcome = sandbox.start().unwrap();
    let took = began.elapsed();
    let Outcome::Killed(cause) = outcome else { panic!("{outcome}") };
    assert_eq!(sandbox.state(), &State::Poisoned(cause.clone()));
    (cause, took)
}

#[test]
fn time_runs_out_in_loops_with_and_without_calls_and_in_waits() {
    if !can_run("time_runs_out_in_loops_with_and_without_calls_and_in_waits") {
        return;
    }
    let limit = Duration::from_millis(50);
    for what in ["spin", "call", "edit"] {
        let (cause, took) = killed(greedy(what).timeout(limit));
        assert_eq!(cause, Cause::TimedOut(limit), "{what}");
        assert!(took >= limit, "{what} after {took:?}");
        println!("{what}: {limit:?} is {took:?}");
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let (cause, took) = killed(greedy("read").stdin(OwnedFd::from(reader)).timeout(limit));
    assert_eq!(cause, Cause::TimedOut(limit));
    println!("read: {limit:?} is {took:?}");
    let (_reader, writer) = std::io::pipe().unwrap();
    let (cause, took) = killed(greedy("fill").stdout(OwnedFd::from(writer)).timeout(limit));
    assert_eq!(cause, Cause::TimedOut(limit));
    println!("write: {limit:?} is {took:?}");
}

#[test]
fn a_pipe_takes_what_is_read_and_ends_with_its_reader() {
    if !can_run("a_pipe_takes_what_is_read_and_ends_with_its_reader") {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut sandbox = greedy("fill").stdout(OwnedFd::from(writer)).build().unwrap();
    let thread = thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
    });
    assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
    drop(sandbox);
    assert_eq!(thread.join().unwrap().unwrap().len(), 300_000);

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut sandbox = greedy("fill").stdout(OwnedFd::from(writer)).build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Exited(libc::EPIPE));
}

#[test]
fn processor_time_runs_out_by_computing_and_not_by_waiting() {
    if !can_run("processor_time_runs_out_by_computing_and_not_by_waiting") {
        return;
    }
    let limit = Duration::from_millis(50);
    for what in ["spin", "call"] {
        let (cause, took) = killed(greedy(what).cpu_time(limit));
        assert_eq!(cause, Cause::CpuTime(limit), "{what}");
        // A host that counts processor time in ticks may be one ahead.
        assert!(took >= limit / 2, "{what} after {took:?}");
    }
    // A slow host must have the time to start a program.
    let began = Instant::now();
    greedy("read").build().unwrap().start().unwrap();
    let limit = limit + 20 * began.elapsed();
    let (reader, writer) = std::io::pipe().unwrap();
    let waiting = greedy("read").stdin(OwnedFd::from(reader)).cpu_time(limit);
    let mut sandbox = waiting.build().unwrap();
    let thread = thread::spawn(move || {
        thread::sleep(2 * limit);
        File::from(OwnedFd::from(writer)).write_all(b"*").unwrap();
    });
    assert_eq!(sandbox.start().unwrap(), Outcome::Exited(i32::from(b'*')));
    thread.join().unwrap();
}

#[test]
fn a_program_is_cancelled_from_another_thread() {
    if !can_run("a_program_is_cancelled_from_another_thread") {
        return;
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let read = greedy("read").stdin(OwnedFd::from(reader));
    let (_reader, writer) = std::io::pipe().unwrap();
    let write = greedy("fill").stdout(OwnedFd::from(writer));
    for builder in [greedy("spin"), greedy("call"), greedy("edit"), read, write] {
        let mut sandbox = builder.build().unwrap();
        let canceller = sandbox.canceller();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            canceller.cancel();
        });
        assert_eq!(sandbox.start().unwrap(), Outcome::Killed(Cause::Cancelled));
        thread.join().unwrap();
    }
    let mut sandbox = greedy("spin").build().unwrap();
    let canceller = sandbox.canceller();
    canceller.cancel();
    assert_eq!(sandbox.start().unwrap(), Outcome::Killed(Cause::Cancelled));
    drop(sandbox);
    canceller.cancel();
}

#[test]
fn a_program_that_may_be_interrupted_is_asked_for_and_goes_on_or_not() {
    if !can_run("a_program_that_may_be_interrupted_is_asked_for_and_goes_on_or_not") {
        return;
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let read = greedy("read").stdin(OwnedFd::from(reader));
    for builder in [greedy("spin"), greedy("call"), greedy("edit"), read] {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let ask = move || match count.fetch_add(1, SeqCst) {
            0..3 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        assert_eq!(killed(builder.interruptible(ask)).0, Cause::Interrupted);
        assert_eq!(asked.load(SeqCst), 4, "once it is refused nobody is asked again");
    }
    let panics = greedy("spin").interruptible(|| panic!("as a closure may"));
    assert_eq!(killed(panics).0, Cause::Interrupted);

    let (reader, writer) = std::io::pipe().unwrap();
    let writer = File::from(OwnedFd::from(writer));
    let reads = greedy("read").stdin(OwnedFd::from(reader)).interruptible(move || {
        (&writer).write_all(b"*").unwrap();
        ControlFlow::Continue(())
    });
    assert_eq!(reads.build().unwrap().start().unwrap(), Outcome::Exited(i32::from(b'*')));
}

#[test]
fn output_and_memory_run_out() {
    if !can_run("output_and_memory_run_out") {
        return;
    }
    let mut sandbox = greedy("write").output_limit(100_001).build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Killed(Cause::Output(100_001)));
    let text = sandbox.take_stdout();
    assert_eq!(text.len(), 100_001);
    assert!(text.starts_with(b"more and more and more\nmore"));

    let mut sandbox = greedy("memory").build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
    let got: u64 = String::from_utf8(sandbox.take_stdout()).unwrap().trim().parse().unwrap();
    assert!((10..16).contains(&got), "{got} of 16 MiB");
    assert!(sandbox.statistics().memory <= 16 << 20);
}

#[test]
fn what_no_program_may_do_kills_it_with_the_reason() {
    if !can_run("what_no_program_may_do_kills_it_with_the_reason") {
        return;
    }
    for (what, says) in [
        ("null", "read of memory that may not be at address 0x0"),
        ("code", "write to memory that may not be"),
        ("data", "execution of memory that may not be"),
        ("stub", "write to memory that may not be at address 0x7fffffff0000"),
        ("ring0", "read of memory that may not be at address 0x7fffffff1000"),
        ("tables", "read of memory that may not be at address 0x7f0000000000"),
        ("stack", "write to memory that may not be at address 0x7e"),
        ("halt", "general protection fault"),
        ("port", "general protection fault by the instruction at 0x40"),
        ("undefined", "invalid instruction"),
        ("breakpoint", "breakpoint"),
        ("interrupt", ""),
        ("divide", "division error"),
        ("step", ""),
        ("enter", ""),
        ("abort", "signal 6"),
    ] {
        let (cause, _) = killed(greedy(what).timeout(Duration::from_secs(60)));
        println!("{what}: {cause}");
        assert!(cause.to_string().contains(says), "{what}: {cause}");
    }
}

/// Whether this processor ends the program on its own, outside of a sandbox.
fn ends_natively(what: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greedy");
    make_executable(&path, program!("greedy"));
    Command::new(&path).arg(what).status().unwrap().signal().is_some()
}

/// QEMU's processor, for one, checks no alignment and knows no errors of vectors.
#[test]
fn what_this_processor_has_exceptions_for_kills_a_program_too() {
    if !can_run("what_this_processor_has_exceptions_for_kills_a_program_too") {
        return;
    }
    for (what, says) in [
        ("unaligned", "unaligned access"),
        ("vectors", "SIMD floating-point error"),
        ("x87", "x87 floating-point error"),
        ("address", "general protection fault"),
        // Of the stack segment, or a general one.
        ("push", ""),
    ] {
        if !ends_natively(what) {
            println!("{what}: not on this processor");
            continue;
        }
        let (cause, _) = killed(greedy(what).timeout(Duration::from_secs(60)));
        println!("{what}: {cause}");
        assert!(cause.to_string().contains(says), "{what}: {cause}");
    }
}
