//! A timer that gets one thread out of the guest: a vCPU's deadline.
//!
//! The kernel sends the kick signal to the thread itself, so nobody has to watch the clock. A signal
//! that comes a moment before KVM_RUN would be lost; the timer therefore repeats until it is
//! switched off.
#![expect(unsafe_code, reason = "timer_create, timer_settime, timer_delete")]

use std::{
    ptr::null_mut,
    time::{Duration, Instant},
};

use crate::{
    error::{HostResult, Result},
    hv::kick_signal,
    process::Owner,
};

/// From the deadline on, how often the thread is told.
const REPEAT: Duration = Duration::from_millis(2);

/// When a vCPU is to stop, and the timer for it.
#[derive(Default)]
pub(super) struct Alarm {
    deadline: Option<Instant>,
    timer: Option<Timer>,
}

/// A timer of the kernel's, and the thread that it signals.
struct Timer {
    id: libc::timer_t,
    thread: libc::pid_t,
    owner: Owner,
}

// SAFETY: a `timer_t` is a number in disguise; every thread of the process may use it.
unsafe impl Send for Timer {}

impl Alarm {
    /// Whether the deadline has passed.
    #[inline]
    pub(super) fn has_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Sets the deadline, for the calling thread, or takes it away.
    pub(super) fn set(&mut self, deadline: Option<Instant>) -> Result<()> {
        if deadline.is_none() && self.deadline.is_none() {
            return Ok(());
        }
        self.deadline = None;
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.timer()?.set(left)?;
        self.deadline = deadline;
        Ok(())
    }

    /// The timer of the calling thread.
    fn timer(&mut self) -> Result<&Timer> {
        // SAFETY: `gettid` always succeeds.
        let thread = unsafe { libc::gettid() };
        let ours = self.timer.take().filter(|timer| timer.thread == thread);
        let timer = match ours {
            Some(timer) => timer,
            None => Timer::new(thread)?,
        };
        Ok(self.timer.insert(timer))
    }
}

impl Timer {
    fn new(thread: libc::pid_t) -> Result<Self> {
        let signal = kick_signal()?;
        // SAFETY: a `sigevent` is plain bits; those that matter are set.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = thread;
        let mut id = null_mut();
        // SAFETY: both pointers are to live values of the right types.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id) };
        result(made).host(|| "creating a timer for a deadline")?;
        Ok(Self { id, thread, owner: Owner::current() })
    }

    /// Fires after `left`, and then again and again; `None` switches it off.
    fn set(&self, left: Option<Duration>) -> Result<()> {
        let off = Duration::ZERO;
        let (first, repeat) = match left {
            // Zero would switch it off.
            Some(left) => (left.max(Duration::from_nanos(1)), REPEAT),
            None => (off, off),
        };
        let spec = libc::itimerspec { it_value: timespec(first), it_interval: timespec(repeat) };
        // SAFETY: the timer is ours until it is dropped, `spec` is live, the old one is not asked
        // for.
        let set = unsafe { libc::timer_settime(self.id, 0, &spec, null_mut()) };
        result(set).host(|| "setting the timer of a deadline")
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // A child of fork() has no timers, and may by now have one of its own with this number.
        if self.owner.is_current() {
            // SAFETY: it is ours and not used any more.
            unsafe { libc::timer_delete(self.id) };
        }
    }
}

fn timespec(time: Duration) -> libc::timespec {
    let tv_sec = libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX);
    libc::timespec { tv_sec, tv_nsec: time.subsec_nanos().into() }
}

fn result(status: libc::c_int) -> std::io::Result<()> {
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
