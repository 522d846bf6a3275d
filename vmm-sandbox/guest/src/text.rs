//! Text that an exported function returns.
#![expect(unsafe_code, reason = "takes back what it gave to C")]

use alloc::{ffi::CString, string::String};
use core::{
    ffi::c_char,
    ptr,
    sync::atomic::{AtomicPtr, Ordering::AcqRel},
};

use crate::export::Return;

/// The last result: the host copies it when the function has returned, and by the next one it is
/// not needed any more.
static LAST: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// What is behind a NUL is lost, as of any text in C.
impl Return for String {
    type Word = *const c_char;

    fn into_word(mut self) -> *const c_char {
        self.truncate(self.find('\0').unwrap_or(self.len()));
        let text = CString::new(self).unwrap_or_default().into_raw();
        let last = LAST.swap(text, AcqRel);
        if !last.is_null() {
            // SAFETY: it comes from `into_raw` here, and is taken out once.
            drop(unsafe { CString::from_raw(last) });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;

    use super::*;

    #[test]
    fn a_text_ends_at_its_nul() {
        let shown = |text: &str| {
            // SAFETY: the text stays until the next one.
            unsafe { CStr::from_ptr(String::from(text).into_word()) }.to_bytes().to_vec()
        };
        assert_eq!(shown("hello"), b"hello");
        assert_eq!(shown("a\0b"), b"a");
        assert_eq!(shown(""), b"");
    }
}
