//! The entropy device: it fills what it is lent, keeps to its rate, and goes on by itself.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use vmm_core::{ErrorKind, virtio::testing::Driver};
use vmm_devices::{RateLimit, Rng};

fn start(rng: Rng) -> Driver {
    let mut driver = Driver::new(rng).unwrap();
    driver.start(u64::MAX).unwrap();
    driver
}

#[test]
fn every_buffer_is_filled_with_other_bytes() {
    let mut driver = start(Rng::new().unwrap());
    let mut seen = Vec::new();
    for buffers in [[32, 1, 31].as_slice(), &[64], &[7, 57]] {
        driver.submit(0, &[], buffers).unwrap();
        let done = driver.wait(0).unwrap();
        assert_eq!(done.written, 64);
        seen.extend(done.data.chunks(16).map(<[u8]>::to_vec));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12);
}

#[test]
fn one_request_gets_so_much_and_no_more() {
    let mut driver = start(Rng::new().unwrap());
    driver.submit(0, &[], &[1 << 20]).unwrap();
    let done = driver.wait(0).unwrap();
    assert_eq!(done.written, 64 << 10);
    assert!(done.data[64 << 10..].iter().all(|byte| *byte == 0));
}

#[test]
fn buffers_that_it_cannot_write_come_back_as_they_are() {
    let mut driver = start(Rng::new().unwrap());
    driver.submit(0, &[b"not for you"], &[]).unwrap();
    assert_eq!(driver.wait(0).unwrap().written, 0);
}

#[test]
fn what_its_rate_does_not_allow_comes_later_by_itself() {
    // One request is enough to empty it for an hour, or for a few milliseconds.
    let limited = |per_second| start(Rng::with_limit(RateLimit { per_second, burst: 1 }).unwrap());
    let mut slow = limited(1);
    for _ in 0..2 {
        slow.submit(0, &[], &[3600]).unwrap();
    }
    slow.wait(0).unwrap();
    for _ in 0..50 {
        slow.kick(0);
        slow.turn().unwrap();
    }
    assert_eq!((slow.collect(0).unwrap(), slow.outstanding(0)), (None, 1));
    // A reset does not fill it.
    slow.start(u64::MAX).unwrap();
    slow.submit(0, &[], &[1]).unwrap();
    slow.turn().unwrap();
    assert_eq!(slow.collect(0).unwrap(), None);

    let mut fast = limited(1 << 20);
    for _ in 0..20 {
        fast.submit(0, &[], &[4096]).unwrap();
    }
    for _ in 0..20 {
        // Nobody kicks: the timer wakes it.
        assert_eq!(fast.wait(0).unwrap().written, 4096);
    }
}

#[test]
fn a_rate_of_nothing_is_refused() {
    let error = Rng::with_limit(RateLimit { per_second: 0, burst: 1 }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig);
}
