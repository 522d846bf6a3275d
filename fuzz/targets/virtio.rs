//! Any driver at all against virtio devices: no panic, no hang, and after a reset the device works.

#![no_main]

use libfuzzer_sys::{arbitrary::Arbitrary, fuzz_target};
use vmm_core::{
    memory::GuestAddress,
    virtio::testing::{Descriptor, Driver},
};
use vmm_devices::{Block, MemoryImage, Rng};

#[derive(Arbitrary, Debug)]
struct Input {
    device: Device,
    features: u64,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Device {
    Block,
    Rng,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A register or configuration space.
    Write(u16, u32),
    WriteBytes(u16, Vec<u8>),
    /// Descriptor, address and length within the first MiB or anywhere, flags, next.
    Describe { index: u8, near: bool, addr: u64, len: u32, flags: u8, next: u8 },
    /// Bytes in the first MiB, where buffers are.
    Fill(u32, Vec<u8>),
    Offer(u8),
    Index(u16),
    Kick,
    Turn,
    Start,
    Submit { header: [u8; 16], data: u16, room: u16 },
}

const NEAR: u64 = 1 << 20;

fuzz_target!(|input: Input| {
    let driver = match input.device {
        Device::Block => Driver::new(Block::image(MemoryImage::new(64 << 10).unwrap()).unwrap()),
        Device::Rng => Driver::new(Rng::new().unwrap()),
    };
    let mut driver = driver.unwrap();
    let _ = driver.start(input.features);
    for step in input.steps.into_iter().take(200) {
        perform(&mut driver, step, input.features);
    }
    let _ = driver.turn();
    driver.start(u64::MAX).expect("a reset helps");
});

fn perform(driver: &mut Driver, step: Step, features: u64) {
    match step {
        Step::Write(at, value) => driver.write(u64::from(at % 0x180), value),
        Step::WriteBytes(at, data) => driver.write_bytes((at % 0x180).into(), &data),
        Step::Describe { index, near, addr, len, flags, next } => {
            let addr = if near { addr % NEAR } else { addr };
            let len = if near { len % 4096 } else { len };
            let descriptor = Descriptor { addr, len, flags: flags.into(), next: next.into() };
            let _ = driver.describe(0, index.into(), descriptor);
        }
        Step::Fill(at, data) => {
            let _ = driver.memory().write(GuestAddress(u64::from(at) % NEAR), &data);
        }
        Step::Offer(head) => drop(driver.offer(0, head.into())),
        Step::Index(index) => {
            let at = driver.areas(0)[1] + 2;
            let _ = driver.memory().write_obj(GuestAddress(at), index);
        }
        Step::Kick => driver.kick(0),
        Step::Turn => driver.turn().expect("a driver's mistakes are not the host's errors"),
        Step::Start => drop(driver.start(features)),
        Step::Submit { header, data, room } => {
            let data = vec![0; data.into()];
            let readable: &[&[u8]] = if data.is_empty() { &[&header] } else { &[&header, &data] };
            let _ = driver.submit(0, readable, &[u32::from(room) + 1, 1]);
        }
    }
}
