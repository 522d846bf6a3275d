//! A whole machine: memory, board, vCPUs; built once, run on the caller's thread.
//!
//! [`Machine::run`] takes the calling thread for the first vCPU and starts one thread for each
//! further one, which end before it returns. A [`Handle`] stops it from any thread or from a
//! device. Methods take `&self`: a machine can be shared; what cannot happen at the same time is
//! refused with `WrongState`, and from inside a device's callback with `InCallback`.
//!
//! ```
//! use vmm_core::{Machine, boot::Flat, hv::script::{Access, Script}, machine::Outcome};
//!
//! # fn main() -> vmm_core::Result<()> {
//! // A hypervisor without a CPU, which plays what a guest would do.
//! let guest = Script::new([Access::port_out(0x80, &[1]), Access::Halt]);
//! let machine = Machine::builder()
//!     .hypervisor(guest)
//!     .memory(1 << 20)
//!     .interrupts(None)
//!     .boot(Flat::real_mode([0xf4]))
//!     .build()?;
//! assert!(matches!(machine.run()?, Outcome::Halted));
//! # Ok(())
//! # }
//! ```

mod account;
mod board;
mod builder;
mod control;
mod device;
mod power;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{Scope, ScopedJoinHandle},
};

pub use account::{Accounting, Count, ExitReport, Reason};
pub use board::Legacy;
pub use builder::Builder;
pub use control::Handle;
pub use device::{Device, Place, Slot};

use self::{account::Account, board::Board, control::Control};
use crate::{
    error::{Error, ErrorKind, HostResult, Result},
    exit::{Fault, VcpuExit},
    hv::{Vcpu, block_other_signals},
    memory::GuestMemory,
};

/// A virtual machine. Dropping it frees everything it had: memory, descriptors, mappings.
pub struct Machine {
    vcpus: Mutex<Vec<Box<dyn Vcpu>>>,
    board: Board,
    memory: GuestMemory,
    account: Option<Arc<Account>>,
    control: Arc<Control>,
}

/// Whose thread a vCPU runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Callers,
    Ours,
}

/// How a [`run`](Machine::run) ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A vCPU cannot go on.
    Fault(Fault),
    /// The guest executed HLT on a machine without interrupt controllers; `run` goes on behind it.
    Halted,
    /// The guest ended itself with this code.
    PowerOff(i32),
    /// The guest asked for a reset.
    Reset,
    /// [`Handle::stop`] was called.
    Stopped,
}

impl Machine {
    /// Starts the description of a machine.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs the guest until it ends, or until someone stops it.
    ///
    /// The first vCPU runs on the calling thread, each further one on a thread of its own that ends
    /// before this returns. After [`Outcome::Halted`] and after an `Interrupted` error the guest
    /// can be run on; every other outcome is final.
    ///
    /// # Errors
    /// `Interrupted` if a signal that is not ours came, or the process was stopped and
    /// continued: nothing is lost, call it again unless the signal was meant to end it; `Poisoned`
    /// with the name of a device that failed or panicked; `WrongState` if the machine has ended,
    /// was stopped, or is being run; `InCallback` from one of its own devices; `WrongProcess` after
    /// `fork()`; `Host` if the hypervisor fails.
    pub fn run(&self) -> Result<Outcome> {
        self.control.begin()?;
        let mut vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            let mut vcpus = vcpus.iter_mut();
            let first = vcpus.next();
            let further: Vec<_> =
                vcpus.zip(1..).filter_map(|(vcpu, n)| self.start(scope, &mut **vcpu, n)).collect();
            if let Some(vcpu) = first {
                self.run_vcpu(&mut **vcpu, Thread::Callers);
            }
            // The scope itself waits for what the threads do, not for the threads.
            further.into_iter().for_each(|thread| drop(thread.join()));
        });
        self.control.finish()
    }

    /// Starts the thread of vCPU `n`; without it the run ends.
    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        vcpu: &'scope mut dyn Vcpu,
        n: usize,
    ) -> Option<ScopedJoinHandle<'scope, ()>> {
        let thread = std::thread::Builder::new().name(format!("vcpu{n}"));
        let started = thread.spawn_scoped(scope, move || {
            block_other_signals();
            self.run_vcpu(vcpu, Thread::Ours);
        });
        let started = started.host(|| format!("starting the thread of vCPU {n}"));
        started.map_err(|error| self.control.end(Err(error))).ok()
    }

    /// Runs one vCPU until this run of the machine ends, and ends it if this vCPU is the first with
    /// a reason.
    fn run_vcpu(&self, vcpu: &mut dyn Vcpu, thread: Thread) {
        let _on_record = self.control.join();
        while !self.control.is_ending() {
            // A panic is a device's: it has been cut off, and nobody looks at this vCPU again.
            let exit = catch_unwind(AssertUnwindSafe(|| vcpu.run(&self.board)))
                .unwrap_or_else(|payload| Err(self.board.blame(&*payload)));
            if let Some(account) = &self.account {
                account.reason(Reason::Return).add();
            }
            let outcome = match exit {
                Ok(VcpuExit::Kicked) => continue,
                Ok(VcpuExit::Failed(error)) | Err(error) => Err(error),
                Ok(VcpuExit::Fault(fault)) => Ok(Outcome::Fault(*fault)),
                Ok(VcpuExit::HostCall) => {
                    Err(Error::internal("a machine has no call port, and yet was called"))
                }
                Ok(VcpuExit::Halted) => Ok(Outcome::Halted),
                // Threads of ours block signals; this is the kernel's doing, such as a freezer's.
                Ok(VcpuExit::Interrupted) if thread == Thread::Ours => continue,
                Ok(VcpuExit::Interrupted) => {
                    Err(Error::new(ErrorKind::Interrupted, "a signal interrupted the run"))
                }
                Ok(VcpuExit::PowerOff(code)) => Ok(Outcome::PowerOff(code)),
                Ok(VcpuExit::Reset) => Ok(Outcome::Reset),
            };
            self.control.end(outcome);
        }
    }

    /// What stops the machine from elsewhere; it may outlive the machine and does not keep it.
    pub fn handle(&self) -> Handle {
        Handle::new(&self.control)
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The exits so far, if the machine was built with [`Builder::account`].
    pub fn exits(&self) -> Option<ExitReport> {
        self.account.as_ref().map(|account| account.report())
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Machine");
        shown.field("memory", &self.memory).field("board", &self.board).finish_non_exhaustive()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "fault: {fault}"),
            Self::Halted => write!(f, "halted"),
            Self::PowerOff(code) => write!(f, "powered off with code {code}"),
            Self::Reset => write!(f, "asked for a reset"),
            Self::Stopped => write!(f, "stopped"),
        }
    }
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Machine>();
    shared_between_threads::<Handle>();
    shared_between_threads::<GuestMemory>();
};
