//! Sandboxes that are ready before they are asked for.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use vmm_core::{Error, ErrorKind, Result, hv::block_other_signals};

use crate::{sandbox::Sandbox, snapshot::Snapshot};

/// At most so many forks of one snapshot, each handed out to one user after the other.
///
/// A thread of the pool's makes them ahead. A sandbox comes back when its [`Lease`] is dropped, and
/// is reset on that thread, whatever state it was left in; one that cannot be reset is replaced,
/// and closed by the pool's thread, since closing a VM takes milliseconds on some hosts.
///
/// Any thread may use it. Dropping it frees what it has; what is lent out is freed when it comes
/// back.
///
/// ```no_run
/// # fn serve(warm: &vmm_sandbox::Snapshot) -> vmm_sandbox::Result<()> {
/// let pool = vmm_sandbox::Pool::new(warm, 4)?;
/// let mut app = pool.take()?;                      // waits while all are in use
/// let answer: i64 = app.call("answer", ("a request",))?;
/// # Ok(())
/// # }
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

/// A sandbox of a pool, until this is dropped.
pub struct Lease {
    /// `None` only while it is dropped.
    sandbox: Option<Sandbox>,
    shared: Arc<Shared>,
}

/// What a pool has, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Sandboxes that can be taken at once.
    pub ready: usize,
    /// Those that are lent out.
    pub in_use: usize,
    /// How many were forked.
    pub forks: u64,
    /// How many came back and were reset.
    pub resets: u64,
    /// How many came back and could not be reset.
    pub replaced: u64,
    /// How often somebody had to wait for one.
    pub waits: u64,
}

struct Shared {
    snapshot: Snapshot,
    size: usize,
    /// The process whose pool it is: a child of `fork()` has no worker, and perhaps a lock that
    /// nobody will ever release.
    process: u32,
    /// Held for moments only; no other lock is taken meanwhile.
    state: Mutex<State>,
    /// There is something for somebody to do.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: Vec<Sandbox>,
    /// To be closed.
    retired: Vec<Sandbox>,
    /// How many there are that are not retired, those included that are being made.
    alive: usize,
    /// Why the last one could not be made.
    failed: Option<Error>,
    closing: bool,
    counts: PoolStatistics,
}

impl Pool {
    /// A pool of at most `size` sandboxes. Returns at once; they are made meanwhile.
    ///
    /// # Errors
    /// `BadConfig` for a size of 0; `Host` if there is no thread to be had.
    pub fn new(snapshot: &Snapshot, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::bad_config("a pool of 0 sandboxes"));
        }
        let shared = Arc::new(Shared {
            snapshot: snapshot.clone(),
            size,
            process: std::process::id(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let worker = thread::Builder::new().name("sandbox-pool".into()).spawn(move || {
            block_other_signals();
            own.work();
        });
        let worker = worker.map_err(|error| {
            Error::host("starting a pool's thread", error.raw_os_error().unwrap_or(libc::EAGAIN))
        })?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Takes a sandbox that is as the snapshot says; waits while all are in use.
    ///
    /// # Errors
    /// What [`Snapshot::fork`] said, if there is no sandbox at all: each call has it tried once more.
    /// `WrongProcess` in a child of `fork()`.
    pub fn take(&self) -> Result<Lease> {
        loop {
            // Longer than anybody waits.
            if let Some(lease) = self.take_within(Duration::from_secs(1 << 32))? {
                return Ok(lease);
            }
        }
    }

    /// The same, but waits no longer than that: `None` if none has come back by then.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn take_within(&self, limit: Duration) -> Result<Option<Lease>> {
        let start = Instant::now();
        let mut state = self.shared.open()?;
        // What stood in the way of the last one may be gone.
        if state.alive == 0 && state.failed.take().is_some() {
            self.shared.changed.notify_all();
        }
        let mut waited = false;
        loop {
            if let Some(lease) = self.shared.lend(&mut state)? {
                return Ok(Some(lease));
            }
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return Ok(None);
            };
            if !waited {
                state.counts.waits += 1;
                waited = true;
            }
            let changed = self.shared.changed.wait_timeout(state, left);
            state = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same without waiting: `None` if there is none right now.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn try_take(&self) -> Result<Option<Lease>> {
        let mut state = self.shared.open()?;
        self.shared.lend(&mut state)
    }

    /// What it has, and has done so far.
    ///
    /// # Errors
    /// `WrongProcess` in a child of `fork()`.
    pub fn statistics(&self) -> Result<PoolStatistics> {
        let state = self.shared.open()?;
        Ok(PoolStatistics { ready: state.ready.len(), ..state.counts })
    }
}

impl Shared {
    fn open(&self) -> Result<MutexGuard<'_, State>> {
        if self.is_foreign() {
            let message = "a pool in a child of fork(): only the parent may use it";
            return Err(Error::new(ErrorKind::WrongProcess, message));
        }
        Ok(self.state())
    }

    fn is_foreign(&self) -> bool {
        self.process != std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(self: &Arc<Self>, state: &mut State) -> Result<Option<Lease>> {
        if let Some(sandbox) = state.ready.pop() {
            state.counts.in_use += 1;
            return Ok(Some(Lease { sandbox: Some(sandbox), shared: Arc::clone(self) }));
        }
        if state.alive == 0
            && let Some(error) = state.failed.take()
        {
            self.changed.notify_all();
            return Err(error);
        }
        Ok(None)
    }

    /// Makes what is missing and closes what is retired, until the pool is dropped.
    fn work(&self) {
        let mut state = self.state();
        loop {
            let retired = std::mem::take(&mut state.retired);
            if state.closing {
                return;
            }
            let is_missing = state.alive < self.size && state.failed.is_none();
            if retired.is_empty() && !is_missing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.alive += usize::from(is_missing);
            drop(state);
            drop(retired);
            let made = is_missing.then(|| self.snapshot.fork());
            state = self.state();
            match made {
                Some(Ok(sandbox)) => {
                    state.counts.forks += 1;
                    state.ready.push(sandbox);
                }
                Some(Err(error)) => {
                    let what = format!("sandbox {} of a pool of {}", state.alive, self.size);
                    state.alive -= 1;
                    state.failed = Some(error.context(what));
                }
                None => {}
            }
            self.changed.notify_all();
        }
    }

    /// Takes one back.
    fn give(&self, mut sandbox: Sandbox) {
        let reset = sandbox.reset(&self.snapshot);
        let mut state = self.state();
        state.counts.in_use -= 1;
        match reset {
            Ok(()) => {
                state.counts.resets += 1;
                state.ready.push(sandbox);
            }
            Err(error) => {
                log::warn!("a sandbox of a pool is replaced: {error}");
                state.counts.replaced += 1;
                state.alive -= 1;
                state.retired.push(sandbox);
            }
        }
        // One that could not be made may be possible now.
        state.failed = None;
        let left = if state.closing { std::mem::take(&mut state.ready) } else { Vec::new() };
        drop(state);
        drop(left);
        self.changed.notify_all();
    }
}

impl Deref for Lease {
    type Target = Sandbox;

    #[expect(clippy::expect_used, reason = "only drop takes it out")]
    fn deref(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("a lease that is not dropped has its sandbox")
    }
}

impl DerefMut for Lease {
    #[expect(clippy::expect_used, reason = "only drop takes it out")]
    fn deref_mut(&mut self) -> &mut Sandbox {
        self.sandbox.as_mut().expect("a lease that is not dropped has its sandbox")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(sandbox) = self.sandbox.take().filter(|_| !self.shared.is_foreign()) {
            self.shared.give(sandbox);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        if self.shared.is_foreign() {
            return;
        }
        let ready = {
            let mut state = self.shared.state();
            state.closing = true;
            std::mem::take(&mut state.ready)
        };
        self.shared.changed.notify_all();
        drop(ready);
        // It does not panic: if it did, there is nothing more to do about it.
        let _ = worker.join();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("size", &self.shared.size).finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.sandbox).finish()
    }
}

const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Lease>();
    shared::<Pool>();
};
