//! How a run of a program ended, and what state that leaves the sandbox in.

use std::{fmt, time::Duration};

/// How [`Sandbox::start`](crate::Sandbox::start) ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The program has exited with this status, 0 to 255.
    Exited(i32),
    /// It was stopped, and why.
    Killed(Cause),
    /// It has said that it is ready to be called.
    Ready,
}

/// Why a program was stopped in the middle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// [`Canceller::cancel`](crate::Canceller::cancel) was called.
    Cancelled,
    /// It has used up its processor time.
    CpuTime(Duration),
    /// It did what no program may: an exception of the processor.
    Fault(Fault),
    /// A function of the host panicked: its name, and what it said.
    HostFunction(String, String),
    /// The closure of [`Builder::interruptible`](crate::Builder::interruptible) wanted it.
    Interrupted,
    /// It has written as much as it may, in bytes.
    Output(u64),
    /// It sent itself this signal, as `abort` does.
    Signal(i32),
    /// It took longer than this.
    TimedOut(Duration),
}

/// An exception of the processor that a program caused. No handler of the program's runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What it was, in words.
    pub what: String,
    /// The address of the instruction, where it is known.
    pub instruction: Option<u64>,
    /// The address it wanted to reach, for a page fault.
    pub address: Option<u64>,
    /// The signal by which Linux would have ended it.
    pub signal: i32,
}

/// What a sandbox can do next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has exited with this status; its memory is as it was then.
    Exited(i32),
    /// It was made and not started.
    New,
    /// It was stopped in the middle of something: what it has in memory is in no defined state.
    Poisoned(Cause),
    /// It can be called.
    Ready,
    /// The host could not go on with it; all that is left is to drop it.
    Unrecoverable(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed(cause) => write!(f, "killed: {cause}"),
            Self::Ready => write!(f, "ready to be called"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => write!(f, "cancelled"),
            Self::CpuTime(limit) => write!(f, "used more than {limit:?} of processor time"),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::HostFunction(name, said) => write!(f, "host function {name:?} panicked: {said}"),
            Self::Interrupted => write!(f, "interrupted"),
            Self::Output(limit) => write!(f, "wrote more than {limit} bytes"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut(limit) => write!(f, "took longer than {limit:?}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(address) = self.address {
            write!(f, " at address {address:#x}")?;
        }
        match self.instruction {
            Some(rip) => write!(f, " by the instruction at {rip:#x}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "the program has exited with status {status}"),
            Self::New => write!(f, "the program was not started"),
            Self::Poisoned(cause) => write!(f, "the program was stopped in the middle: {cause}"),
            Self::Ready => write!(f, "the program is ready to be called"),
            Self::Unrecoverable(why) => write!(f, "the sandbox cannot go on: {why}"),
        }
    }
}
