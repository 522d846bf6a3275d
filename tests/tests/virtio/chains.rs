//! Chains that are sound, and every kind that is not.

use vmm_core::virtio::testing::{Descriptor, Driver};

use crate::Echo;

const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;
/// Where tests put buffers: nothing else is there.
const AT: u64 = 0x10_0000;
const END: u64 = 256 << 20;

fn driver() -> (Echo, Driver) {
    let echo = Echo::default();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    (echo, driver)
}

fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr, len, flags, next }
}

#[test]
fn data_goes_through_chains_of_every_shape() {
    for features in [0, 1 << 28, 1 << 29, 1 << 28 | 1 << 29] {
        let mut driver = Driver::new(Echo::default()).unwrap();
        driver.start(features).unwrap();
        let data: Vec<u8> = (0..100).collect();
        let expected: Vec<u8> = (1..101).collect();
        // Far more than the queue holds, so that every index wraps.
        for n in 0..200 {
            let (a, b) = data.split_at(n % 99 + 1);
            let (readable, writable): (&[&[u8]], &[u32]) = match n % 4 {
                0 => (&[a, b], &[100]),
                1 => (&[&data], &[1, 98, 1]),
                2 => (&[a, b], &[50, 50]),
                _ => (&[&data], &[200]),
            };
            match features & 1 << 28 != 0 && n % 3 > 0 {
                true => driver.submit_indirect(0, readable, writable).unwrap(),
                false => driver.submit(0, readable, writable).unwrap(),
            };
            let done = driver.wait(0).unwrap();
            assert_eq!(done.written, 100);
            assert_eq!(&done.data[..100], expected);
        }
    }
}

#[test]
fn a_full_queue_comes_back_whole_and_in_any_order() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    for round in 0..50_u8 {
        for n in 0..8 {
            driver.submit(0, &[&[n + round]], &[1]).unwrap();
        }
        driver.turn().unwrap();
        assert_eq!(echo.kept(), 8);
        echo.complete_all();
        for n in (0..8).rev() {
            assert_eq!(driver.wait(0).unwrap().data, [n + round + 1]);
        }
        assert_eq!((driver.collect(0).unwrap(), driver.outstanding(0)), (None, 0));
    }
}

#[test]
fn a_chain_that_is_dropped_comes_back_with_nothing_written() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.submit(1, &[b"abc"], &[3]).unwrap();
    driver.turn().unwrap();
    echo.kept.lock().unwrap().clear();
    assert_eq!(driver.wait(1).unwrap().written, 0);
}

#[test]
fn interrupts_come_when_they_are_wanted() {
    // Without event indices for each chain, unless the driver says that it wants none.
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(0).unwrap();
    for n in 1..=5 {
        driver.submit(0, &[b"x"], &[1]).unwrap();
        driver.wait(0).unwrap();
        assert_eq!((driver.interrupts(), driver.read(0x60)), (n, 1));
    }
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
    let flags = driver.areas(0)[1];
    driver.memory().write_obj(vmm_core::memory::GuestAddress(flags), 1_u16).unwrap();
    driver.submit(0, &[b"x"], &[1]).unwrap();
    driver.wait(0).unwrap();
    assert_eq!((driver.interrupts(), driver.read(0x60)), (5, 0));

    // With them for the first since the driver last looked.
    let (_, mut driver) = driver_of(1 << 29);
    for _ in 0..4 {
        driver.submit(0, &[b"x"], &[1]).unwrap();
    }
    driver.turn().unwrap();
    assert_eq!(driver.interrupts(), 1);
    for _ in 0..4 {
        assert!(driver.collect(0).unwrap().is_some());
    }
    driver.submit(0, &[b"x"], &[1]).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.interrupts(), 2);
}

fn driver_of(features: u64) -> (Echo, Driver) {
    let echo = Echo::default();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(features).unwrap();
    (echo, driver)
}

/// Offers what `table` describes and expects that the device gives up on its driver, tells it so by
/// an interrupt, completes nothing, and works again after a reset.
fn refused(what: &str, table: &[Descriptor], head: u16) {
    let (_, mut driver) = driver();
    let before = driver.interrupts();
    for (index, &descriptor) in table.iter().enumerate() {
        driver.describe(0, index as u16, descriptor).unwrap();
    }
    driver.offer(0, head).unwrap();
    driver.kick(0);
    driver.turn().unwrap();
    assert!(driver.needs_reset(), "{what}");
    assert_eq!(driver.used(0).unwrap(), None, "{what}");
    assert_eq!(driver.interrupts(), before + 1, "{what}");
    assert_eq!(driver.read(0x60), 2, "{what}");
    works_after_reset(&mut driver);
}

fn works_after_reset(driver: &mut Driver) {
    driver.start(u64::MAX).unwrap();
    driver.submit(0, &[b"a"], &[1]).unwrap();
    assert_eq!(driver.wait(0).unwrap().data, b"b");
}

#[test]
fn malformed_chains_need_a_reset() {
    let good = |next| descriptor(AT, 16, NEXT, next);
    refused("a loop of one", &[good(0)], 0);
    refused("a loop of three", &[good(1), good(2), good(0)], 0);
    refused("a head out of range", &[], 16);
    refused("a head far out of range", &[], u16::MAX);
    refused("a next out of range", &[good(16)], 0);
    refused("no length", &[descriptor(AT, 0, 0, 0)], 0);
    refused("no length behind a good one", &[good(1), descriptor(AT, 0, WRITE, 0)], 0);
    refused("beyond RAM", &[descriptor(END, 1, 0, 0)], 0);
    refused("across the end of RAM", &[descriptor(END - 8, 16, WRITE, 0)], 0);
    refused("across the end of the address space", &[descriptor(u64::MAX - 7, 16, 0, 0)], 0);
    refused("more than there is", &[descriptor(AT, u32::MAX, WRITE, 0)], 0);
    let wrong = [descriptor(AT, 16, NEXT | WRITE, 1), descriptor(AT, 16, 0, 0)];
    refused("to be read behind to be written", &wrong, 0);
}

#[test]
fn malformed_tables_need_a_reset() {
    let table = |len| [descriptor(AT, len, INDIRECT, 0)];
    refused("an empty table", &table(0), 0);
    refused("a table that is no multiple of 16", &table(17), 0);
    refused("a table beyond RAM", &[descriptor(END, 16, INDIRECT, 0)], 0);
    // Memory there is zeroed: a buffer without length.
    refused("a table of nothing", &table(32), 0);
    refused("a table of more than 65,535", &table(16 * 65536), 0);

    let inside = |first: Descriptor, what| {
        let (_, mut driver) = driver();
        let bytes: Vec<u8> = [
            first.addr.to_le_bytes().as_slice(),
            &first.len.to_le_bytes(),
            &first.flags.to_le_bytes(),
            &first.next.to_le_bytes(),
        ]
        .concat();
        driver.memory().write(vmm_core::memory::GuestAddress(AT), &bytes).unwrap();
        driver.describe(0, 0, descriptor(AT, 16, INDIRECT, 0)).unwrap();
        driver.offer(0, 0).unwrap();
        driver.kick(0);
        driver.turn().unwrap();
        assert!(driver.needs_reset(), "{what}");
        works_after_reset(&mut driver);
    };
    inside(descriptor(AT, 16, INDIRECT, 0), "a table inside a table");
    inside(descriptor(AT, 16, NEXT, 0), "a loop in a table");
    inside(descriptor(AT, 16, NEXT, 1), "a next behind the table");
    inside(descriptor(END, 16, 0, 0), "a buffer beyond RAM in a table");
}

#[test]
fn a_chain_of_too_many_buffers_needs_a_reset() {
    let (_, mut driver) = driver();
    let buffers = vec![b"x".as_slice(); 1025];
    driver.submit_indirect(0, &buffers, &[]).unwrap();
    assert!(driver.wait(0).is_err() && driver.needs_reset());
    driver.start(u64::MAX).unwrap();
    driver.submit_indirect(0, &buffers[..1023], &[1]).unwrap();
    assert_eq!(driver.wait(0).unwrap().data, b"y");
}

#[test]
fn an_index_that_jumps_needs_a_reset() {
    for jump in [17_u16, 100, 0x8000, u16::MAX] {
        let (_, mut driver) = driver();
        let index = driver.areas(0)[1] + 2;
        driver.memory().write_obj(vmm_core::memory::GuestAddress(index), jump).unwrap();
        driver.kick(0);
        driver.turn().unwrap();
        assert!(driver.needs_reset(), "{jump}");
        assert_eq!(driver.used(0).unwrap(), None);
        works_after_reset(&mut driver);
    }
}

#[test]
fn a_driver_that_lends_what_it_has_not_got_back_is_stopped() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.describe(0, 3, descriptor(AT, 8, 0, 0)).unwrap();
    for n in 0..40 {
        driver.offer(0, 3).unwrap();
        driver.kick(0);
        driver.turn().unwrap();
        assert_eq!(driver.needs_reset(), n >= 16, "{n}");
    }
    assert_eq!(echo.kept(), 16);
    driver.reset_keeping_nothing(&echo);
}

/// What is out comes back before a reset is complete.
trait Reset {
    fn reset_keeping_nothing(&mut self, echo: &Echo);
}

impl Reset for Driver {
    fn reset_keeping_nothing(&mut self, echo: &Echo) {
        echo.kept.lock().unwrap().clear();
        self.reset();
        assert_eq!(self.status(), 0);
    }
}

#[test]
fn nothing_is_done_for_a_driver_that_has_to_reset() {
    let (_, mut driver) = driver();
    driver.offer(0, 99).unwrap();
    driver.kick(0);
    driver.turn().unwrap();
    driver.submit(1, &[b"x"], &[1]).unwrap();
    driver.kick(1);
    driver.turn().unwrap();
    assert_eq!(driver.collect(1).unwrap(), None);
    driver.write(0x70, 15);
    assert!(driver.needs_reset(), "only a reset ends it");
}
