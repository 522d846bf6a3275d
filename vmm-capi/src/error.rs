//! Statuses and errors.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use vmm_core::{Error, ErrorKind};

use crate::{guard::tell, pass::free};

/// What came of a call. Numbers never change; new ones may come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_status {
    /// It was done.
    Ok = 0,
    /// A setting is outside what the host or the library supports, or an argument is NULL.
    BadConfig = 1,
    /// A guest image is malformed or does not fit.
    BadImage = 2,
    /// An address range is not memory of the guest.
    GuestMemory = 3,
    /// The host's operating system refused; vmm_error_os has its number.
    Host = 4,
    /// The call is not possible from inside a callback.
    InCallback = 5,
    /// Saved state does not fit this host or machine.
    Incompatible = 6,
    /// A defect of the library.
    Internal = 7,
    /// A signal that is not the library's interrupted the call; nothing is lost, call again.
    Interrupted = 8,
    /// No hypervisor can be used on this host.
    NoHypervisor = 9,
    /// The named thing does not exist.
    NotFound = 10,
    /// Something failed in the middle and can no longer be used.
    Poisoned = 11,
    /// A snapshot or saved record is malformed.
    Snapshot = 12,
    /// The back end cannot do this.
    Unsupported = 13,
    /// The object belongs to the process that made it, not to its child after fork().
    WrongProcess = 14,
    /// The object is not in a state that allows the call.
    WrongState = 15,
}

/// What went wrong: a status, and a message that names the thing and the value.
pub struct vmm_error {
    status: vmm_status,
    os_error: i32,
    message: CString,
}

impl From<ErrorKind> for vmm_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::BadConfig => Self::BadConfig,
            ErrorKind::BadImage => Self::BadImage,
            ErrorKind::GuestMemory => Self::GuestMemory,
            ErrorKind::Host => Self::Host,
            ErrorKind::InCallback => Self::InCallback,
            ErrorKind::Incompatible => Self::Incompatible,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::NoHypervisor => Self::NoHypervisor,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Poisoned => Self::Poisoned,
            ErrorKind::Snapshot => Self::Snapshot,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::WrongProcess => Self::WrongProcess,
            ErrorKind::WrongState => Self::WrongState,
            // `ErrorKind` may grow; a kind without a number of its own is no reason to fail twice.
            _ => Self::Internal,
        }
    }
}

impl From<Error> for vmm_error {
    fn from(error: Error) -> Self {
        Self {
            status: error.kind().into(),
            os_error: error.os_error().unwrap_or(0),
            message: text(&error.to_string()),
        }
    }
}

/// Text for C: what follows a NUL is left out.
pub(crate) fn text(text: &str) -> CString {
    let bytes = text.bytes().take_while(|byte| *byte != 0).collect::<Vec<_>>();
    CString::new(bytes).unwrap_or_default()
}

/// The status that the failed call returned; VMM_STATUS_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_error_status(error: *const vmm_error) -> vmm_status {
    // SAFETY: NULL, or an error that was not freed (the header's rules).
    unsafe { tell(error, vmm_status::Ok, |error| error.status) }
}

/// One line that tells the whole story, such as "/dev/kvm: Permission denied (os error 13)"; lives
/// as long as the error. Empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_error_message(error: *const vmm_error) -> *const c_char {
    // SAFETY: as above.
    unsafe { tell(error, c"".as_ptr(), |error| error.message.as_ptr()) }
}

/// The operating system's error number (errno), or 0 if that was not the cause.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_error_os(error: *const vmm_error) -> i32 {
    // SAFETY: as above.
    unsafe { tell(error, 0, |error| error.os_error) }
}

/// Frees an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_error_free(error: *mut vmm_error) {
    // SAFETY: NULL, or an error that was not freed (the header's rules).
    unsafe { free(error) };
}
