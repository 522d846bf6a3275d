//! What is at the host's end: pipes, files, sockets; full, closed and failing.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
};

use vmm_core::virtio::testing::Driver;
use vmm_devices::{Console, Peer, Stream};

use crate::{RECEIVE, TRANSMIT, pattern, receive, send, start};

/// Fills a pipe; how many bytes that were.
fn fill(mut pipe: impl Write + AsFd) -> usize {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(&pipe).unwrap();
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).unwrap();
    let mut len = 0;
    while let Ok(written) = pipe.write(&[b'.'; 4096]) {
        len += written;
    }
    fcntl_setfl(&pipe, flags).unwrap();
    len
}

#[test]
fn output_waits_in_the_guests_buffers_while_a_pipe_is_full() {
    let (mut reader, writer) = io::pipe().unwrap();
    let dots = fill(&writer);
    let mut driver = start(Console::new(Stream::output(writer)).unwrap());
    let pieces: Vec<Vec<u8>> = pattern(64 * 3000).chunks(3000).map(<[u8]>::to_vec).collect();
    for piece in &pieces {
        driver.submit(TRANSMIT, &[piece], &[]).unwrap();
    }
    for _ in 0..20 {
        driver.kick(TRANSMIT);
        driver.turn().unwrap();
    }
    assert_eq!(driver.outstanding(TRANSMIT), 64, "none is taken, and nobody spins");
    let read = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    while driver.outstanding(TRANSMIT) > 0 {
        driver.wait(TRANSMIT).unwrap();
    }
    drop(driver);
    let all = read.join().unwrap();
    assert!(all[dots..] == pieces.concat(), "in order, and once");
}

#[test]
fn input_stays_in_the_pipe_until_the_guest_has_room() {
    let (reader, mut writer) = io::pipe().unwrap();
    let room = fill(&writer);
    let mut driver = start(Console::new(Stream::new(reader, null())).unwrap());
    driver.turn().unwrap();
    // The device has read one page ahead and no more.
    assert_eq!(fill(&writer), 4096);
    assert_eq!(receive(&mut driver, RECEIVE, 4096), [b'.'; 4096]);
    driver.turn().unwrap();
    assert_eq!(fill(&writer), 4096);
    let mut left = room + 4096;
    while left > 0 {
        left -= receive(&mut driver, RECEIVE, 10_000).len();
    }
    writer.write_all(b"end").unwrap();
    assert_eq!(receive(&mut driver, RECEIVE, 10), b"end");
}

#[test]
fn a_socket_is_both_ends() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut driver = start(Console::new(Stream::new(theirs.try_clone().unwrap(), theirs)).unwrap());
    send(&mut driver, TRANSMIT, b"ping");
    let mut data = [0; 4];
    (&ours).read_exact(&mut data).unwrap();
    assert_eq!(&data, b"ping");
    (&ours).write_all(b"pong").unwrap();
    assert_eq!(receive(&mut driver, RECEIVE, 8), b"pong");
    // It hangs up: no input comes any more, and output goes nowhere.
    drop(ours);
    driver.submit(RECEIVE, &[], &[8]).unwrap();
    for _ in 0..3 {
        send(&mut driver, TRANSMIT, b"is anybody there?");
    }
    assert_eq!(driver.outstanding(RECEIVE), 1);
    assert!(!driver.needs_reset());
}

#[test]
fn a_file_is_read_to_its_end_and_another_is_written() {
    let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let all = pattern(300_000);
    from.write_all(&all).unwrap();
    from.seek(SeekFrom::Start(0)).unwrap();
    let stream = Stream::new(from, to.try_clone().unwrap());
    let mut driver = start(Console::new(stream).unwrap());
    let mut received = Vec::new();
    while received.len() < all.len() {
        received.extend(receive(&mut driver, RECEIVE, 65_536));
    }
    assert!(received == all);
    driver.submit(RECEIVE, &[], &[1]).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.outstanding(RECEIVE), 1, "its end is no input");
    for piece in all.chunks(32_768) {
        send(&mut driver, TRANSMIT, piece);
    }
    let mut written = Vec::new();
    to.seek(SeekFrom::Start(0)).unwrap();
    to.read_to_end(&mut written).unwrap();
    assert!(written == all);
}

#[test]
fn a_guest_goes_on_when_its_reader_is_gone() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut driver = start(Console::new(Stream::output(writer)).unwrap());
    for _ in 0..100 {
        send(&mut driver, TRANSMIT, &[b'x'; 10_000]);
    }
    assert!(!driver.needs_reset());
}

/// Has no room and no way to say when it has.
struct Deaf;

impl Peer for Deaf {
    fn send(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[test]
fn what_a_peer_does_not_take_and_never_will_is_lost() {
    let mut driver = start(Console::new(Deaf).unwrap());
    send(&mut driver, TRANSMIT, &[b'x'; 10_000]);
}

#[test]
fn input_from_this_process_is_bounded_and_its_sender_is_told() {
    let (console, input, _) = Console::capture().unwrap();
    let mut driver = Driver::new(console).unwrap();
    assert_eq!(input.send(&pattern(100_000)), 64 << 10);
    assert_eq!(input.send(b"more"), 0);
    driver.start(u64::MAX).unwrap();
    // One page is on its way to the guest.
    assert_eq!(input.send(&[0; 10_000]), 4096);
    let mut received = Vec::new();
    while received.len() < 64 << 10 {
        received.extend(receive(&mut driver, RECEIVE, 10_000));
    }
    assert!(received[..64 << 10] == pattern(64 << 10));
    // A writer waits for room, and learns that the device is gone.
    let mut writer = input.clone();
    let written = thread::spawn(move || {
        writer.write_all(&[7; 200_000]).unwrap();
        while writer.write(&[7; 1000]).is_ok() {}
    });
    let mut count = received.len() - (64 << 10);
    while count < 4096 + 200_000 {
        count += receive(&mut driver, RECEIVE, 4096).len();
    }
    drop(driver);
    written.join().unwrap();
    assert_eq!(input.send(b"gone"), 0);
}

#[test]
fn a_guests_flood_is_kept_no_longer_than_a_mebibyte() {
    let (console, _, output) = Console::capture().unwrap();
    let mut driver = start(console);
    let piece = pattern(100_000);
    for _ in 0..50 {
        send(&mut driver, TRANSMIT, &piece);
    }
    let kept = output.bytes();
    assert_eq!(kept.len(), 1 << 20);
    assert!(kept.ends_with(&piece));
}

/// A file that takes everything.
fn null() -> File {
    File::options().write(true).open("/dev/null").unwrap()
}
