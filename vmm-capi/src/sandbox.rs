//! Sandboxes.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    ops::{Deref, DerefMut},
};

use ::vmm_sandbox::{Canceller, Lease, Sandbox, Snapshot, State};
use vmm_core::Result;

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard, silent, tell},
    outcome::vmm_outcome,
    pass,
    value::{self, Given, vmm_value},
};

/// One Linux program in a micro-VM without a kernel. One thread uses it at a time.
pub struct vmm_sandbox {
    used: Exclusive<Used>,
    canceller: Canceller,
}

struct Used {
    sandbox: Held,
    /// Taken from the sandbox and not yet given to the caller: standard output, standard error.
    output: [Vec<u8>; 2],
}

/// Whose sandbox it is.
enum Held {
    Own(Sandbox),
    /// A pool's, which gets it back.
    Lent(Lease),
}

impl Deref for Held {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        match self {
            Self::Own(sandbox) => sandbox,
            Self::Lent(lease) => lease,
        }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Sandbox {
        match self {
            Self::Own(sandbox) => sandbox,
            Self::Lent(lease) => lease,
        }
    }
}

/// What a sandbox can do next.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_sandbox_state {
    /// It was made and not started.
    New = 0,
    /// It can be called.
    Ready = 1,
    /// It has exited.
    Exited = 2,
    /// It was stopped in the middle: what it has in memory is in no defined state.
    Poisoned = 3,
    /// The host could not go on with it.
    Unrecoverable = 4,
}

impl vmm_sandbox {
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        Self::held(Held::Own(sandbox))
    }

    pub(crate) fn lent(lease: Lease) -> Self {
        Self::held(Held::Lent(lease))
    }

    fn held(sandbox: Held) -> Self {
        let canceller = sandbox.canceller();
        let used = Used { sandbox, output: Default::default() };
        Self { used: Exclusive::new("sandbox", used), canceller }
    }

    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Sandbox) -> Result<R>) -> Result<R> {
        self.used.with(|used| work(&mut used.sandbox))
    }

    /// What was captured and not taken belongs to what the sandbox was before.
    pub(crate) fn reset(&self, to: &Snapshot) -> Result<()> {
        self.used.with(|used| {
            used.sandbox.reset(to)?;
            used.output = Default::default();
            Ok(())
        })
    }
}

/// Frees a sandbox. It must not be in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_free(sandbox: *mut vmm_sandbox) {
    // SAFETY: the header's rules.
    unsafe { pass::free(sandbox) };
}

/// Runs the program from its start to its end, or to where it says that it is ready to be called
/// (vmm_ready of vmm_guest.h). `outcome` may be NULL.
///
/// How the program ended is an outcome, not an error: VMM_ENDING_KILLED if it was stopped.
/// VMM_STATUS_WRONG_STATE if it was started before; VMM_STATUS_INTERRUPTED if a signal came on this
/// thread: the next vmm_sandbox_start goes on; VMM_STATUS_HOST if the back end fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_start(
    sandbox: *mut vmm_sandbox,
    outcome: *mut vmm_outcome,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let ended = pass::object(sandbox, "sandbox")?.with(Sandbox::start)?;
            if outcome.is_null() {
                return Ok(());
            }
            pass::fill(outcome, "outcome", (&ended).into())
        })
    }
}

/// Calls a global function of the program, which must have said that it is ready, and waits for its
/// return.
///
/// `result` says by its kind what the function returns, and is filled; NULL for void. For VMM_KIND_TEXT
/// `data` and `size` are where the text goes; it is cut if it does not fit, and `size` becomes its whole
/// length.
///
/// VMM_STATUS_NOT_FOUND if there is no such function; VMM_STATUS_BAD_CONFIG if the arguments do not
/// fit; VMM_STATUS_POISONED if it did not return, and the error says why: only vmm_sandbox_reset helps
/// then; VMM_STATUS_GUEST_MEMORY if the text it returned is nowhere; VMM_STATUS_WRONG_STATE if it is not
/// ready.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_call(
    sandbox: *mut vmm_sandbox,
    name: *const c_char,
    arguments: *const vmm_value,
    count: usize,
    result: *mut vmm_value,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let sandbox = pass::object(sandbox, "sandbox")?;
            let name = pass::text(name, "name")?;
            let mut given = Given::new(arguments, count)?;
            let wanted = result.as_ref().map_or(vmm_value::NOTHING, |result| *result);
            let called = sandbox.with(|sandbox| value::call(sandbox, name, &mut given, wanted))?;
            given.copy_back();
            if result.is_null() {
                return Ok(());
            }
            pass::fill(result, "result", called)
        })
    }
}

/// Fills `*state` with what the sandbox can do next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_get_state(
    sandbox: *const vmm_sandbox,
    state: *mut vmm_sandbox_state,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let now = pass::object(sandbox, "sandbox")?.with(|sandbox| {
                Ok(match sandbox.state() {
                    State::New => vmm_sandbox_state::New,
                    State::Ready => vmm_sandbox_state::Ready,
                    State::Exited(_) => vmm_sandbox_state::Exited,
                    State::Poisoned(_) => vmm_sandbox_state::Poisoned,
                    _ => vmm_sandbox_state::Unrecoverable,
                })
            })?;
            pass::fill(state, "state", now)
        })
    }
}

/// Takes up to `size` bytes of what the program has written to standard output, if that is
/// captured; gives how many, 0 if there are no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_take_stdout(
    sandbox: *mut vmm_sandbox,
    data: *mut c_void,
    size: usize,
) -> usize {
    // SAFETY: the header's rules.
    unsafe { take(sandbox, data, size, 0, Sandbox::take_stdout) }
}

/// The same of standard error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_take_stderr(
    sandbox: *mut vmm_sandbox,
    data: *mut c_void,
    size: usize,
) -> usize {
    // SAFETY: the header's rules.
    unsafe { take(sandbox, data, size, 1, Sandbox::take_stderr) }
}

/// # Safety
/// As for [`pass::object`] and [`pass::bytes_mut`].
unsafe fn take(
    sandbox: *mut vmm_sandbox,
    data: *mut c_void,
    size: usize,
    stream: usize,
    more: fn(&mut Sandbox) -> Vec<u8>,
) -> usize {
    silent(|| {
        // SAFETY: the caller's promise.
        let (sandbox, data) = unsafe {
            (pass::object(sandbox, "sandbox"), pass::bytes_mut(data.cast(), size, "data"))
        };
        let taken = sandbox.and_then(|sandbox| {
            let data = data?;
            sandbox.used.with(|used| {
                let Some(waiting) = used.output.get_mut(stream) else { return Ok(0) };
                waiting.extend(more(&mut used.sandbox));
                let count = waiting.len().min(data.len());
                for (to, from) in data.iter_mut().zip(waiting.drain(..count)) {
                    *to = from;
                }
                Ok(count)
            })
        });
        taken.unwrap_or(0)
    })
}

/// What a program has used and asked for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmm_sandbox_statistics {
    /// sizeof(vmm_sandbox_statistics), set by the caller.
    pub struct_size: usize,
    /// Bytes of memory in use, page tables included.
    pub memory: u64,
    /// System calls that were answered.
    pub system_calls: u64,
}

/// Fills `*statistics`, as much of it as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_get_statistics(
    sandbox: *const vmm_sandbox,
    statistics: *mut vmm_sandbox_statistics,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let sandbox = pass::object(sandbox, "sandbox")?;
            let now = sandbox.with(|sandbox| Ok(sandbox.statistics()))?;
            let filled = vmm_sandbox_statistics {
                struct_size: 0,
                memory: now.memory,
                system_calls: now.system_calls,
            };
            pass::fill_sized(statistics, "statistics", filled)
        })
    }
}

/// Writes the system calls that the program made and that are not known here to `buffer`, in lines
/// such as "io_uring_setup 3"; gives the whole length, 0 if there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_unknown_calls(
    sandbox: *const vmm_sandbox,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    silent(|| {
        // SAFETY: the header's rules.
        let calls = unsafe { pass::object(sandbox, "sandbox") }.and_then(|sandbox| {
            let lines = |sandbox: &mut Sandbox| {
                let calls = sandbox.statistics().unknown_calls;
                Ok(calls.iter().map(|(name, count)| format!("{name} {count}\n")).collect())
            };
            sandbox.with(lines)
        });
        let calls: String = calls.unwrap_or_default();
        // SAFETY: as above.
        unsafe { pass::give_text(calls.as_bytes(), buffer, size) }
    })
}

/// Stops a sandbox from elsewhere. It may outlive the sandbox.
pub struct vmm_canceller(Canceller);

/// What stops the sandbox from another thread or a signal handler; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_canceller(sandbox: *const vmm_sandbox) -> *mut vmm_canceller {
    // SAFETY: the header's rules.
    unsafe {
        tell(sandbox, std::ptr::null_mut(), |sandbox| {
            pass::give(vmm_canceller(sandbox.canceller.clone()))
        })
    }
}

/// Ends the start or call that is under way, or else the next one, with VMM_CAUSE_CANCELLED. May be
/// called from a callback and from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_canceller_cancel(canceller: *const vmm_canceller) {
    // SAFETY: the header's rules.
    unsafe { tell(canceller, (), |canceller| canceller.0.cancel()) };
}

/// Frees a canceller; nothing happens to the sandbox.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_canceller_free(canceller: *mut vmm_canceller) {
    // SAFETY: the header's rules.
    unsafe { pass::free(canceller) };
}
