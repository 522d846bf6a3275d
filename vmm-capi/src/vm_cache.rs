//! VMs of sandboxes that are gone, for those that are made next.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use ::vmm_sandbox::VmCache;

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Shared, guard},
    pass,
};

/// Keeps the VMs of sandboxes that are freed, for forks to come: to make and to close a VM takes most
/// of the time of a fork's life. Nothing of the program that was in one stays: its memory is mapped
/// anew, and every register is set, before another is. Any thread may use it, several at once.
pub struct vmm_vm_cache(Shared<VmCache>);

impl vmm_vm_cache {
    pub(crate) fn cache(&self) -> &VmCache {
        self.0.anyway()
    }
}

/// Makes a cache of at most `size` VMs, which is empty. A thread of its own closes those that it does
/// not keep. It is given to sandboxes by vmm_sandbox_config_set_vm_cache. VMM_STATUS_HOST if there is
/// no thread to be had.
///
///     vmm_vm_cache_new(8, &cache, NULL);
///     vmm_sandbox_config_set_vm_cache(config, cache);
///     vmm_sandbox_new(config, &app, NULL);
///     vmm_sandbox_start(app, NULL, NULL);
///     vmm_sandbox_snapshot(app, &warm, NULL);
///     for (;;) {
///         vmm_snapshot_fork(warm, &child, NULL);   // the second one takes the first one's VM
///         vmm_sandbox_call(child, "answer", &request, 1, &answer, NULL);
///         vmm_sandbox_free(child);
///     }
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_vm_cache_new(
    size: usize,
    cache: *mut *mut vmm_vm_cache,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(cache, "cache", std::ptr::null_mut())?;
            let made = Shared::new("vm cache", VmCache::new(size)?);
            pass::fill(cache, "cache", pass::give(vmm_vm_cache(made)))
        })
    }
}

/// What a cache has, and has done; all zeros in a child of fork().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmm_vm_cache_statistics {
    /// sizeof(vmm_vm_cache_statistics), set by the caller.
    pub struct_size: usize,
    /// VMs that can be taken.
    pub idle: u64,
    /// How many were taken.
    pub reused: u64,
    /// How many came back to a cache that was full, and were closed.
    pub closed: u64,
}

/// Fills `*statistics`, as much of it as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_vm_cache_get_statistics(
    cache: *const vmm_vm_cache,
    statistics: *mut vmm_vm_cache_statistics,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let cache = pass::object(cache, "cache")?;
            let now = cache.0.with(|cache| Ok(cache.statistics()))?;
            let filled = vmm_vm_cache_statistics {
                struct_size: 0,
                idle: now.idle as u64,
                reused: now.reused,
                closed: now.closed,
            };
            pass::fill_sized(statistics, "statistics", filled)
        })
    }
}

/// Frees a cache and the VMs in it; sandboxes that have it go on, and close their VMs themselves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_vm_cache_free(cache: *mut vmm_vm_cache) {
    // SAFETY: the header's rules.
    unsafe { pass::free(cache) };
}
