//! Who may do what to a machine when: the phases of a run, stopping and pausing it from elsewhere.
//!
//! What works inside a run, a vCPU or the reactor, is a *runner*: it is admitted, works, and steps
//! back when it is called. While the machine is held, none is admitted; it is paused when the last
//! one has stepped back.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::ThreadId,
    time::{Duration, Instant},
};

use rustix::{event::EventfdFlags, io};

use super::{Event, Outcome, State};
use crate::{
    error::{Error, ErrorKind, HostResult, Result},
    hv::{Kicker, Woken, wait_readable},
    process::Owner,
};

/// What a machine and its handles share. Its lock is held for a few instructions and a write to an
/// eventfd, and never while another is taken.
#[derive(Debug)]
pub(super) struct Control {
    phase: Mutex<Phase>,
    /// Notified when a runner has stepped back, a run ends, or a pause is taken back.
    changed: Condvar,
    /// Set once: a machine that was stopped stays so.
    stopped: AtomicBool,
    /// This run has its outcome; runners come out.
    ending: AtomicBool,
    /// The copy of `phase.held` that runners look at.
    held: AtomicBool,
    /// Where runners wait while the machine is held: readable when they need not. An eventfd,
    /// because a wait for it can be interrupted by signals.
    gate: OwnedFd,
    /// Readable while an event waits; there once someone has asked for it.
    event_fd: OnceLock<OwnedFd>,
    kickers: OnceLock<Vec<Kicker>>,
    /// What calls the reactor, if there is one.
    bell: OnceLock<Arc<OwnedFd>>,
    owner: Owner,
}

#[derive(Debug, Default)]
struct Phase {
    running: bool,
    /// The threads inside this run, to tell a call from a callback.
    threads: Vec<ThreadId>,
    /// What the machine is being, if nobody may touch it meanwhile: reset, saved or restored.
    being: Option<&'static str>,
    /// Someone has asked for a pause.
    held: bool,
    /// One who does not wait for it is among them.
    requested: bool,
    /// Runners that were admitted and have not stepped back.
    active: usize,
    /// Threads that wait for a pause to be complete.
    waiting: usize,
    /// The first reason a vCPU gave.
    outcome: Option<Result<Outcome>>,
    /// How the machine ended, if there will be no further run.
    ended: Option<Result<Outcome>>,
    /// What nobody has taken yet.
    event: Option<Event>,
}

/// What a runner that asks for admission is told.
pub(super) enum Admission<'a> {
    /// Work, until this is dropped.
    Work(Active<'a>),
    /// The run is over.
    Leave,
    /// A signal came while it waited.
    Interrupted,
}

impl Control {
    pub(super) fn new() -> Result<Self> {
        let gate = eventfd(1).host(|| "making an eventfd")?;
        Ok(Self {
            phase: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            held: AtomicBool::new(false),
            gate,
            event_fd: OnceLock::new(),
            kickers: OnceLock::new(),
            bell: OnceLock::new(),
            owner: Owner::current(),
        })
    }

    /// Tells whom to kick, once the vCPUs exist.
    pub(super) fn set_kickers(&self, kickers: Vec<Kicker>) {
        let first = self.kickers.set(kickers).is_ok();
        debug_assert!(first, "a machine is built once");
    }

    /// Tells how to call the reactor, once there is one.
    pub(super) fn set_bell(&self, bell: Arc<OwnedFd>) {
        let first = self.bell.set(bell).is_ok();
        debug_assert!(first, "a machine has one reactor");
    }

    /// Starts a run, if there may be one.
    pub(super) fn begin(&self) -> Result<()> {
        self.owner.check()?;
        let mut phase = self.phase();
        if phase.running {
            return Err(match phase.is_inside() {
                true => in_callback("run()"),
                false => Error::wrong_state("the machine is being run by another thread"),
            });
        }
        phase.check_not_busy()?;
        self.check_not_over(&phase, "cannot be run again")?;
        phase.running = true;
        phase.outcome = None;
        self.take_back_event(&mut phase);
        self.ending.store(false, SeqCst);
        if phase.held {
            // The end of the last run has opened it.
            lower(&self.gate);
        }
        Ok(())
    }

    /// That the machine has not ended and was not stopped.
    fn check_not_over(&self, phase: &Phase, cannot: &str) -> Result<()> {
        let why = match &phase.ended {
            Some(Ok(outcome)) => outcome.to_string(),
            Some(Err(error)) => error.to_string(),
            None if self.stopped.load(SeqCst) => "it was stopped".to_owned(),
            None => return Ok(()),
        };
        Err(Error::wrong_state(format!("the machine {cannot}: {why}")))
    }

    /// Puts the calling thread on record as part of the run until the result is dropped.
    pub(super) fn join(&self) -> Joined<'_> {
        self.phase().threads.push(std::thread::current().id());
        Joined(self)
    }

    /// Lets a runner work; waits while the machine is held.
    pub(super) fn admit(&self) -> Result<Admission<'_>> {
        loop {
            {
                let mut phase = self.phase();
                if self.is_ending() {
                    return Ok(Admission::Leave);
                }
                if !phase.held {
                    phase.active += 1;
                    return Ok(Admission::Work(Active(self)));
                }
            }
            // The gate was closed under the lock before anyone found the machine held, and whoever
            // lets runners go says so before opening it: no opening is missed.
            match wait_readable(self.gate.as_fd(), None).host(|| "waiting while paused")? {
                Woken::Ready => {}
                Woken::Interrupted => return Ok(Admission::Interrupted),
            }
        }
    }

    /// Whether runners shall come out for good.
    fn is_ending(&self) -> bool {
        self.ending.load(SeqCst) || self.stopped.load(SeqCst)
    }

    /// Whether runners shall step back.
    pub(super) fn is_called(&self) -> bool {
        self.is_ending() || self.held.load(SeqCst)
    }

    /// Whether runners that step back do so for a pause.
    pub(super) fn is_pausing(&self) -> bool {
        self.held.load(SeqCst) && !self.is_ending()
    }

    /// Ends the run with `outcome`, unless it has one already, and gets every runner out.
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
        raise(&self.gate);
        self.kick();
    }

    /// Closes the run: its outcome, and whether there may be another.
    pub(super) fn finish(&self) -> Result<Outcome> {
        let mut phase = self.phase();
        phase.running = false;
        let stopped = self.stopped.load(SeqCst);
        let outcome = phase.outcome.take().filter(|outcome| !(stopped && may_go_on(outcome)));
        let outcome = outcome.unwrap_or(Ok(Outcome::Stopped));
        phase.ended = (!may_go_on(&outcome)).then(|| outcome.clone());
        self.post(&mut phase, Event::Ended(outcome.clone()));
        self.changed.notify_all();
        outcome
    }

    pub(super) fn stop(&self) -> Result<()> {
        self.owner.check()?;
        let is_first = !self.stopped.swap(true, SeqCst);
        raise(&self.gate);
        self.kick();
        let mut phase = self.phase();
        // A run under way tells it when it ends; one that begins from here on is refused.
        if is_first && !phase.running && phase.ended.is_none() {
            self.post(&mut phase, Event::Ended(Ok(Outcome::Stopped)));
        }
        Ok(())
    }

    /// Holds the machine and returns.
    pub(super) fn request_pause(&self) -> Result<()> {
        self.owner.check()?;
        let mut phase = self.phase();
        self.hold(&mut phase)?;
        phase.requested = true;
        drop(phase);
        self.kick();
        Ok(())
    }

    /// Holds the machine and waits until no runner works.
    pub(super) fn pause(&self, within: Duration) -> Result<()> {
        self.owner.check()?;
        let mut phase = self.phase();
        if phase.is_inside() {
            return Err(in_callback("pause()"));
        }
        self.hold(&mut phase)?;
        phase.waiting += 1;
        drop(phase);
        self.kick();
        let (mut phase, paused) = self.wait_for_pause(within);
        phase.waiting -= 1;
        let timed_out = paused.as_ref().is_err_and(|error| error.kind() == ErrorKind::Host);
        if timed_out && phase.waiting == 0 && !phase.requested {
            self.release(&mut phase);
        }
        paused
    }

    fn wait_for_pause(&self, within: Duration) -> (MutexGuard<'_, Phase>, Result<()>) {
        let start = Instant::now();
        let mut phase = self.phase();
        loop {
            if let Err(error) = self.check_not_over(&phase, "cannot be paused")
                && !phase.running
            {
                return (phase, Err(error));
            }
            if !phase.held {
                return (phase, Err(Error::wrong_state("the pause was taken back by a resume")));
            }
            if self.is_paused(&phase) {
                return (phase, Ok(()));
            }
            let Some(left) = within.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                let doing = format!("pausing: {} still at work after {within:?}", phase.active);
                return (phase, Err(Error::host(doing, libc::ETIMEDOUT)));
            };
            let waited = self.changed.wait_timeout(phase, left);
            phase = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn hold(&self, phase: &mut Phase) -> Result<()> {
        self.check_not_over(phase, "cannot be paused")?;
        if !phase.held {
            phase.held = true;
            self.held.store(true, SeqCst);
            lower(&self.gate);
            // Whoever ends the run says so, then opens the gate, perhaps before it was closed here;
            // a runner that has not looked since would wait at it.
            if self.is_ending() {
                raise(&self.gate);
            }
            if self.is_paused(phase) {
                self.post(phase, Event::Paused);
            }
        }
        Ok(())
    }

    fn release(&self, phase: &mut Phase) {
        (phase.held, phase.requested) = (false, false);
        self.held.store(false, SeqCst);
        if matches!(phase.event, Some(Event::Paused)) {
            self.take_back_event(phase);
        }
        raise(&self.gate);
        self.changed.notify_all();
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.owner.check()?;
        let mut phase = self.phase();
        phase.check_not_busy()?;
        if phase.held {
            self.release(&mut phase);
        }
        Ok(())
    }

    /// Held, and nobody works or is about to leave.
    fn is_paused(&self, phase: &Phase) -> bool {
        phase.held && phase.active == 0 && !(phase.running && self.is_ending())
    }

    pub(super) fn state(&self) -> Result<State> {
        self.owner.check()?;
        let phase = self.phase();
        let is_over = phase.ended.is_some() || self.stopped.load(SeqCst);
        Ok(match phase.running {
            false if is_over => State::Ended,
            _ if self.is_paused(&phase) => State::Paused,
            false => State::Ready,
            true => State::Running,
        })
    }

    /// That vCPUs can be looked at: none runs, and none was left in the middle of an instruction.
    pub(super) fn check_still(&self) -> Result<()> {
        self.owner.check()?;
        let phase = self.phase();
        self.check_nobody_works(&phase, "a look at vCPUs")?;
        match &phase.ended {
            Some(Err(error)) if is_unsound(error) => Err(has_ended(error)),
            _ => Ok(()),
        }
    }

    fn check_nobody_works(&self, phase: &Phase, call: &str) -> Result<()> {
        if phase.running && !self.is_paused(phase) {
            return Err(match phase.is_inside() {
                true => in_callback(call),
                false => Error::wrong_state("the machine is running: pause it first"),
            });
        }
        phase.check_not_busy()
    }

    /// Keeps everyone away from the machine until the result is dropped.
    pub(super) fn begin_save(&self) -> Result<Saving<'_>> {
        self.owner.check()?;
        let mut phase = self.phase();
        self.check_nobody_works(&phase, "save()")?;
        self.check_not_over(&phase, "cannot be saved")?;
        phase.being = Some("saved");
        Ok(Saving(self))
    }

    /// Keeps everyone away from the machine until the result is told how its reset ended.
    pub(super) fn begin_reset(&self) -> Result<Resetting<'_>> {
        self.begin_anew("reset()", "reset")
    }

    /// The same for its restore.
    pub(super) fn begin_restore(&self) -> Result<Resetting<'_>> {
        self.begin_anew("restore()", "restored")
    }

    fn begin_anew(&self, call: &str, being: &'static str) -> Result<Resetting<'_>> {
        self.owner.check()?;
        let mut phase = self.phase();
        self.check_nobody_works(&phase, call)?;
        if self.stopped.load(SeqCst) {
            let message = format!("the machine cannot be {being}: it was stopped");
            return Err(Error::wrong_state(message));
        }
        if let Some(Err(error)) = &phase.ended {
            return Err(has_ended(error));
        }
        phase.being = Some(being);
        Ok(Resetting(self))
    }

    fn finish_reset(&self, done: &Result<()>) {
        let mut phase = self.phase();
        let doing = if phase.being == Some("reset") { "resetting" } else { "restoring" };
        phase.being = None;
        match done {
            Ok(()) => {
                phase.ended = None;
                if matches!(phase.event, Some(Event::Ended(_))) {
                    self.take_back_event(&mut phase);
                }
            }
            Err(error) => {
                let error = error.clone().context(doing);
                phase.ended = Some(Err(error.clone()));
                drop(phase);
                self.end(Err(error));
            }
        }
    }

    /// Readable while an event waits to be taken.
    pub(super) fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.owner.check()?;
        // Made under the lock, so that an event is either there or posted to it.
        let phase = self.phase();
        if self.event_fd.get().is_none() {
            let waits = u32::from(phase.event.is_some());
            let _ = self.event_fd.set(eventfd(waits).host(|| "making an eventfd")?);
        }
        let fd = self.event_fd.get().map(AsFd::as_fd);
        fd.ok_or_else(|| Error::internal("an eventfd that was just made"))
    }

    pub(super) fn next_event(&self) -> Result<Option<Event>> {
        self.owner.check()?;
        let mut phase = self.phase();
        let event = phase.event.clone();
        self.take_back_event(&mut phase);
        Ok(event)
    }

    fn post(&self, phase: &mut Phase, event: Event) {
        phase.event = Some(event);
        self.event_fd.get().into_iter().for_each(raise);
    }

    fn take_back_event(&self, phase: &mut Phase) {
        phase.event = None;
        self.event_fd.get().into_iter().for_each(lower);
    }

    fn kick(&self) {
        self.kickers.get().into_iter().flatten().for_each(Kicker::kick);
        self.bell.get().into_iter().for_each(raise);
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phase {
    /// Whether the calling thread is part of the run.
    fn is_inside(&self) -> bool {
        self.threads.contains(&std::thread::current().id())
    }

    fn check_not_busy(&self) -> Result<()> {
        match self.being {
            Some(what) => {
                Err(Error::wrong_state(format!("the machine is being {what} by another thread")))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn eventfd(value: u32) -> io::Result<OwnedFd> {
    rustix::event::eventfd(value, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Makes an eventfd readable. It fails only if its counter is full: then it is readable.
pub(super) fn raise(event: impl AsFd) {
    let _ = io::write(event, &1_u64.to_ne_bytes());
}

/// Takes that back. It fails only if the eventfd is not readable.
pub(super) fn lower(event: impl AsFd) {
    let _ = io::read(event, &mut [0; 8]);
}

fn in_callback(call: &str) -> Error {
    let message = format!("{call} from a callback of the machine's own");
    Error::new(ErrorKind::InCallback, message)
}

fn has_ended(error: &Error) -> Error {
    Error::new(error.kind(), format!("the machine has ended: {error}"))
}

/// Whether the machine can be run on after this outcome.
fn may_go_on(outcome: &Result<Outcome>) -> bool {
    match outcome {
        Ok(outcome) => *outcome == Outcome::Halted,
        Err(error) => error.kind() == ErrorKind::Interrupted,
    }
}

/// Whether this error may have left a vCPU in the middle of an instruction.
fn is_unsound(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Internal | ErrorKind::Poisoned)
}

/// A thread on record as part of a run.
pub(super) struct Joined<'a>(&'a Control);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let me = std::thread::current().id();
        self.0.phase().threads.retain(|thread| *thread != me);
    }
}

/// A runner at work.
pub(super) struct Active<'a>(&'a Control);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let mut phase = self.0.phase();
        phase.active -= 1;
        if self.0.is_paused(&phase) {
            self.0.post(&mut phase, Event::Paused);
            self.0.changed.notify_all();
        }
    }
}

/// State is being saved.
pub(super) struct Saving<'a>(&'a Control);

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        self.0.phase().being = None;
    }
}

/// A reset or restore under way. One that ends by a panic has failed.
pub(super) struct Resetting<'a>(&'a Control);

impl Resetting<'_> {
    /// Ends the reset as it went.
    pub(super) fn finish(self, done: Result<()>) -> Result<()> {
        self.0.finish_reset(&done);
        std::mem::forget(self);
        done
    }
}

impl Drop for Resetting<'_> {
    fn drop(&mut self) {
        self.0.finish_reset(&Err(Error::internal("a panic while it was made anew")));
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn interrupted() -> Result<Outcome> {
        Err(Error::new(ErrorKind::Interrupted, "a signal"))
    }

    #[test]
    fn a_pause_that_meets_the_end_of_a_run_keeps_nobody_in() {
        let control = Control::new().unwrap();
        control.begin().unwrap();
        control.end(Ok(Outcome::PowerOff(7)));
        control.request_pause().unwrap();
        let mut gate = [PollFd::from_borrowed_fd(control.gate.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut gate, Some(&Timespec::default())).unwrap(), 1);
    }

    #[test]
    fn an_outcome_that_ends_the_machine_goes_before_one_that_does_not() {
        let control = Control::new().unwrap();
        control.begin().unwrap();
        control.end(interrupted());
        control.end(Ok(Outcome::PowerOff(7)));
        control.end(Ok(Outcome::Reset));
        assert_eq!(control.finish().unwrap(), Outcome::PowerOff(7));
        assert_eq!(control.begin().unwrap_err().kind(), ErrorKind::WrongState);
    }

    #[test]
    fn a_stop_during_an_interrupted_run_stops_it() {
        let control = Control::new().unwrap();
        control.begin().unwrap();
        control.end(interrupted());
        control.stop().unwrap();
        assert_eq!(control.finish().unwrap(), Outcome::Stopped);
    }
}
