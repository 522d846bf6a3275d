//! Who may do what to a machine when: the phases of a run, and stopping it from elsewhere.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::ThreadId,
};

use super::Outcome;
use crate::{
    error::{Error, ErrorKind, Result},
    hv::Kicker,
    process::Owner,
};

/// What a machine and its handles share. Its lock is held for a few instructions and never while
/// another is taken.
#[derive(Debug)]
pub(super) struct Control {
    phase: Mutex<Phase>,
    /// Set once: a machine that was stopped stays so.
    stopped: AtomicBool,
    /// This run has its outcome; vCPUs come out.
    ending: AtomicBool,
    kickers: OnceLock<Vec<Kicker>>,
    owner: Owner,
}

#[derive(Debug, Default)]
struct Phase {
    running: bool,
    /// The threads inside this run, to tell a call from a callback.
    threads: Vec<ThreadId>,
    /// The first reason a vCPU gave.
    outcome: Option<Result<Outcome>>,
    /// Why there will be no further run.
    ended: Option<String>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            phase: Mutex::default(),
            stopped: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            kickers: OnceLock::new(),
            owner: Owner::current(),
        }
    }

    /// Tells whom to kick, once the vCPUs exist.
    pub(super) fn set_kickers(&self, kickers: Vec<Kicker>) {
        let first = self.kickers.set(kickers).is_ok();
        debug_assert!(first, "a machine is built once");
    }

    /// Starts a run, if there may be one.
    pub(super) fn begin(&self) -> Result<()> {
        self.owner.check()?;
        let mut phase = self.phase();
        if phase.running {
            let inside = phase.threads.contains(&std::thread::current().id());
            return Err(match inside {
                true => {
                    Error::new(ErrorKind::InCallback, "run() from a callback of the machine's own")
                }
                false => Error::wrong_state("the machine is being run by another thread"),
            });
        }
        if let Some(why) = &phase.ended {
            return Err(Error::wrong_state(format!("the machine cannot be run again: {why}")));
        }
        if self.stopped.load(SeqCst) {
            return Err(Error::wrong_state("the machine cannot be run: it was stopped"));
        }
        phase.running = true;
        phase.outcome = None;
        self.ending.store(false, SeqCst);
        Ok(())
    }

    /// Puts the calling thread on record as part of the run until the result is dropped.
    pub(super) fn join(&self) -> Joined<'_> {
        self.phase().threads.push(std::thread::current().id());
        Joined(self)
    }

    /// Whether vCPUs shall come out.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(SeqCst) || self.stopped.load(SeqCst)
    }

    /// Ends the run with `outcome`, unless it has one already, and gets every vCPU out.
    pub(super) fn end(&self, outcome: Result<Outcome>) {
        let mut phase = self.phase();
        // The first reason counts, but one that ends the machine goes before one after which it
        // could run on.
        let counts = |known: &Result<Outcome>| may_go_on(known) && !may_go_on(&outcome);
        if phase.outcome.as_ref().is_none_or(counts) {
            phase.outcome = Some(outcome);
        }
        drop(phase);
        self.ending.store(true, SeqCst);
        self.kick();
    }

    /// Closes the run: its outcome, and whether there may be another.
    pub(super) fn finish(&self) -> Result<Outcome> {
        let mut phase = self.phase();
        phase.running = false;
        let stopped = self.stopped.load(SeqCst);
        let outcome = phase.outcome.take().filter(|outcome| !(stopped && may_go_on(outcome)));
        let outcome = outcome.unwrap_or(Ok(Outcome::Stopped));
        phase.ended = match &outcome {
            outcome if may_go_on(outcome) => None,
            Ok(outcome) => Some(outcome.to_string()),
            Err(error) => Some(error.to_string()),
        };
        outcome
    }

    fn stop(&self) -> Result<()> {
        self.owner.check()?;
        self.stopped.store(true, SeqCst);
        self.kick();
        Ok(())
    }

    fn kick(&self) {
        self.kickers.get().into_iter().flatten().for_each(Kicker::kick);
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the machine can be run on after this outcome.
fn may_go_on(outcome: &Result<Outcome>) -> bool {
    match outcome {
        Ok(outcome) => *outcome == Outcome::Halted,
        Err(error) => error.kind() == ErrorKind::Interrupted,
    }
}

/// A thread on record as part of a run.
pub(super) struct Joined<'a>(&'a Control);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let me = std::thread::current().id();
        self.0.phase().threads.retain(|thread| *thread != me);
    }
}

/// Stops a machine from any thread, and from its own devices.
///
/// Cheap to clone. It does not keep the machine: once that is dropped, the handle has nothing to
/// do.
#[derive(Clone)]
pub struct Handle(Weak<Control>);

impl Handle {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self(Arc::downgrade(control))
    }

    /// Ends the machine: [`run`](super::Machine::run) returns [`Outcome::Stopped`], typically
    /// within a millisecond, and no further run is possible.
    ///
    /// Only sets a flag and kicks, so a device may call it; it takes effect when the device
    /// returns.
    ///
    /// # Errors
    /// `WrongProcess` after `fork()`.
    pub fn stop(&self) -> Result<()> {
        self.0.upgrade().map_or(Ok(()), |control| control.stop())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.strong_count() > 0 { "Handle" } else { "Handle(machine is gone)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted() -> Result<Outcome> {
        Err(Error::new(ErrorKind::Interrupted, "a signal"))
    }

    #[test]
    fn an_outcome_that_ends_the_machine_goes_before_one_that_does_not() {
        let control = Control::new();
        control.begin().unwrap();
        control.end(interrupted());
        control.end(Ok(Outcome::PowerOff(7)));
        control.end(Ok(Outcome::Reset));
        assert_eq!(control.finish().unwrap(), Outcome::PowerOff(7));
        assert_eq!(control.begin().unwrap_err().kind(), ErrorKind::WrongState);
    }

    #[test]
    fn a_stop_during_an_interrupted_run_stops_it() {
        let control = Control::new();
        control.begin().unwrap();
        control.end(interrupted());
        control.stop().unwrap();
        assert_eq!(control.finish().unwrap(), Outcome::Stopped);
    }
}
