//! What C passes: pointers to objects, text, bytes, descriptors.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{CStr, OsStr, c_char},
    fmt,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    time::Duration,
};

use vmm_core::{Error, Result};

/// An object of ours that C holds.
///
/// # Safety
/// `pointer` is NULL, or an object of that type that was not freed.
pub(crate) unsafe fn object<'a, T>(pointer: *const T, what: impl fmt::Display) -> Result<&'a T> {
    // SAFETY: the caller's promise; nobody has a `&mut` to an object that C holds.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// A place that is to be filled.
///
/// # Safety
/// `pointer` is NULL or may be written to.
pub(crate) unsafe fn fill<T>(pointer: *mut T, what: impl fmt::Display, value: T) -> Result<()> {
    check(pointer, what)?;
    // SAFETY: the caller's promise, and it is not NULL.
    unsafe { pointer.write(value) };
    Ok(())
}

/// A structure of functions that begins with its own size. The size is looked at first: what is
/// smaller must not be read as a whole. What was compiled with an older header, where it was `least`
/// long, has none of the functions at its end.
///
/// # Safety
/// `pointer` is NULL, or a structure as large as it says can be read there.
pub(crate) unsafe fn ops<T: Copy + Default>(pointer: *const T, least: usize) -> Result<T> {
    let what = "ops";
    // SAFETY: the caller's promise: the size is there.
    let size = unsafe { *object(pointer.cast::<usize>(), what)? };
    if !(least..=size_of::<T>()).contains(&size) || !size.is_multiple_of(size_of::<usize>()) {
        return Err(Error::bad_config(format!("{what}: struct_size {size} is not known here")));
    }
    let mut all = T::default();
    let to = (&raw mut all).cast::<u8>();
    // SAFETY: the caller's promise; both are as large. Functions are as large as a size, so that each is
    // there as a whole or not at all.
    unsafe { to.copy_from_nonoverlapping(pointer.cast(), size) };
    Ok(all)
}

/// Fills a structure that begins with its own size, which stays as it is: as much as there is room
/// for.
///
/// # Safety
/// `pointer` is NULL, or a structure as large as it says can be read and written there.
pub(crate) unsafe fn fill_sized<T: Copy>(
    pointer: *mut T,
    what: impl fmt::Display,
    value: T,
) -> Result<()> {
    const SIZE: usize = size_of::<usize>();
    // SAFETY: the caller's promise: the size is there.
    let room = unsafe { *object(pointer.cast_const().cast::<usize>(), &what)? };
    if room < SIZE {
        return Err(Error::bad_config(format!("{what}: struct_size {room}")));
    }
    let from = (&raw const value).cast::<u8>().wrapping_add(SIZE);
    let to = pointer.cast::<u8>().wrapping_add(SIZE);
    // SAFETY: the caller's promise; both have as many bytes behind the size.
    unsafe { to.copy_from_nonoverlapping(from, room.min(size_of::<T>()) - SIZE) };
    Ok(())
}

/// Refuses NULL.
pub(crate) fn check<T>(pointer: *const T, what: impl fmt::Display) -> Result<()> {
    if pointer.is_null() { Err(null(what)) } else { Ok(()) }
}

/// Gives an object to C.
pub(crate) fn give<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes back what [`give`] gave.
///
/// # Safety
/// `pointer` is NULL, or was given and not freed, and is used no more.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // A panic while something is dropped must not cross either.
        crate::guard::silent(|| {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(pointer) });
        });
    }
}

/// Text.
///
/// # Safety
/// `pointer` is NULL or ends in NUL, and lives as long as the call.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: impl fmt::Display) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let text = unsafe { c_text(pointer, &what) }?;
    text.to_str().map_err(|error| Error::bad_config(format!("{what} is no UTF-8: {error}")))
}

/// Text, or nothing for NULL.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn text_or_none<'a>(
    pointer: *const c_char,
    what: impl fmt::Display,
) -> Result<Option<&'a str>> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(None) } else { unsafe { text(pointer, what) }.map(Some) }
}

/// Bytes that end in NUL, without it.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn c_text<'a>(
    pointer: *const c_char,
    what: impl fmt::Display,
) -> Result<&'a CStr> {
    check(pointer, what)?;
    // SAFETY: the caller's promise, and it is not NULL.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// A path.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn path(pointer: *const c_char, what: impl fmt::Display) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    let text = unsafe { c_text(pointer, what) }?;
    Ok(OsStr::from_bytes(text.to_bytes()).into())
}

/// Bytes; NULL is fine for none.
///
/// # Safety
/// `pointer` is NULL, or `size` bytes can be read there as long as the call lasts.
pub(crate) unsafe fn bytes<'a>(
    pointer: *const u8,
    size: usize,
    what: impl fmt::Display,
) -> Result<&'a [u8]> {
    if size == 0 {
        return Ok(&[]);
    }
    check_size(pointer, size, what)?;
    // SAFETY: the caller's promise; a size that fits, and not NULL.
    Ok(unsafe { std::slice::from_raw_parts(pointer, size) })
}

/// Several values; NULL is fine for none.
///
/// # Safety
/// `pointer` is NULL, or has `count` of them as long as the call lasts.
pub(crate) unsafe fn array<'a, T>(
    pointer: *const T,
    count: usize,
    what: impl fmt::Display,
) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check_size(pointer.cast(), count.saturating_mul(size_of::<T>()), what)?;
    // SAFETY: the caller's promise; a size that fits, and not NULL.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Bytes to be filled; NULL is fine for none.
///
/// # Safety
/// `pointer` is NULL, or `size` bytes can be written there, which nobody else uses during the call.
pub(crate) unsafe fn bytes_mut<'a>(
    pointer: *mut u8,
    size: usize,
    what: impl fmt::Display,
) -> Result<&'a mut [u8]> {
    if size == 0 {
        return Ok(&mut []);
    }
    check_size(pointer, size, what)?;
    // SAFETY: the caller's promise; a size that fits, and not NULL.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, size) })
}

/// Refuses NULL, and sizes that no memory has.
fn check_size(pointer: *const u8, size: usize, what: impl fmt::Display) -> Result<()> {
    if isize::try_from(size).is_err() && !pointer.is_null() {
        return Err(Error::bad_config(format!("{what}: {size} bytes are more than there can be")));
    }
    check(pointer, what)
}

/// A copy of a descriptor of the caller's, which stays the caller's.
pub(crate) fn descriptor(fd: i32, what: impl fmt::Display) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::bad_config(format!("{what}: descriptor {fd}")));
    }
    // SAFETY: not negative; whether it is open the kernel says, and only copying is done with it.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3);
    copy.map_err(|errno| Error::host(what, errno.raw_os_error()))
}

/// Copies text as `snprintf` does; gives the whole length.
///
/// # Safety
/// `buffer` is NULL, or `size` bytes can be written there.
pub(crate) unsafe fn give_text(text: &[u8], buffer: *mut c_char, size: usize) -> usize {
    if !buffer.is_null() && size > 0 {
        let fits = text.len().min(size - 1);
        // SAFETY: the caller's promise; with the NUL it is at most `size`.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), fits);
            buffer.add(fits).write(0);
        }
    }
    text.len()
}

/// Nanoseconds; 0 is no limit.
pub(crate) fn limit(ns: u64) -> Option<Duration> {
    (ns != 0).then(|| Duration::from_nanos(ns))
}

fn null(what: impl fmt::Display) -> Error {
    Error::bad_config(format!("{what} is NULL"))
}
