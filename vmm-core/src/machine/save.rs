//! A machine as saved state: everything but its RAM.
//!
//! The order is that of law 6 in ARCHITECTURE.md: devices are drained and saved, then the VM's
//! chips and clock, then the vCPUs. It is put back the other way round, devices last: each that
//! waits for an answer of its driver interrupts once more, and the interrupt is to reach chips that
//! are what they were. One too many is legal, one lost is not.

use serde::{Deserialize, Serialize};

use super::{Machine, lock};
use crate::{
    arch::CpuState,
    error::{Context, Error, Result},
    persist::{Kind, StateReader, StateWriter},
};

const MACHINE: Kind = Kind { name: "machine", version: 1 };
const VCPU: Kind = Kind { name: "state", version: 1 };

/// What must be alike of the machine that was saved and the one that becomes it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    vcpus: u32,
    /// Start and length of each region, in bytes.
    ram: Vec<(u64, u64)>,
    /// Their names, in the order they were plugged.
    devices: Vec<String>,
}

impl Machine {
    /// Saves devices, interrupt controllers, clock and vCPUs: everything but what is in
    /// [`memory`](Self::memory), which is the caller's to copy or to share, before the machine goes
    /// on.
    ///
    /// The machine is [paused](super::Handle::pause), or not being run; it can go on afterwards. A
    /// device waits until its back end is done with the guest's buffers.
    ///
    /// # Errors
    /// `WrongState` if it is running or has ended, `InCallback` from one of its own devices;
    /// `Unsupported` with the name of a device that cannot be saved; `Host` with `ETIMEDOUT` if a
    /// back end takes longer than ten seconds, or what the hypervisor says; `WrongProcess` after
    /// `fork()`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use vmm_core::persist::{StateReader, StateWriter};
    /// # use vmm_core::{Machine, boot::Flat, hv::script::{Access, Script}, memory::{GuestAddress, GuestMemory}};
    /// # fn build(memory: &GuestMemory) -> vmm_core::Result<Machine> {
    /// #     let builder = Machine::builder().hypervisor(Script::new([])).guest_memory(memory.clone());
    /// #     builder.boot(Flat::real_mode([0xf4])).build()
    /// # }
    ///
    /// # fn main() -> vmm_core::Result<()> {
    /// # let machine = build(&GuestMemory::anonymous(1 << 20)?)?;
    /// machine.handle().pause(Duration::from_secs(10))?;
    /// let (mut state, mut ram) = (StateWriter::new(), vec![0; 1 << 20]);
    /// machine.save(&mut state)?;
    /// machine.memory().read(GuestAddress(0), &mut ram)?;
    /// let saved = state.into_bytes()?;
    /// drop(machine);
    ///
    /// // Elsewhere, from the same description:
    /// let other = build(&GuestMemory::anonymous(1 << 20)?)?;
    /// other.memory().write(GuestAddress(0), &ram)?;
    /// let mut state = StateReader::from_bytes(&saved)?;
    /// other.restore(&mut state)?;
    /// state.finish()
    /// # }
    /// ```
    pub fn save(&self, out: &mut StateWriter) -> Result<()> {
        let _alone = self.control.begin_save()?;
        out.put(MACHINE, &self.shape())?;
        self.board.save(out)?;
        self.vm.save(out)?;
        for (n, vcpu) in self.vcpus.iter().enumerate() {
            let state = lock(vcpu).state()?;
            out.scope(&format!("vcpu{n}"), |out| out.put(VCPU, &state))?;
        }
        Ok(())
    }

    /// Becomes a machine that was [saved](Self::save), perhaps in another process, and goes on where
    /// that one stood once it is run, or resumed.
    ///
    /// It must be described as that one was; what was in RAM then is already in its memory. The
    /// hypervisor may be another if it gives the guest the same processor. The records are not
    /// trusted.
    ///
    /// # Errors
    /// `Incompatible` with what was different, `Snapshot` or `NotFound` if it is no machine that was
    /// saved, and then the machine has ended with that error; `WrongState`, `InCallback` and others
    /// as for a [reset](Self::reset).
    pub fn restore(&self, from: &mut StateReader) -> Result<()> {
        let restoring = self.control.begin_restore()?;
        let done = self.become_saved(from);
        restoring.finish(done)
    }

    fn become_saved(&self, from: &mut StateReader) -> Result<()> {
        let (own, saved) = (self.shape(), from.take::<Shape>(MACHINE)?);
        if own != saved {
            let why = format!("this machine has {own:?}, the saved one had {saved:?}");
            return Err(Error::incompatible(why));
        }
        // From what it is now on devices start anew, with nothing of another guest's.
        self.board.reset()?;
        self.vm.restore(from)?;
        for (n, vcpu) in self.vcpus.iter().enumerate() {
            let state: CpuState = from.scope(&format!("vcpu{n}"), |from| from.take(VCPU))?;
            lock(vcpu).set_state(&state).context(|| format!("vcpu{n}"))?;
        }
        self.board.restore(from)
    }

    fn shape(&self) -> Shape {
        let regions = self.memory.regions();
        Shape {
            vcpus: self.vcpus.len() as u32,
            ram: regions.iter().map(|region| (region.start().0, region.len())).collect(),
            devices: self.board.names().map(str::to_owned).collect(),
        }
    }
}
