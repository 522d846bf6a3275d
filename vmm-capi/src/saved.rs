//! Machines as saved state: everything but their memory.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::c_void;

use ::vmm_sandbox::Value;
use vmm_core::{
    Error, Result,
    persist::{Kind, StateReader, StateWriter},
};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{guard, tell},
    machine::vmm_machine,
    pass,
    value::vmm_result,
};

/// What a machine was at one moment, but for its memory: bytes, to be kept or sent anywhere.
pub struct vmm_saved(Vec<u8>);

/// Saves what a machine is now: devices, interrupt controllers, clock and vCPUs; everything but its
/// memory, which is the caller's to copy (vmm_machine_read) before the machine goes on.
///
/// The machine is paused (vmm_handle_pause) or not being run, and can go on afterwards.
///
/// VMM_STATUS_WRONG_STATE if it is running or has ended; VMM_STATUS_UNSUPPORTED with the name of a
/// device that cannot be saved; VMM_STATUS_HOST with ETIMEDOUT if a device is not done with the guest's
/// buffers within ten seconds.
///
///     vmm_handle_pause(handle, 10000000000, NULL);
///     vmm_machine_save(machine, &saved, NULL);
///     vmm_machine_read(machine, 0, ram, ram_size, NULL);
///     ...                                  // Elsewhere, of the same description:
///     vmm_machine_write(other, 0, ram, ram_size, NULL);
///     vmm_machine_restore(other, vmm_saved_data(saved), vmm_saved_size(saved), NULL);
///     vmm_machine_run(other, &outcome, NULL);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_save(
    machine: *const vmm_machine,
    saved: *mut *mut vmm_saved,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(saved, "saved", std::ptr::null_mut())?;
            let bytes = pass::object(machine, "machine")?.with(|machine| {
                let mut out = StateWriter::new();
                machine.save(&mut out)?;
                out.into_bytes()
            })?;
            pass::fill(saved, "saved", pass::give(vmm_saved(bytes)))
        })
    }
}

/// Makes a machine what another was when it was saved, perhaps in another process; it goes on where
/// that one stood once it is run, or resumed. It is made of the same description, its memory has been
/// written already, and it is paused or not being run.
///
/// VMM_STATUS_INCOMPATIBLE with what is different, VMM_STATUS_NOT_FOUND or VMM_STATUS_SNAPSHOT if the
/// bytes, which are not trusted, are not those of a machine: then it is of no use any more.
/// VMM_STATUS_WRONG_STATE if it is running or was stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_restore(
    machine: *mut vmm_machine,
    data: *const c_void,
    size: usize,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let data = pass::bytes(data.cast(), size, "data")?;
            pass::object(machine, "machine")?.with(|machine| {
                let mut from = StateReader::from_bytes(data)?;
                machine.restore(&mut from)?;
                // It lacks what the rest describes.
                from.finish().inspect_err(|_| drop(machine.handle().stop()))
            })
        })
    }
}

/// Its bytes, which live as long as it does; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_saved_data(saved: *const vmm_saved) -> *const c_void {
    // SAFETY: the header's rules.
    unsafe { tell(saved, std::ptr::null(), |saved| saved.0.as_ptr().cast()) }
}

/// How many there are; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_saved_size(saved: *const vmm_saved) -> usize {
    // SAFETY: the header's rules.
    unsafe { tell(saved, 0, |saved| saved.0.len()) }
}

/// Frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_saved_free(saved: *mut vmm_saved) {
    // SAFETY: the header's rules.
    unsafe { pass::free(saved) };
}

/// The record of a device of the caller's own.
const STATE: Kind = Kind { name: "own", version: 1 };

/// Saves what a device says by its function.
pub(crate) fn save(out: &mut StateWriter, ask: impl FnOnce(*mut vmm_result) -> i32) -> Result<()> {
    let mut state = vmm_result(Value::Nothing);
    match (ask(&raw mut state), state.0) {
        (0, Value::Bytes(state)) => out.put(STATE, &state),
        (0, Value::Nothing) => out.put(STATE, &Vec::<u8>::new()),
        (0, _) => Err(Error::unsupported("it was saved as something else than bytes")),
        (answer, _) => Err(Error::unsupported(format!("it cannot be saved: {answer}"))),
    }
}

/// Gives a device what it has saved.
pub(crate) fn restore(from: &mut StateReader, take: impl FnOnce(&[u8]) -> i32) -> Result<()> {
    let state: Vec<u8> = from.take(STATE)?;
    match take(&state) {
        0 => Ok(()),
        answer => Err(Error::incompatible(format!("it does not take what was saved: {answer}"))),
    }
}
