//! A program in its micro-VM.

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use vmm_core::{
    Error, ErrorKind, Result, arch::CpuModel, exit::Fault as VcpuFault, hv::Hypervisor,
};

use crate::{
    builder::Builder,
    call::{self, Arguments, HostFunctions, Panicked, Passed, Return, Returning, Scratch},
    cpu::{Cpu, Event, Exception, Returned},
    limits::{Canceller, Limits},
    load::Program,
    outcome::{Cause, Fault, Outcome, State},
    process::{Ended, Process},
    snapshot::{Identity, Snapshot},
    stream::Capture,
    syscall,
    vm_cache::{Home, Shell},
};

/// One Linux program in a micro-VM without a kernel.
///
/// It runs on the thread that calls; it may be sent to another. Dropping it frees everything it
/// had.
pub struct Sandbox {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// The processor that the program is told of.
    pub(crate) model: Arc<CpuModel>,
    pub(crate) process: Process,
    pub(crate) cpu: Cpu,
    pub(crate) program: Program,
    pub(crate) functions: HostFunctions,
    pub(crate) limits: Limits,
    pub(crate) captured: [Capture; 2],
    pub(crate) state: State,
    pub(crate) scratch: Scratch,
    /// Where the stack of calls starts.
    pub(crate) stack: u64,
    /// What its memory began as, if it is not its own alone.
    pub(crate) base: Option<Snapshot>,
    pub(crate) identity: Identity,
    /// Where its VM goes.
    pub(crate) home: Home,
}

/// Below RSP a function may have data (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;

/// What a builder makes a sandbox of.
pub(crate) struct Parts {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) model: Arc<CpuModel>,
    pub(crate) process: Process,
    pub(crate) cpu: Cpu,
    pub(crate) program: Program,
    pub(crate) functions: HostFunctions,
    pub(crate) limits: Limits,
    pub(crate) captured: [Capture; 2],
    pub(crate) home: Home,
}

/// Why the program stands still.
enum Stop {
    Exited(i32),
    Killed(Cause),
    /// As [`Canceller::interrupt`] wanted; the next start goes on.
    Interrupted,
    Ready,
    Returned(Returned),
}

impl Sandbox {
    /// A program of the host's file system: a static Linux executable for x86-64.
    ///
    /// The file is read by the host; the program cannot see it.
    pub fn program(path: impl Into<PathBuf>) -> Builder {
        Builder::of_path(path.into())
    }

    /// A program in memory.
    pub fn image(image: impl Into<Cow<'static, [u8]>>) -> Builder {
        Builder::of_bytes(image.into())
    }

    /// A program that goes on where a snapshot stood that was [saved](Snapshot::save), in the state
    /// it had, with an identity of its own.
    ///
    /// It is given again what is not in the file, as to a program: what it may take
    /// ([`memory`](Builder::memory), [`file_limit`](Builder::file_limit) and so on, which are what
    /// they are for any program unless said otherwise), the host's functions, its standard streams,
    /// the directories that it was granted. What it has is its own: arguments, environment, user.
    /// [`Builder::check`] says what is missing.
    ///
    /// The file is not trusted, and is copied: it takes as much memory as it has pages.
    ///
    /// ```no_run
    /// # fn main() -> vmm_sandbox::Result<()> {
    /// let mut app = vmm_sandbox::Sandbox::saved("warm.vmm")
    ///     .host_fn("points", |word: &str| word.len() as i64)
    ///     .build()?;
    /// let score: i64 = app.call("score", ("the quick brown fox",))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn saved(path: impl Into<PathBuf>) -> Builder {
        Builder::of_saved(path.into())
    }

    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { hypervisor, model, process, cpu, program, functions, limits, captured, home } =
            parts;
        Self {
            hypervisor,
            model,
            process,
            cpu,
            program,
            functions,
            limits,
            captured,
            state: State::New,
            scratch: Scratch::default(),
            stack: 0,
            base: None,
            identity: Identity::default(),
            home,
        }
    }

    /// Runs the program from its start to its end, or to where it says that it is ready to be
    /// called.
    ///
    /// # Errors
    /// `WrongState` if it was started before; `Interrupted` if [`Canceller::interrupt`] was called, and
    /// the next `start` goes on; `WrongProcess` in a child of `fork()`; `Host` if the back end fails, and the sandbox is then
    /// unrecoverable.
    pub fn start(&mut self) -> Result<Outcome> {
        if self.state != State::New {
            return Err(Error::wrong_state(format!("start: {}", self.state)));
        }
        let _listening = self.process.watch.listen()?;
        let stop = self.run()?;
        let outcome = match stop {
            Stop::Exited(status) => Outcome::Exited(status),
            Stop::Killed(cause) => Outcome::Killed(cause),
            Stop::Interrupted => {
                let message = "its canceller interrupted the program";
                return Err(Error::new(ErrorKind::Interrupted, message));
            }
            Stop::Ready => Outcome::Ready,
            Stop::Returned(_) => Outcome::Killed(Cause::Fault(strayed())),
        };
        self.state = match &outcome {
            Outcome::Exited(status) => State::Exited(*status),
            Outcome::Killed(cause) => State::Poisoned(cause.clone()),
            Outcome::Ready => State::Ready,
        };
        Ok(outcome)
    }

    /// Calls a global function of the program, by the System V ABI, and waits for its return.
    ///
    /// The program must have said that it is ready. Each call starts on the stack where it said so;
    /// what the program keeps in memory, it keeps from call to call.
    ///
    /// ```no_run
    /// # fn score(app: &mut vmm_sandbox::Sandbox) -> vmm_sandbox::Result<()> {
    /// // int64_t score(int64_t base, const char *text);
    /// let score: i64 = app.call("score", (3_i64, "text"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `WrongState` if it is not ready; `NotFound` if it has no such symbol; `BadConfig` if the
    /// arguments do not fit; `Poisoned` if it did not return, and [`state`](Self::state) says why;
    /// `GuestMemory` if what it returned points nowhere; `WrongProcess` in a child of `fork()`; `Host` if the back end fails.
    pub fn call<'a, R: Return>(&mut self, name: &str, arguments: impl Arguments<'a>) -> Result<R> {
        if self.state != State::Ready {
            return Err(Error::wrong_state(format!("call of {name:?}: {}", self.state)));
        }
        let _listening = self.process.watch.listen()?;
        let function = self.program.symbol(name);
        let function = function
            .ok_or_else(|| Error::not_found(format!("the program has no symbol {name:?}")))?;
        let mut passed = Passed::default();
        arguments.pass_all(&mut passed);
        let space = &mut self.process.space;
        let ends = (self.stack, self.process.mappings_end);
        let placed = self.scratch.place(space, passed, function, ends)?;
        self.cpu.call(&placed.call)?;
        let registers = self.finish(name)?;
        placed.copy_back(&self.process.space)?;
        let (space, memory) = (&self.process.space, self.process.memory);
        R::from_returned(&Returning { registers, space, memory })
    }

    /// Runs a call to its end.
    fn finish(&mut self, name: &str) -> Result<Returned> {
        self.state = match self.run()? {
            Stop::Returned(returned) => return Ok(returned),
            Stop::Exited(status) => State::Exited(status),
            Stop::Killed(cause) => State::Poisoned(cause),
            Stop::Interrupted | Stop::Ready => State::Poisoned(Cause::Fault(strayed())),
        };
        Err(Error::new(ErrorKind::Poisoned, format!("call of {name:?}: {}", self.state)))
    }

    /// What the sandbox can do next.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What tells it from all others; the program finds the same in `vmm_identity` of
    /// `vmm_guest.h`. All zeros until it is forked or reset.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What stops it from elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.process.watch.canceller()
    }

    /// Takes what the program has written to standard output, if that is captured.
    pub fn take_stdout(&mut self) -> Vec<u8> {
        self.captured[0].take()
    }

    /// Takes what the program has written to standard error, if that is captured.
    pub fn take_stderr(&mut self) -> Vec<u8> {
        self.captured[1].take()
    }

    /// What the program has used and asked for.
    pub fn statistics(&self) -> Statistics {
        let counts = &self.process.counts;
        Statistics {
            memory: self.process.space.used(),
            system_calls: counts.calls,
            unknown_calls: counts.unknown.iter().map(|(name, count)| (*name, *count)).collect(),
        }
    }

    /// What answers its system calls.
    #[cfg(feature = "testing")]
    pub(crate) fn parts(&mut self) -> (&mut Process, &mut Cpu) {
        (&mut self.process, &mut self.cpu)
    }

    /// Has ring 0 execute a function of a program that is ready.
    #[cfg(feature = "testing")]
    pub(crate) fn enter_ring0(&mut self, name: &str, argument: u64) -> Result<String> {
        let function = self.program.symbol(name).unwrap_or(0);
        let _listening = self.process.watch.listen()?;
        self.cpu.enter_ring0(function, (self.stack & !0xf) - 8, argument)?;
        Ok(match self.run()? {
            Stop::Exited(status) => format!("exited with status {status}"),
            Stop::Killed(cause) => format!("killed: {cause}"),
            Stop::Interrupted => "interrupted".to_owned(),
            Stop::Ready => "ready".to_owned(),
            Stop::Returned(_) => "returned".to_owned(),
        })
    }

    /// Lets the program run until it stands still for a reason of its own or ours.
    fn run(&mut self) -> Result<Stop> {
        self.process.watch.begin();
        let mut stopped = self.run_loop();
        if !matches!(stopped, Ok(Stop::Interrupted)) {
            self.process.watch.end();
        }
        if let Err(error) = self.cpu.set_deadline(None) {
            stopped = Err(error);
        }
        stopped.inspect_err(|error| self.state = State::Unrecoverable(error.to_string()))
    }

    fn run_loop(&mut self) -> Result<Stop> {
        self.cpu.set_deadline(self.process.watch.deadline())?;
        loop {
            let call = match self.cpu.run(&mut self.process.space)? {
                Event::Call(call) => call,
                Event::Return(returned) => return Ok(Stop::Returned(returned)),
                Event::Exception(exception) => {
                    return Ok(Stop::Killed(Cause::Fault(exception.into())));
                }
                Event::Fault(fault) => return Ok(Stop::Killed(Cause::Fault(fault.into()))),
                Event::Kicked => match self.process.watch.take_cause() {
                    Some(cause) => return Ok(Stop::Killed(cause)),
                    None if self.process.watch.take_interruption() && self.state == State::New => {
                        return Ok(Stop::Interrupted);
                    }
                    None => {
                        self.cpu.set_deadline(self.process.watch.deadline())?;
                        continue;
                    }
                },
            };
            let result = match call.number {
                call::READY if self.state == State::New => {
                    let rsp = self.cpu.stack_pointer(&self.process.space)?;
                    self.stack = rsp.saturating_sub(RED_ZONE);
                    return Ok(Stop::Ready);
                }
                call::CALL_HOST => match self.functions.call(&self.process.space, &call) {
                    Ok(answer) => syscall::value(answer),
                    Err(Panicked(name, said)) => {
                        return Ok(Stop::Killed(Cause::HostFunction(name, said)));
                    }
                },
                _ => syscall::answer(&mut self.process, &mut self.cpu, &call),
            };
            match self.process.ended.take() {
                Some(Ended::Exited(status)) => return Ok(Stop::Exited(status)),
                Some(Ended::Output) => return Ok(Stop::Killed(Cause::Output(self.limits.output))),
                Some(Ended::Signalled(signal)) => return Ok(Stop::Killed(Cause::Signal(signal))),
                None => self.cpu.answer(result)?,
            }
        }
    }
}

/// What a program has used and asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Bytes of memory in use, page tables included.
    pub memory: u64,
    /// System calls that were answered.
    pub system_calls: u64,
    /// Those that are not known here and answered `ENOSYS`, by name.
    pub unknown_calls: Vec<(&'static str, u64)>,
}

/// A program that returned from a call nobody made.
fn strayed() -> Fault {
    let what = "the program jumped into the sandbox's stub".to_owned();
    Fault { what, instruction: None, address: None, signal: libc::SIGSEGV }
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        let Exception { vector, error_code, rip, address } = exception;
        let what = match vector {
            0 => "division error".to_owned(),
            1 => "debug trap".to_owned(),
            3 => "breakpoint".to_owned(),
            6 => "invalid instruction".to_owned(),
            13 => "general protection fault".to_owned(),
            14 => page_fault(error_code).to_owned(),
            16 => "x87 floating-point error".to_owned(),
            17 => "unaligned access".to_owned(),
            19 => "SIMD floating-point error".to_owned(),
            vector => format!("exception {vector}"),
        };
        Self { what, instruction: Some(rip), address, signal: signal(vector) }
    }
}

/// Linux' signal for an exception (`arch/x86/kernel/traps.c`).
fn signal(vector: u8) -> i32 {
    match vector {
        0 | 7 | 16 | 19 => libc::SIGFPE,
        1 | 3 => libc::SIGTRAP,
        6 => libc::SIGILL,
        11 | 12 | 17 => libc::SIGBUS,
        _ => libc::SIGSEGV,
    }
}

/// The access that failed (Intel SDM volume 3, 4.7).
fn page_fault(error_code: u64) -> &'static str {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    match error_code {
        code if code & FETCH != 0 => "execution of memory that may not be",
        code if code & WRITE != 0 => "write to memory that may not be",
        _ => "read of memory that may not be",
    }
}

impl From<VcpuFault> for Fault {
    fn from(fault: VcpuFault) -> Self {
        let instruction = fault.rip;
        let what = VcpuFault::new(fault.kind, None).to_string();
        Self { what, instruction, address: None, signal: libc::SIGSEGV }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if matches!(self.state, State::Unrecoverable(_)) || !self.home.is_open() {
            return;
        }
        if let Some(vcpu) = self.cpu.leave() {
            let (hypervisor, model) = (Arc::clone(&self.hypervisor), Arc::clone(&self.model));
            let space = self.process.space.leave();
            self.home.give(Shell { hypervisor, model, space, vcpu });
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("state", &self.state).finish_non_exhaustive()
    }
}

const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Sandbox>();
    sent::<Builder>();
    shared::<Canceller>();
};
