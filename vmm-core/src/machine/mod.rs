//! A whole machine: memory, board, vCPUs; built once, run on the caller's thread.
//!
//! [`Machine::run`] takes the calling thread for the first vCPU ([`Machine::start`] one of ours) and starts one thread for each
//! further one, and one for the [`Reactor`] if a device needs it; they end before it returns. A [`Handle`] stops it from any thread or from a
//! device, and pauses and resumes it; while it is paused its vCPUs can be looked at. A host with an
//! event loop starts the machine and polls [`Machine::event_fd`]. Methods take
//! `&self`: a machine can be shared; what cannot happen at the same time is refused with
//! `WrongState`, and from inside a device's callback with `InCallback`.
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
mod handle;
mod power;
mod reactor;
mod reset;
mod save;
mod virtio;

use std::{
    fmt,
    os::fd::BorrowedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    thread::{JoinHandle, Scope, ScopedJoinHandle},
};

pub use account::{Accounting, Count, ExitReport, Reason};
pub use board::Legacy;
pub use builder::Builder;
pub use device::{Device, Place, Slot};
pub use handle::{Event, Handle, State};
pub use reactor::{Interest, Next, Reactor, Wake, Watch};

use self::{
    account::Account,
    board::Board,
    control::{Admission, Control},
    reactor::EventLoop,
    reset::Origin,
};
use crate::{
    arch::{Regs, SystemRegs, VcpuId},
    error::{Error, ErrorKind, HostResult, Result},
    exit::{Fault, VcpuExit},
    hv::{Vcpu, Vm, block_other_signals},
    memory::GuestMemory,
};

/// A virtual machine. Dropping it frees everything it had: memory, descriptors, mappings.
pub struct Machine {
    /// Each is locked by its thread while that works, for a moment by who looks at a vCPU.
    vcpus: Vec<Mutex<Box<dyn Vcpu>>>,
    vm: Arc<dyn Vm>,
    board: Board,
    memory: GuestMemory,
    account: Option<Arc<Account>>,
    control: Arc<Control>,
    origin: Origin,
    reactor: Option<EventLoop>,
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
    /// The guest asked for a reset; [`Machine::reset`] does it.
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
    /// before this returns. While the machine is [paused](Handle::pause), this waits. After
    /// [`Outcome::Halted`] and after an `Interrupted` error the guest can be run on; after every
    /// other outcome it has ended, until the machine is [reset](Self::reset).
    ///
    /// # Errors
    /// `Interrupted` if a signal that is not ours came, or the process was stopped and
    /// continued: nothing is lost, call it again unless the signal was meant to end it; `Poisoned`
    /// with the name of a device that failed or panicked; `WrongState` if the machine has ended,
    /// was stopped, or is being run; `InCallback` from one of its own devices; `WrongProcess` after
    /// `fork()`; `Host` if the hypervisor fails.
    pub fn run(&self) -> Result<Outcome> {
        self.control.begin()?;
        self.run_begun(Thread::Callers)
    }

    /// Runs the guest as [`run`](Self::run) does, on a thread of ours, which blocks signals; what
    /// becomes of it is also an [event](Self::next_event). When this returns, the run has begun:
    /// what is asked of a [`Handle`] from now on concerns it.
    ///
    /// # Errors
    /// As for `run`, if the run cannot begin; `Host` if no thread can be started.
    pub fn start(self: &Arc<Self>) -> Result<JoinHandle<Result<Outcome>>> {
        self.control.begin()?;
        let machine = Arc::clone(self);
        let started = std::thread::Builder::new().name("vcpu0".into()).spawn(move || {
            block_other_signals();
            machine.run_begun(Thread::Ours)
        });
        started.host(|| "starting the thread vcpu0").inspect_err(|error| {
            self.control.end(Err(error.clone()));
            // The same error.
            let _ = self.control.finish();
        })
    }

    /// Runs the vCPUs, the first one on this thread, and the reactor, until they come back.
    fn run_begun(&self, first: Thread) -> Result<Outcome> {
        std::thread::scope(|scope| {
            let mut further: Vec<_> = (1..self.vcpus.len())
                .filter_map(|n| {
                    let body = move || self.run_vcpu(n, Thread::Ours);
                    self.spawn(scope, format!("vcpu{n}"), body)
                })
                .collect();
            if let Some(reactor) = &self.reactor {
                further.extend(self.spawn(scope, "reactor".into(), || self.react(reactor)));
            }
            self.run_vcpu(0, first);
            // The scope itself waits for what the threads do, not for the threads.
            further.into_iter().for_each(|thread| drop(thread.join()));
        });
        self.control.finish()
    }

    /// Starts a thread of ours; without it the run ends.
    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: String,
        body: impl FnOnce() + Send + 'scope,
    ) -> Option<ScopedJoinHandle<'scope, ()>> {
        let what = name.clone();
        let started = std::thread::Builder::new().name(name).spawn_scoped(scope, move || {
            block_other_signals();
            body();
        });
        let started = started.host(|| format!("starting the thread {what}"));
        started.map_err(|error| self.control.end(Err(error))).ok()
    }

    /// Runs vCPU `n` until this run of the machine ends.
    fn run_vcpu(&self, n: usize, thread: Thread) {
        let Some(vcpu) = self.vcpus.get(n) else { return };
        self.take_part(thread, || {
            let mut vcpu = lock(vcpu);
            self.work(&mut **vcpu, thread);
            if self.control.is_pausing() {
                vcpu.note_pause();
            }
        });
    }

    /// Wakes devices until this run of the machine ends.
    fn react(&self, reactor: &EventLoop) {
        self.take_part(Thread::Ours, || {
            // A device's panic is the event loop's to catch; this one is in what it left behind.
            catch_unwind(AssertUnwindSafe(|| reactor.work(&self.control)))
                .unwrap_or_else(|payload| self.control.end(Err(self.board.blame(&*payload))));
        });
    }

    /// Does `work`, which ends when it is called, again after each pause until this run ends.
    fn take_part(&self, thread: Thread, work: impl Fn()) {
        let _on_record = self.control.join();
        loop {
            match self.control.admit() {
                Ok(Admission::Work(_at_work)) => work(),
                Ok(Admission::Leave) => return,
                Ok(Admission::Interrupted) => self.interrupted(thread),
                Err(error) => self.control.end(Err(error)),
            }
        }
    }

    /// Runs one vCPU until it is called, and ends this run if it is the first with a reason.
    fn work(&self, vcpu: &mut dyn Vcpu, thread: Thread) {
        while !self.control.is_called() {
            // A panic is a device's: it has been cut off, and nobody looks at this vCPU again.
            let exit = catch_unwind(AssertUnwindSafe(|| vcpu.run(&self.board)))
                .unwrap_or_else(|payload| Err(self.board.blame(&*payload)));
            if let Some(account) = &self.account {
                account.reason(Reason::Return).add();
            }
            let outcome = match exit {
                Ok(VcpuExit::Kicked) => continue,
                Ok(VcpuExit::Interrupted) => {
                    self.interrupted(thread);
                    continue;
                }
                Ok(VcpuExit::Failed(error)) | Err(error) => Err(error),
                Ok(VcpuExit::Fault(fault)) => Ok(Outcome::Fault(*fault)),
                Ok(exit @ (VcpuExit::Expired | VcpuExit::HostCall)) => {
                    let message = "a machine has neither a deadline nor a call port";
                    Err(Error::internal(format!("{message}, and yet: {exit}")))
                }
                Ok(VcpuExit::Halted) => Ok(Outcome::Halted),
                Ok(VcpuExit::PowerOff(code)) => Ok(Outcome::PowerOff(code)),
                Ok(VcpuExit::Reset) => Ok(Outcome::Reset),
            };
            self.control.end(outcome);
        }
    }

    /// What a signal that is not ours does to the run. Threads of ours block signals; what
    /// interrupts them is the kernel's doing, such as a freezer's.
    fn interrupted(&self, thread: Thread) {
        if thread == Thread::Callers {
            let error = Error::new(ErrorKind::Interrupted, "a signal interrupted the run");
            self.control.end(Err(error));
        }
    }

    /// The general-purpose registers of a vCPU, of a machine that is paused or not being run.
    ///
    /// # Errors
    /// `WrongState` if it is running, `InCallback` from one of its own devices, `NotFound` if there
    /// is no such vCPU; `Poisoned` if a device's panic left the vCPU in the middle of an
    /// instruction; `WrongProcess` after `fork()`; `Host` if the hypervisor fails.
    pub fn regs(&self, vcpu: VcpuId) -> Result<Regs> {
        self.still(vcpu)?.regs()
    }

    /// Sets the general-purpose registers of a vCPU.
    ///
    /// # Errors
    /// As for [`regs`](Self::regs).
    pub fn set_regs(&self, vcpu: VcpuId, regs: &Regs) -> Result<()> {
        self.still(vcpu)?.set_regs(regs)
    }

    /// Segment, table and control registers of a vCPU.
    ///
    /// # Errors
    /// As for [`regs`](Self::regs).
    pub fn system_regs(&self, vcpu: VcpuId) -> Result<SystemRegs> {
        self.still(vcpu)?.system_regs()
    }

    /// A vCPU that nobody runs.
    fn still(&self, id: VcpuId) -> Result<MutexGuard<'_, Box<dyn Vcpu>>> {
        let vcpu = self.vcpus.get(id.0 as usize).ok_or_else(|| {
            Error::not_found(format!("{id}: the machine has {}", self.vcpus.len()))
        })?;
        loop {
            self.control.check_still()?;
            // Taken either by another look, which lasts a moment, or by a thread that was let go
            // since the check, which the next check will find.
            match vcpu.try_lock() {
                Ok(vcpu) => return Ok(vcpu),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }

    /// What stops, pauses and resumes the machine from elsewhere; it may outlive the machine and
    /// does not keep it.
    pub fn handle(&self) -> Handle {
        Handle::new(&self.control)
    }

    /// A descriptor for the host's event loop, readable while [`next_event`](Self::next_event) has
    /// something to give. Only to be polled; it is always the same.
    ///
    /// With `poll`, libuv, asyncio or the like the machine is [started](Self::start), and the loop
    /// learns here what became of it.
    ///
    /// # Errors
    /// `Host` if no descriptor can be made, `WrongProcess` after `fork()`.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use rustix::event::{PollFd, PollFlags, poll};
    /// # use vmm_core::{Machine, boot::Flat, hv::script::{Access, Script}};
    /// use vmm_core::machine::{Event, Outcome};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let guest = Script::new([Access::Spin]);
    /// # let builder = Machine::builder().hypervisor(guest).memory(1 << 20);
    /// # let builder = builder.boot(Flat::real_mode([0xf4]));
    /// let machine = Arc::new(builder.build()?);
    /// let runner = machine.start()?;
    /// # machine.handle().stop()?;
    /// let mut fds = [PollFd::from_borrowed_fd(machine.event_fd()?, PollFlags::IN)];
    /// poll(&mut fds, None)?;
    /// assert!(matches!(machine.next_event()?, Some(Event::Ended(Ok(Outcome::Stopped)))));
    /// # let _ = runner.join();
    /// # Ok(())
    /// # }
    /// ```
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.control.event_fd()
    }

    /// Takes what happened since the last time, if anything. Never waits.
    ///
    /// Only the newest thing is kept, and only while it is true: a resume takes an unread
    /// [`Event::Paused`] back, a new run an unread [`Event::Ended`].
    ///
    /// # Errors
    /// `WrongProcess` after `fork()`.
    pub fn next_event(&self) -> Result<Option<Event>> {
        self.control.next_event()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The exits so far and what virtio devices did, if the machine was built with
    /// [`Builder::account`]. Counters of one report are not all of the same instant.
    pub fn exits(&self) -> Option<ExitReport> {
        self.account.as_ref().map(|account| account.report())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
