//! What one start or call may take, and stopping it from elsewhere.
//!
//! [`Watch`] is asked in three places: where the vCPU came back because of its deadline or a kick,
//! before the next instruction of the program, and wherever the host waits on the program's behalf,
//! which it does in [`Watch::wait`] only.

use std::{
    cell::Cell,
    fmt,
    ops::ControlFlow,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use vmm_core::{
    Error,
    hv::{Kicker, Listening},
};

use crate::{clock::thread_time, outcome::Cause};

/// What a sandbox may take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Of one start or call.
    pub(crate) time: Option<Duration>,
    /// Of one start or call.
    pub(crate) cpu_time: Option<Duration>,
    /// Bytes in all.
    pub(crate) output: u64,
}

/// Stops a sandbox from elsewhere: any thread, or a signal handler. It may outlive the sandbox.
#[derive(Clone)]
pub struct Canceller(Arc<Shared>);

struct Shared {
    kicker: Kicker,
    cancelled: AtomicBool,
    interrupted: AtomicBool,
    /// What ends a wait of the host's; made when there is the first one.
    wake: OnceLock<OwnedFd>,
}

impl Canceller {
    /// Stops the program in the middle of what it does; the start or call ends with
    /// [`Cause::Cancelled`]. If it does nothing now, the next one ends so at once.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, SeqCst);
        // A wait that has not made it yet looks at `cancelled` afterwards.
        if let Some(wake) = self.0.wake.get() {
            // The only failure is a counter that is full: it wakes too.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
        self.0.kicker.kick();
    }

    /// Makes [`Sandbox::start`](crate::Sandbox::start) come back with `Interrupted`; calling it again
    /// goes on. Meanwhile the program stands between two of its instructions, where it can be
    /// snapshot. If it does nothing now, the next start comes back at once; a call goes on.
    pub fn interrupt(&self) {
        self.0.interrupted.store(true, SeqCst);
        self.0.kicker.kick();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canceller({})", self.0.cancelled.load(SeqCst))
    }
}

/// Asked whether the program goes on.
pub(crate) type Ask = Arc<dyn Fn() -> ControlFlow<()> + Send + Sync>;

/// How long a program runs at most before it is asked. A signal ends a run of the vCPU, but not one
/// that is about to begin, nor one of a CPU in software.
const PATIENCE: Duration = Duration::from_millis(50);

/// A run that is going on.
#[derive(Clone, Copy)]
struct Run {
    began: Instant,
    /// The thread's processor time then. Asking for it is a system call, so only if it is limited.
    processor: Option<Duration>,
}

/// Which runs are timed. Looking at the clock is a tenth of an empty call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timed {
    /// Time is limited, or the program has asked for it.
    All,
    First,
    None,
}

impl Timed {
    fn first(limits: &Limits) -> Self {
        let limited = limits.time.is_some() || limits.cpu_time.is_some();
        if limited { Self::All } else { Self::First }
    }
}

/// What a program's runs have taken, and how they are watched.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    limits: Limits,
    timed: Timed,
    time: Duration,
}

/// Watches over the runs of one program.
pub(crate) struct Watch {
    limits: Limits,
    shared: Arc<Shared>,
    ask: Option<Ask>,
    /// The answer was no.
    refused: Cell<bool>,
    timed: Timed,
    /// The run that is going on, if it is timed.
    run: Option<Run>,
    /// What the runs before it have taken, as far as they were timed.
    spent: Duration,
}

impl Watch {
    pub(crate) fn new(limits: Limits, ask: Option<Ask>, kicker: Kicker) -> Self {
        let (cancelled, interrupted) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Shared { kicker, cancelled, interrupted, wake: OnceLock::new() };
        let (shared, timed) = (Arc::new(shared), Timed::first(&limits));
        let refused = Cell::new(false);
        Self { limits, shared, ask, refused, timed, run: None, spent: Duration::ZERO }
    }

    /// What the runs so far have taken, for another sandbox that goes on from here.
    pub(crate) fn spent(&self) -> Spent {
        let run = self.run.map_or(Duration::ZERO, |run| run.began.elapsed());
        Spent { limits: self.limits, timed: self.timed, time: self.spent + run }
    }

    /// Forgets the runs there were, and what was to end them.
    pub(crate) fn restore(&mut self, spent: Spent) {
        let Spent { limits, timed, time } = spent;
        (self.limits, self.timed, self.run, self.spent) = (limits, timed, None, time);
        self.take_cancellation();
        self.take_interruption();
        self.refused.set(false);
    }

    /// Who is asked, for another sandbox.
    pub(crate) fn ask(&self) -> Option<Ask> {
        self.ask.clone()
    }

    /// Whether someone wants to have the sandbox back. Said once.
    pub(crate) fn take_interruption(&self) -> bool {
        self.shared.interrupted.swap(false, SeqCst)
    }

    pub(crate) fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.shared))
    }

    /// Prepares this thread for what ends a run from elsewhere. Fails in a child of `fork()`, which
    /// has neither the vCPU nor the program's memory.
    pub(crate) fn listen(&self) -> Result<Listening, Error> {
        self.shared.kicker.listen()
    }

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        if self.run.is_none() && self.timed != Timed::None {
            let processor = self.limits.cpu_time.map(|_| thread_time());
            self.run = Some(Run { began: Instant::now(), processor });
        }
    }

    /// The run is over.
    pub(crate) fn end(&mut self) {
        if let Some(run) = self.run.take() {
            self.spent += run.began.elapsed();
        }
        if self.timed == Timed::First {
            self.timed = Timed::None;
        }
        self.refused.set(false);
    }

    /// How long the program has run, the host's work for it and its waits included: its own idea of
    /// processor time. Calls may count only from when it is first asked for.
    pub(crate) fn time(&mut self) -> Duration {
        self.timed = Timed::All;
        self.begin();
        self.spent + self.run.map_or(Duration::ZERO, |run| run.began.elapsed())
    }

    /// When to look at the limits next. Processor time is never ahead of the clock, so what is left
    /// of it is a moment before which it cannot be used up.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.ask.is_none() && self.timed == Timed::None { None } else { self.next_look() }
    }

    fn next_look(&self) -> Option<Instant> {
        let ask = self.ask.as_ref().and_then(|_| Instant::now().checked_add(PATIENCE));
        let limit = self.run.and_then(|run| {
            let time = self.limits.time.and_then(|limit| run.began.checked_add(limit));
            let cpu_time = self.limits.cpu_time.and_then(|limit| {
                Instant::now().checked_add(limit.saturating_sub(run.processor_time()))
            });
            [time, cpu_time].into_iter().flatten().min()
        });
        [ask, limit].into_iter().flatten().min()
    }

    /// Why the program must not go on, if it must not. A cancellation is reported once.
    pub(crate) fn take_cause(&self) -> Option<Cause> {
        if self.take_cancellation() {
            return Some(Cause::Cancelled);
        }
        self.exceeded().or_else(|| self.is_refused().then_some(Cause::Interrupted))
    }

    fn take_cancellation(&self) -> bool {
        let cancelled = self.shared.cancelled.swap(false, SeqCst);
        if cancelled && let Some(wake) = self.shared.wake.get() {
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
        cancelled
    }

    /// Whether the program must not go on because of an answer. Whoever is asked and panics does not
    /// want it.
    fn is_refused(&self) -> bool {
        if let Some(ask) = self.ask.as_ref().filter(|_| !self.refused.get()) {
            let answer = catch_unwind(AssertUnwindSafe(|| ask()));
            self.refused.set(!matches!(answer, Ok(ControlFlow::Continue(()))));
        }
        self.refused.get()
    }

    fn exceeded(&self) -> Option<Cause> {
        let run = self.run?;
        if let Some(limit) = self.limits.time.filter(|limit| run.began.elapsed() >= *limit) {
            return Some(Cause::TimedOut(limit));
        }
        self.limits.cpu_time.filter(|limit| run.processor_time() >= *limit).map(Cause::CpuTime)
    }

    /// Whether the program may go on; for work of the host's that takes long.
    ///
    /// # Errors
    /// `INTR` as of [`wait`](Self::wait).
    pub(crate) fn check(&self) -> Result<(), Errno> {
        if !self.shared.cancelled.load(SeqCst) && self.exceeded().is_none() {
            return Ok(());
        }
        // The kick of who cancels may be still to come, and the program's next instruction first.
        self.shared.kicker.kick();
        Err(Errno::INTR)
    }

    /// Waits until one of `fds` is ready, at most for `timeout`; gives what each is ready for.
    ///
    /// # Errors
    /// `INTR` if the program must not go on: the run ends right after the call that waits.
    pub(crate) fn wait(
        &self,
        fds: &[PollFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<Vec<PollFlags>, Errno> {
        let wake = match self.shared.wake.get() {
            Some(wake) => wake,
            None => {
                let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                self.shared.wake.get_or_init(|| made)
            }
        };
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            self.check()?;
            let until = [end, self.deadline()].into_iter().flatten().min();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut all: Vec<_> = fds.to_vec();
            all.push(PollFd::new(wake, PollFlags::IN));
            match poll(&mut all, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            let ready: Vec<_> = all.iter().take(fds.len()).map(PollFd::revents).collect();
            let any = ready.iter().any(|flags| !flags.is_empty());
            if any || end.is_some_and(|end| end <= Instant::now()) {
                return Ok(ready);
            }
            if self.is_refused() {
                // The run looks for the cause before the program's next instruction.
                self.shared.kicker.kick();
                return Err(Errno::INTR);
            }
        }
    }
}

impl Run {
    /// The processor time it has taken, the host's work included.
    fn processor_time(self) -> Duration {
        self.processor.map_or(Duration::ZERO, |began| thread_time().saturating_sub(began))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd, thread};

    use vmm_core::{
        arch::VcpuId,
        hv::{Hypervisor, VmConfig, script::Script},
    };

    use super::*;

    fn watch(limits: Limits) -> Watch {
        let script = Script::new(vec![]);
        let vm = script.create_vm(&VmConfig { vcpus: 1, irq: None }).unwrap();
        let vcpu = vm.create_vcpu(VcpuId(0), &script.caps().cpu).unwrap();
        let mut watch = Watch::new(limits, None, vcpu.kicker());
        watch.begin();
        watch
    }

    #[test]
    fn a_wait_ends_by_data_by_time_and_by_cancellation() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let fd = || [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        let forever = watch(Limits::default());
        assert_eq!(
            forever.wait(&fd(), Some(Duration::from_millis(1))),
            Ok(vec![PollFlags::empty()])
        );
        let canceller = forever.canceller();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            canceller.cancel();
        });
        assert_eq!(forever.wait(&fd(), None), Err(Errno::INTR));
        thread.join().unwrap();
        assert_eq!(forever.take_cause(), Some(Cause::Cancelled));
        assert_eq!(forever.take_cause(), None);
        assert_eq!(
            forever.wait(&fd(), Some(Duration::from_millis(1))),
            Ok(vec![PollFlags::empty()])
        );
        let limit = Duration::from_millis(20);
        let short = watch(Limits { time: Some(limit), ..Limits::default() });
        assert_eq!(short.wait(&fd(), None), Err(Errno::INTR));
        assert_eq!(short.take_cause(), Some(Cause::TimedOut(limit)));
        writer.write_all(b"x").unwrap();
        assert_eq!(forever.wait(&fd(), None), Ok(vec![PollFlags::IN]));
    }

    #[test]
    fn processor_time_is_not_used_up_by_waiting() {
        let (reader, _writer) = std::io::pipe().unwrap();
        // Some hosts count processor time in ticks of 10 ms.
        let limit = Duration::from_millis(100);
        let mut watch = watch(Limits { cpu_time: Some(limit), ..Limits::default() });
        let fd = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        assert_eq!(watch.wait(&fd, Some(5 * limit)), Ok(vec![PollFlags::empty()]));
        assert_eq!(watch.take_cause(), None);
        assert!(watch.time() >= 5 * limit);
        while watch.take_cause().is_none() {}
    }
}
