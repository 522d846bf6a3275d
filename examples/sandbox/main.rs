//! Runs a static Linux program in a sandbox, with the caller's standard streams.
//!
//! `cargo run --example sandbox -- --help` has the options. The sandbox is described in
//! [`describe`]; the rest is what makes a command of it: [`options`], the status, and signals.

#[path = "../arguments/mod.rs"]
mod arguments;
mod options;

use std::{
    env,
    error::Error,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use vmm_core::host::{self, Need};
use vmm_sandbox::{Access, Canceller, Cause, Outcome, Sandbox};

use self::options::{Backend, Options, Request};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The statuses that are not the program's: as of `timeout` and of `env`.
const TIMED_OUT: u8 = 124;
const FAILED: u8 = 125;
const SIGNALLED: i32 = 128;

/// How long the main thread has to end the command in good order.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let status = start().unwrap_or_else(|error| {
        say(error);
        FAILED
    });
    ExitCode::from(status)
}

fn start() -> Result<u8> {
    match options::parse(env::args_os().skip(1))? {
        Request::Run(options) => run(&options),
        Request::Help => {
            io::stdout().write_all(options::help().as_bytes())?;
            Ok(0)
        }
    }
}

fn run(options: &Options) -> Result<u8> {
    let mut sandbox = describe(options)?;
    let signal = cancel_on_signals(sandbox.canceller())?;
    let outcome = sandbox.start()?;
    if options.stats {
        print_statistics(&sandbox);
    }
    match (outcome, signal.load(SeqCst)) {
        (Outcome::Killed(Cause::Cancelled), signal) if signal != 0 => die_of(signal),
        (outcome, _) => Ok(status(&outcome)),
    }
}

fn describe(options: &Options) -> Result<Sandbox> {
    let mut sandbox = Sandbox::program(&options.program)
        .args(options.arguments.iter().cloned())
        .memory(options.memory << 20)
        .stdin(owned(io::stdin())?)
        .stdout(owned(io::stdout())?)
        .stderr(owned(io::stderr())?)
        .output_limit(u64::MAX);
    for (name, value) in &options.environment {
        sandbox = sandbox.env(name.as_str(), value.as_str());
    }
    for grant in &options.grants {
        let access = if grant.writable { Access::ReadWrite } else { Access::ReadOnly };
        sandbox = sandbox.mount(&grant.directory, grant.at.as_str(), access);
    }
    if let Some(timeout) = options.timeout {
        sandbox = sandbox.timeout(Duration::from_millis(timeout));
    }
    let chosen = match options.backend {
        Backend::Auto => host::best(Need::Program)?,
        Backend::Kvm => host::named("kvm")?,
        Backend::Soft => host::named("soft")?,
    };
    sandbox = sandbox.hypervisor(chosen);
    Ok(sandbox.build()?)
}

fn owned(stream: impl AsFd) -> Result<OwnedFd> {
    Ok(stream.as_fd().try_clone_to_owned()?)
}

/// Stops the sandbox when a signal asks for the end; gives where that signal will be found.
fn cancel_on_signals(canceller: Canceller) -> Result<Arc<AtomicI32>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let came = Arc::new(AtomicI32::new(0));
    let shared = Arc::clone(&came);
    // It waits for ever if none comes, and ends with the process.
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            shared.store(signal, SeqCst);
            canceller.cancel();
            thread::sleep(GRACE);
            // The main thread is stuck, for instance in a write to a pipe that nobody reads.
            die_of(signal);
        }
    })?;
    Ok(came)
}

/// Ends the process by a signal that was handled, so that whoever waits for it sees that.
fn die_of(signal: i32) -> ! {
    let _ = emulate_default_handler(signal);
    process::abort()
}

/// The status that stands for an outcome; says why if it is not the program's own.
fn status(outcome: &Outcome) -> u8 {
    let status = match outcome {
        Outcome::Exited(status) => return u8::try_from(*status).unwrap_or(FAILED),
        Outcome::Killed(Cause::Signal(signal)) => SIGNALLED + signal,
        Outcome::Killed(Cause::Fault(fault)) => SIGNALLED + fault.signal,
        Outcome::Killed(Cause::TimedOut(_)) => i32::from(TIMED_OUT),
        _ => i32::from(FAILED),
    };
    say(outcome);
    u8::try_from(status).unwrap_or(FAILED)
}

fn print_statistics(sandbox: &Sandbox) {
    let statistics = sandbox.statistics();
    let (memory, calls) = (statistics.memory >> 10, statistics.system_calls);
    say(format_args!("{memory} KiB of memory, {calls} system calls"));
    for (name, count) in statistics.unknown_calls {
        say(format_args!("system call {name}, not known here: {count}"));
    }
}

/// Nothing is lost if nobody listens.
fn say(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "sandbox: {what}");
}
