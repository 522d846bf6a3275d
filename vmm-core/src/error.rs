//! The one error of this crate: a kind to branch on, a message to read, the operating system's
//! reason.
//!
//! Messages are lower case, name the thing and the value, and are complete in `Display`: a cause is
//! printed after a colon, so `source()` has nothing to add and is empty. The guest's mistakes are
//! not errors here; they become all-ones reads, dropped writes or a fault exit.

use std::fmt::Display;

/// The result of a fallible call of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a [kind](Error::kind), and a message that names the thing and the value.
///
/// One pointer wide. Printed with `{}` it is the whole story on one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: ErrorKind,
    message: String,
    os_error: Option<i32>,
}

/// The kinds of error a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is outside what the host or the library supports.
    BadConfig,
    /// A guest image is malformed or does not fit.
    BadImage,
    /// An address range is not guest RAM.
    GuestMemory,
    /// The host operating system refused; [`Error::os_error`] has its number.
    Host,
    /// The call is not possible from inside a device's callback.
    InCallback,
    /// Saved state does not fit this host or machine.
    Incompatible,
    /// A defect of this library.
    Internal,
    /// A signal that is not ours interrupted the call; nothing changed, call again.
    Interrupted,
    /// No hypervisor can be used on this host.
    NoHypervisor,
    /// The named thing does not exist.
    NotFound,
    /// A device failed or panicked and can no longer be used.
    Poisoned,
    /// A snapshot or saved record is malformed.
    Snapshot,
    /// The back end cannot do this.
    Unsupported,
    /// The object belongs to the process that made it, not to its child after `fork()`.
    WrongProcess,
    /// The object is not in a state that allows the call.
    WrongState,
}

impl Error {
    /// An error of `kind` with a message: lower case, with the offending value.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), os_error: None }))
    }

    /// An error the operating system gave for `doing`, as in "mapping 4096 bytes of RAM".
    pub fn host(doing: impl Display, errno: i32) -> Self {
        let reason = std::io::Error::from_raw_os_error(errno);
        let message = format!("{doing}: {reason}");
        Self(Box::new(Inner { kind: ErrorKind::Host, message, os_error: Some(errno) }))
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operating system's error number (`errno(3)`), where it was the cause.
    pub fn os_error(&self) -> Option<i32> {
        self.0.os_error
    }

    /// The same error with `what` before its message: "`what`: message".
    #[must_use]
    pub fn context(mut self, what: impl Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Error { $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })* }
    };
}

constructors! {
    /// An error of kind [`ErrorKind::BadConfig`].
    bad_config => BadConfig;
    /// An error of kind [`ErrorKind::BadImage`].
    bad_image => BadImage;
    /// An error of kind [`ErrorKind::GuestMemory`].
    guest_memory => GuestMemory;
    /// An error of kind [`ErrorKind::Incompatible`].
    incompatible => Incompatible;
    /// An error of kind [`ErrorKind::Internal`].
    internal => Internal;
    /// An error of kind [`ErrorKind::NotFound`].
    not_found => NotFound;
    /// An error of kind [`ErrorKind::Snapshot`].
    snapshot => Snapshot;
    /// An error of kind [`ErrorKind::Unsupported`].
    unsupported => Unsupported;
    /// An error of kind [`ErrorKind::WrongState`].
    wrong_state => WrongState;
}

/// Puts the place an error passed through before its message.
pub(crate) trait Context<T> {
    /// Like [`Error::context`]; the closure runs only on the error path.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

/// Turns the error of a system call into ours, named by what was being done.
pub(crate) trait HostResult<T> {
    /// "`doing`: the system's reason"; the closure runs only on the error path.
    fn host<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> HostResult<T> for std::result::Result<T, vmm_sys_util::errno::Error> {
    fn host<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::host(doing(), error.errno()))
    }
}

impl<T> HostResult<T> for rustix::io::Result<T> {
    fn host<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::host(doing(), error.raw_os_error()))
    }
}

impl<T> HostResult<T> for std::io::Result<T> {
    fn host<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Error::host(doing(), errno),
            None => Error::new(ErrorKind::Host, format!("{}: {error}", doing())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_the_outside_in() {
        let error = Error::host("mapping RAM", libc::ENOMEM).context("building machine");
        assert_eq!(error.kind(), ErrorKind::Host);
        assert_eq!(error.os_error(), Some(libc::ENOMEM));
        let text = error.to_string();
        assert!(
            text.starts_with("building machine: mapping RAM: Cannot allocate memory"),
            "{text}"
        );
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
