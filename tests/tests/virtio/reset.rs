//! Resets, drains and saved state at any moment: no completion is lost or comes twice.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

use vmm_core::{
    ErrorKind, Result,
    persist::{StateReader, StateWriter},
    virtio::{
        Cause, Chain, DeviceId, VirtioDevice, VirtioIo, Worker,
        testing::{Descriptor, Driver},
    },
};

use crate::Echo;

#[test]
fn what_is_completed_after_a_reset_is_dropped() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"old"], &[3]).unwrap();
    driver.turn().unwrap();
    let old = echo.kept.lock().unwrap().pop().unwrap();
    // The reset waits for what is out, so it happens on another thread than the back end's.
    thread::scope(|scope| {
        let (driver, old) = (&driver, Mutex::new(Some(old)));
        let reset = scope.spawn(move || driver.write(0x70, 0));
        while driver.endpoint().is_queue_ready(0) {
            thread::yield_now();
        }
        let old = old.lock().unwrap().take().unwrap();
        assert!(!old.is_current());
        assert_ne!(driver.status(), 0, "not reset before the buffers are back");
        old.complete(3);
        reset.join().unwrap();
    });
    assert_eq!((driver.status(), driver.interrupts()), (0, 0));
    assert_eq!(driver.used(0).unwrap(), None);
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"a"], &[1]).unwrap();
    driver.turn().unwrap();
    echo.complete_all();
    assert_eq!(driver.wait(0).unwrap().data, b"b");
}

#[test]
fn a_reset_that_nobody_waits_for_leaves_the_rest_without_effect() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"old"], &[3]).unwrap();
    driver.turn().unwrap();
    driver.endpoint().set_status(0, &|| true);
    assert_eq!(driver.status(), 0);
    echo.complete_all();
    assert_eq!((driver.used(0).unwrap(), driver.interrupts()), (None, 0));
}

#[test]
fn what_passes_is_counted_and_a_reset_leaves_the_count() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(u64::MAX).unwrap();
    for len in 1..=10 {
        driver.submit(0, &[&[0; 100][..len]], &[4]).unwrap();
        driver.wait(0).unwrap();
        driver.write(0x64, 1);
    }
    let (before, after) = (driver.endpoint().traffic(), 55);
    assert_eq!((before.requests, before.read_bytes, before.errors), (10, after, 0));
    assert_eq!(before.written_bytes, 1 + 2 + 3 + 7 * 4);
    assert_eq!((before.notifications, before.interrupts), (10, driver.interrupts() as u64));
    driver.describe(0, 0, Descriptor { addr: 0x1000, ..Descriptor::default() }).unwrap();
    driver.offer(0, 0).unwrap();
    driver.kick(0);
    driver.turn().unwrap();
    assert!(driver.needs_reset());
    driver.start(u64::MAX).unwrap();
    let now = driver.endpoint().traffic();
    assert_eq!((now.requests, now.errors, now.notifications), (10, 1, 11));
}

#[test]
fn a_device_that_has_buffers_is_not_saved() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"x"], &[1]).unwrap();
    driver.turn().unwrap();
    assert!(!driver.endpoint().drain(&|| true));
    let error = driver.endpoint().save(&mut StateWriter::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    echo.complete_all();
    assert!(driver.endpoint().drain(&|| false));
    driver.endpoint().save(&mut StateWriter::new()).unwrap();
}

/// Answers on a thread of its own, after having turned its back for a while.
struct Slow(Worker<Chain>);

impl Slow {
    fn new() -> Self {
        Self(
            Worker::start("slow", |chain| {
                thread::yield_now();
                crate::answer(chain);
            })
            .unwrap(),
        )
    }
}

impl VirtioDevice for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn queues(&self) -> &[u16] {
        &[16, 4]
    }

    fn wake(&mut self, _: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        for queue in 0..2 {
            while let Some(chain) = io.pop(queue) {
                self.0.give(chain)?;
            }
        }
        Ok(())
    }
}

#[test]
fn a_device_is_replaced_in_mid_traffic_a_hundred_times() {
    for features in [0, u64::MAX] {
        let mut driver = Driver::new(Slow::new()).unwrap();
        driver.start(features).unwrap();
        let (mut sent, mut seen) = (0_u32, Vec::new());
        for round in 0..100 {
            for queue in 0..2 {
                while driver.outstanding(queue) < [8, 2][queue] {
                    driver.submit(queue, &[&sent.to_le_bytes()], &[4]).unwrap();
                    sent += 1;
                }
            }
            // Woken or not, and with some of it taken or none.
            if round % 3 > 0 {
                driver.turn().unwrap();
            }
            driver.replace(Slow::new()).unwrap();
            for _ in 0..round % 5 {
                seen.extend(driver.collect(round % 2).unwrap());
            }
        }
        for queue in 0..2 {
            while driver.outstanding(queue) > 0 {
                seen.push(driver.wait(queue).unwrap());
            }
        }
        let mut answers: Vec<u32> = seen
            .iter()
            .map(|done| {
                let bytes = <[u8; 4]>::try_from(done.data.as_slice()).unwrap();
                u32::from_le_bytes(bytes.map(|byte| byte.wrapping_sub(1)))
            })
            .collect();
        answers.sort_unstable();
        assert_eq!(answers, (0..sent).collect::<Vec<_>>(), "each once");
    }
}

#[test]
fn an_interrupt_that_was_not_acknowledged_comes_again_after_a_restore() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"x"], &[1]).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.interrupts(), 1);
    driver.replace(Echo::default()).unwrap();
    assert_eq!((driver.interrupts(), driver.read(0x60)), (1, 1));
    driver.write(0x64, 1);
    driver.replace(Echo::default()).unwrap();
    assert_eq!((driver.interrupts(), driver.read(0x60)), (0, 0));
}

#[test]
fn saved_state_is_not_trusted() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(u64::MAX).unwrap();
    let mut out = StateWriter::new();
    driver.endpoint().save(&mut out).unwrap();
    let saved = out.into_bytes().unwrap();
    let into = Driver::new(Echo::default()).unwrap();
    // Each byte changed in turn: refused, or a device that still answers.
    for at in 0..saved.len() {
        for change in [1, 0x40, 0x80, 0xff] {
            let mut bytes = saved.clone();
            bytes[at] ^= change;
            if let Ok(mut from) = StateReader::from_bytes(&bytes) {
                let _ = into.endpoint().restore(&mut from);
            }
            into.turn().unwrap();
            into.status();
        }
    }
    // One of another kind, and one with other queues.
    let other = Driver::new(Slow::new()).unwrap();
    let error =
        other.endpoint().restore(&mut StateReader::from_bytes(&saved).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "it does not offer bit 3: {error}");
}

#[test]
fn a_worker_finishes_its_job_and_drops_the_rest() {
    let (started, starts) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let done = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&done);
    let worker = Worker::start("worker", move |job: Arc<u32>| {
        let _ = started.send(());
        let _ = gone.recv();
        log.lock().unwrap().push(*job);
    })
    .unwrap();
    let waits = Arc::new(2);
    worker.give(Arc::new(1)).unwrap();
    starts.recv().unwrap();
    worker.give(Arc::clone(&waits)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(worker));
        // The job that waits is dropped while the other one is at work.
        while Arc::strong_count(&waits) > 1 {
            thread::yield_now();
        }
        go.send(()).unwrap();
    });
    assert_eq!(*done.lock().unwrap(), [1]);
}

#[test]
fn a_worker_whose_job_panicked_says_so() {
    let worker = Worker::start("worker", |job: u32| assert_ne!(job, 7, "seven")).unwrap();
    worker.give(1).unwrap();
    worker.give(7).unwrap();
    let error = loop {
        match worker.give(1) {
            Ok(()) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("seven"), "{error}");
}
