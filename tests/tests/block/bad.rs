//! Disks that are no good: a clear error before the machine starts, an I/O error of the guest's after
//! that, and the machine lives on.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
};

use vmm_core::ErrorKind;
use vmm_devices::{Block, Image, RawFile};

use crate::{FLUSH, IN, IO_ERROR, OK, OUT, ask, header, read, start, write};

#[test]
fn files_that_are_no_disks_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let refused = |name: &str, kind, why: &str| {
        for open in [RawFile::open, RawFile::open_read_only] {
            let error = open(path(name)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(why), "{text}");
        }
    };
    fs::write(path("empty"), []).unwrap();
    fs::write(path("odd"), [0; 513]).unwrap();
    fs::create_dir(path("directory")).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    refused("missing", ErrorKind::Host, "No such file");
    refused("empty", ErrorKind::BadConfig, "0 bytes");
    refused("odd", ErrorKind::BadConfig, "513 bytes");
    refused("directory", ErrorKind::BadConfig, "no file or block device");
    refused("fifo", ErrorKind::BadConfig, "no file or block device");
    refused("loop", ErrorKind::Host, "symbolic link");
}

#[test]
fn a_file_that_may_not_be_read_is_refused_by_name() {
    // Not even root may read this one.
    let path = std::path::Path::new("/sys/bus/platform/drivers_probe");
    if !path.exists() {
        println!("skipped: a_file_that_may_not_be_read: no sysfs here");
        return;
    }
    let error = RawFile::open_read_only(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Host);
    let text = error.to_string();
    assert!(text.contains("drivers_probe") && text.contains("Permission denied"), "{text}");
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(512).unwrap();
    let (first, second) =
        (RawFile::open_read_only(&file).unwrap(), RawFile::open_read_only(&file).unwrap());
    let error = RawFile::open(&file).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    drop((first, second));
    let writer = RawFile::open(&file).unwrap();
    for open in [RawFile::open, RawFile::open_read_only] {
        assert_eq!(open(file.path()).unwrap_err().kind(), ErrorKind::BadConfig);
    }
    drop(writer);
    RawFile::open(&file).unwrap();
}

#[test]
fn a_file_that_is_truncated_while_it_is_used_gives_errors_where_it_was() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, [7; 8192]).unwrap();
    let block = Block::open(&file).unwrap();
    let handle = block.handle();
    let mut driver = start(block);
    File::options().write(true).open(&file).unwrap().set_len(4096 + 100).unwrap();
    assert_eq!(read(&mut driver, 7, 512), [7; 512]);
    assert_eq!(ask(&mut driver, IN, 8, &[], 512).0, IO_ERROR);
    assert_eq!(ask(&mut driver, IN, 12, &[], 512).0, IO_ERROR);
    assert_eq!(handle.statistics().errors, 2);
    write(&mut driver, 15, &[1; 512]);
    assert_eq!(read(&mut driver, 15, 512), [1; 512]);
}

/// Fails in one way or another, as long as it is told to.
struct Broken {
    fails: Arc<AtomicBool>,
    error: i32,
}

impl Broken {
    fn check(&self) -> io::Result<()> {
        match self.fails.load(SeqCst) {
            true => Err(io::Error::from_raw_os_error(self.error)),
            false => Ok(()),
        }
    }
}

impl Image for Broken {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(1);
        self.check()
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        self.check()
    }

    fn flush(&self) -> io::Result<()> {
        self.check()
    }
}

#[test]
fn errors_of_the_host_are_errors_of_the_guest_and_counted() {
    for error in [libc::EIO, libc::ENOSPC, libc::ESTALE, libc::EROFS] {
        let fails = Arc::new(AtomicBool::new(true));
        let block = Block::image(Broken { fails: Arc::clone(&fails), error }).unwrap();
        let handle = block.handle();
        let mut driver = start(block);
        assert_eq!(ask(&mut driver, IN, 0, &[], 4096).0, IO_ERROR);
        assert_eq!(ask(&mut driver, OUT, 0, &[0; 4096], 0).0, IO_ERROR);
        assert_eq!(ask(&mut driver, FLUSH, 0, &[], 0).0, IO_ERROR);
        fails.store(false, SeqCst);
        assert_eq!(read(&mut driver, 0, 4096), [1; 4096]);
        write(&mut driver, 0, &[0; 512]);
        let found = handle.statistics();
        assert_eq!((found.errors, found.reads, found.writes, found.flushes), (3, 1, 1, 0));
        assert_eq!((found.read_bytes, found.written_bytes), (4096, 512));
    }
}

/// Waits to be let go before each read.
struct Slow(Mutex<Receiver<()>>);

impl Slow {
    fn new() -> (Self, Sender<()>) {
        let (go, gone) = channel();
        (Self(Mutex::new(gone)), go)
    }
}

impl Image for Slow {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        data.fill(2);
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
fn a_disk_that_takes_its_time_keeps_nobody() {
    let (slow, go) = Slow::new();
    let mut driver = start(Block::image(slow).unwrap().queues(2).unwrap());
    for _ in 0..3 {
        driver.submit(0, &[&header(IN, 0)], &[512, 1]).unwrap();
        // Were it not for the disk's own thread, this would not come back.
        driver.turn().unwrap();
    }
    assert_eq!(driver.collect(0).unwrap(), None);
    // Another queue has another thread.
    driver.submit(1, &[&header(FLUSH, 0)], &[1]).unwrap();
    assert_eq!(driver.wait(1).unwrap().data, [OK]);
    assert!(!driver.endpoint().drain(&|| true));
    for _ in 0..3 {
        go.send(()).unwrap();
        assert_eq!(driver.wait(0).unwrap().data[..512], [2; 512]);
    }
    assert!(driver.endpoint().drain(&|| false));
}

#[test]
fn a_reset_waits_for_the_request_at_work_and_leaves_out_the_others() {
    let (slow, go) = Slow::new();
    let block = Block::image(slow).unwrap();
    let handle = block.handle();
    let mut driver = start(block);
    for _ in 0..3 {
        driver.submit(0, &[&header(IN, 0)], &[512, 1]).unwrap();
    }
    driver.turn().unwrap();
    std::thread::scope(|scope| {
        let driver = &driver;
        let reset = scope.spawn(move || driver.write(0x70, 0));
        while driver.endpoint().is_queue_ready(0) {
            std::thread::yield_now();
        }
        // One alone may have been begun.
        go.send(()).unwrap();
        reset.join().unwrap();
    });
    assert_eq!(driver.status(), 0);
    assert!(handle.statistics().reads <= 1);
    drop(go);
    driver.start(u64::MAX).unwrap();
    write(&mut driver, 0, &[0; 512]);
}

/// Panics when it is read.
struct Panics;

impl Image for Panics {
    fn len(&self) -> u64 {
        512
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        panic!("no such luck")
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_image_that_panics_fails_its_request_and_then_the_run() {
    let mut driver = start(Block::image(Panics).unwrap());
    assert_eq!(ask(&mut driver, IN, 0, &[], 512).0, IO_ERROR);
    // Until the thread has come to its end it may take another.
    let error = loop {
        driver.submit(0, &[&header(FLUSH, 0)], &[1]).unwrap();
        match driver.wait(0) {
            Ok(done) => assert_eq!(done.data, [IO_ERROR]),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("no such luck"), "{error}");
}
