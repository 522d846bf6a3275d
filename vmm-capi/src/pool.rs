//! Pools of sandboxes.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use ::vmm_sandbox::Pool;
use std::time::Duration;

use vmm_core::Error;

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Shared, guard},
    pass,
    sandbox::vmm_sandbox,
    snapshot::vmm_snapshot,
};

/// Sandboxes that are forked of one snapshot before they are asked for, and reset when they come
/// back. Any thread may use it, several at once.
pub struct vmm_pool(Shared<Pool>);

/// For vmm_pool_take: waits until there is one.
pub const VMM_FOREVER: u64 = u64::MAX;

/// Makes a pool of at most `size` sandboxes of the snapshot, which can be freed then. Returns at
/// once; a thread of the pool's makes them. VMM_STATUS_BAD_CONFIG for a size of 0, VMM_STATUS_HOST if
/// there is no thread to be had.
///
///     vmm_pool_new(warm, 4, &pool, NULL);
///     vmm_pool_take(pool, VMM_FOREVER, &child, NULL);
///     vmm_sandbox_call(child, "score", &text, 1, &score, NULL);
///     vmm_sandbox_free(child);                     // It goes back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pool_new(
    snapshot: *const vmm_snapshot,
    size: usize,
    pool: *mut *mut vmm_pool,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(pool, "pool", std::ptr::null_mut())?;
            let snapshot = pass::object(snapshot, "snapshot")?;
            let made = snapshot.with(|snapshot| Pool::new(snapshot, size))?;
            pass::fill(pool, "pool", pass::give(vmm_pool(Shared::new("pool", made))))
        })
    }
}

/// Takes a sandbox that is as the snapshot says. vmm_sandbox_free gives it back, whatever state it
/// is in, and has it reset there.
///
/// Waits while all are in use, up to `within_ns` nanoseconds: 0 for not at all, VMM_FOREVER for ever;
/// then VMM_STATUS_HOST with ETIMEDOUT. Fails as vmm_snapshot_fork if no sandbox can be made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pool_take(
    pool: *const vmm_pool,
    within_ns: u64,
    sandbox: *mut *mut vmm_sandbox,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(sandbox, "sandbox", std::ptr::null_mut())?;
            let taken = pass::object(pool, "pool")?.0.with(|pool| match within_ns {
                VMM_FOREVER => pool.take().map(Some),
                0 => pool.try_take(),
                ns => pool.take_within(Duration::from_nanos(ns)),
            })?;
            let none = || {
                let timed_out = rustix::io::Errno::TIMEDOUT.raw_os_error();
                Error::host("pool: all its sandboxes are in use", timed_out)
            };
            let taken = vmm_sandbox::lent(taken.ok_or_else(none)?);
            pass::fill(sandbox, "sandbox", pass::give(taken))
        })
    }
}

/// What a pool has, and has done.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmm_pool_statistics {
    /// sizeof(vmm_pool_statistics), set by the caller.
    pub struct_size: usize,
    /// Sandboxes that can be taken at once.
    pub ready: u64,
    /// Those that are lent out.
    pub in_use: u64,
    /// How many were forked.
    pub forks: u64,
    /// How many came back and were reset.
    pub resets: u64,
    /// How many came back and could not be reset.
    pub replaced: u64,
    /// How often somebody had to wait for one.
    pub waits: u64,
}

/// Fills `*statistics`, as much of it as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pool_get_statistics(
    pool: *const vmm_pool,
    statistics: *mut vmm_pool_statistics,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let now = pass::object(pool, "pool")?.0.with(Pool::statistics)?;
            let filled = vmm_pool_statistics {
                struct_size: 0,
                ready: now.ready as u64,
                in_use: now.in_use as u64,
                forks: now.forks,
                resets: now.resets,
                replaced: now.replaced,
                waits: now.waits,
            };
            pass::fill_sized(statistics, "statistics", filled)
        })
    }
}

/// Frees a pool and what it has; a sandbox that is lent out is freed when it comes back. Nobody may
/// be waiting in vmm_pool_take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pool_free(pool: *mut vmm_pool) {
    // SAFETY: the header's rules.
    unsafe { pass::free(pool) };
}
