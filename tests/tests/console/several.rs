//! Several ports: what driver and device tell each other of them (section 5.3.6.2).

use std::io::{self, Write};

use vmm_core::virtio::testing::Driver;
use vmm_devices::{Channel, Console, Stream};

use crate::{MULTIPORT, Moody, RECEIVE, TRANSMIT, receive, send, start};

/// The queues of control messages.
const TO_DRIVER: usize = 2;
const TO_DEVICE: usize = 3;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Tells the device something.
fn tell(driver: &mut Driver, port: u32, event: u16, value: u16) {
    let message = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
    send(driver, TO_DEVICE, &message);
}

/// Everything the device has to tell: port, event, value, what follows.
fn told(driver: &mut Driver) -> Vec<(u32, u16, u16, Vec<u8>)> {
    let mut messages = Vec::new();
    loop {
        while driver.outstanding(TO_DRIVER) < 32 {
            driver.submit(TO_DRIVER, &[], &[64]).unwrap();
        }
        driver.turn().unwrap();
        let before = messages.len();
        while let Some(done) = driver.collect(TO_DRIVER).unwrap() {
            let data = &done.data[..done.written as usize];
            let number = |at: usize| u16::from_le_bytes(data[at..at + 2].try_into().unwrap());
            let port = u32::from_le_bytes(data[..4].try_into().unwrap());
            messages.push((port, number(4), number(6), data[8..].to_vec()));
        }
        if messages.len() == before {
            return messages;
        }
    }
}

/// Starts the driver, which takes every port that it is told of.
fn set_up(driver: &mut Driver, ports: u32) {
    tell(driver, 0, DEVICE_READY, 1);
    let added = told(driver);
    assert_eq!(added, (0..ports).map(|n| (n, DEVICE_ADD, 1, vec![])).collect::<Vec<_>>());
    for port in 0..ports {
        tell(driver, port, PORT_READY, 1);
    }
}

#[test]
fn each_port_is_announced_named_and_opened() {
    let (console, input, output) = Console::capture().unwrap();
    let agent = Channel::new().unwrap();
    let (to_agent, of_agent) = (agent.input(), agent.output());
    let console = console.size(80, 25).port("agent", agent).unwrap();
    let console = console.port("log", Moody::new()).unwrap();
    let mut driver = start(console);
    assert_eq!(told(&mut driver), [], "it is not asked");
    set_up(&mut driver, 3);
    let name = |name: &str| name.as_bytes().to_vec();
    let expected = [
        (0, CONSOLE_PORT, 1, vec![]),
        (0, RESIZE, 1, vec![80, 0, 25, 0]),
        (0, PORT_OPEN, 1, vec![]),
        (1, PORT_NAME, 1, name("agent")),
        (1, PORT_OPEN, 1, vec![]),
        (2, PORT_NAME, 1, name("log")),
        (2, PORT_OPEN, 1, vec![]),
    ];
    assert_eq!(told(&mut driver), expected);
    // Each has queues of its own.
    (0..2).for_each(|port| tell(&mut driver, port, PORT_OPEN, 1));
    send(&mut driver, TRANSMIT, b"console");
    send(&mut driver, 5, b"agent");
    assert_eq!((output.text(), of_agent.text()), ("console".into(), "agent".into()));
    input.send(b"one");
    to_agent.send(b"two");
    assert_eq!(receive(&mut driver, 4, 8), b"two");
    assert_eq!(receive(&mut driver, RECEIVE, 8), b"one");
}

#[test]
fn input_waits_until_a_program_has_opened_the_port() {
    let (agent, peer) = (Channel::new().unwrap(), Moody::new());
    let input = agent.input();
    let console = Console::capture().unwrap().0.port("agent", agent).unwrap();
    let mut driver = start(console.port("other", peer.clone()).unwrap());
    set_up(&mut driver, 3);
    input.send(b"for the agent");
    driver.submit(4, &[], &[64]).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.collect(4).unwrap(), None);
    tell(&mut driver, 1, PORT_OPEN, 1);
    assert_eq!(driver.wait(4).unwrap().written, 13);
    // The host's end is told of it, each change once.
    for value in [1, 1, 0, 0, 1] {
        tell(&mut driver, 2, PORT_OPEN, value);
    }
    driver.reset();
    assert_eq!(*peer.opened.lock().unwrap(), [true, false, true, false]);
}

#[test]
fn ports_are_added_while_the_driver_runs_as_far_as_there_is_room() {
    let console = Console::capture().unwrap().0.room(2).unwrap();
    let handle = console.handle();
    handle.add_port("early", Channel::new().unwrap()).unwrap();
    let mut driver = start(console);
    set_up(&mut driver, 2);
    told(&mut driver);
    let late = Channel::new().unwrap();
    let output = late.output();
    handle.add_port("late", late).unwrap();
    assert_eq!(told(&mut driver), [(2, DEVICE_ADD, 1, vec![])]);
    tell(&mut driver, 2, PORT_READY, 1);
    let name = b"late".to_vec();
    assert_eq!(told(&mut driver), [(2, PORT_NAME, 1, name), (2, PORT_OPEN, 1, vec![])]);
    send(&mut driver, 7, b"here");
    assert_eq!(output.text(), "here");
    for refused in ["one too many", ""] {
        let error = handle.add_port(refused, Channel::new().unwrap()).unwrap_err();
        assert_eq!(error.kind(), vmm_core::ErrorKind::BadConfig);
    }
    // A driver that starts again is told of all of them.
    driver.start(u64::MAX).unwrap();
    set_up(&mut driver, 3);
}

#[test]
fn a_port_whose_input_has_ended_is_closed() {
    let (reader, mut writer) = io::pipe().unwrap();
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let console = Console::capture().unwrap().0;
    let mut driver = start(console.port("pipe", Stream::new(reader, null)).unwrap());
    set_up(&mut driver, 2);
    tell(&mut driver, 1, PORT_OPEN, 1);
    told(&mut driver);
    writer.write_all(b"last words").unwrap();
    drop(writer);
    assert_eq!(receive(&mut driver, 4, 64), b"last words");
    assert_eq!(told(&mut driver), [(1, PORT_OPEN, 0, vec![])]);
}

#[test]
fn a_size_is_told_by_a_message() {
    let console = Console::capture().unwrap().0.room(1).unwrap();
    let handle = console.handle();
    let mut driver = start(console);
    handle.resize(100, 30);
    assert_eq!(told(&mut driver), []);
    set_up(&mut driver, 1);
    let size = |columns, rows| (0, RESIZE, 1, vec![columns, 0, rows, 0]);
    assert!(told(&mut driver).contains(&size(100, 30)));
    for columns in 101..120 {
        handle.resize(columns, 31);
    }
    assert_eq!(told(&mut driver), [size(119, 31)], "the last one counts");
}

#[test]
fn a_driver_that_asks_and_does_not_listen_makes_nothing_grow() {
    let mut driver = start(Console::capture().unwrap().0.port("x", Moody::new()).unwrap());
    for _ in 0..2000 {
        tell(&mut driver, 0, DEVICE_READY, 1);
        tell(&mut driver, 0, PORT_READY, 1);
        tell(&mut driver, 1, PORT_READY, 1);
    }
    assert!(told(&mut driver).len() <= 8);
    assert_eq!(told(&mut driver), []);
}

#[test]
fn messages_of_ports_and_events_that_there_are_not_are_passed_over() {
    let mut driver = start(Console::capture().unwrap().0.port("x", Moody::new()).unwrap());
    for port in [0, 1, 2, 31, 32, u32::MAX] {
        for event in (0..10).chain([u16::MAX]) {
            for value in [0, 1, u16::MAX] {
                tell(&mut driver, port, event, value);
            }
        }
    }
    assert!(!driver.needs_reset());
    assert!(told(&mut driver).iter().all(|(port, ..)| *port < 2));
    // One that is too short is no message.
    driver.submit(TO_DEVICE, &[&[0; 7]], &[]).unwrap();
    driver.turn().unwrap();
    assert!(driver.needs_reset());
}

#[test]
fn a_message_is_cut_to_the_room_that_it_has() {
    let name = "a rather long name for a port";
    let mut driver = start(Console::capture().unwrap().0.port(name, Moody::new()).unwrap());
    set_up(&mut driver, 2);
    told(&mut driver);
    tell(&mut driver, 1, PORT_READY, 1);
    let mut driver = {
        // Those that were lent before are longer.
        driver.start(u64::MAX).unwrap();
        driver
    };
    tell(&mut driver, 1, PORT_READY, 1);
    driver.submit(TO_DRIVER, &[], &[10]).unwrap();
    assert_eq!(driver.wait(TO_DRIVER).unwrap().written, 10);
    driver.submit(TO_DRIVER, &[b"no room at all"], &[]).unwrap();
    assert_eq!(driver.wait(TO_DRIVER).unwrap().written, 0);
}

#[test]
fn a_driver_of_one_port_has_the_console_alone() {
    let (console, input, output) = Console::capture().unwrap();
    let other = Channel::new().unwrap();
    let to_other = other.output();
    let mut driver = Driver::new(console.port("other", other).unwrap()).unwrap();
    driver.start(!MULTIPORT).unwrap();
    input.send(b"in");
    send(&mut driver, TRANSMIT, b"out");
    assert_eq!((receive(&mut driver, RECEIVE, 8), output.text()), (b"in".to_vec(), "out".into()));
    // Its other queues are nobody's.
    driver.submit(5, &[b"lost"], &[]).unwrap();
    driver.submit(TO_DEVICE, &[&[0; 3]], &[]).unwrap();
    driver.turn().unwrap();
    assert!(!driver.needs_reset());
    assert_eq!((to_other.text().as_str(), driver.outstanding(5)), ("", 1));
}

#[test]
fn every_port_gets_its_turn_beside_one_that_floods() {
    let flood = Moody::new();
    let quiet = Channel::new().unwrap();
    let output = quiet.output();
    let console = Console::capture().unwrap().0.port("flood", flood.clone()).unwrap();
    let mut driver = start(console.port("quiet", quiet).unwrap());
    let piece = vec![b'.'; 60_000];
    for _ in 0..64 {
        driver.submit(5, &[&piece], &[]).unwrap();
    }
    send(&mut driver, 7, b"me too");
    assert_eq!(output.text(), "me too");
    while driver.outstanding(5) > 0 {
        driver.wait(5).unwrap();
    }
    assert_eq!(flood.sent().len(), 64 * 60_000);
}
