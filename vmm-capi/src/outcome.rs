//! How runs end.

use std::{ffi::c_char, fmt};

use vmm_core::machine::Outcome;
use vmm_sandbox::Cause;

/// How a run ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_ending {
    /// A machine: a vCPU cannot go on.
    Fault = 1,
    /// A machine without interrupt controllers: the guest executed HLT; a further run goes on.
    Halted = 2,
    /// A machine: the guest ended itself, with `code`.
    PowerOff = 3,
    /// A machine: the guest asked for a reset, which vmm_machine_reset does.
    Reset = 4,
    /// A machine: vmm_handle_stop was called.
    Stopped = 5,
    /// A sandbox: the program has exited, with the status `code`, 0 to 255.
    Exited = 6,
    /// A sandbox: the program was stopped; `code` is a vmm_cause.
    Killed = 7,
    /// A sandbox: the program says that it is ready to be called.
    Ready = 8,
}

/// Why a program was stopped in the middle.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_cause {
    /// Another, which the text tells.
    Other = 0,
    /// vmm_canceller_cancel was called.
    Cancelled = 1,
    /// It has used up its processor time.
    CpuTime = 2,
    /// It did what no program may: an exception of the processor.
    Fault = 3,
    /// A function of the host panicked.
    HostFunction = 4,
    /// It has written as much as it may.
    Output = 5,
    /// It sent itself a signal, as abort() does.
    Signal = 6,
    /// It took longer than it may.
    TimedOut = 7,
    /// The function of vmm_sandbox_config_set_interruptible wanted it.
    Interrupted = 8,
}

/// How a run ended, for programs and for readers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmm_outcome {
    /// How.
    pub ending: vmm_ending,
    /// A number whose meaning depends on that; else 0.
    pub code: i32,
    /// The same in words, such as "fault: triple fault at rip 0x10004"; cut if it is longer.
    pub text: [c_char; 248],
}

impl vmm_outcome {
    fn new(ending: vmm_ending, code: i32, says: &impl fmt::Display) -> Self {
        let mut outcome = Self { ending, code, text: [0; 248] };
        let says = says.to_string();
        // The last stays NUL.
        let end = outcome.text.len() - 1;
        for (to, from) in outcome.text[..end].iter_mut().zip(says.bytes()) {
            *to = from as c_char;
        }
        outcome
    }
}

impl From<&Outcome> for vmm_outcome {
    fn from(outcome: &Outcome) -> Self {
        let (ending, code) = match outcome {
            Outcome::Halted => (vmm_ending::Halted, 0),
            Outcome::PowerOff(code) => (vmm_ending::PowerOff, *code),
            Outcome::Reset => (vmm_ending::Reset, 0),
            Outcome::Stopped => (vmm_ending::Stopped, 0),
            _ => (vmm_ending::Fault, 0),
        };
        Self::new(ending, code, outcome)
    }
}

impl From<&vmm_sandbox::Outcome> for vmm_outcome {
    fn from(outcome: &vmm_sandbox::Outcome) -> Self {
        let (ending, code) = match outcome {
            vmm_sandbox::Outcome::Exited(status) => (vmm_ending::Exited, *status),
            vmm_sandbox::Outcome::Ready => (vmm_ending::Ready, 0),
            vmm_sandbox::Outcome::Killed(cause) => {
                (vmm_ending::Killed, vmm_cause::from(cause) as i32)
            }
            _ => (vmm_ending::Killed, vmm_cause::Other as i32),
        };
        Self::new(ending, code, outcome)
    }
}

impl From<&Cause> for vmm_cause {
    fn from(cause: &Cause) -> Self {
        match cause {
            Cause::Cancelled => Self::Cancelled,
            Cause::CpuTime(_) => Self::CpuTime,
            Cause::Fault(_) => Self::Fault,
            Cause::HostFunction(..) => Self::HostFunction,
            Cause::Interrupted => Self::Interrupted,
            Cause::Output(_) => Self::Output,
            Cause::Signal(_) => Self::Signal,
            Cause::TimedOut(_) => Self::TimedOut,
            _ => Self::Other,
        }
    }
}
