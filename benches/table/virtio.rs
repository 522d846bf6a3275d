//! Requests of 4 KiB to a block device, by a driver in this process: what rings, device and threads
//! cost beside the bare call of the host.

use std::{
    env, fs,
    fs::File,
    io::{self, IoSliceMut},
    process,
    vec::Drain,
};

use rustix::io::preadv;
use vmm_core::{
    Result,
    memory::GuestAddress,
    virtio::{
        Writable,
        testing::{Descriptor, Driver},
    },
};
use vmm_devices::{Block, Disk, Image, MemoryImage, RawFile, Request};

use crate::sample::{Samples, nanoseconds, pairs, print, print_pair};

const SIZE: u64 = 4096;
const ROUNDS: u64 = 40;
/// Of the file, which is in the page cache.
const BLOCKS: u64 = 4096;

pub(crate) fn rows() {
    for queues in [1, 2, 8] {
        let what = format!("virtio: 4 KiB from a disk that does nothing, {queues} queues");
        print(&what, &Samples::take(40, device(Block::new(Nothing).unwrap(), queues, 64)));
    }
    let memory = MemoryImage::new(BLOCKS * SIZE).unwrap();
    let memory = device(Block::image(memory).unwrap(), 1, 64);
    print("virtio: 4 KiB from memory", &Samples::take(40, memory));
    let path = env::temp_dir().join(format!("vmm-bench-{}", process::id()));
    fs::write(&path, vec![1; (BLOCKS * SIZE) as usize]).unwrap();
    for (queues, depth) in [(1, 1), (1, 32), (2, 32), (8, 32)] {
        let ours = device(Block::open_read_only(&path).unwrap(), queues, depth);
        let what = format!("virtio: 4 KiB from the page cache, {queues} x {depth} at once");
        print_pair(&what, &pairs(40, ours, bare(File::open(&path).unwrap())));
    }
    let thread = Block::image(Handed(RawFile::open_read_only(&path).unwrap())).unwrap();
    let thread = whole(thread, 1, 32);
    let what = "virtio: the same by a thread, with the driver's share";
    print_pair(what, &pairs(40, thread, bare(File::open(&path).unwrap())));
    let _ = fs::remove_file(&path);
}

/// A disk whose requests are done as soon as they are asked for.
struct Nothing;

impl Disk for Nothing {
    fn len(&self) -> u64 {
        BLOCKS * SIZE
    }

    fn submit(&self, requests: Drain<'_, Request>) -> Result<()> {
        requests.for_each(|request| request.finish(Ok(())));
        Ok(())
    }
}

/// A file that nothing is read from on the spot.
struct Handed(RawFile);

impl Image for Handed {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, data)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(at, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        self.0.read_into(at, to)
    }
}

/// The block that request `n` is about: all over the file.
fn block(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & (BLOCKS - 1)
}

/// Nanoseconds per request, of `depth` on each queue at once, from the bell until the device is done,
/// for a disk that needs no thread: the driver has described its requests before.
fn device(block: Block, queues: usize, depth: u64) -> impl FnMut() -> f64 {
    let (mut driver, areas) = start(block, queues, depth);
    let mut n = 0;
    move || {
        let round = |_| {
            ask(&mut driver, &areas, depth, &mut n);
            let time = nanoseconds(|| driver.turn().unwrap());
            collect(&mut driver, queues, depth);
            time
        };
        (0..ROUNDS).map(round).sum::<f64>() / (ROUNDS * depth * queues as u64) as f64
    }
}

/// The same with what the driver does, and waits for.
fn whole(block: Block, queues: usize, depth: u64) -> impl FnMut() -> f64 {
    let (mut driver, areas) = start(block, queues, depth);
    let mut n = 0;
    move || {
        let time = nanoseconds(|| {
            for _ in 0..ROUNDS {
                ask(&mut driver, &areas, depth, &mut n);
                driver.turn().unwrap();
                collect(&mut driver, queues, depth);
            }
        });
        time / (ROUNDS * depth * queues as u64) as f64
    }
}

fn start(block: Block, queues: usize, depth: u64) -> (Driver, Vec<u64>) {
    let mut driver = Driver::new(block.queues(queues).unwrap()).unwrap();
    driver.start(u64::MAX).unwrap();
    let areas = (0..queues).map(|queue| describe(&mut driver, queue, depth)).collect();
    (driver, areas)
}

/// Chains of header, data and status, to be used again and again; where the headers are.
fn describe(driver: &mut Driver, queue: usize, depth: u64) -> u64 {
    let headers = driver.take(16 * depth).unwrap();
    let statuses = driver.take(depth).unwrap();
    let data = driver.take(SIZE * depth).unwrap();
    for n in 0..depth {
        let index = 3 * n as u16;
        let (next, write) = (Descriptor::NEXT, Descriptor::WRITE);
        for (part, (addr, len, flags)) in [
            (headers + 16 * n, 16, next),
            (data + SIZE * n, SIZE as u32, next | write),
            (statuses + n, 1, write),
        ]
        .into_iter()
        .enumerate()
        {
            let part = part as u16;
            let descriptor = Descriptor { addr, len, flags, next: index + part + 1 };
            driver.describe(queue, index + part, descriptor).unwrap();
        }
        driver.memory().zero(GuestAddress(headers + 16 * n), 16).unwrap();
    }
    headers
}

fn ask(driver: &mut Driver, areas: &[u64], depth: u64, n: &mut u64) {
    for (queue, headers) in areas.iter().enumerate() {
        for slot in 0..depth {
            *n += 1;
            let sector = GuestAddress(headers + 16 * slot + 8);
            driver.memory().write_obj(sector, block(*n) * SIZE / 512).unwrap();
            driver.offer(queue, 3 * slot as u16).unwrap();
        }
        driver.kick(queue);
    }
}

fn collect(driver: &mut Driver, queues: usize, depth: u64) {
    for queue in 0..queues {
        let (mut left, mut idle) = (depth, 0_u32);
        while left > 0 {
            match driver.used(queue).unwrap() {
                Some(_) => left -= 1,
                None => {
                    std::thread::yield_now();
                    idle += 1;
                    // The device asks to be woken again when it has done its share.
                    if idle.is_multiple_of(100) {
                        driver.turn().unwrap();
                    }
                }
            }
        }
    }
}

/// The same reads, into as much memory, by the bare call.
fn bare(file: File) -> impl FnMut() -> f64 {
    const DEPTH: u64 = 32;
    let mut memory = vec![0; (SIZE * DEPTH) as usize];
    let mut n = 0;
    move || {
        let time = nanoseconds(|| {
            for _ in 0..ROUNDS {
                for slot in memory.chunks_mut(SIZE as usize) {
                    n += 1;
                    let buffers = &mut [IoSliceMut::new(slot)];
                    let count = preadv(&file, buffers, block(n) * SIZE).unwrap();
                    assert_eq!(count as u64, SIZE);
                }
            }
        });
        time / (ROUNDS * DEPTH) as f64
    }
}
