//! Once a block device is warm, a request allocates nothing: neither ring nor device nor thread.
#![expect(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    vec::Drain,
};

use vmm_core::{
    Result,
    virtio::{
        Writable,
        testing::{Descriptor, Driver},
    },
};
use vmm_devices::{Block, Disk, Image, MemoryImage, RawFile, Request};

/// Counts what is allocated on threads that asked for it: the test's own frame has others.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if IS_COUNTED.get() {
        ALLOCATIONS.fetch_add(1, SeqCst);
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// An image whose thread is counted, and kept waiting while the gate is held.
struct Gated<I>(I, Arc<Mutex<()>>);

impl<I: Image> Image for Gated<I> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, data)
    }

    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        IS_COUNTED.set(true);
        drop(self.1.lock());
        self.0.read_into(at, to)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(at, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Answers at once.
struct Nothing;

impl Disk for Nothing {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn submit(&self, requests: Drain<'_, Request>) -> Result<()> {
        requests.for_each(|request| request.finish(Ok(())));
        Ok(())
    }
}

#[test]
fn a_warm_device_allocates_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    other.as_file().set_len(1 << 20).unwrap();
    let (memory, gate) = (MemoryImage::new(1 << 20).unwrap(), Arc::new(Mutex::new(())));
    IS_COUNTED.set(true);
    let disks = [
        ("nothing", Block::new(Nothing)),
        ("memory", Block::image(Gated(memory, Arc::clone(&gate)))),
        ("file", Block::image(Gated(RawFile::open(&file).unwrap(), Arc::clone(&gate)))),
        ("page cache", Block::open_read_only(&other)),
    ];
    for (name, block) in disks {
        let mut driver = Driver::new(block.unwrap()).unwrap();
        driver.start(u64::MAX).unwrap();
        let at = driver.take(64 << 10).unwrap();
        let (next, write) = (Descriptor::NEXT, Descriptor::WRITE);
        for n in 0..64_u16 {
            let data = at + 0x1000 + 512 * u64::from(n);
            // All read sector 0, whose header is zeros but for nothing.
            let parts =
                [(at, 16, next), (data, 512, next | write), (at + 0xf000 + u64::from(n), 1, write)];
            for (part, (addr, len, flags)) in (0_u16..).zip(parts) {
                let descriptor = Descriptor { addr, len, flags, next: 3 * n + part + 1 };
                driver.describe(0, 3 * n + part, descriptor).unwrap();
            }
        }
        let mut round = |all_at_once: bool| {
            let held = all_at_once.then(|| gate.lock().unwrap());
            for n in 0..64 {
                driver.offer(0, 3 * n).unwrap();
            }
            driver.kick(0);
            driver.turn().unwrap();
            drop(held);
            let mut left = 64;
            while left > 0 {
                match driver.used(0).unwrap() {
                    Some((_, len)) => {
                        assert_eq!(len, 513);
                        left -= 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        };
        // As many as the queue holds are out at once; later that may happen or not.
        (0..3).for_each(|_| round(true));
        let before = ALLOCATIONS.load(SeqCst);
        assert!(before > 0, "they are counted");
        (0..100).for_each(|_| round(false));
        assert_eq!(ALLOCATIONS.load(SeqCst) - before, 0, "{name}: for 6,400 requests");
    }
}
