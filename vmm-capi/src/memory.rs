//! The guest's memory.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::c_void;

use vmm_core::{
    Error, Result,
    memory::{GuestAddress, GuestMemory, RamRegion},
};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{guard, tell},
    machine::vmm_machine,
    pass,
};

/// A range of a guest's memory where it lies in this process. It keeps the memory, also when the
/// machine is freed.
pub struct vmm_view {
    /// Keeps it mapped.
    _region: RamRegion,
    data: *const u8,
    size: usize,
}

impl vmm_view {
    fn new(memory: &GuestMemory, at: u64, size: usize) -> Result<Self> {
        if size == 0 || !memory.has(GuestAddress(at), size as u64) {
            return Err(Error::guest_memory(format!("view of {size} bytes at {at:#x}")));
        }
        let of = |region: &RamRegion| {
            let offset = at.checked_sub(region.start().0)?;
            (offset.checked_add(size as u64)? <= region.len()).then_some(offset as usize)
        };
        let found = memory.regions().into_iter().find_map(|region| Some((of(&region)?, region)));
        let (offset, region) = found.ok_or_else(|| {
            Error::guest_memory(format!("view of {size} bytes at {at:#x}: more than one region"))
        })?;
        let data = region.host_address().wrapping_add(offset).cast_const();
        Ok(Self { _region: region, data, size })
    }
}

/// Copies `size` bytes of guest memory from guest address `at` to `data`.
/// VMM_STATUS_GUEST_MEMORY if not all of it is RAM. May be called from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_read(
    machine: *const vmm_machine,
    at: u64,
    data: *mut c_void,
    size: usize,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let data = pass::bytes_mut(data.cast(), size, "data")?;
            let machine = pass::object(machine, "machine")?;
            machine.with(|machine| machine.memory().read(GuestAddress(at), data))
        })
    }
}

/// Copies `size` bytes from `data` to guest address `at`, all or nothing.
/// VMM_STATUS_GUEST_MEMORY if not all of it is RAM. May be called from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_write(
    machine: *mut vmm_machine,
    at: u64,
    data: *const c_void,
    size: usize,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let data = pass::bytes(data.cast(), size, "data")?;
            let machine = pass::object(machine, "machine")?;
            machine.with(|machine| machine.memory().write(GuestAddress(at), data))
        })
    }
}

/// Makes a view of `size` bytes of guest memory at guest address `at`, to be read without a copy.
/// The guest may change them at any moment. VMM_STATUS_GUEST_MEMORY if it is not all RAM, or passes
/// the hole below 4 GiB. Freed with vmm_view_free, before or after the machine.
///
///     vmm_machine_view(machine, frame_buffer, 1024 * 768 * 4, &view, NULL);
///     draw(vmm_view_data(view));
///     vmm_view_free(view);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_view(
    machine: *const vmm_machine,
    at: u64,
    size: usize,
    view: *mut *mut vmm_view,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(view, "view", std::ptr::null_mut())?;
            let machine = pass::object(machine, "machine")?;
            let made = machine.with(|machine| vmm_view::new(machine.memory(), at, size))?;
            pass::fill(view, "view", pass::give(made))
        })
    }
}

/// Where the view lies; valid until it is freed. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_view_data(view: *const vmm_view) -> *const c_void {
    // SAFETY: the header's rules.
    unsafe { tell(view, std::ptr::null(), |view| view.data.cast()) }
}

/// Its size in bytes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_view_size(view: *const vmm_view) -> usize {
    // SAFETY: the header's rules.
    unsafe { tell(view, 0, |view| view.size) }
}

/// Frees a view.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_view_free(view: *mut vmm_view) {
    // SAFETY: the header's rules.
    unsafe { pass::free(view) };
}
