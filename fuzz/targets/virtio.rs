//! Any driver at all against virtio devices: no panic, no hang, and after a reset the device works.
//! Each device is saved and restored in between, whatever its driver has done.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use vmm_core::{
    Result,
    memory::GuestAddress,
    virtio::testing::{Descriptor, Driver},
};
use vmm_devices::{Block, Channel, Console, MemoryImage, Rng};

#[derive(Arbitrary, Debug)]
struct Input {
    device: Device,
    features: u64,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Device {
    Block { queues: u8 },
    /// With up to three further ports, and input that waits for each.
    Console { ports: u8, input: Vec<u8> },
    Rng,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// The queue that the following steps are about.
    Queue(u8),
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
    /// A control message of a console's driver.
    Control { port: u8, event: u8, value: bool },
    Replace,
}

const NEAR: u64 = 1 << 20;

fuzz_target!(|input: Input| {
    let mut driver = input.device.driver().unwrap();
    let _ = driver.start(input.features);
    let mut queue = 0;
    for step in input.steps.into_iter().take(200) {
        match step {
            Step::Queue(index) => queue = usize::from(index % 10),
            Step::Replace => input.device.replace(&mut driver).expect("what was saved is sound"),
            Step::Start => drop(driver.start(input.features)),
            step => perform(&mut driver, queue, step),
        }
    }
    let _ = driver.turn();
    driver.start(u64::MAX).expect("a reset helps");
});

impl Device {
    fn driver(&self) -> Result<Driver> {
        match self {
            Self::Block { queues } => Driver::new(block(*queues)?),
            Self::Console { ports, input } => Driver::new(console(*ports, input)?),
            Self::Rng => Driver::new(Rng::new()?),
        }
    }

    /// Goes on with a device like the one that the driver has.
    fn replace(&self, driver: &mut Driver) -> Result<()> {
        match self {
            Self::Block { queues } => driver.replace(block(*queues)?),
            Self::Console { ports, input } => driver.replace(console(*ports, input)?),
            Self::Rng => driver.replace(Rng::new()?),
        }
    }
}

fn block(queues: u8) -> Result<Block> {
    Block::image(MemoryImage::new(64 << 10)?)?.queues(usize::from(queues % 4) + 1)
}

fn console(ports: u8, input: &[u8]) -> Result<Console> {
    let channel = || {
        let channel = Channel::new()?;
        channel.input().send(input);
        Ok(channel)
    };
    let console = Console::new(channel()?)?.size(80, 25);
    (0..ports % 4).try_fold(console, |console, n| console.port(&n.to_string(), channel()?))
}

fn perform(driver: &mut Driver, queue: usize, step: Step) {
    match step {
        Step::Write(at, value) => driver.write(u64::from(at % 0x180), value),
        Step::WriteBytes(at, data) => driver.write_bytes((at % 0x180).into(), &data),
        Step::Describe { index, near, addr, len, flags, next } => {
            let addr = if near { addr % NEAR } else { addr };
            let len = if near { len % 4096 } else { len };
            let descriptor = Descriptor { addr, len, flags: flags.into(), next: next.into() };
            let _ = driver.describe(queue, index.into(), descriptor);
        }
        Step::Fill(at, data) => {
            let _ = driver.memory().write(GuestAddress(u64::from(at) % NEAR), &data);
        }
        Step::Offer(head) => drop(driver.offer(queue, head.into())),
        Step::Index(index) => {
            let at = driver.areas(queue)[1] + 2;
            let _ = driver.memory().write_obj(GuestAddress(at), index);
        }
        Step::Kick => driver.kick(queue),
        Step::Submit { header, data, room } => {
            let data = vec![0; data.into()];
            let readable: &[&[u8]] = if data.is_empty() { &[&header] } else { &[&header, &data] };
            let _ = driver.submit(queue, readable, &[u32::from(room) + 1, 1]);
        }
        Step::Control { port, event, value } => {
            let message = [port % 5, 0, 0, 0, event % 9, 0, value.into(), 0];
            let _ = driver.submit(3, &[&message], &[]);
        }
        _ => driver.turn().expect("a driver's mistakes are not the host's errors"),
    }
}
