//! A virtio device of one's own: a clock that the guest asks what time it is elsewhere.
//!
//! The driver lends a buffer with an offset from UTC in seconds, and one for the answer. Linux has no
//! driver for such a thing; here a driver in this process stands for it (`virtio::testing`), so the
//! program runs anywhere. A machine gets the device like every other: `builder.device(Clock)`.

use std::time::{SystemTime, UNIX_EPOCH};

use vmm_core::{
    Result,
    virtio::{Cause, Chain, DeviceId, VirtioDevice, VirtioIo, testing::Driver},
};

/// The device. It has no state of its own.
struct Clock;

impl VirtioDevice for Clock {
    fn name(&self) -> &str {
        "clock"
    }

    /// One that the specification gives to nothing.
    fn id(&self) -> DeviceId {
        DeviceId(0xff01)
    }

    /// One queue, for 16 questions at once.
    fn queues(&self) -> &[u16] {
        &[16]
    }

    /// Called by the machine's reactor when there are questions.
    fn wake(&mut self, _: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        while let Some(question) = io.pop(0) {
            // What a guest writes is never an error of the host: this one is told its mistake.
            match answer(&question) {
                Some(time) => {
                    let written = question.writable().write(0, &time.to_le_bytes());
                    question.complete(written as u32);
                }
                None => io.need_reset("a question without offset"),
            }
        }
        Ok(())
    }

    /// Configuration space: how many ticks a second has.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = 1_000_u64.to_le_bytes();
        for (byte, value) in data.iter_mut().zip(config.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }
}

/// The time there in milliseconds since 1970, if the question is whole.
fn answer(question: &Chain) -> Option<u64> {
    let offset: [u8; 4] = question.readable().read_obj(0)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    Some(now.wrapping_add_signed(i64::from(i32::from_le_bytes(offset)) * 1000))
}

fn main() -> Result<()> {
    let mut driver = Driver::new(Clock)?;
    driver.start(u64::MAX)?;
    println!("a second has {} ticks", u64::from_le_bytes(driver.config(0)));
    for (place, hours) in [("Reykjavik", 0), ("Tokyo", 9), ("Lima", -5)] {
        let offset = i32::to_le_bytes(hours * 3600);
        driver.submit(0, &[&offset], &[8])?;
        let done = driver.wait(0)?;
        let time = u64::from_le_bytes(done.data.try_into().unwrap_or_default());
        let (hour, minute) = (time / 3_600_000 % 24, time / 60_000 % 60);
        println!("{place}: {hour:02}:{minute:02}");
    }
    Ok(())
}
