//! Machines.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{CString, c_char},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use vmm_core::{
    Machine, Result,
    machine::{Event, Outcome},
};

use crate::{
    error::{self, vmm_error, vmm_status},
    guard::{Shared, guard, tell},
    handle::vmm_handle,
    outcome::vmm_outcome,
    pass,
};

/// A virtual machine.
pub struct vmm_machine {
    machine: Arc<Shared<Arc<Machine>>>,
    backend: CString,
    reason: CString,
    /// The thread of `vmm_machine_start`.
    runner: Mutex<Option<JoinHandle<Result<Outcome>>>>,
}

impl vmm_machine {
    pub(crate) fn new(machine: Machine, backend: &str, reason: &str) -> Self {
        Self {
            machine: Arc::new(Shared::new("machine", Arc::new(machine))),
            backend: error::text(backend),
            reason: error::text(reason),
            runner: Mutex::new(None),
        }
    }

    pub(crate) fn with<'a, R>(
        &'a self,
        work: impl FnOnce(&'a Arc<Machine>) -> Result<R>,
    ) -> Result<R> {
        self.machine.with(work)
    }

    /// Runs the machine on a thread of the library's; what becomes of it is an event.
    fn start(&self) -> Result<()> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        *runner = Some(self.with(Machine::start)?);
        Ok(())
    }
}

impl Drop for vmm_machine {
    fn drop(&mut self) {
        // Fails only in a child of `fork()`, where nothing runs.
        let stopped = self.machine.anyway().handle().stop();
        let runner = self.runner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runner) = runner
            && stopped.is_ok()
            // Freed from a callback of its own: it ends when that returns.
            && runner.thread().id() != std::thread::current().id()
        {
            let _ = runner.join();
        }
    }
}

/// Stops a machine if it runs, and frees it: memory, descriptors, threads, devices. What a
/// vmm_machine_run under way on another thread needs is freed when that has returned. Waits for the
/// thread of vmm_machine_start, unless that is what calls it from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_free(machine: *mut vmm_machine) {
    // SAFETY: the header's rules.
    unsafe { pass::free(machine) };
}

/// The back end that runs it, such as "kvm".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_backend(machine: *const vmm_machine) -> *const c_char {
    // SAFETY: the header's rules.
    unsafe { tell(machine, c"".as_ptr(), |machine| machine.backend.as_ptr()) }
}

/// Why that one, such as "no KVM: /dev/kvm: No such file or directory".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_backend_reason(machine: *const vmm_machine) -> *const c_char {
    // SAFETY: the header's rules.
    unsafe { tell(machine, c"".as_ptr(), |machine| machine.reason.as_ptr()) }
}

/// Runs the guest on the calling thread until it ends or is stopped. `outcome` may be NULL.
///
/// Each further vCPU, and devices that watch descriptors, have a thread that ends before this
/// returns. After VMM_ENDING_HALTED and VMM_STATUS_INTERRUPTED the guest can be run on; after every
/// other ending it has ended, until vmm_machine_reset.
///
/// VMM_STATUS_INTERRUPTED if a signal came that is not the library's; VMM_STATUS_POISONED with the
/// name of a device that failed; VMM_STATUS_WRONG_STATE if it has ended or is being run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_run(
    machine: *mut vmm_machine,
    outcome: *mut vmm_outcome,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            // It may be freed meanwhile.
            let machine = Arc::clone(&pass::object(machine, "machine")?.machine);
            let ended = machine.with(|machine| machine.run())?;
            if outcome.is_null() {
                return Ok(());
            }
            pass::fill(outcome, "outcome", (&ended).into())
        })
    }
}

/// Runs the guest on a thread of the library's, for programs with an event loop: what becomes of it
/// is told by vmm_machine_event_fd and vmm_machine_next_event. Returns at once; fails as
/// vmm_machine_run if the run cannot begin, and with VMM_STATUS_HOST if there is no thread to be had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_start(
    machine: *mut vmm_machine,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(machine, "machine")?.start()) }
}

/// Fills `*fd` with a descriptor that is readable while vmm_machine_next_event has something to
/// give. It is the machine's: only to be polled, not read or closed.
///
///     struct pollfd waiting = {.events = POLLIN};
///     vmm_machine_event_fd(machine, &waiting.fd, NULL);
///     vmm_machine_start(machine, NULL);
///     do {
///         poll(&waiting, 1, -1);
///         status = vmm_machine_next_event(machine, &event, &outcome, &error);
///     } while (status == VMM_STATUS_OK && event != VMM_EVENT_ENDED);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_event_fd(
    machine: *const vmm_machine,
    fd: *mut i32,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let machine = pass::object(machine, "machine")?;
            pass::fill(fd, "fd", machine.with(|machine| machine.event_fd())?.as_raw_fd())
        })
    }
}

/// What happened to a machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_event {
    /// Nothing since the last time.
    None = 0,
    /// A run ended; the outcome says how.
    Ended = 1,
    /// A pause that was asked for is complete.
    Paused = 2,
}

/// Takes what happened since the last time; never waits. Fills `outcome`, which may be NULL, if a
/// run ended; if it failed, the failure is this call's, with `*event` VMM_EVENT_ENDED.
///
/// Only the newest thing is kept, and only while it is true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_next_event(
    machine: *mut vmm_machine,
    event: *mut vmm_event,
    outcome: *mut vmm_outcome,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(event, "event", vmm_event::None)?;
            let machine = pass::object(machine, "machine")?;
            let ended: Result<Outcome> = match machine.with(|machine| machine.next_event())? {
                None => return Ok(()),
                Some(Event::Ended(ended)) => ended,
                Some(_) => return pass::fill(event, "event", vmm_event::Paused),
            };
            pass::fill(event, "event", vmm_event::Ended)?;
            let ended = ended?;
            if outcome.is_null() {
                return Ok(());
            }
            pass::fill(outcome, "outcome", (&ended).into())
        })
    }
}

/// Puts a machine that is not being run back to power-on, in place: memory zeroed, the image loaded
/// anew, devices reset. Cheaper than another machine. VMM_STATUS_WRONG_STATE if it runs or was stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_reset(
    machine: *mut vmm_machine,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(machine, "machine")?.with(|machine| machine.reset())) }
}

/// What stops and pauses the machine from elsewhere. It may outlive the machine; NULL for NULL.
/// May be called from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_handle(machine: *const vmm_machine) -> *mut vmm_handle {
    // SAFETY: the header's rules.
    unsafe {
        tell(machine, std::ptr::null_mut(), |machine| {
            pass::give(vmm_handle(machine.machine.anyway().handle()))
        })
    }
}
