//! What reaches a machine from elsewhere.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::time::Duration;

use vmm_core::machine::{Handle, State};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{guard, tell},
    pass,
};

/// Stops and pauses a machine, from any thread. It does not keep the machine.
pub struct vmm_handle(pub(crate) Handle);

/// What a machine is doing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_machine_state {
    /// There will be no further run: it ended, was stopped, failed, or is gone.
    Ended = 0,
    /// Nothing of it runs, until vmm_handle_resume; a run waits.
    Paused = 1,
    /// It can be run.
    Ready = 2,
    /// It is being run.
    Running = 3,
}

/// Frees a handle; nothing happens to the machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_free(handle: *mut vmm_handle) {
    // SAFETY: the header's rules.
    unsafe { pass::free(handle) };
}

/// Another handle for the same machine; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_clone(handle: *const vmm_handle) -> *mut vmm_handle {
    // SAFETY: the header's rules.
    unsafe { tell(handle, std::ptr::null_mut(), |handle| pass::give(vmm_handle(handle.0.clone()))) }
}

/// Ends the machine: its run returns VMM_ENDING_STOPPED, typically within a millisecond. Never
/// waits; may be called from a callback, and takes effect when that returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_stop(
    handle: *const vmm_handle,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(handle, "handle")?.0.stop()) }
}

/// Pauses the machine: when this returns, no vCPU runs and no device is called until
/// vmm_handle_resume. The run under way waits.
///
/// VMM_STATUS_HOST with ETIMEDOUT if a device kept its thread for longer than `within_ns`
/// nanoseconds: the machine goes on. VMM_STATUS_WRONG_STATE if it has ended, VMM_STATUS_IN_CALLBACK
/// from one of its devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_pause(
    handle: *const vmm_handle,
    within_ns: u64,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || pass::object(handle, "handle")?.0.pause(Duration::from_nanos(within_ns)))
    }
}

/// Asks for a pause without waiting for it: VMM_EVENT_PAUSED tells when it is complete. May be called
/// from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_request_pause(
    handle: *const vmm_handle,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(handle, "handle")?.0.request_pause()) }
}

/// Lets a paused machine go on; takes back a pause that is not complete. Never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_resume(
    handle: *const vmm_handle,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(handle, "handle")?.0.resume()) }
}

/// Fills `*state` with what the machine is doing now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_handle_state(
    handle: *const vmm_handle,
    state: *mut vmm_machine_state,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let now = match pass::object(handle, "handle")?.0.state()? {
                State::Paused => vmm_machine_state::Paused,
                State::Ready => vmm_machine_state::Ready,
                State::Running => vmm_machine_state::Running,
                _ => vmm_machine_state::Ended,
            };
            pass::fill(state, "state", now)
        })
    }
}
