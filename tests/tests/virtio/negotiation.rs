//! What a driver may agree upon, in which order, and how registers answer.

use vmm_core::virtio::testing::Driver;

use crate::Echo;

const VERSION_1: u64 = 1 << 32;

#[test]
fn the_registers_say_what_the_device_is() {
    let driver = Driver::new(Echo::default()).unwrap();
    assert_eq!(driver.read(0), u32::from_le_bytes(*b"virt"));
    assert_eq!((driver.read(4), driver.read(8)), (2, 42));
    assert_eq!(driver.offered(), 1 << 3 | 1 << 28 | 1 << 29 | VERSION_1);
    for (queue, size) in [(0, 16), (1, 4), (2, 0), (u32::MAX, 0)] {
        driver.write(0x30, queue);
        assert_eq!((driver.read(0x34), driver.read(0x44)), (size, 0));
    }
    assert_eq!(driver.config::<8>(2), [3, 4, 5, 0, 0, 0, 0, 0]);
    assert_eq!(driver.config::<1>(0), [1]);
    assert_eq!((driver.read(0xb0), driver.read(0xb4)), (u32::MAX, u32::MAX), "no shared memory");
}

#[test]
fn registers_are_32_bits_wide() {
    let driver = Driver::new(Echo::default()).unwrap();
    driver.write_bytes(0x70, &[1]);
    driver.write_bytes(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    driver.write_bytes(0x72, &[1, 0, 0, 0]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn features_that_are_not_offered_are_refused() {
    for (features, accepted) in [
        (VERSION_1, true),
        (VERSION_1 | 1 << 3, true),
        (VERSION_1 | 1 << 4, false),
        (VERSION_1 | 1 << 63, false),
        (1 << 3, false),
        (0, false),
    ] {
        let driver = Driver::new(Echo::default()).unwrap();
        driver.write(0x70, 3);
        for bank in 0..2 {
            driver.write(0x24, bank);
            driver.write(0x20, (features >> (32 * bank)) as u32);
        }
        driver.write(0x70, 11);
        assert_eq!(driver.status(), if accepted { 11 } else { 3 }, "{features:#x}");
        driver.write(0x70, 15);
        assert_eq!(driver.status(), if accepted { 15 } else { 3 }, "{features:#x}");
    }
}

#[test]
fn features_cannot_be_changed_once_they_are_settled() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    let features = driver.start(u64::MAX).unwrap();
    driver.write(0x24, 0);
    driver.write(0x20, 0);
    assert_eq!(driver.endpoint().accepted_features(), features);
}

#[test]
fn a_bank_of_features_that_does_not_exist_is_refused() {
    let driver = Driver::new(Echo::default()).unwrap();
    driver.write(0x70, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x24, 2);
    driver.write(0x20, 1);
    driver.write(0x70, 11);
    assert_eq!(driver.status(), 3);
}

#[test]
fn a_driver_cannot_take_back_its_status_but_by_a_reset() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.write(0x70, 1);
    assert_eq!(driver.status(), 15);
    driver.write(0x70, 64);
    assert_eq!(driver.status(), 15, "the device alone needs a reset");
    driver.write(0x70, 128);
    assert_eq!(driver.status(), 15 | 128);
    driver.write(0x70, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_queue_that_is_live_keeps_its_size_and_place() {
    let mut driver = Driver::new(Echo::default()).unwrap();
    driver.start(u64::MAX).unwrap();
    driver.write(0x30, 0);
    for register in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        driver.write(register, 2);
    }
    for n in 0..40 {
        driver.submit(0, &[&[n]], &[1]).unwrap();
        assert_eq!(driver.wait(0).unwrap().data, [n + 1]);
    }
}

#[test]
fn a_queue_that_is_not_all_ram_or_not_aligned_needs_a_reset() {
    // Descriptors, driver's and device's area: beyond memory, across its end, across 2^64; one that
    // is not aligned; one that was never given.
    let end = 256 << 20;
    for (which, at) in [
        (0, end),
        (1, end),
        (2, end),
        (0, end - 16),
        (1, end - 4),
        (2, end - 4),
        (2, u64::MAX - 3),
        (0, 0x8008),
        (1, 0x8001),
        (2, 0x8002),
        (1, 0),
    ] {
        let driver = Driver::new(Echo::default()).unwrap();
        driver.write(0x70, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(0x70, 11);
        let mut areas = [0x4000_u64, 0x5000, 0x6000];
        areas[which] = at;
        for (register, at) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            driver.write(register, at as u32);
            driver.write(register + 4, (at >> 32) as u32);
        }
        driver.write(0x44, 1);
        assert!(driver.needs_reset(), "{which} {at:#x}");
    }
}

#[test]
fn a_size_that_is_none_is_not_taken() {
    let driver = Driver::new(Echo::default()).unwrap();
    driver.write(0x70, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x70, 11);
    for size in [0, 3, 17, 32, 65536, u32::MAX] {
        driver.write(0x38, size);
    }
    for (register, at) in [(0x80, 0x4000), (0x90, 0x5000), (0xa0, 0x6000)] {
        driver.write(register, at);
    }
    driver.write(0x44, 1);
    assert_eq!((driver.read(0x44), driver.needs_reset()), (1, false));
}

#[test]
fn a_device_without_driver_lends_nothing_and_bears_kicks() {
    let echo = Echo::keeping();
    let mut driver = Driver::new(echo.clone()).unwrap();
    driver.kick(0);
    driver.kick(77);
    driver.turn().unwrap();
    driver.start(0).unwrap();
    driver.submit(0, &[b"x"], &[]).unwrap();
    driver.turn().unwrap();
    assert_eq!(echo.kept(), 1);
}
