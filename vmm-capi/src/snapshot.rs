//! Snapshots of sandboxes, and forks of them.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::c_char;

use ::vmm_sandbox::Snapshot;
use vmm_core::Result;

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Shared, guard},
    pass,
    sandbox::vmm_sandbox,
};

/// A sandbox as it was at one moment. Nothing changes it any more; any thread may use it, several at
/// once; it outlives the sandbox.
pub struct vmm_snapshot(Shared<Snapshot>);

impl vmm_snapshot {
    fn new(snapshot: Snapshot) -> Self {
        Self(Shared::new("snapshot", snapshot))
    }

    pub(crate) fn with<'a, R>(&'a self, work: impl FnOnce(&'a Snapshot) -> Result<R>) -> Result<R> {
        self.0.with(work)
    }
}

/// Keeps what a sandbox is now, which is new or ready; else VMM_STATUS_WRONG_STATE. It goes on as before;
/// nothing that it does later reaches the snapshot or a fork. VMM_STATUS_HOST if the host cannot seal
/// memory, or a file that the program has open cannot be opened anew.
///
///     vmm_sandbox_snapshot(app, &warm, NULL);
///     vmm_snapshot_fork(warm, &child, NULL);
///     vmm_sandbox_call(child, "score", &text, 1, &score, NULL);
///     vmm_sandbox_reset(child, warm, NULL);        // As if it had never been called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_snapshot(
    sandbox: *mut vmm_sandbox,
    snapshot: *mut *mut vmm_snapshot,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(snapshot, "snapshot", std::ptr::null_mut())?;
            let made = pass::object(sandbox, "sandbox")?.with(|sandbox| sandbox.snapshot())?;
            pass::fill(snapshot, "snapshot", pass::give(vmm_snapshot::new(made)))
        })
    }
}

/// Makes another sandbox, in a VM of its own, that goes on from the snapshot and shares its memory
/// until it writes. Functions of the host are the same; captured output starts empty; random numbers
/// are its own. VMM_STATUS_HOST if the host gives no VM, memory or descriptor, or a file that the
/// program has open cannot be opened anew.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_snapshot_fork(
    snapshot: *const vmm_snapshot,
    sandbox: *mut *mut vmm_sandbox,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(sandbox, "sandbox", std::ptr::null_mut())?;
            let child = pass::object(snapshot, "snapshot")?.with(Snapshot::fork)?;
            pass::fill(sandbox, "sandbox", pass::give(vmm_sandbox::new(child)))
        })
    }
}

/// Puts a sandbox back to a snapshot, whatever has become of its program since. What it costs follows
/// what was written since, if it was forked from that snapshot, reset to it or made into it last.
/// VMM_STATUS_INCOMPATIBLE if the snapshot is of another back end or processor;
/// VMM_STATUS_WRONG_STATE if the sandbox is unrecoverable, VMM_STATUS_HOST if it becomes so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_reset(
    sandbox: *mut vmm_sandbox,
    to: *const vmm_snapshot,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let to = pass::object(to, "to")?;
            let sandbox = pass::object(sandbox, "sandbox")?;
            to.with(|to| sandbox.reset(to))
        })
    }
}

/// Writes a snapshot to a file, from which vmm_sandbox_config_saved goes on, in another process or
/// on another host. The file appears whole or not at all, and takes the place of one that was there.
/// It is readable for its owner only: it has all that the program has in memory.
///
/// VMM_STATUS_HOST if it cannot be written, and what was there stays; VMM_STATUS_UNSUPPORTED if the
/// program has a file of the host open that has no name any more; VMM_STATUS_WRONG_STATE if it was
/// interrupted in the middle of an exception: interrupt it again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_snapshot_save(
    snapshot: *const vmm_snapshot,
    path: *const c_char,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let path = pass::path(path, "path")?;
            pass::object(snapshot, "snapshot")?.with(|snapshot| snapshot.save(path))
        })
    }
}

/// Opens a file of vmm_snapshot_save, for a program that was lent nothing and asks for no more than
/// what vmm_sandbox_config_saved gives unless told otherwise. Fails as vmm_sandbox_new and
/// vmm_sandbox_snapshot do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_snapshot_open(
    path: *const c_char,
    snapshot: *mut *mut vmm_snapshot,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(snapshot, "snapshot", std::ptr::null_mut())?;
            let opened = Snapshot::open(pass::path(path, "path")?)?;
            pass::fill(snapshot, "snapshot", pass::give(vmm_snapshot::new(opened)))
        })
    }
}

/// Frees a snapshot; its forks stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_snapshot_free(snapshot: *mut vmm_snapshot) {
    // SAFETY: the header's rules.
    unsafe { pass::free(snapshot) };
}
