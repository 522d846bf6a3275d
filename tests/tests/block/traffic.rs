//! Much traffic against a shadow copy, on each kind of disk; resets and moves in the middle of it.

use std::{fs, io, sync::Arc};

use vmm_core::virtio::testing::{Done, Driver};
use vmm_devices::{Block, BlockHandle, Image, MemoryImage, Overlay, RawFile};

use crate::{DISCARD, FLUSH, IN, Numbers, OK, OUT, WRITE_ZEROES, header, range};

const SECTORS: u64 = 4096;
const LEN: usize = SECTORS as usize * 512;

/// What a request was about: where, how long, and whether the disk is then to be read as the shadow.
struct Asked {
    head: u16,
    sector: u64,
    len: usize,
    read: bool,
}

/// Requests in flight never overlap, so that each has one right answer.
struct Traffic {
    numbers: Numbers,
    shadow: Vec<u8>,
    /// By queue.
    asked: Vec<Vec<Asked>>,
    bytes: u64,
}

impl Traffic {
    fn new(seed: u64, shadow: Vec<u8>, queues: usize) -> Self {
        let asked = (0..queues).map(|_| Vec::new()).collect();
        Self { numbers: Numbers(seed), shadow, asked, bytes: 0 }
    }

    fn is_free(&self, sector: u64, len: usize) -> bool {
        let end = sector + len as u64 / 512;
        !self
            .asked
            .iter()
            .flatten()
            .any(|other| sector < other.sector + other.len as u64 / 512 && other.sector < end)
    }

    /// Asks for something, unless it would be in the way of what is asked for already.
    fn ask(&mut self, driver: &mut Driver, queue: usize) {
        let sectors = match self.numbers.next(4) {
            0 => self.numbers.next(300) + 1,
            _ => self.numbers.next(16) + 1,
        };
        let sector = self.numbers.next(SECTORS - sectors);
        let (len, at) = (sectors as usize * 512, sector as usize * 512);
        if !self.is_free(sector, len) {
            return;
        }
        let what = self.numbers.next(16);
        let (kind, data, room) = match what {
            0..7 => (IN, Vec::new(), len as u32),
            7..13 => (OUT, self.numbers.bytes(len), 0),
            13 => (WRITE_ZEROES, range(sector, sectors as u32, self.numbers.next(2) as u32), 0),
            14 => (FLUSH, Vec::new(), 0),
            // What is read there afterwards is anything, so it is zeroed next.
            _ => (DISCARD, range(sector, sectors as u32, 0), 0),
        };
        let head = header(kind, sector);
        let split = self.numbers.next(data.len() as u64 + 1) as usize;
        let (a, b) = data.split_at(split);
        let readable: Vec<&[u8]> =
            [head.as_slice(), a, b].into_iter().filter(|part| !part.is_empty()).collect();
        let writable: &[u32] = if room > 0 { &[room, 1] } else { &[1] };
        let sent = match self.numbers.next(2) {
            0 => driver.submit(queue, &readable, writable),
            _ => driver.submit_indirect(queue, &readable, writable),
        };
        let Ok(head) = sent else { return };
        match kind {
            OUT => self.shadow[at..at + len].copy_from_slice(&data),
            WRITE_ZEROES => self.shadow[at..at + len].fill(0),
            _ => {}
        }
        self.bytes += len as u64;
        self.asked[queue].push(Asked { head, sector, len, read: kind == IN });
        if kind == DISCARD {
            let done = driver.wait_for(queue, head, self);
            self.check(queue, &done);
            let zero = [header(WRITE_ZEROES, 0), range(sector, sectors as u32, 0)];
            let head = driver.submit(queue, &[&zero[0], &zero[1]], &[1]).unwrap();
            self.shadow[at..at + len].fill(0);
            self.asked[queue].push(Asked { head, sector, len, read: false });
        }
    }

    fn check(&mut self, queue: usize, done: &Done) {
        let asked = &mut self.asked[queue];
        let index = asked.iter().position(|asked| asked.head == done.head);
        let Asked { sector, len, read, .. } = asked.swap_remove(index.unwrap());
        assert_eq!(done.data.last(), Some(&OK));
        if read {
            let at = sector as usize * 512;
            assert!(done.data[..len] == self.shadow[at..at + len], "{len} bytes at {sector}");
        }
    }

    fn collect(&mut self, driver: &mut Driver, queue: usize) {
        while let Some(done) = driver.collect(queue).unwrap() {
            self.check(queue, &done);
        }
    }

    fn finish(&mut self, driver: &mut Driver) {
        for queue in 0..self.asked.len() {
            while driver.outstanding(queue) > 0 {
                let done = driver.wait(queue).unwrap();
                self.check(queue, &done);
            }
            assert!(self.asked[queue].is_empty());
        }
    }

    /// Traffic on all queues, until so many bytes were asked for.
    fn run(&mut self, driver: &mut Driver, bytes: u64) {
        let end = self.bytes + bytes;
        while self.bytes < end {
            let queue = self.numbers.next(self.asked.len() as u64) as usize;
            for _ in 0..self.numbers.next(12) {
                self.ask(driver, queue);
            }
            driver.turn().unwrap();
            if self.numbers.next(3) == 0 {
                self.collect(driver, queue);
            }
        }
        self.finish(driver);
        let all = crate::read(driver, 0, LEN as u32);
        assert!(all == self.shadow, "the whole disk");
    }
}

/// Waits for one certain request.
trait WaitFor {
    fn wait_for(&mut self, queue: usize, head: u16, traffic: &mut Traffic) -> Done;
}

impl WaitFor for Driver {
    fn wait_for(&mut self, queue: usize, head: u16, traffic: &mut Traffic) -> Done {
        loop {
            let done = self.wait(queue).unwrap();
            if done.head == head {
                return done;
            }
            traffic.check(queue, &done);
        }
    }
}

/// 1 GiB if this is a long run.
fn bytes() -> u64 {
    if std::env::var_os("VMM_LONG").is_some() { 1 << 30 } else { 24 << 20 }
}

fn traffic(image: impl Image, shadow: Vec<u8>, queues: usize) -> BlockHandle {
    let block = Block::image(image).unwrap().queues(queues).unwrap();
    let handle = block.handle();
    let mut driver = crate::start(block);
    Traffic::new(queues as u64 + 40, shadow, queues).run(&mut driver, bytes());
    handle
}

fn file(data: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, data).unwrap();
    file
}

#[test]
fn memory_holds_what_was_written() {
    let statistics = traffic(MemoryImage::new(LEN as u64).unwrap(), vec![0; LEN], 1).statistics();
    assert_eq!(statistics.errors, 0);
    assert!(statistics.reads > 100 && statistics.writes > 100 && statistics.flushes > 10);
}

#[test]
fn a_file_holds_what_was_written() {
    let data = Numbers(3).bytes(LEN);
    let file = file(&data);
    traffic(RawFile::open(&file).unwrap(), data, 1);
}

#[test]
fn a_file_holds_what_eight_queues_wrote() {
    let data = Numbers(4).bytes(LEN);
    let file = file(&data);
    traffic(RawFile::open(&file).unwrap(), data, 8);
}

#[test]
fn a_temporary_overlay_holds_what_was_written() {
    let data = Numbers(5).bytes(LEN);
    let file = file(&data);
    let base = RawFile::open_read_only(&file).unwrap();
    traffic(Overlay::temporary(base).unwrap(), data.clone(), 4);
    assert!(fs::read(&file).unwrap() == data);
}

#[test]
fn a_kept_overlay_holds_what_was_written() {
    let data = Numbers(6).bytes(LEN);
    let (file, directory) = (file(&data), tempfile::tempdir().unwrap());
    let base = RawFile::open_read_only(&file).unwrap();
    traffic(Overlay::create(directory.path().join("top"), base).unwrap(), data.clone(), 4);
    assert!(fs::read(&file).unwrap() == data);
}

#[test]
fn a_disk_moves_to_another_device_in_mid_traffic_a_hundred_times() {
    let data = Numbers(8).bytes(LEN);
    let file = file(&data);
    let image = Arc::new(RawFile::open(&file).unwrap());
    let block = || Block::image(Shared(Arc::clone(&image))).unwrap().queues(2).unwrap();
    let mut driver = crate::start(block());
    let mut traffic = Traffic::new(11, data, 2);
    for round in 0..100 {
        for queue in 0..2 {
            for _ in 0..8 {
                traffic.ask(&mut driver, queue);
            }
        }
        if round % 3 > 0 {
            driver.turn().unwrap();
        }
        driver.replace(block()).unwrap();
        traffic.collect(&mut driver, round % 2);
    }
    traffic.finish(&mut driver);
    assert!(crate::read(&mut driver, 0, LEN as u32) == traffic.shadow);
}

#[test]
fn a_driver_that_resets_at_any_moment_finds_a_disk_that_works() {
    let image = MemoryImage::new(LEN as u64).unwrap();
    let mut driver = crate::start(Block::image(image).unwrap());
    let mut numbers = Numbers(21);
    for _ in 0..200 {
        // Which requests of the last round were still done, nobody knows.
        let now = crate::read(&mut driver, 0, LEN as u32);
        let mut traffic = Traffic::new(numbers.next(u64::MAX), now, 1);
        for _ in 0..numbers.next(30) {
            traffic.ask(&mut driver, 0);
        }
        if numbers.next(2) == 0 {
            driver.turn().unwrap();
        }
        driver.start(u64::MAX).unwrap();
        assert_eq!(driver.outstanding(0), 0);
        crate::write(&mut driver, 0, &[1; 512]);
        assert_eq!(crate::read(&mut driver, 0, 512), [1; 512]);
        assert_eq!(driver.collect(0).unwrap(), None);
    }
}

/// One image for several devices.
struct Shared<I>(Arc<I>);

impl<I: Image> Image for Shared<I> {
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
}
