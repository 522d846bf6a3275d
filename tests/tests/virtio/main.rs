//! Virtio against the driver of `vmm_core::virtio::testing`: negotiation, rings, chains, resets,
//! saved state, and a device in a machine.
#![expect(clippy::unwrap_used, reason = "a device for tests, whose failure is the test's")]

mod chains;
mod machine;
mod negotiation;
mod property;
mod reset;
mod threads;

use std::sync::{Arc, Mutex};

use vmm_core::{
    Result,
    virtio::{Cause, Chain, DeviceId, VirtioDevice, VirtioIo},
};

/// Answers each chain with what it reads, each byte plus one; or keeps chains until told otherwise.
#[derive(Clone, Default)]
pub(crate) struct Echo {
    /// Chains it keeps.
    pub(crate) kept: Arc<Mutex<Vec<Chain>>>,
    pub(crate) keeps: bool,
}

impl Echo {
    pub(crate) fn keeping() -> Self {
        Self { keeps: true, ..Self::default() }
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    /// Completes the chains it keeps, the last one first.
    pub(crate) fn complete_all(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        kept.into_iter().rev().for_each(answer);
    }
}

fn answer(chain: Chain) {
    let mut data = vec![0; chain.readable().len() as usize];
    assert_eq!(chain.readable().read(0, &mut data), data.len());
    data.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    let written = chain.writable().write(0, &data);
    chain.complete(written as u32);
}

impl VirtioDevice for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn queues(&self) -> &[u16] {
        &[16, 4]
    }

    fn wake(&mut self, _: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        for queue in 0..2 {
            while let Some(chain) = io.pop(queue) {
                match self.keeps {
                    true => self.kept.lock().unwrap().push(chain),
                    false => answer(chain),
                }
            }
        }
        Ok(())
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip([1, 2, 3, 4, 5_u8].iter().skip(offset as usize)) {
            *byte = *value;
        }
    }
}
