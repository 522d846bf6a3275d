//! A thread for what may wait, so that nobody else does.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use crate::{
    error::{Error, ErrorKind, HostResult, Result},
    hv::block_other_signals,
    process::Owner,
};

/// A thread that does jobs in the order they were given, for a device or its back end: what would
/// keep the reactor waiting goes here, with the [`Chain`](super::Chain) it is about.
///
/// Dropped, it finishes the job it is at, drops those that wait, and is gone when the drop returns.
pub struct Worker<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
    owner: Owner,
}

struct Shared<T> {
    jobs: Mutex<Jobs<T>>,
    added: Condvar,
}

struct Jobs<T> {
    waiting: VecDeque<T>,
    /// The thread sleeps: only then is there anyone to wake.
    asleep: bool,
    over: bool,
    /// What the panic of a job said, which was the last one.
    panicked: Option<String>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread `name`, which calls `work` for each job. It blocks signals as all threads
    /// of this library do.
    ///
    /// # Errors
    /// `Host` if there can be no further thread.
    pub fn start(name: &str, mut work: impl FnMut(T) + Send + 'static) -> Result<Self> {
        let jobs = Jobs { waiting: VecDeque::new(), asleep: false, over: false, panicked: None };
        let shared = Arc::new(Shared { jobs: Mutex::new(jobs), added: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            block_other_signals();
            while let Some(job) = theirs.next() {
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(job))) {
                    return theirs.give_up(&*payload);
                }
            }
        });
        let thread = thread.host(|| format!("starting the thread {name}"))?;
        Ok(Self { shared, thread: Some(thread), owner: Owner::current() })
    }

    /// Has `job` done. Never waits; how many wait is the caller's to bound.
    ///
    /// # Errors
    /// `Poisoned` if an earlier one panicked.
    pub fn give(&self, job: T) -> Result<()> {
        self.give_all([job])
    }

    /// Whether it has nothing to do: what is given now is begun at once.
    pub fn is_idle(&self) -> bool {
        self.shared.jobs().asleep
    }

    /// Has several done, and wakes the thread once for all of them: it may be faster than who gives
    /// them one by one, and then sleeps and is woken for each.
    ///
    /// # Errors
    /// `Poisoned` if an earlier one panicked.
    pub fn give_all(&self, given: impl IntoIterator<Item = T>) -> Result<()> {
        let mut jobs = self.shared.jobs();
        if let Some(why) = &jobs.panicked {
            return Err(Error::new(ErrorKind::Poisoned, format!("its thread panicked: {why}")));
        }
        jobs.waiting.extend(given);
        if jobs.asleep {
            jobs.asleep = false;
            self.shared.added.notify_one();
        }
        Ok(())
    }
}

impl<T> Shared<T> {
    fn jobs(&self) -> MutexGuard<'_, Jobs<T>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There will be no further job; what they have is dropped without the lock.
    fn close(&self, panicked: Option<String>) {
        let waiting = {
            let mut jobs = self.jobs();
            (jobs.over, jobs.panicked) = (true, panicked);
            std::mem::take(&mut jobs.waiting)
        };
        self.added.notify_one();
        drop(waiting);
    }

    fn give_up(&self, payload: &(dyn Any + Send)) {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        self.close(Some(text.unwrap_or("no message").to_owned()));
    }

    fn next(&self) -> Option<T> {
        let mut jobs = self.jobs();
        loop {
            if jobs.over {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs.asleep = true;
            jobs = self.added.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        // A child of fork() has no such thread, and perhaps a lock that was held then.
        if !self.owner.is_current() {
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.close(None);
        if let Some(thread) = self.thread.take() {
            // A job may be what drops the last handle: nobody waits for himself.
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
