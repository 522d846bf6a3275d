//! Making `run` return from another thread or a signal handler, without a race.
//!
//! A kick must not be lost if it comes a moment before `run` enters the guest, and must not send
//! its signal to a thread that has left `run`. One word holds the whole handshake: a kicker
//! announces itself in it, marks the kick, raises the back end's exit flag, signals the thread if
//! the word said that it is in `run`, and signs off. A thread that leaves `run` waits until no
//! kicker is between announcing and signing off; the same wait lets a vCPU free the exit flag's
//! memory.
#![expect(unsafe_code, reason = "the kick signal, and the exit flag in a back end's shared page")]

use std::{
    cell::Cell,
    fmt, io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use super::doze::Doze;
use crate::{
    error::{Error, Result},
    process::Owner,
};

/// A kick was asked for and not yet reported.
const PENDING: u32 = 1;
/// A thread is in `run`; `thread` says which.
const RUNNING: u32 = 2;
/// The vCPU is gone, and with it the exit flag.
const CLOSED: u32 = 4;
/// Kickers at work are counted from here up.
const KICKER: u32 = 8;

/// Makes a vCPU's [`run`](super::Vcpu::run) return [`Kicked`](crate::exit::VcpuExit::Kicked).
///
/// May be used from any thread and from a signal handler, and outlive the vCPU. A kick while nobody
/// is in `run` makes the next `run` return at once; several kicks before it returns are one.
#[derive(Clone)]
pub struct Kicker(Arc<KickTarget>);

impl Kicker {
    /// Kicks. Does nothing when the vCPU is gone or, after `fork()`, in the child.
    pub fn kick(&self) {
        self.0.kick();
    }

    /// Prepares the calling thread for many runs of the vCPU: each sees to it that the kick signal
    /// is not blocked, a system call, unless this holds.
    ///
    /// # Errors
    /// `BadConfig` if the kick signal has a handler of somebody else's; `WrongProcess` after
    /// `fork()`, in the child.
    pub fn listen(&self) -> Result<Listening> {
        self.0.owner.check()?;
        match self.0.flag {
            Flag::Signalled(_) => listen(),
            Flag::Polled(_) | Flag::Shared(..) => Ok(Listening::idle()),
        }
    }
}

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kicker({:#x})", self.0.word.load(SeqCst))
    }
}

/// The vCPU's end of its [`Kicker`]s.
pub(crate) struct KickTarget {
    word: AtomicU32,
    /// The `pthread_t` in `run`; meaningful while `RUNNING`.
    thread: AtomicU64,
    flag: Flag,
    owner: Owner,
}

/// What makes the back end look up.
enum Flag {
    /// A byte of the back end's own that it polls; the thread never needs a signal.
    Polled(AtomicU8),
    /// As `Polled`, by something that the back end shares with others; and where the thread may
    /// wait meanwhile.
    #[cfg_attr(not(feature = "soft"), expect(dead_code, reason = "the software CPU's"))]
    Shared(Arc<AtomicBool>, Option<Arc<Doze>>),
    /// `kvm_run.immediate_exit`, and a signal gets the thread out of the guest.
    Signalled(NonNull<AtomicU8>),
}

// SAFETY: the pointer leads to an atomic that any thread may use; `close` makes sure nobody does
// after it is gone.
unsafe impl Send for Flag {}
// SAFETY: as above.
unsafe impl Sync for Flag {}

/// What [`KickTarget::enter`] found.
pub(crate) enum Entry<'a> {
    /// A kick was waiting: it is taken, do not run.
    Kicked,
    /// The thread is on record: run, then leave.
    Go(Running<'a>),
}

/// A thread on record as being in `run`; also a panic of a device takes it off.
pub(crate) struct Running<'a>(&'a KickTarget);

impl Running<'_> {
    /// Takes the thread off the record. A kick that waits is now reported if `consume`, or kept for
    /// the next `run`.
    pub(crate) fn leave(self, consume: bool) {
        self.0.leave(consume);
        std::mem::forget(self);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.leave(false);
    }
}

impl KickTarget {
    /// For a back end that polls [`is_pending`](Self::is_pending).
    pub(crate) fn polled() -> Arc<Self> {
        Self::with_flag(Flag::Polled(AtomicU8::new(0)))
    }

    /// For a back end that polls `flag`, and that others make look up by it too; if it waits, then
    /// in `doze`.
    #[cfg(feature = "soft")]
    pub(crate) fn shared(flag: Arc<AtomicBool>, doze: Option<Arc<Doze>>) -> Arc<Self> {
        Self::with_flag(Flag::Shared(flag, doze))
    }

    /// For a back end that leaves the guest on a signal or if `flag` is 1.
    ///
    /// # Safety
    /// `flag` must be valid until [`close`](Self::close) has returned.
    pub(crate) unsafe fn signalled(flag: NonNull<AtomicU8>) -> Arc<Self> {
        Self::with_flag(Flag::Signalled(flag))
    }

    fn with_flag(flag: Flag) -> Arc<Self> {
        let (word, thread) = (AtomicU32::new(0), AtomicU64::new(0));
        Arc::new(Self { word, thread, flag, owner: Owner::current() })
    }

    /// A handle for others.
    pub(crate) fn kicker(self: &Arc<Self>) -> Kicker {
        Kicker(Arc::clone(self))
    }

    fn kick(&self) {
        if !self.owner.is_current() {
            return;
        }
        let announced = self.word.fetch_add(KICKER, SeqCst);
        if announced & CLOSED == 0 {
            let before = self.word.fetch_or(PENDING, SeqCst);
            self.raise(1);
            if before & RUNNING != 0 {
                self.rouse();
            }
        }
        self.word.fetch_sub(KICKER, SeqCst);
    }

    /// Gets the thread that is in `run` to look at the exit flag.
    fn rouse(&self) {
        match (&self.flag, SIGNAL.get()) {
            (Flag::Signalled(_), Some(signal)) => {
                // SAFETY: RUNNING was set after we announced ourselves, so the thread waits for us
                // before it leaves `run` and the `pthread_t` is that of a live thread.
                // `pthread_kill` is async-signal-safe.
                unsafe { libc::pthread_kill(self.thread.load(SeqCst), *signal) };
            }
            (Flag::Shared(_, Some(doze)), _) => doze.end(),
            _ => {}
        }
    }

    /// Puts the calling thread on record as running, unless a kick is waiting.
    ///
    /// A kick from here on sets the exit flag after it was cleared here, so the flag stays set
    /// until the back end sees it.
    pub(crate) fn enter(&self) -> Entry<'_> {
        self.raise(0);
        // SAFETY: `pthread_self` always succeeds.
        self.thread.store(unsafe { libc::pthread_self() }, SeqCst);
        if self.word.fetch_or(RUNNING, SeqCst) & PENDING == 0 {
            return Entry::Go(Running(self));
        }
        self.leave(true);
        Entry::Kicked
    }

    /// Takes the thread off the record, after the last kicker that may signal it.
    fn leave(&self, consume: bool) {
        let clear = if consume { RUNNING | PENDING } else { RUNNING };
        self.quiet(|word| word & !clear);
    }

    /// Whether a kick waits to be reported.
    pub(crate) fn is_pending(&self) -> bool {
        self.word.load(SeqCst) & PENDING != 0
    }

    /// Makes the back end return at its next entry, without a kick: how pending I/O is completed.
    pub(crate) fn raise_exit_flag(&self) {
        self.raise(1);
    }

    /// Ends [`raise_exit_flag`](Self::raise_exit_flag); a kick that came meanwhile keeps the flag.
    pub(crate) fn lower_exit_flag(&self) {
        self.raise(0);
        // A kicker marks PENDING first and raises the flag second: what we may have cleared is seen
        // here.
        if self.is_pending() {
            self.raise(1);
        }
    }

    /// From its return on, no kicker touches the exit flag.
    pub(crate) fn close(&self) {
        // In a child of fork() nobody kicks, and a kicker that was at work in the parent stays in
        // the count for ever.
        if self.owner.is_current() {
            self.quiet(|word| word | CLOSED);
        }
    }

    /// Changes the word at a moment when no kicker is at work.
    fn quiet(&self, change: impl Fn(u32) -> u32) {
        for turn in 0u32.. {
            let word = self.word.load(SeqCst);
            if word >= KICKER {
                // A kicker holds this for the few instructions of `kick`; it may have been
                // preempted in them, for good if this thread has a real-time priority and only
                // yields.
                match turn {
                    0..32 => std::thread::yield_now(),
                    _ => std::thread::sleep(Duration::from_micros(50)),
                }
            } else if self.word.compare_exchange(word, change(word), SeqCst, SeqCst).is_ok() {
                return;
            }
        }
    }

    fn raise(&self, value: u8) {
        match &self.flag {
            Flag::Polled(flag) => flag.store(value, SeqCst),
            Flag::Shared(flag, _) => flag.store(value != 0, SeqCst),
            // SAFETY: valid until `close` returned, and `close` waits for kickers; `enter` and the
            // rest are the vCPU's own.
            Flag::Signalled(flag) => unsafe { flag.as_ref() }.store(value, SeqCst),
        }
    }
}

/// The kick signal, once its handler is installed; process-wide, as signal dispositions are.
static SIGNAL: OnceLock<libc::c_int> = OnceLock::new();

/// The kick signal unless another is chosen: `SIGSTKFLT`, which Linux defines and never sends.
pub const DEFAULT_KICK_SIGNAL: i32 = libc::SIGSTKFLT;

/// Chooses the signal that gets threads out of the guest, and installs its empty handler.
///
/// Needed only by programs that use [`DEFAULT_KICK_SIGNAL`] for themselves; call it before the
/// first machine runs and before the first [`probe`](crate::host::probe), which runs guests too.
///
/// # Errors
/// `BadConfig` if the signal already has a handler, is none or is a real-time signal, `WrongState`
/// if another was chosen or used already.
pub fn set_kick_signal(signal: i32) -> Result<()> {
    if signal >= libc::SIGRTMIN() {
        // The kernel queues these, and refuses when RLIMIT_SIGPENDING is used up: a lost kick.
        let message = format!("kick signal {signal}: a real-time signal may be refused when sent");
        return Err(Error::bad_config(message));
    }
    match installed(signal)? {
        chosen if chosen == signal => Ok(()),
        chosen => Err(Error::wrong_state(format!("the kick signal is already {chosen}"))),
    }
}

/// The kick signal; its handler is installed.
pub(crate) fn kick_signal() -> Result<libc::c_int> {
    installed(DEFAULT_KICK_SIGNAL)
}

/// Unblocks the kick signal on the calling thread until the guard is dropped; its handler is
/// installed.
#[inline]
pub(crate) fn listen() -> Result<Listening> {
    match LISTENS.get() {
        true => Ok(Listening::idle()),
        false => Ok(Listening::new(kick_signal()?)),
    }
}

thread_local! {
    /// A [`Listening`] of this thread keeps the kick signal unblocked.
    static LISTENS: Cell<bool> = const { Cell::new(false) };
}

/// The signal in use: the one chosen first, or now `wanted`.
fn installed(wanted: libc::c_int) -> Result<libc::c_int> {
    if let Some(signal) = SIGNAL.get() {
        return Ok(*signal);
    }
    install(wanted)?;
    Ok(*SIGNAL.get_or_init(|| wanted))
}

/// The kick signal is unblocked on this thread; one that had blocked it has it blocked again when
/// this is dropped. Until then its signal mask leaves the kick signal as it is.
#[derive(Debug)]
pub struct Listening {
    /// It was this one that unblocked it.
    first: bool,
    reblock: bool,
    /// The mask is the thread's.
    stay: PhantomData<*const ()>,
}

impl Listening {
    /// There is nothing to do.
    fn idle() -> Self {
        Self { first: false, reblock: false, stay: PhantomData }
    }

    fn new(signal: libc::c_int) -> Self {
        let reblock = mask(libc::SIG_UNBLOCK, only(signal)) & only(signal) != 0;
        LISTENS.set(true);
        Self { first: true, reblock, ..Self::idle() }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.first {
            LISTENS.set(false);
        }
        if self.reblock
            && let Some(signal) = SIGNAL.get()
        {
            mask(libc::SIG_BLOCK, only(*signal));
        }
    }
}

/// The kernel's set of one signal.
fn only(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Changes the signals that are blocked on this thread; gives what they were before. A system call
/// a run: `pthread_sigmask` and its sets of 128 bytes take a hundred instructions more.
fn mask(how: libc::c_int, set: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both pointers are to live values of the size that is given; the call fails for no
    // valid `how`.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set,
            &raw mut before,
            size_of_val(&set),
        );
    }
    before
}

/// Signals a thread raises by what it executes. Blocked, they would kill the process instead of
/// reaching a handler that a device's code may rely on.
const SYNCHRONOUS: [libc::c_int; 6] =
    [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Blocks every signal but the kick signal and the synchronous ones on the calling thread: what
/// each thread of ours does first, so that the program's signals go to its own threads.
pub fn block_other_signals() {
    // SAFETY: a `sigset_t` is plain bits, filled before use; the old mask is not asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for signal in SYNCHRONOUS {
            libc::sigdelset(&mut set, signal);
        }
        if let Some(signal) = SIGNAL.get() {
            libc::sigdelset(&mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Why a wait ended.
pub(crate) enum Woken {
    /// By what was waited for, or by time.
    Ready,
    /// By a signal that is not ours.
    Interrupted,
}

/// Waits until `fd` is readable, a signal was handled, or that much time has passed.
///
/// The kick signal does not end it: one that was sent while the thread left `run` may arrive only
/// now.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, within: Option<Duration>) -> io::Result<Woken> {
    let time = within.map(|within| libc::timespec {
        tv_sec: within.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: within.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: a `sigset_t` is plain bits, filled by `pthread_sigmask`; all pointers are to live
    // values; the descriptor is open while it is borrowed.
    let ready = unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
        if let Some(signal) = SIGNAL.get() {
            libc::sigaddset(&mut mask, *signal);
        }
        libc::ppoll(&mut poll, 1, time, &mask)
    };
    if ready >= 0 {
        return Ok(Woken::Ready);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(Woken::Interrupted),
        error => Err(error),
    }
}

/// Installs the empty handler, only where there is none.
fn install(signal: libc::c_int) -> Result<()> {
    // Its only purpose is to exist: a signal without a handler would end the process, an ignored
    // one would not interrupt.
    extern "C" fn nothing(_: libc::c_int) {}
    let ours = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    let refused = || {
        let reason = std::io::Error::last_os_error();
        Error::bad_config(format!("kick signal {signal}: {reason}"))
    };

    // SAFETY: a zeroed `sigaction` is valid (default disposition, empty mask); pointers are to live
    // values; the handler does nothing and is therefore async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
            return Err(refused());
        }
        // Two threads may be here for their first run at the same time.
        if action.sa_sigaction == ours {
            return Ok(());
        }
        if action.sa_sigaction != libc::SIG_DFL {
            return Err(Error::bad_config(format!(
                "signal {signal} already has a handler: choose another with set_kick_signal() \
                 before the first run"
            )));
        }
        action.sa_sigaction = ours;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
            return Err(refused());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_kicked(target: &KickTarget) -> bool {
        matches!(target.enter(), Entry::Kicked)
    }

    #[test]
    fn a_kick_before_entry_is_reported_once() {
        let target = KickTarget::polled();
        target.kicker().kick();
        target.kicker().kick();
        assert!(is_kicked(&target));
        assert!(!is_kicked(&target));
    }

    #[test]
    fn a_kick_that_is_not_consumed_waits_for_the_next_run() {
        let target = KickTarget::polled();
        let Entry::Go(running) = target.enter() else { panic!("nobody kicked") };
        target.kicker().kick();
        drop(running);
        assert!(is_kicked(&target));
    }

    #[test]
    fn kicks_from_many_threads_are_never_lost() {
        let target = KickTarget::polled();
        let rounds = 2_000;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let kicker = target.kicker();
                scope.spawn(move || (0..rounds).for_each(|_| kicker.kick()));
            }
            let mut seen = 0;
            while seen < rounds {
                target.kicker().kick();
                if let Entry::Go(running) = target.enter() {
                    while !target.is_pending() {
                        std::hint::spin_loop();
                    }
                    running.leave(true);
                }
                seen += 1;
            }
        });
    }

    #[test]
    fn a_kicker_outlives_its_vcpu() {
        let kicker = {
            let flag = Box::new(AtomicU8::new(0));
            // SAFETY: the flag lives until after `close`.
            let target = unsafe { KickTarget::signalled(NonNull::from(&*flag)) };
            let kicker = target.kicker();
            kicker.kick();
            assert_eq!(flag.load(SeqCst), 1);
            target.close();
            kicker
        };
        kicker.kick();
        assert!(format!("{kicker:?}").contains("Kicker"));
    }

    #[test]
    fn a_blocked_kick_signal_is_unblocked_only_while_listening() {
        let blocked = |signal| {
            // SAFETY: a `sigset_t` is plain bits; only the current mask is read.
            unsafe {
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
                libc::sigismember(&mask, signal) == 1
            }
        };
        drop(listen().unwrap());
        let signal = DEFAULT_KICK_SIGNAL;
        std::thread::spawn(move || {
            // SAFETY: as above; the set is filled before use.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            }
            let listening = listen().unwrap();
            assert!(!blocked(signal));
            drop(listen().unwrap());
            assert!(!blocked(signal), "the first one holds");
            drop(listening);
            assert!(blocked(signal));
            drop(listen().unwrap());
            assert!(blocked(signal));
        })
        .join()
        .unwrap();
    }
}
