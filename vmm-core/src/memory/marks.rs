//! What is done when the host writes to guest RAM: the page is marked, and whoever keeps something
//! that was made from it is told.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::{PAGE_SIZE, pages::PageSet};

/// Is told what the host has written, after it has: a software CPU forgets the code it decoded
/// there. Called on the writer's thread; must not write guest memory.
pub(crate) trait WriteWatcher: Send + Sync {
    /// `len` bytes at this address of the process.
    fn written(&self, host: usize, len: usize);
}

/// The pages of a region that the host has written, and who is told of writes.
pub struct WriteMarks {
    pages: Pages,
    /// The region's address in this process.
    host: usize,
    /// There is a watcher: without one, a write costs no more than this look.
    watched: AtomicBool,
    watchers: RwLock<Vec<Weak<dyn WriteWatcher>>>,
}

impl WriteMarks {
    /// For a region of `size` bytes at `host`.
    pub(super) fn new(host: usize, size: usize) -> Self {
        let (watched, watchers) = (AtomicBool::new(false), RwLock::default());
        Self { pages: Pages::new(size), host, watched, watchers }
    }

    /// Moves the marks to `set`.
    pub(super) fn take(&self, set: &mut PageSet) {
        self.pages.take(set);
    }

    /// What was decoded there is void, though nobody marks the pages.
    pub(super) fn changed(&self, offset: usize, len: usize) {
        if self.watched.load(SeqCst) {
            self.tell(offset, len);
        }
    }

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

/// A bit for each page, in chunks that are made when the first of their pages is marked: a region
/// may be large and hardly used.
struct Pages {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

/// Words of a chunk, which is for 16 MiB.
const WORDS: usize = 64;
type Chunk = [AtomicU64; WORDS];
const WORD_PAGES: usize = u64::BITS as usize;
const CHUNK_PAGES: usize = WORDS * WORD_PAGES;
const PAGE: usize = PAGE_SIZE as usize;

impl Pages {
    fn new(size: usize) -> Self {
        let chunks = (size / PAGE).div_ceil(CHUNK_PAGES);
        Self { chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    fn mark(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1).map(|rest| offset.saturating_add(rest) / PAGE) else {
            return;
        };
        let mut page = offset / PAGE;
        while page <= last {
            let Some(chunk) = self.chunks.get(page / CHUNK_PAGES) else { return };
            let chunk = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
            let here = (WORD_PAGES - page % WORD_PAGES).min(last + 1 - page);
            let bits = (u64::MAX >> (WORD_PAGES - here)) << (page % WORD_PAGES);
            let word = &chunk[page / WORD_PAGES % WORDS];
            // Most writes are to pages that are marked already.
            if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, SeqCst);
            }
            page += here;
        }
    }

    fn is_marked(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        let chunk = self.chunks.get(page / CHUNK_PAGES).and_then(OnceLock::get);
        let word = chunk.map_or(0, |chunk| chunk[page / WORD_PAGES % WORDS].load(SeqCst));
        word >> (page % WORD_PAGES) & 1 == 1
    }

    fn take(&self, set: &mut PageSet) {
        for (number, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk.get() else { continue };
            for (at, word) in chunk.iter().enumerate() {
                if word.load(Relaxed) != 0 {
                    let first = number * CHUNK_PAGES + at * WORD_PAGES;
                    set.insert_bits(first as u64, &[word.swap(0, SeqCst)]);
                }
            }
        }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteMarks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteMarks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.pages.mark(offset, len);
        self.changed(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.pages.is_marked(offset)
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
    fn marks_are_of_pages_and_taken_once() {
        let marks = WriteMarks::new(0, 40 << 20);
        marks.mark_dirty(4095, 2);
        marks.mark_dirty((16 << 20) - 1, 4097);
        marks.mark_dirty(5 * 4096, 0);
        marks.mark_dirty((40 << 20) - 1, usize::MAX);
        assert!(marks.dirty_at(4096) && !marks.dirty_at(2 * 4096));
        let mut set = PageSet::new();
        marks.take(&mut set);
        let chunk = 4096;
        let want = [0..2, chunk - 1..chunk + 1, 10 * 1024 - 1..10 * 1024];
        assert_eq!(
            set.runs().take(3).map(|run| run.start).collect::<Vec<_>>(),
            want.clone().map(|run| run.start)
        );
        assert_eq!(set.runs().take(2).collect::<Vec<_>>(), want[..2]);
        let mut again = PageSet::new();
        marks.take(&mut again);
        assert!(again.is_empty());
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
