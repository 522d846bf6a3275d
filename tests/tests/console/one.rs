//! One port: bytes, sizes, features, what a driver does wrong.

use proptest::prelude::*;
use vmm_core::virtio::testing::{Descriptor, Driver};
use vmm_devices::Console;

use crate::{
    EMERG_WRITE, MULTIPORT, Moody, RECEIVE, SIZE, TRANSMIT, pattern, receive, send, start,
};

fn size(driver: &Driver) -> (u16, u16) {
    let [a, b, c, d] = driver.config(0);
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

#[test]
fn bytes_go_both_ways_whatever_is_agreed_upon() {
    for bits in 0..32_u64 {
        let features = bits & 7 | (bits >> 3) << 28;
        let (console, input, output) = Console::capture().unwrap();
        let mut driver = Driver::new(console.room(2).unwrap()).unwrap();
        let agreed = driver.start(features).unwrap();
        assert_eq!(agreed, features | 1 << 32);
        if features & MULTIPORT != 0 {
            // The port is open once the driver says so.
            send(&mut driver, 3, &[0, 0, 0, 0, 6, 0, 1, 0]);
        }
        send(&mut driver, TRANSMIT, b"login: ");
        driver.submit(TRANSMIT, &[b"two ", b"buffers"], &[]).unwrap();
        driver.wait(TRANSMIT).unwrap();
        assert_eq!(output.text(), "login: two buffers");
        assert_eq!(input.send(b"root\n"), 5);
        assert_eq!(receive(&mut driver, RECEIVE, 3), b"roo", "{features:#x}");
        assert_eq!(receive(&mut driver, RECEIVE, 300), b"t\n");
        if features & 1 << 28 != 0 {
            driver.submit_indirect(TRANSMIT, &[b" and", b" a table"], &[]).unwrap();
            driver.wait(TRANSMIT).unwrap();
            assert_eq!(output.text(), "login: two buffers and a table");
        }
    }
}

#[test]
fn what_is_offered_is_what_there_is() {
    let offered = |console: Console| Driver::new(console).unwrap().offered() & 0xff;
    let console = || Console::capture().unwrap().0;
    assert_eq!(offered(console()), SIZE | EMERG_WRITE);
    assert_eq!(offered(console().room(1).unwrap()), SIZE | EMERG_WRITE | MULTIPORT);
    let several = Driver::new(console().room(30).unwrap()).unwrap();
    assert_eq!(u32::from_le_bytes(several.config(4)), 31);
    assert_eq!(several.endpoint().queue_max_size(63), 64);
    assert_eq!(several.endpoint().queue_max_size(64), 0);
    assert!(console().room(31).is_err());
}

#[test]
fn a_mebibyte_goes_both_ways_through_small_buffers() {
    let peer = Moody::new();
    let all = pattern(1 << 20);
    peer.input.lock().unwrap().extend(&all);
    let mut driver = start(Console::new(peer.clone()).unwrap());
    let mut received = Vec::new();
    for (n, piece) in (0..).zip(all.chunks(5000)) {
        send(&mut driver, TRANSMIT, piece);
        while received.len() < (n + 1) * 5000 && received.len() < all.len() {
            received.extend(receive(&mut driver, RECEIVE, 777));
        }
    }
    assert!(received == all, "what came is what was sent");
    assert!(peer.sent() == all, "what was sent is what came");
}

#[test]
fn a_size_is_told_as_soon_as_there_is_a_driver_and_when_it_changes() {
    let console = Console::capture().unwrap().0.size(80, 25);
    let handle = console.handle();
    let mut driver = Driver::new(console).unwrap();
    assert_eq!(size(&driver), (80, 25));
    for _ in 0..2 {
        // A driver that starts again looks again.
        driver.start(SIZE).unwrap();
        assert_eq!((driver.read(0x60), size(&driver)), (2, (80, 25)));
        driver.write(0x64, 2);
        driver.turn().unwrap();
        assert_eq!(driver.read(0x60), 0, "told once");
    }
    let generation = driver.read(0xfc);
    handle.resize(132, 43);
    driver.turn().unwrap();
    assert_eq!((driver.read(0x60), size(&driver)), (2, (132, 43)));
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(handle.size(), (132, 43));
    // One that did not agree on sizes is left alone.
    driver.start(0).unwrap();
    handle.resize(1, 2);
    driver.turn().unwrap();
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn an_emergency_write_needs_no_driver() {
    let (console, _, output) = Console::capture().unwrap();
    let mut driver = Driver::new(console).unwrap();
    driver.write(0x108, u32::from(b'!'));
    driver.write_bytes(0x108, b"?");
    // Nothing else can be written.
    driver.write(0x100, 0x0101_0101);
    driver.write_bytes(0x109, b"x");
    driver.write_bytes(0x108, &[]);
    assert_eq!((output.text().as_str(), size(&driver)), ("!?", (0, 0)));
    driver.start(EMERG_WRITE).unwrap();
    driver.write(0x108, u32::from(b'.'));
    assert_eq!(output.text(), "!?.");
    assert_eq!(driver.config::<8>(8), [0; 8], "what is behind reads as zeros");
}

#[test]
fn a_buffer_for_the_other_direction_comes_back_as_it_is() {
    let (console, input, output) = Console::capture().unwrap();
    let mut driver = start(console);
    driver.submit(TRANSMIT, &[], &[8]).unwrap();
    assert_eq!(driver.wait(TRANSMIT).unwrap().written, 0);
    input.send(b"kept");
    driver.submit(RECEIVE, &[b"no room"], &[]).unwrap();
    assert_eq!(driver.wait(RECEIVE).unwrap().written, 0);
    assert_eq!(receive(&mut driver, RECEIVE, 8), b"kept");
    assert_eq!(output.text(), "");
    // A part of each: what can be read is sent, what can be written is filled.
    driver.submit(TRANSMIT, &[b"mixed"], &[4]).unwrap();
    assert_eq!(driver.wait(TRANSMIT).unwrap().written, 0);
    input.send(b"in");
    driver.submit(RECEIVE, &[b"mixed"], &[4]).unwrap();
    assert_eq!(driver.wait(RECEIVE).unwrap().written, 2);
    assert_eq!(output.text(), "mixed");
}

/// Chains that none may make, each of which stops the device until a reset.
#[test]
fn a_malformed_chain_stops_it_until_a_reset() {
    let (next, write, indirect) = (Descriptor::NEXT, Descriptor::WRITE, Descriptor::INDIRECT);
    let one = |addr, len, flags, next| vec![Descriptor { addr, len, flags, next }];
    let ram = 0x10_0000;
    let end = 256 << 20;
    let bad: Vec<(&str, Vec<Descriptor>)> = vec![
        ("a loop", one(ram, 8, next, 0)),
        ("an empty buffer", one(ram, 0, 0, 0)),
        ("outside of memory", one(end, 8, 0, 0)),
        ("across its end", one(end - 4, 8, 0, 0)),
        ("an address that wraps", one(u64::MAX - 3, 8, 0, 0)),
        ("a next one that there is not", one(ram, 8, next, 64)),
        ("a table that is no table", one(ram, 8, indirect, 0)),
        ("a table outside of memory", one(end, 16, indirect, 0)),
        ("a table and a next one", one(ram, 16, indirect | next, 1)),
        (
            "reading behind writing",
            vec![
                Descriptor { addr: ram, len: 8, flags: write | next, next: 1 },
                Descriptor { addr: ram, len: 8, flags: 0, next: 0 },
            ],
        ),
    ];
    for (what, descriptors) in &bad {
        for queue in [RECEIVE, TRANSMIT] {
            let (console, input, output) = Console::capture().unwrap();
            let mut driver = start(console);
            input.send(b"waits");
            // A table within a table: what is at `ram` is zeros otherwise.
            for (n, descriptor) in (0..).zip(descriptors) {
                driver.describe(queue, n, *descriptor).unwrap();
            }
            driver.offer(queue, 0).unwrap();
            driver.kick(queue);
            driver.turn().unwrap();
            assert!(driver.needs_reset(), "{what} in queue {queue}");
            assert_eq!(output.text(), "", "{what}");
            driver.start(u64::MAX).unwrap();
            send(&mut driver, TRANSMIT, b"again");
            assert_eq!(receive(&mut driver, RECEIVE, 8), b"waits", "{what} in queue {queue}");
            assert_eq!(output.text(), "again");
        }
    }
}

#[test]
fn more_chains_than_a_queue_holds_stop_it() {
    let mut driver = start(Console::capture().unwrap().0);
    driver.describe(TRANSMIT, 0, Descriptor { addr: 0x1000, len: 1, flags: 0, next: 0 }).unwrap();
    let index = driver.areas(TRANSMIT)[1] + 2;
    driver.memory().write_obj(vmm_core::memory::GuestAddress(index), 300_u16).unwrap();
    driver.kick(TRANSMIT);
    driver.turn().unwrap();
    assert!(driver.needs_reset());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..<_>::default() })]

    /// However buffers and bytes are cut, both directions keep every byte in its order.
    #[test]
    fn no_byte_is_lost(
        sends in prop::collection::vec(1..9000_usize, 0..12),
        rooms in prop::collection::vec(1..9000_u32, 1..12),
    ) {
        let peer = Moody::new();
        let output = pattern(sends.iter().sum());
        let input = pattern(20_000);
        peer.input.lock().unwrap().extend(&input);
        let mut driver = start(Console::new(peer.clone()).unwrap());
        let (mut at, mut received) = (0, Vec::new());
        for len in sends {
            driver.submit(TRANSMIT, &[&output[at..at + len]], &[]).unwrap();
            at += len;
        }
        let mut rooms = rooms.iter().cycle();
        while received.len() < input.len() {
            received.extend(receive(&mut driver, RECEIVE, *rooms.next().unwrap()));
        }
        while driver.outstanding(TRANSMIT) > 0 {
            driver.wait(TRANSMIT).unwrap();
        }
        prop_assert!(received == input);
        prop_assert!(peer.sent() == output);
    }
}
