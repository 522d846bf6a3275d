//! Copies of a program's files, for a sandbox of its own.
//!
//! What was shared is shared among the copies: descriptors of one open file, names of one file, the
//! ends of a pipe. Contents are shared until one of them is written. What belongs to the host is
//! not copied: directories that were granted are the same ones, and so are streams to the host.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use vmm_core::Result;

use super::{
    Handle, Node,
    saved::{SavedFile, Saver},
    tree::Unfilled,
};

/// An open file that there can be another of.
pub(crate) trait Copied {
    /// The same file, open in another sandbox.
    ///
    /// # Errors
    /// `Host` if it is the host's and cannot be opened anew.
    fn copy(&self, copies: &mut Copies) -> Result<Handle>;

    /// It as a record, which names others by what `saver` calls them.
    ///
    /// # Errors
    /// `Unsupported` if it could not be opened again.
    fn save(&self, saver: &mut Saver) -> Result<SavedFile>;
}

/// What has been copied so far.
#[derive(Default)]
pub(crate) struct Copies {
    /// The copy of each thing, by the thing's address; it stays alive meanwhile.
    made: BTreeMap<usize, Box<dyn Any>>,
    /// Directories whose entries are still to be copied. A tree may be deeper than the stack.
    unfilled: Vec<Unfilled>,
}

impl Copies {
    /// The copy of `thing`, which `make` makes if there is none.
    pub(crate) fn once<T: ?Sized, C: Clone + 'static>(
        &mut self,
        thing: &Arc<T>,
        make: impl FnOnce(&mut Self) -> Result<C>,
    ) -> Result<C> {
        let address = Arc::as_ptr(thing).cast::<()>().addr();
        let known = self.made.get(&address).and_then(|copy| copy.downcast_ref::<C>());
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let copy = make(self)?;
        self.made.insert(address, Box::new(copy.clone()));
        Ok(copy)
    }

    /// The copy of a node; one that cannot change is its own.
    pub(super) fn node(&mut self, node: &Arc<dyn Node>) -> Result<Arc<dyn Node>> {
        self.once(node, |copies| Ok(node.copy(copies)?.unwrap_or_else(|| Arc::clone(node))))
    }

    /// The copy of an open file.
    pub(super) fn handle(&mut self, handle: &Handle) -> Result<Handle> {
        self.once(&handle.0, |copies| handle.lock().copy(copies))
    }

    /// The copy of what is behind a lock and has no copies of others in it.
    pub(super) fn shared<T: Clone + Send + 'static>(
        &mut self,
        thing: &Arc<Mutex<T>>,
    ) -> Result<Arc<Mutex<T>>> {
        self.once(thing, |_| {
            let value = thing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok(Arc::new(Mutex::new(value)))
        })
    }

    /// A directory was copied without its entries.
    pub(super) fn fill_later(&mut self, directory: Unfilled) {
        self.unfilled.push(directory);
    }

    /// Copies the entries of all directories.
    pub(crate) fn fill(&mut self) -> Result<()> {
        while let Some(directory) = self.unfilled.pop() {
            directory.fill(self)?;
        }
        Ok(())
    }
}
