//! The names in a directory, as they were when a program opened it.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    Listed,
    tree::{Held, Room},
};

/// A list of names. It is a copy, made by the host for the program, so it counts against what the
/// program's files in memory may take, wherever the directory is.
pub(super) struct Names {
    pub(super) all: Vec<Listed>,
    pub(super) held: Held,
}

impl Names {
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self { all: Vec::new(), held: Held::nothing(room) }
    }

    /// Adds a name; `NOMEM` if there is no room for it.
    pub(super) fn add(&mut self, listed: Listed) -> Result<(), Errno> {
        self.held.take((listed.name.len() + size_of::<Listed>()) as u64)?;
        self.all.push(listed);
        Ok(())
    }
}
