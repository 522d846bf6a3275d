//! What of the host a sandbox may see: directories, read-only or not.

use std::path::PathBuf;

use vmm_core::{Error, Result};

use crate::files::{self, Namespace, SavedGrant};

/// What a program may do in a directory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read; everything else is `EROFS`.
    ReadOnly,
    /// Whatever the host's user may.
    ReadWrite,
}

/// A directory of the host, and where the program finds it.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) directory: PathBuf,
    pub(crate) at: Vec<u8>,
    pub(crate) access: Access,
}

impl Mount {
    /// The names from the root on.
    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.at.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    pub(crate) fn is_root(&self) -> bool {
        self.names().next().is_none()
    }

    /// Whether a program finds here what it was granted once.
    pub(crate) fn serves(&self, grant: &SavedGrant) -> bool {
        let writes = self.access == Access::ReadWrite;
        grant.path.iter().map(Vec::as_slice).eq(self.names()) && (grant.read_only || writes)
    }
}

/// The tree of a program with these grants.
pub(crate) fn namespace(file_limit: u64, mounts: Vec<Mount>) -> Result<Namespace> {
    let made = files::empty(file_limit);
    let mut namespace = made.map_err(|errno| {
        Error::bad_config(format!("{file_limit} bytes are too few for files in memory: {errno}"))
    })?;
    for Mount { directory, at, access } in mounts {
        let shown = at.escape_ascii().to_string();
        let parts = at.split(|byte| *byte == b'/');
        if !at.starts_with(b"/") || parts.clone().any(|name| name == b"." || name == b"..") {
            let message =
                format!("a mount at {shown:?}: a path from / on without . and .. is meant");
            return Err(Error::bad_config(message));
        }
        let node = files::grant(&directory, access == Access::ReadOnly).map_err(|error| {
            let doing = format!("opening the directory {}", directory.display());
            Error::host(doing, error.raw_os_error().unwrap_or(libc::EIO))
        })?;
        namespace.mount(&at, node);
    }
    Ok(namespace)
}
