//! What is done when the host writes to guest RAM: the page is marked, and whoever keeps something
//! that was made from it is told.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use vm_memory::bitmap::{AtomicBitmap, Bitmap, RefSlice, WithBitmapSlice};

/// Is told what the host has written, after it has: a software CPU forgets the code it decoded
/// there. Called on the writer's thread; must not write guest memory.
pub(crate) trait WriteWatcher: Send + Sync {
    /// `len` bytes at this address of the process.
    fn written(&self, host: usize, len: usize);
}

/// The pages of a region that the host has written, and who is told of writes.
pub struct WriteMarks {
    pages: AtomicBitmap,
    /// The region's address in this process.
    host: usize,
    /// There is a watcher: without one, a write costs no more than this look.
    watched: AtomicBool,
    watchers: RwLock<Vec<Weak<dyn WriteWatcher>>>,
}

impl WriteMarks {
    /// For a region of `size` bytes at `host`.
    pub(super) fn new(host: usize, size: usize, page: NonZeroUsize) -> Self {
        let (watched, watchers) = (AtomicBool::new(false), RwLock::default());
        Self { pages: AtomicBitmap::new(size, page), host, watched, watchers }
    }

    #[cfg_attr(not(feature = "soft"), expect(dead_code, reason = "only the software CPU watches"))]
    pub(super) fn watch(&self, watcher: &Arc<dyn WriteWatcher>) {
        let mut watchers = self.watchers.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(watcher));
        self.watched.store(true, SeqCst);
    }

    #[cold]
    fn tell(&self, offset: usize, len: usize) {
        let watchers = self.watchers.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watcher.written(self.host + offset, len);
        }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteMarks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteMarks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.pages.mark_dirty(offset, len);
        if self.watched.load(SeqCst) {
            self.tell(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.pages.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl fmt::Debug for WriteMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteMarks").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::memory::{GuestAddress, GuestMemory};

    #[derive(Default)]
    struct Log(Mutex<Vec<(usize, usize)>>);

    impl WriteWatcher for Log {
        fn written(&self, host: usize, len: usize) {
            self.0.lock().unwrap().push((host, len));
        }
    }

    #[test]
    fn a_watcher_is_told_of_every_write_until_it_is_gone() {
        let memory = GuestMemory::anonymous(1 << 20).unwrap();
        let region = memory.regions().remove(0);
        let host = region.host_address().addr();
        let log = Arc::new(Log::default());
        let watcher: Arc<dyn WriteWatcher> = log.clone();
        memory.write(GuestAddress(1), &[1]).unwrap();
        region.watch(&watcher);
        memory.write(GuestAddress(0x1ffe), &[1, 2, 3, 4]).unwrap();
        memory.write_obj(GuestAddress(0x3000), 7u64).unwrap();
        memory.zero(GuestAddress(0x4001), 2).unwrap();
        let told = std::mem::take(&mut *log.0.lock().unwrap());
        assert_eq!(told, [(host + 0x1ffe, 4), (host + 0x3000, 8), (host + 0x4001, 2)]);
        drop(watcher);
        assert_eq!(Arc::strong_count(&log), 1);
        drop(log);
        memory.write(GuestAddress(0), &[1]).unwrap();
    }
}
