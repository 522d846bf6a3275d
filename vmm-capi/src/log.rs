//! What the library has to say.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use log::{LevelFilter, Log, Metadata, Record};
use vmm_core::{Error, Result};

use crate::{
    error::{self, vmm_error, vmm_status},
    guard::guard,
    user::User,
};

/// How grave a message is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_log_level {
    /// Nothing at all.
    Off = 0,
    /// Something is lost.
    Error = 1,
    /// Something is not as it should be.
    Warn = 2,
    /// What may be good to know.
    Info = 3,
    /// For who looks for a mistake.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// The facade's levels.
const LEVELS: [(vmm_log_level, LevelFilter); 6] = [
    (vmm_log_level::Off, LevelFilter::Off),
    (vmm_log_level::Error, LevelFilter::Error),
    (vmm_log_level::Warn, LevelFilter::Warn),
    (vmm_log_level::Info, LevelFilter::Info),
    (vmm_log_level::Debug, LevelFilter::Debug),
    (vmm_log_level::Trace, LevelFilter::Trace),
];

/// Takes one message, which ends with the call; `target` is the part of the library that has it, such
/// as "vmm_devices::serial". Called on any thread, on several at once, with locks held.
pub type vmm_log_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        level: vmm_log_level,
        target: *const c_char,
        message: *const c_char,
    ),
>;

/// Who listens, in this process.
struct Listener {
    function: unsafe extern "C" fn(*mut c_void, vmm_log_level, *const c_char, *const c_char),
    user: User,
}

/// The `log` facade's logger is set once; who listens changes.
static LISTENER: RwLock<Option<Arc<Listener>>> = RwLock::new(None);

struct Forward;

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Not called with the lock: one who listens may stop listening.
        let listener = LISTENER.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Listener { function, user }) = listener.as_deref() else { return };
        let known = LEVELS.iter().find(|(_, filter)| *filter == record.level());
        let level = known.map_or(vmm_log_level::Error, |(level, _)| *level);
        let target = error::text(record.target());
        let message = error::text(&record.args().to_string());
        // SAFETY: the caller's function with the caller's pointer, and texts that outlive the call.
        unsafe { function(user.pointer, level, target.as_ptr(), message.as_ptr()) };
    }

    fn flush(&self) {}
}

/// Makes the facade forward to who listens.
fn install() -> Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    if *INSTALLED.get_or_init(|| log::set_logger(&Forward).is_ok()) {
        return Ok(());
    }
    Err(Error::wrong_state("log: this process has a logger of its own"))
}

/// Has every message up to `most`, a vmm_log_level, given to `function`, from all objects of this
/// process, instead of whoever had them before; NULL for nobody.
///
/// `drop` is called when there is another and no call is under way; if this fails, it is not.
/// VMM_STATUS_BAD_CONFIG if there is no such level, VMM_STATUS_WRONG_STATE if the program that this is
/// in has a logger of its own in Rust.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_set_log(
    most: i32,
    function: vmm_log_fn,
    user: *mut c_void,
    drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let known = LEVELS.iter().find(|(level, _)| *level as i32 == most);
            let bad = || Error::bad_config(format!("log: level {most}: there is 0 to 5"));
            let filter = known.ok_or_else(bad)?.1;
            install()?;
            let user = User { pointer: user, drop };
            let new = function.map(|function| Arc::new(Listener { function, user }));
            let filter = if new.is_some() { filter } else { LevelFilter::Off };
            let old = {
                let mut listener = LISTENER.write().unwrap_or_else(PoisonError::into_inner);
                log::set_max_level(filter);
                std::mem::replace(&mut *listener, new)
            };
            // Without the lock.
            std::mem::drop(old);
            Ok(())
        })
    }
}
