//! What reaches a machine from elsewhere: stop, pause, resume, its state and its events.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Outcome, control::Control};
use crate::error::{Error, Result};

/// Stops and pauses a machine from any thread.
///
/// Cheap to clone. It does not keep the machine: once that is dropped, the handle has nothing to
/// do.
#[derive(Clone)]
pub struct Handle(Weak<Control>);

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// There will be no further run: the guest ended, the machine was stopped or failed, or is
    /// gone.
    Ended,
    /// No vCPU runs and no device is being woken, until a resume; a `run` that is under way, or
    /// is begun, waits.
    Paused,
    /// It can be run.
    Ready,
    /// It is being run; a pause that was asked for is not complete.
    Running,
}

/// What happened to a machine, for a host's event loop; see
/// [`Machine::event_fd`](super::Machine::event_fd).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A run ended, and its caller was told the same; or the machine was stopped between two runs.
    Ended(Result<Outcome>),
    /// A pause that was asked for is complete.
    Paused,
}

impl Handle {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self(Arc::downgrade(control))
    }

    /// Ends the machine: [`run`](super::Machine::run) returns [`Outcome::Stopped`], typically
    /// within a millisecond, and no further run is possible. A paused machine ends too.
    ///
    /// Never waits, so a device may call it; it takes effect when the device returns.
    ///
    /// # Errors
    /// `WrongProcess` after `fork()`.
    pub fn stop(&self) -> Result<()> {
        self.0.upgrade().map_or(Ok(()), |control| control.stop())
    }

    /// Pauses the machine: when it returns, no vCPU runs and no device is being woken, until
    /// [`resume`](Self::resume) is called. The `run` under way does not return, it waits; a signal
    /// that is not ours ends it with `Interrupted` then, too, and the machine stays paused.
    ///
    /// The guest's clock goes on meanwhile; a Linux guest on KVM's clock is told, so that its watchdogs
    /// do not take the time for a lock-up.
    ///
    /// A machine that is not being run is paused at once, and its next run waits: whether this
    /// comes before or after the `run` of another thread makes no difference. Pausing twice is
    /// pausing once.
    ///
    /// # Errors
    /// `Host` with `ETIMEDOUT` if a device kept its thread for longer than `within`: the machine
    /// goes on, unless someone else has asked for a pause too. `WrongState` if the machine has ended or ends now, or
    /// if someone resumed it meanwhile; `InCallback` from one of its own devices, which can
    /// [request](Self::request_pause) it; `WrongProcess` after `fork()`.
    pub fn pause(&self, within: Duration) -> Result<()> {
        self.control()?.pause(within)
    }

    /// Asks for a pause without waiting for it; [`Event::Paused`] or [`state`](Self::state) tells
    /// when it is complete. A device may call it, for instance when its guest asks for a snapshot.
    ///
    /// # Errors
    /// `WrongState` if the machine has ended, `WrongProcess` after `fork()`.
    pub fn request_pause(&self) -> Result<()> {
        self.control()?.request_pause()
    }

    /// Lets a paused machine go on. Nothing happens to one that is not paused; a pause that is not
    /// complete is taken back. Never waits.
    ///
    /// # Errors
    /// `WrongState` while another thread resets the machine, `WrongProcess` after `fork()`.
    pub fn resume(&self) -> Result<()> {
        self.0.upgrade().map_or(Ok(()), |control| control.resume())
    }

    /// What the machine is doing now.
    ///
    /// # Errors
    /// `WrongProcess` after `fork()`.
    pub fn state(&self) -> Result<State> {
        self.0.upgrade().map_or(Ok(State::Ended), |control| control.state())
    }

    fn control(&self) -> Result<Arc<Control>> {
        self.0.upgrade().ok_or_else(|| Error::wrong_state("the machine is gone"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.strong_count() > 0 { "Handle" } else { "Handle(machine is gone)" })
    }
}
