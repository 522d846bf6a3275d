//! What keeps panics and failures from crossing into C.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use vmm_core::{Error, ErrorKind, Result};

use crate::{
    error::{vmm_error, vmm_status},
    pass, testing,
};

/// Does the work of one C function: fills `*error`, gives the status.
///
/// # Safety
/// `error` is NULL or may be written to.
pub(crate) unsafe fn guard(
    error: *mut *mut vmm_error,
    work: impl FnOnce() -> Result<()>,
) -> vmm_status {
    let done = caught(work).and_then(|done| done);
    let (status, made) = match done {
        Ok(()) => (vmm_status::Ok, std::ptr::null_mut()),
        Err(error) => (error.kind().into(), Box::into_raw(Box::new(error.into()))),
    };
    if error.is_null() {
        // SAFETY: made above, and given to nobody.
        unsafe { pass::free(made) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { *error = made };
    }
    status
}

/// Does the work of a C function that has nothing to report: a panic in it is its default.
pub(crate) fn silent<T: Default>(work: impl FnOnce() -> T) -> T {
    caught(work).unwrap_or_default()
}

/// Does the work of a C function that gives a new object: after a panic NULL.
pub(crate) fn made<T>(work: impl FnOnce() -> T) -> *mut T {
    caught(|| pass::give(work())).unwrap_or(std::ptr::null_mut())
}

/// What an object says of itself; `otherwise` for NULL.
///
/// # Safety
/// As for [`pass::object`].
pub(crate) unsafe fn tell<'a, T, R>(
    object: *const T,
    otherwise: R,
    tell: impl FnOnce(&'a T) -> R,
) -> R
where
    T: 'a,
{
    // SAFETY: the caller's promise; nobody has a `&mut` to an object that C holds.
    let object = unsafe { object.as_ref() };
    caught(|| object.map(tell)).ok().flatten().unwrap_or(otherwise)
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    let work = AssertUnwindSafe(|| {
        testing::point();
        work()
    });
    catch_unwind(work).map_err(|payload| {
        let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned());
        Error::internal(format!("panic: {}", said.unwrap_or_default()))
    })
}

/// Remembers that a panic left something half-done.
#[derive(Debug)]
struct Poison {
    what: &'static str,
    is: AtomicBool,
}

impl Poison {
    fn new(what: &'static str) -> Self {
        Self { what, is: AtomicBool::new(false) }
    }

    /// # Errors
    /// `Poisoned` after a panic; what `work` gives.
    fn around<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        if self.is.load(Relaxed) {
            let message = format!("{}: the library panicked in the middle", self.what);
            return Err(Error::new(ErrorKind::Poisoned, message));
        }
        caught(work).unwrap_or_else(|panic| {
            self.is.store(true, Relaxed);
            Err(panic)
        })
    }
}

/// Something that several threads use at once; after a panic in the middle nobody does.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    poison: Poison,
    value: T,
}

impl<T> Shared<T> {
    pub(crate) fn new(what: &'static str, value: T) -> Self {
        Self { poison: Poison::new(what), value }
    }

    /// Uses it.
    ///
    /// # Errors
    /// `Poisoned` after a panic; what `work` gives.
    pub(crate) fn with<'a, R>(&'a self, work: impl FnOnce(&'a T) -> Result<R>) -> Result<R> {
        self.poison.around(|| work(&self.value))
    }

    /// As it is, for what must be done also after a panic.
    pub(crate) fn anyway(&self) -> &T {
        &self.value
    }
}

/// Something that one thread uses at a time; after a panic in the middle nobody does.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    poison: Poison,
    value: Mutex<T>,
}

impl<T> Exclusive<T> {
    pub(crate) fn new(what: &'static str, value: T) -> Self {
        Self { poison: Poison::new(what), value: Mutex::new(value) }
    }

    /// Uses it.
    ///
    /// # Errors
    /// `WrongState` while it is being used, by another thread or by a callback's caller; `Poisoned`
    /// after a panic.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let mut value = match self.value.try_lock() {
            Ok(value) => value,
            Err(TryLockError::WouldBlock) => {
                return Err(Error::wrong_state(format!("{}: it is being used", self.poison.what)));
            }
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        self.poison.around(|| work(&mut value))
    }
}

/// What setters change and one call uses up.
impl<T> Exclusive<Option<T>> {
    /// Changes it when it is free, if it is still there. Setters report nothing, panics neither.
    pub(crate) fn change(&self, work: impl FnOnce(&mut T)) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever uses it up is told.
        let _ = self.poison.around(|| {
            if let Some(value) = &mut *value {
                work(value);
            }
            Ok(())
        });
    }

    /// Uses it up.
    ///
    /// # Errors
    /// `WrongState` with `used` if that was done before; what `work` gives.
    pub(crate) fn use_up<R>(&self, used: &str, work: impl FnOnce(T) -> Result<R>) -> Result<R> {
        self.with(|value| work(value.take().ok_or_else(|| Error::wrong_state(used))?))
    }
}
