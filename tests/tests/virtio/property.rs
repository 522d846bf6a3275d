//! Any registers, any descriptors, any indices: nothing panics, hangs or leaves memory alone it was
//! not lent; and after a reset the device works.

use proptest::prelude::*;
use vmm_core::{
    memory::GuestAddress,
    virtio::{
        VirtioDevice,
        testing::{Descriptor, Driver},
    },
};
use vmm_devices::{Block, Console, MemoryImage, RateLimit, Rng};

use crate::Echo;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Describe(u16, Descriptor),
    Offer(u16),
    Index(u16),
    Kick,
    Turn,
    Replace,
    Reset,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![
        4 => 0x1000_u64..0x20_0000,
        1 => (256_u64 << 20) - 64..(256 << 20) + 64,
        1 => any::<u64>()
    ];
    let len = prop_oneof![3 => 0..200_u32, 1 => any::<u32>()];
    let flags = prop_oneof![4 => 0..8_u16, 1 => any::<u16>()];
    let next = prop_oneof![4 => 0..18_u16, 1 => any::<u16>()];
    (addr, len, flags, next).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let register = prop_oneof![(0..0x40_u64).prop_map(|n| 4 * n), 0..0x120_u64];
    let data = prop_oneof![
        any::<u32>().prop_map(|value| value.to_le_bytes().to_vec()),
        (0..16_u32).prop_map(|value| value.to_le_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..=8),
    ];
    prop_oneof![
        2 => (register, data).prop_map(|(at, data)| Step::Write(at, data)),
        6 => (0..16_u16, descriptor()).prop_map(|(n, descriptor)| Step::Describe(n, descriptor)),
        6 => (0..17_u16).prop_map(Step::Offer),
        1 => any::<u16>().prop_map(Step::Index),
        3 => Just(Step::Kick),
        3 => Just(Step::Turn),
        1 => Just(Step::Replace),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn no_driver_breaks_a_device(steps in prop::collection::vec(step(), 1..120)) {
        let mut driver = survivor(Echo::default, &steps);
        driver.submit(1, &[b"a"], &[1]).unwrap();
        prop_assert_eq!(driver.wait(1).unwrap().data, b"b");
    }

    #[test]
    fn no_driver_breaks_a_disk(steps in prop::collection::vec(step(), 1..120)) {
        let block = || Block::image(MemoryImage::new(8192).unwrap()).unwrap();
        let mut driver = survivor(block, &steps);
        driver.submit(0, &[&[0; 16]], &[512, 1]).unwrap();
        prop_assert_eq!(driver.wait(0).unwrap().data[512], 0);
    }

    #[test]
    fn no_driver_breaks_a_source_of_entropy(steps in prop::collection::vec(step(), 1..120)) {
        let limit = RateLimit { per_second: u64::MAX, burst: u64::MAX };
        let mut driver = survivor(|| Rng::with_limit(limit).unwrap(), &steps);
        driver.submit(0, &[], &[16]).unwrap();
        prop_assert_eq!(driver.wait(0).unwrap().written, 16);
    }

    #[test]
    fn no_driver_breaks_a_console(steps in prop::collection::vec(step(), 1..120)) {
        let input = vec![b'i'; 10_000];
        let console = || {
            let (console, to_guest, _) = Console::capture().unwrap();
            to_guest.send(&input);
            console.room(1).unwrap()
        };
        let mut driver = survivor(console, &steps);
        driver.submit(1, &[b"still here"], &[]).unwrap();
        driver.wait(1).unwrap();
        // The port is open once the driver says so.
        driver.submit(3, &[&[0, 0, 0, 0, 6, 0, 1, 0]], &[]).unwrap();
        driver.submit(0, &[], &[4]).unwrap();
        let done = driver.wait(0).unwrap();
        prop_assert!(done.written > 0 && done.data.starts_with(b"i"));
    }
}

/// What a driver finds after all that, having reset the device, or one like it that got its state.
fn survivor<D: VirtioDevice>(device: impl Fn() -> D, steps: &[Step]) -> Driver {
    let mut driver = Driver::new(device()).unwrap();
    driver.start(u64::MAX).unwrap();
    for step in steps {
        match step {
            Step::Write(at, data) => driver.write_bytes(*at, data),
            Step::Describe(n, descriptor) => driver.describe(0, *n, *descriptor).unwrap(),
            Step::Offer(head) => driver.offer(0, *head).unwrap(),
            Step::Index(index) => {
                let at = driver.areas(0)[1] + 2;
                driver.memory().write_obj(GuestAddress(at), *index).unwrap();
            }
            Step::Kick => driver.kick(0),
            Step::Turn => driver.turn().unwrap(),
            Step::Replace => driver.replace(device()).unwrap(),
            Step::Reset => {
                driver.start(u64::MAX).unwrap();
            }
        }
    }
    driver.turn().unwrap();
    driver.start(u64::MAX).unwrap();
    driver
}
