//! The pointer that callbacks are called with.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::c_void;

/// The caller's pointer for its callbacks, and what it is told when the library is done with it.
pub(crate) struct User {
    pub(crate) pointer: *mut c_void,
    pub(crate) drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

// SAFETY: the header says that callbacks are called on any thread, with the same pointer.
unsafe impl Send for User {}
// SAFETY: as above, on several threads at once.
unsafe impl Sync for User {}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: the caller's function with the caller's pointer, for the last time.
            unsafe { drop(self.pointer) };
        }
    }
}
