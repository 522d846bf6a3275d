//! Why a vCPU came back, and how a device asks it to.

use std::{fmt, ops::ControlFlow};

use crate::error::Error;

/// What a device answers an access with: go on, or end [`run`](crate::hv::Vcpu::run) with this
/// exit.
///
/// A `Break` from a read is final: the guest sees the data, then `run` returns.
pub type Flow = ControlFlow<VcpuExit>;

/// Go on: the usual answer to an access.
pub const CONTINUE: Flow = ControlFlow::Continue(());

/// Why [`Vcpu::run`](crate::hv::Vcpu::run) returned.
///
/// Two words, so that a [`Flow`] comes back in registers through every layer of an access: large
/// variants are boxed.
#[derive(Debug)]
#[non_exhaustive]
pub enum VcpuExit {
    /// The deadline of [`Vcpu::set_deadline`](crate::hv::Vcpu::set_deadline) has passed.
    Expired,
    /// A device can go on no longer; the error names it.
    Failed(Error),
    /// The vCPU cannot go on: a triple fault, or an instruction the back end cannot run.
    Fault(Box<Fault>),
    /// The guest executed HLT. Only without an interrupt controller; with one, HLT waits inside
    /// `run`.
    Halted,
    /// The guest called: an OUT to the port of
    /// [`Vcpu::set_call_port`](crate::hv::Vcpu::set_call_port). The registers are as the OUT found
    /// them, with RIP behind it.
    HostCall,
    /// A signal that is not ours interrupted the thread. Nothing happened; call `run` again to go
    /// on. On the software CPU only a thread that waits is interrupted: a guest that computes is the
    /// thread's own code, which goes on when the signal's handler is done. A handler that wants
    /// `run` to end kicks.
    Interrupted,
    /// [`Kicker::kick`](crate::hv::Kicker::kick) was called.
    Kicked,
    /// The guest ended itself with this code.
    PowerOff(i32),
    /// The guest asked for a reset.
    Reset,
}

/// How a vCPU came to a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of stop.
    pub kind: FaultKind,
    /// The guest's instruction pointer, where it can still be read.
    pub rip: Option<u64>,
}

impl Fault {
    /// A fault of `kind` at `rip`.
    pub fn new(kind: FaultKind, rip: Option<u64>) -> Self {
        Self { kind, rip }
    }
}

/// The kinds of [`Fault`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The back end cannot run an instruction; the bytes at the instruction pointer, as far as they
    /// are known.
    Emulation(Vec<u8>),
    /// The processor refused the guest's state; the hardware's reason.
    EntryFailed(u64),
    /// The back end stopped for a reason of its own, in words.
    Other(String),
    /// An exception while a double fault was delivered: real hardware would reset.
    TripleFault,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FaultKind::Emulation(bytes) if bytes.is_empty() => {
                write!(f, "the back end cannot run an instruction")?;
            }
            FaultKind::Emulation(bytes) => {
                write!(f, "the back end cannot run the instruction")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            }
            FaultKind::EntryFailed(reason) => {
                write!(f, "the processor refused the guest's state (hardware reason {reason:#x})")?;
            }
            FaultKind::Other(why) => write!(f, "{why}")?,
            FaultKind::TripleFault => write!(f, "triple fault")?,
        }
        match self.rip {
            Some(rip) => write!(f, " at rip {rip:#x}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for VcpuExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => write!(f, "the deadline has passed"),
            Self::Failed(error) => write!(f, "{error}"),
            Self::Fault(fault) => write!(f, "fault: {fault}"),
            Self::Halted => write!(f, "halted"),
            Self::HostCall => write!(f, "host call"),
            Self::Interrupted => write!(f, "interrupted by a signal"),
            Self::Kicked => write!(f, "kicked"),
            Self::PowerOff(code) => write!(f, "power off, code {code}"),
            Self::Reset => write!(f, "reset"),
        }
    }
}

const _: () = assert!(size_of::<Flow>() <= 2 * size_of::<usize>());
