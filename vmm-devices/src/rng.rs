//! An entropy device (virtio 1.2, section 5.4): random bytes of the host's for the guest.

use std::os::fd::OwnedFd;

use rustix::rand::{GetRandomFlags, getrandom};
use vmm_core::{
    Result,
    virtio::{Cause, DeviceId, VirtioDevice, VirtioIo, Writable},
};

use crate::rate::{Limiter, RateLimit};

/// Fills the guest's buffers from the host's `getrandom`, so much a second.
///
/// It has no state: guests that go on from one snapshot get different bytes, once they ask. Linux
/// takes its first bytes as soon as the driver, `virtio_rng`, is loaded.
///
/// ```
/// use vmm_core::virtio::testing::Driver;
/// use vmm_devices::Rng;
///
/// # fn main() -> vmm_core::Result<()> {
/// let mut driver = Driver::new(Rng::new()?)?;
/// driver.start(u64::MAX)?;
/// driver.submit(0, &[], &[32])?;
/// let done = driver.wait(0)?;
/// assert_eq!(done.written, 32);
/// assert_ne!(done.data, [0; 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Rng {
    limiter: Limiter,
}

/// The most that one request is given, which a driver may ask for again.
const MOST: u64 = 64 << 10;

impl Rng {
    /// A device that gives a guest 1 MiB a second: more than any needs, and little for the host.
    ///
    /// # Errors
    /// `Host` if there can be no timer.
    pub fn new() -> Result<Self> {
        Self::with_limit(RateLimit { per_second: 1 << 20, burst: 1 << 20 })
    }

    /// A device that gives a guest so many bytes.
    ///
    /// # Errors
    /// `BadConfig` if that is none; `Host` if there can be no timer.
    pub fn with_limit(limit: RateLimit) -> Result<Self> {
        Ok(Self { limiter: Limiter::new(limit)? })
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> &str {
        "rng"
    }

    fn id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }

    fn queues(&self) -> &[u16] {
        &[64]
    }

    fn wake(&mut self, cause: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        if cause != Cause::Queues {
            self.limiter.silence();
        }
        while self.limiter.may_begin()
            && let Some(chain) = io.pop(0)
        {
            let filled = fill(&chain.writable().part(0, MOST));
            // A chain without room costs something too.
            self.limiter.spend(filled.max(64));
            chain.complete(filled as u32);
        }
        Ok(())
    }

    fn sources(&mut self) -> Result<Vec<OwnedFd>> {
        Ok(vec![self.limiter.source()?])
    }
}

/// Random bytes for all of it, unless the host has none yet; how many there were.
fn fill(to: &Writable<'_>) -> u64 {
    // So few come at once, whatever signals do (`getrandom(2)`).
    let mut bytes = [0; 256];
    let mut done = 0;
    while done < to.len() {
        match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
            Ok(0) | Err(_) => break,
            Ok(len) => done += to.write(done, bytes.get(..len).unwrap_or_default()) as u64,
        }
    }
    done
}
