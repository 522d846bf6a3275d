//! Which process an object belongs to.
//!
//! KVM ties a VM to the address space that made it and guest RAM is `MADV_DONTFORK`, so after a
//! host `fork()` the child holds objects it must not use. Each such object carries an [`Owner`] and
//! asks it first.

use crate::error::{Error, ErrorKind, Result};

/// The process that made an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    /// The calling process.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Whether the calling process is the owner.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// `WrongProcess` in a child after `fork()`.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let message = format!(
            "made in process {} and used in process {}: after fork() only the parent may use it",
            self.0,
            std::process::id()
        );
        Err(Error::new(ErrorKind::WrongProcess, message))
    }
}
