//! Saved, drained and reset at any moment: no byte is lost or comes twice.

use std::io::{self, Read};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_core::{
    ErrorKind,
    persist::{StateReader, StateWriter},
    virtio::testing::Driver,
};
use vmm_devices::{Channel, Console, Stream};

use crate::{MULTIPORT, Moody, RECEIVE, TRANSMIT, pattern, receive, send, start};

#[test]
fn a_console_is_replaced_in_mid_traffic_a_hundred_times() {
    for features in [0, 5, MULTIPORT, u64::MAX] {
        let peer = Moody::new();
        let input = pattern(100_000);
        peer.input.lock().unwrap().extend(&input);
        let console = || Console::new(peer.clone()).unwrap().port("x", Moody::new()).unwrap();
        let mut driver = Driver::new(console()).unwrap();
        driver.start(features).unwrap();
        if features & MULTIPORT != 0 {
            send(&mut driver, 3, &[0, 0, 0, 0, 6, 0, 1, 0]);
        }
        let output = pattern(700 * 1000);
        let (mut pieces, mut received, mut done) = (output.chunks(700), Vec::new(), 0);
        for round in 0..100_u32 {
            for piece in pieces.by_ref().take(10) {
                driver.submit(TRANSMIT, &[&piece[..300], &piece[300..]], &[]).unwrap();
            }
            while driver.outstanding(RECEIVE) < 3 {
                driver.submit(RECEIVE, &[], &[100 + round, 7]).unwrap();
            }
            // Woken or not, and with some of it collected or none.
            if round % 3 > 0 {
                driver.turn().unwrap();
            }
            driver.replace(console()).unwrap();
            while driver.outstanding(TRANSMIT) > 20 {
                driver.wait(TRANSMIT).unwrap();
                done += 1;
            }
            if round % 2 > 0 {
                received.push(driver.wait(RECEIVE).unwrap());
            }
        }
        while driver.outstanding(TRANSMIT) > 0 {
            driver.wait(TRANSMIT).unwrap();
            done += 1;
        }
        while received.iter().map(|done| done.written as usize).sum::<usize>() < input.len() {
            if driver.outstanding(RECEIVE) == 0 {
                driver.submit(RECEIVE, &[], &[3000]).unwrap();
            }
            received.push(driver.wait(RECEIVE).unwrap());
        }
        // What the last one kept over its pause goes first.
        driver.turn().unwrap();
        assert_eq!(done, 1000);
        assert!(peer.sent() == output, "features {features:#x}");
        let received = received.iter().flat_map(|done| &done.data[..done.written as usize]);
        assert!(received.eq(&input), "features {features:#x}");
    }
}

#[test]
fn what_no_peer_has_taken_is_kept_over_a_pause() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut driver = start(Console::new(Stream::output(writer)).unwrap());
    let all = pattern(200_000);
    for piece in all.chunks(40_000) {
        driver.submit(TRANSMIT, &[piece], &[]).unwrap();
    }
    driver.turn().unwrap();
    assert!(driver.outstanding(TRANSMIT) > 0, "a pipe holds 64 KiB");
    // Nobody reads, and yet no buffer of the guest's is out.
    assert!(driver.endpoint().drain(&|| true));
    driver.endpoint().save(&mut StateWriter::new()).unwrap();
    // It goes on, by itself.
    let read = std::thread::spawn(move || {
        let mut read = vec![0; 200_000];
        reader.read_exact(&mut read).unwrap();
        read
    });
    while !read.is_finished() {
        driver.turn().unwrap();
        std::thread::yield_now();
    }
    assert!(read.join().unwrap() == all);
}

#[test]
fn a_reset_forgets_what_the_driver_was_sending() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut driver = start(Console::new(Stream::output(writer)).unwrap());
    for _ in 0..4 {
        driver.submit(TRANSMIT, &[&[b'o'; 40_000]], &[]).unwrap();
    }
    driver.turn().unwrap();
    assert!(driver.outstanding(TRANSMIT) > 0);
    driver.start(u64::MAX).unwrap();
    let flags = fcntl_getfl(&reader).unwrap();
    fcntl_setfl(&reader, flags | OFlags::NONBLOCK).unwrap();
    let mut old = Vec::new();
    assert_eq!(reader.read_to_end(&mut old).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    fcntl_setfl(&reader, flags).unwrap();
    assert!(old.len() < 4 * 40_000 && old.iter().all(|byte| *byte == b'o'));
    send(&mut driver, TRANSMIT, b"new");
    drop(driver);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"new");
}

#[test]
fn sizes_and_ports_that_are_open_are_saved() {
    let agent = || {
        let channel = Channel::new().unwrap();
        let input = channel.input();
        (Console::capture().unwrap().0.port("agent", channel).unwrap(), input)
    };
    let (console, input) = agent();
    let mut driver = start(console.size(80, 25));
    send(&mut driver, 3, &[1, 0, 0, 0, 6, 0, 1, 0]);
    input.send(b"half of it is read ");
    driver.turn().unwrap();
    let (console, input) = agent();
    let handle = console.handle();
    driver.replace(console).unwrap();
    assert_eq!(handle.size(), (80, 25));
    assert_eq!(receive(&mut driver, 4, 64), b"half of it is read ");
    // It is open still.
    input.send(b"and this comes anew");
    assert_eq!(receive(&mut driver, 4, 64), b"and this comes anew");
}

#[test]
fn another_console_is_incompatible_and_saved_state_is_not_trusted() {
    let console = |name| Console::capture().unwrap().0.port(name, Moody::new()).unwrap();
    let driver = start(console("a"));
    let save = |driver: &Driver| {
        let mut out = StateWriter::new();
        driver.endpoint().drain(&|| false);
        driver.endpoint().save(&mut out).unwrap();
        out.into_bytes().unwrap()
    };
    let saved = save(&driver);
    let more = Console::capture().unwrap().0.room(1).unwrap();
    for other in [console("b"), more, Console::capture().unwrap().0] {
        let other = Driver::new(other).unwrap();
        let mut from = StateReader::from_bytes(&saved).unwrap();
        let error = other.endpoint().restore(&mut from).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    }
    let into = Driver::new(console("a")).unwrap();
    for at in 0..saved.len() {
        for change in [1, 0x40, 0x80, 0xff] {
            let mut bytes = saved.clone();
            bytes[at] ^= change;
            if let Ok(mut from) = StateReader::from_bytes(&bytes) {
                let _ = into.endpoint().restore(&mut from);
            }
            into.turn().unwrap();
        }
    }
}
