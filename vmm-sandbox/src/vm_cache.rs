//! VMs of sandboxes that are gone, for those that are made next.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
};

use vmm_core::{
    Error, Result,
    arch::CpuModel,
    hv::{Hypervisor, Vcpu, block_other_signals},
};

use crate::space::{Image, Remains};

/// Keeps the VMs of sandboxes that are dropped, for forks to come: to make and to close a VM takes
/// most of the time of a fork's life, on some hosts milliseconds.
///
/// A builder is given one ([`Builder::vm_cache`](crate::Builder::vm_cache)), and the sandbox and all
/// forks of its snapshots use it. A fork takes the VM that was left last by a fork of the same
/// snapshot, or else by whatever program. Nothing of that stays: what was written is put back, or, if
/// the program was another one or has changed its mappings, all of the memory is mapped anew; and
/// every register that a vCPU has is set. Until then what the program wrote remains where it is, out
/// of reach; it is freed when the VM is taken or closed.
///
/// A thread of the cache's closes the VMs that it does not keep, unless more than 64 wait for it. Any
/// thread may use it. When it is dropped, sandboxes go on, and close their VMs themselves.
///
/// ```no_run
/// # fn serve() -> vmm_sandbox::Result<()> {
/// use vmm_sandbox::{Sandbox, VmCache};
///
/// let vms = VmCache::new(8)?;
/// let mut app = Sandbox::program("./guest").vm_cache(&vms).build()?;
/// app.start()?;
/// let warm = app.snapshot()?;
/// for request in ["one", "two"] {
///     let mut child = warm.fork()?;                // the second one takes the first one's VM
///     let answer: i64 = child.call("answer", (request,))?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct VmCache {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

/// What a cache has, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmCacheStatistics {
    /// VMs that can be taken.
    pub idle: usize,
    /// How many were taken.
    pub reused: u64,
    /// How many came back to a cache that was full, and were closed.
    pub closed: u64,
}

/// Where a sandbox's VM goes, if anywhere.
#[derive(Clone, Default)]
pub(crate) struct Home(Weak<Shared>);

/// A VM without a program: what was in it is to be replaced.
pub(crate) struct Shell {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// The processor that its programs are told of.
    pub(crate) model: Arc<CpuModel>,
    pub(crate) space: Remains,
    pub(crate) vcpu: Box<dyn Vcpu>,
}

/// How many may wait to be closed. Beyond it the thread cannot keep up, and whoever drops a sandbox
/// closes its VM.
const MOST_SURPLUS: usize = 64;

struct Shared {
    size: usize,
    /// The process whose it is: a child of `fork()` has no worker, and perhaps a lock that nobody
    /// will ever release.
    process: u32,
    /// Held for moments only; no other lock is taken meanwhile.
    state: Mutex<State>,
    /// There is something to close, or no more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Shell>,
    /// To be closed.
    surplus: Vec<Shell>,
    closing: bool,
    counts: VmCacheStatistics,
}

impl VmCache {
    /// A cache of at most `size` VMs. It is empty.
    ///
    /// # Errors
    /// `Host` if there is no thread to be had.
    pub fn new(size: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            size,
            process: std::process::id(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let worker = thread::Builder::new().name("vm-cache".into()).spawn(move || {
            block_other_signals();
            own.work();
        });
        let worker = worker.map_err(|error| {
            Error::host("starting a cache's thread", error.raw_os_error().unwrap_or(libc::EAGAIN))
        })?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// What it has, and has done so far. All zeros in a child of `fork()`.
    pub fn statistics(&self) -> VmCacheStatistics {
        if self.shared.is_foreign() {
            return VmCacheStatistics::default();
        }
        let state = self.shared.state();
        VmCacheStatistics { idle: state.idle.len(), ..state.counts }
    }

    pub(crate) fn home(&self) -> Home {
        Home(Arc::downgrade(&self.shared))
    }
}

impl Home {
    /// A VM of this back end, with this processor, that nobody uses; one with this image in it, if
    /// there is one.
    pub(crate) fn take(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        model: &Arc<CpuModel>,
        image: &Image,
    ) -> Option<Shell> {
        let shared = self.0.upgrade().filter(|shared| !shared.is_foreign())?;
        let mut state = shared.state();
        let fits = |shell: &Shell| {
            let same = Arc::ptr_eq(&shell.model, model);
            Arc::ptr_eq(&shell.hypervisor, hypervisor) && (same || shell.model == *model)
        };
        let best = |shell: &Shell| shell.space.are_of(image) && fits(shell);
        let idle = &state.idle;
        let last = idle.iter().rposition(best).or_else(|| idle.iter().rposition(fits))?;
        state.counts.reused += 1;
        Some(state.idle.remove(last))
    }

    /// Whether there is a cache to give a VM to.
    pub(crate) fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| !shared.is_foreign())
    }

    /// Gives a VM back; without a cache it is closed.
    pub(crate) fn give(&self, shell: Shell) {
        let Some(shared) = self.0.upgrade().filter(|shared| !shared.is_foreign()) else { return };
        let mut state = shared.state();
        if !state.closing && state.idle.len() < shared.size {
            state.idle.push(shell);
        } else if !state.closing && state.surplus.len() < MOST_SURPLUS {
            state.surplus.push(shell);
            drop(state);
            shared.changed.notify_all();
        } else {
            state.counts.closed += 1;
            drop(state);
            drop(shell);
        }
    }
}

impl Shared {
    fn is_foreign(&self) -> bool {
        self.process != std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is too much, until the cache is dropped.
    fn work(&self) {
        let mut state = self.state();
        while !state.closing {
            let surplus = std::mem::take(&mut state.surplus);
            if surplus.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let closed = surplus.len() as u64;
            drop(surplus);
            state = self.state();
            state.counts.closed += closed;
        }
    }
}

impl Drop for VmCache {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        if self.shared.is_foreign() {
            return;
        }
        let left = {
            let mut state = self.shared.state();
            state.closing = true;
            (std::mem::take(&mut state.idle), std::mem::take(&mut state.surplus))
        };
        self.shared.changed.notify_all();
        drop(left);
        // It does not panic: if it did, there is nothing more to do about it.
        let _ = worker.join();
    }
}

impl fmt::Debug for VmCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmCache").field("size", &self.shared.size).finish_non_exhaustive()
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<VmCache>();
};
