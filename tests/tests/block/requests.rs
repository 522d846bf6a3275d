//! Each type of request, what is refused, and what configuration space says.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    vec::Drain,
};

use vmm_core::{
    Result,
    memory::GuestAddress,
    virtio::{
        Writable,
        testing::{Descriptor, Driver},
    },
};
use vmm_devices::{Block, Disk, Image, MemoryImage, Operation, RateLimit, Request};

use crate::{
    DISCARD, FLUSH, GET_ID, IN, IO_ERROR, OK, OUT, UNSUPPORTED, WRITE_ZEROES, ask, flush, header,
    range, read, start, write,
};

const SECTORS: u64 = 64;

fn memory() -> Block {
    Block::image(MemoryImage::new(SECTORS * 512).unwrap()).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let mut driver = start(memory());
    write(&mut driver, 3, &[7; 1024]);
    let data = read(&mut driver, 2, 2048);
    assert!(data[..512].iter().all(|b| *b == 0) && data[512..1536].iter().all(|b| *b == 7));
    let (status, _) = ask(&mut driver, WRITE_ZEROES, 0, &range(4, 1, 1), 0);
    assert_eq!(status, OK);
    assert_eq!(read(&mut driver, 3, 1024), [[7; 512], [0; 512]].concat());
    assert_eq!(ask(&mut driver, DISCARD, 0, &range(0, 8, 0), 0).0, OK);
    flush(&mut driver);
}

#[test]
fn headers_and_status_may_be_split_anywhere() {
    let mut driver = start(memory());
    let mut out = header(OUT, 1);
    out.extend([5; 512]);
    for at in [1, 8, 15, 16, 17, 200] {
        let (a, b) = out.split_at(at);
        driver.submit(0, &[a, b], &[1]).unwrap();
        assert_eq!(driver.wait(0).unwrap().data, [OK]);
    }
    driver.submit(0, &[&header(IN, 1)], &[100, 412, 1]).unwrap();
    let done = driver.wait(0).unwrap();
    assert_eq!((done.written, &done.data[..512], done.data[512]), (513, [5; 512].as_slice(), OK));
    // The status in the same buffer as the data.
    driver.submit(0, &[&header(IN, 1)], &[513]).unwrap();
    assert_eq!(driver.wait(0).unwrap().data, done.data);
    // A thousand bytes as a thousand buffers.
    driver.submit_indirect(0, &[&header(IN, 1)], &[1; 513]).unwrap();
    assert_eq!(driver.wait(0).unwrap().data, done.data);
}

#[test]
fn requests_that_do_not_fit_the_disk_are_errors() {
    let block = memory();
    let handle = block.handle();
    let mut driver = start(block);
    let mut errors = 0;
    let mut refused = |kind, sector, data: &[u8], len| {
        assert_eq!(ask(&mut driver, kind, sector, data, len).0, IO_ERROR, "{kind} {sector}");
        errors += 1;
    };
    for sector in [SECTORS, SECTORS - 1, u64::MAX / 512, u64::MAX / 512 + 1, u64::MAX] {
        refused(IN, sector, &[], 1024);
        refused(OUT, sector, &[0; 1024], 0);
        refused(DISCARD, 0, &range(sector, 2, 0), 0);
        refused(WRITE_ZEROES, 0, &range(sector, 2, 1), 0);
    }
    // Not whole sectors, and a range that is none or too long.
    refused(IN, 0, &[], 511);
    refused(OUT, 0, &[0; 513], 0);
    refused(DISCARD, 0, &range(0, 1, 0)[..15], 0);
    refused(DISCARD, 0, &[range(0, 1, 0), range(1, 1, 0)].concat(), 0);
    refused(WRITE_ZEROES, 0, &range(0, u32::MAX, 0), 0);
    // Data in the wrong direction.
    refused(IN, 0, &[0; 512], 0);
    refused(OUT, 0, &[], 512);
    assert_eq!(handle.statistics().errors, errors);
    assert_eq!(ask(&mut driver, IN, SECTORS - 1, &[], 512).0, OK);
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut driver = start(memory());
    for kind in [2, 3, 10, 14, 255, u32::MAX] {
        assert_eq!(ask(&mut driver, kind, 0, &[], 0).0, UNSUPPORTED, "{kind}");
        assert_eq!(ask(&mut driver, kind, 0, &[], 512).0, UNSUPPORTED, "{kind}");
    }
}

#[test]
fn a_request_that_cannot_be_answered_needs_a_reset() {
    let broken: [(&[&[u8]], &[u32]); 4] =
        [(&[&[0; 15]], &[1]), (&[&[0; 16]], &[]), (&[], &[512]), (&[&[0; 600]], &[])];
    for (readable, writable) in broken {
        let mut driver = start(memory());
        driver.submit(0, readable, writable).unwrap();
        driver.turn().unwrap();
        assert!(driver.needs_reset());
        driver.start(u64::MAX).unwrap();
        write(&mut driver, 0, &[1; 512]);
    }
}

#[test]
fn a_disk_that_is_read_only_is_not_written() {
    let mut driver = start(memory().read_only());
    assert_eq!(driver.endpoint().accepted_features() & (1 << 5 | 1 << 9 | 1 << 13), 1 << 5);
    assert_eq!(ask(&mut driver, OUT, 0, &[1; 512], 0).0, IO_ERROR);
    assert_eq!(ask(&mut driver, WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, IO_ERROR);
    assert_eq!(ask(&mut driver, DISCARD, 0, &range(0, 1, 0), 0).0, IO_ERROR);
    assert_eq!(read(&mut driver, 0, 512), [0; 512]);
    flush(&mut driver);
}

#[test]
fn the_serial_number_is_told() {
    let mut driver = start(memory().serial("disk-0").unwrap());
    let (status, id) = ask(&mut driver, GET_ID, 0, &[], 20);
    assert_eq!((status, id.as_slice()), (OK, b"disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice()));
    assert_eq!(ask(&mut driver, GET_ID, 0, &[], 4).1, b"disk");
    assert!(memory().serial("123456789012345678901").is_err());
}

#[test]
fn configuration_says_how_large_it_is_and_is_told_of_changes() {
    let block = memory().queues(4).unwrap();
    let handle = block.handle();
    let driver = start(block);
    let number = |driver: &Driver, at, len: usize| {
        driver.config::<8>(at)[..len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    };
    assert_eq!(number(&driver, 0, 8), SECTORS);
    assert_eq!(
        (number(&driver, 12, 4), number(&driver, 20, 4), number(&driver, 34, 2)),
        (254, 512, 4)
    );
    assert_eq!((driver.read(0xfc), driver.read(0x60) & 2), (0, 0));
    handle.resize(1 << 20).unwrap();
    driver.turn().unwrap();
    assert_eq!((driver.read(0xfc), driver.read(0x60) & 2), (1, 2));
    assert_eq!((number(&driver, 0, 8), handle.len()), (2048, 1 << 20));
    let mut driver = driver;
    write(&mut driver, 2047, &[1; 512]);
    for len in [0, 100] {
        assert!(handle.resize(len).is_err());
    }
}

/// Keeps requests until they are taken.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<Request>>>);

impl Disk for Shelf {
    fn len(&self) -> u64 {
        SECTORS * 512
    }

    fn submit(&self, requests: Drain<'_, Request>) -> Result<()> {
        self.0.lock().unwrap().extend(requests);
        Ok(())
    }
}

#[test]
fn a_header_that_is_changed_after_it_was_read_changes_nothing() {
    let shelf = Shelf::default();
    let mut driver = start(Block::new(shelf.clone()).unwrap());
    let at = driver.take(4096).unwrap();
    let put = |driver: &Driver, data: &[u8]| driver.memory().write(GuestAddress(at), data).unwrap();
    put(&driver, &header(IN, 5));
    let descriptor = |addr, len, flags, next| Descriptor { addr, len, flags, next };
    let (next, write) = (Descriptor::NEXT, Descriptor::WRITE);
    let chain = [
        descriptor(at, 16, next, 1),
        descriptor(at + 512, 512, next | write, 2),
        descriptor(at + 1024, 1, write, 0),
    ];
    for (index, descriptor) in chain.into_iter().enumerate() {
        driver.describe(0, index as u16, descriptor).unwrap();
    }
    driver.offer(0, 0).unwrap();
    driver.kick(0);
    driver.turn().unwrap();
    // Now it would be a write beyond the disk, to and from elsewhere.
    put(&driver, &header(OUT, u64::MAX));
    for index in 0..3 {
        driver.describe(0, index, descriptor(u64::MAX, u32::MAX, 0xffff, 99)).unwrap();
    }
    let request = shelf.0.lock().unwrap().pop().unwrap();
    match request.operation() {
        Operation::Read { at: 2560, to } => {
            assert_eq!((to.len(), to.write(0, &[9; 600])), (512, 512));
        }
        other => panic!("{other:?}"),
    }
    request.finish(Ok(()));
    assert_eq!(driver.used(0).unwrap(), Some((0, 513)));
    let mut found = [0; 513];
    driver.memory().read(GuestAddress(at + 512), &mut found).unwrap();
    assert_eq!(found.as_slice(), [[9; 512].as_slice(), &[OK]].concat());
}

#[test]
fn a_request_that_is_dropped_has_failed() {
    let shelf = Shelf::default();
    let mut driver = start(Block::new(shelf.clone()).unwrap());
    driver.submit(0, &[&header(FLUSH, 0)], &[1]).unwrap();
    driver.turn().unwrap();
    shelf.0.lock().unwrap().clear();
    assert_eq!(driver.wait(0).unwrap().data, [IO_ERROR]);
}

#[test]
fn what_the_limit_does_not_allow_comes_later_by_itself() {
    let limited = |per_second| start(memory().limit(RateLimit { per_second, burst: 1 }).unwrap());
    // The first request is begun, and an hour of debt.
    let mut slow = limited(1);
    write(&mut slow, 0, &[1; 3584]);
    slow.submit(0, &[&header(FLUSH, 0)], &[1]).unwrap();
    for _ in 0..50 {
        slow.kick(0);
        slow.turn().unwrap();
    }
    assert_eq!((slow.collect(0).unwrap(), slow.outstanding(0)), (None, 1));
    let mut fast = limited(1 << 20);
    for _ in 0..20 {
        fast.submit(0, &[&header(IN, 0)], &[4096, 1]).unwrap();
    }
    for _ in 0..20 {
        // Nobody kicks: the timer wakes it.
        assert_eq!(fast.wait(0).unwrap().data[4096], OK);
    }
    assert!(memory().limit(RateLimit { per_second: 0, burst: 1 }).is_err());
}

#[test]
fn memory_that_there_is_not_is_refused() {
    let error = MemoryImage::new(!511).unwrap_err();
    assert_eq!(error.kind(), vmm_core::ErrorKind::BadConfig);
}

/// Reads on the spot what is before the middle; the rest waits for a signal.
struct Half {
    tried: Arc<AtomicUsize>,
    go: Mutex<Receiver<()>>,
}

impl Image for Half {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, data: &mut [u8]) -> io::Result<()> {
        self.go.lock().unwrap().recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        data.fill(2);
        Ok(())
    }

    fn try_read_into(&self, at: u64, to: &Writable<'_>) -> io::Result<()> {
        self.tried.fetch_add(1, SeqCst);
        if at >= 512 << 10 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        to.write(0, &vec![1; to.len() as usize]);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_read_that_need_not_wait_is_done_at_once_unless_others_wait() {
    let (go, gone) = channel();
    let tried = Arc::new(AtomicUsize::new(0));
    let image = Half { tried: Arc::clone(&tried), go: Mutex::new(gone) };
    let mut driver = start(Block::image(image).unwrap());
    let ask = |driver: &mut Driver, sector, len| {
        driver.submit(0, &[&header(IN, sector)], &[len, 1]).unwrap();
        driver.turn().unwrap();
        driver.collect(0).unwrap()
    };
    let done = ask(&mut driver, 0, 512).unwrap();
    assert_eq!((done.written, done.data[0], done.data[512]), (513, 1, OK));
    // Nothing waits for it but its own thread.
    assert_eq!(ask(&mut driver, 1024, 512), None);
    assert_eq!(tried.load(SeqCst), 2);
    assert_eq!(ask(&mut driver, 0, 512), None, "what comes behind is not tried");
    assert_eq!(tried.load(SeqCst), 2);
    for _ in 0..2 {
        go.send(()).unwrap();
        assert_eq!(driver.wait(0).unwrap().data[0], 2);
    }
    // Too long to keep other devices waiting: the thread reads it, in pieces.
    assert_eq!(ask(&mut driver, 0, 64 << 10), None);
    (0..4).for_each(|_| go.send(()).unwrap());
    assert_eq!((driver.wait(0).unwrap().data[0], tried.load(SeqCst)), (2, 2));
}
