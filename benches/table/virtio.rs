//! Requests of 4 KiB to a block device, by a driver in this process: what rings, device and threads
//! cost beside the bare call of the host. The driver's own work is in it.

use std::{env, fs, fs::File, os::unix::fs::FileExt, process, vec::Drain};

use vmm_core::{
    Result,
    memory::GuestAddress,
    virtio::testing::{Descriptor, Driver},
};
use vmm_devices::{Block, Disk, MemoryImage, Request};

use crate::sample::{Samples, nanoseconds, pairs, print, print_pair};

const SIZE: u64 = 4096;
/// Requests under way at once, on each queue.
const DEPTH: u64 = 64;
const ROUNDS: u64 = 40;
/// Of the file, which is in the page cache.
const BLOCKS: u64 = 4096;

pub(crate) fn rows() {
    for queues in [1, 2, 8] {
        let what = format!("virtio: 4 KiB from a disk that does nothing, {queues} queues");
        print(&what, &Samples::take(40, device_alone(Block::new(Nothing).unwrap(), queues)));
    }
    let memory = MemoryImage::new(BLOCKS * SIZE).unwrap();
    let memory = requests(Block::image(memory).unwrap(), 1);
    print("virtio: 4 KiB from memory, on its thread", &Samples::take(40, memory));
    let path = env::temp_dir().join(format!("vmm-bench-{}", process::id()));
    fs::write(&path, vec![1; (BLOCKS * SIZE) as usize]).unwrap();
    for queues in [1, 2, 8] {
        let file = File::open(&path).unwrap();
        let ours = requests(Block::open_read_only(&path).unwrap(), queues);
        let what = format!("virtio: 4 KiB from the page cache, {queues} queues");
        print_pair(&what, &pairs(40, ours, bare(file)));
    }
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

/// The block that request `n` is about: all over the file.
fn block(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & (BLOCKS - 1)
}

/// Nanoseconds per request, of `DEPTH` on each queue at once.
fn requests(block: Block, queues: usize) -> impl FnMut() -> f64 {
    let (mut driver, areas) = start(block, queues);
    let mut n = 0;
    move || {
        let time = nanoseconds(|| {
            for _ in 0..ROUNDS {
                ask(&mut driver, &areas, &mut n);
                driver.turn().unwrap();
                collect(&mut driver, queues);
            }
        });
        time / (ROUNDS * DEPTH * queues as u64) as f64
    }
}

/// The same without the driver's share, for a disk that is done before the device has woken.
fn device_alone(block: Block, queues: usize) -> impl FnMut() -> f64 {
    let (mut driver, areas) = start(block, queues);
    let mut n = 0;
    move || {
        let round = |_| {
            ask(&mut driver, &areas, &mut n);
            let time = nanoseconds(|| driver.turn().unwrap());
            collect(&mut driver, queues);
            time
        };
        (0..ROUNDS).map(round).sum::<f64>() / (ROUNDS * DEPTH * queues as u64) as f64
    }
}

fn start(block: Block, queues: usize) -> (Driver, Vec<u64>) {
    let mut driver = Driver::new(block.queues(queues).unwrap()).unwrap();
    driver.start(u64::MAX).unwrap();
    let areas = (0..queues).map(|queue| describe(&mut driver, queue)).collect();
    (driver, areas)
}

/// Chains of header, data and status, to be used again and again; where the headers are.
fn describe(driver: &mut Driver, queue: usize) -> u64 {
    let headers = driver.take(16 * DEPTH).unwrap();
    let statuses = driver.take(DEPTH).unwrap();
    let data = driver.take(SIZE * DEPTH).unwrap();
    for n in 0..DEPTH {
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

fn ask(driver: &mut Driver, areas: &[u64], n: &mut u64) {
    for (queue, headers) in areas.iter().enumerate() {
        for slot in 0..DEPTH {
            *n += 1;
            let sector = GuestAddress(headers + 16 * slot + 8);
            driver.memory().write_obj(sector, block(*n) * SIZE / 512).unwrap();
            driver.offer(queue, 3 * slot as u16).unwrap();
        }
        driver.kick(queue);
    }
}

fn collect(driver: &mut Driver, queues: usize) {
    for queue in 0..queues {
        let (mut left, mut idle) = (DEPTH, 0_u32);
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
    let mut memory = vec![0; (SIZE * DEPTH) as usize];
    let mut n = 0;
    move || {
        let count = ROUNDS * DEPTH;
        let time = nanoseconds(|| {
            for _ in 0..ROUNDS {
                for slot in memory.chunks_mut(SIZE as usize) {
                    n += 1;
                    file.read_exact_at(slot, block(n) * SIZE).unwrap();
                }
            }
        });
        time / count as f64
    }
}
