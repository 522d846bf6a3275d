//! The measurements: a few instructions at each privilege level.
//!
//! Each guest is a handful of instructions in long mode that end with a store to an address that is
//! not RAM; `run` comes back with it. The privilege level is simply the one the vCPU is started at,
//! so no guest needs an IDT or a way between rings.

use std::{
    ops::ControlFlow,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    arch::{Segment, VcpuId, efer, msr, paging},
    boot::{BoardInfo, Flat, Loader},
    error::{Error, Result},
    exit::{CONTINUE, Flow, VcpuExit},
    hv::{GuestIo, Hypervisor, MemorySlot, Vcpu, Vm, VmConfig},
    memory::{GuestAddress, GuestMemory},
};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Nanoseconds for an iteration of two instructions in ring 0.
    pub(super) ring0: f64,
    /// And in ring 3.
    pub(super) ring3: f64,
    /// An SSE instruction in ring 0 runs.
    pub(super) ring0_sse: bool,
    /// SYSCALL from ring 3 arrives in ring 0.
    pub(super) syscall_enters_ring0: bool,
}

/// An address outside RAM, within what the page tables map.
const DONE: u64 = 0xd000_0000;
/// Where the images go.
const IMAGE: u64 = 0x1_0000;
const MEMORY: u64 = 256 << 10;

/// `edi` times two instructions, then the store.
const LOOP: &[u8] = &[
    0x89, 0xf9, //             mov ecx, edi
    0xff, 0xc9, //          1: dec ecx
    0x75, 0xfc, //             jnz 1b
    0x89, 0x06, //             mov [rsi], eax
    0xeb, 0xfe, //             jmp .
];

/// One SSE2 instruction, then the store.
const SSE: &[u8] = &[
    0x66, 0x0f, 0xfe, 0xc1, // paddd xmm0, xmm1
    0x89, 0x06, //             mov [rsi], eax
    0xeb, 0xfe, //             jmp .
];

/// SYSCALL to the instruction behind it, which stores the code selector.
const SYSCALL: &[u8] = &[
    0x0f, 0x05, //             syscall
    0x8c, 0xc8, //             mov eax, cs
    0x89, 0x06, //             mov [rsi], eax
    0xeb, 0xfe, //             jmp .
];
const SYSCALL_TARGET: u64 = IMAGE + 2;

/// Selectors of [`Flat::long_mode`] for ring 0; those for ring 3 are only in the hidden parts.
const RING0_CODE: u16 = 0x10;
const RING3_CODE: u16 = 0x28;
const RING3_DATA: u16 = 0x30;

pub(super) fn measure(hypervisor: &dyn Hypervisor) -> Result<Measured> {
    Ok(Measured {
        ring0: iteration_cost(hypervisor, 0)?,
        ring3: iteration_cost(hypervisor, 3)?,
        ring0_sse: Guest::new(hypervisor, SSE, 0)?.run()?.is_some(),
        syscall_enters_ring0: syscall_enters_ring0(hypervisor)?,
    })
}

/// The nanoseconds of one iteration of [`LOOP`].
fn iteration_cost(hypervisor: &dyn Hypervisor, ring: u8) -> Result<f64> {
    let mut guest = Guest::new(hypervisor, LOOP, ring)?;
    guest.timed(1)?;
    slope(|count| guest.timed(count))
}

/// The nanoseconds of one iteration, of what takes this time for a number of them: what many take
/// more than one.
///
/// The number grows until it makes a difference of a millisecond, so that an emulated ring costs
/// little and a native one is still measured well above the noise of an exit. Only the best of
/// several times counts, for growing as for the result: on a busy host some have a pause in them,
/// and a loop taken for long because of a pause would look as if it cost nothing.
fn slope(mut timed: impl FnMut(u64) -> Result<Duration>) -> Result<f64> {
    const LONG_ENOUGH: Duration = Duration::from_millis(1);
    const MOST: u64 = 10_000_000;

    let one = best_of(6, || timed(1))?;
    let mut count = 100;
    loop {
        let more = best_of(6, || timed(count))?.saturating_sub(one);
        if more >= LONG_ENOUGH || count == MOST {
            // A clock that stood still would make the cost nothing; no loop is that fast.
            return Ok(more.as_nanos().max(1) as f64 / count as f64);
        }
        count *= 10;
    }
}

fn best_of(times: usize, mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..times {
        best = best.min(run()?);
    }
    Ok(best)
}

fn syscall_enters_ring0(hypervisor: &dyn Hypervisor) -> Result<bool> {
    let mut guest = Guest::new(hypervisor, SYSCALL, 3)?;
    let mut state = guest.vcpu.state()?;
    state.system.efer |= efer::SCE;
    for register in &mut state.msrs {
        match register.index {
            // SYSCALL takes the code selector from bits 47-32.
            msr::STAR => register.value = u64::from(RING0_CODE) << 32,
            msr::LSTAR => register.value = SYSCALL_TARGET,
            msr::FMASK => register.value = 0,
            _ => {}
        }
    }
    guest.vcpu.set_state(&state)?;
    Ok(guest.run()?.is_some_and(|code_selector| code_selector & 3 == 0))
}

/// One vCPU in a VM of its own.
struct Guest {
    vcpu: Box<dyn Vcpu>,
    ring: u8,
    image: Flat,
    memory: GuestMemory,
    _vm: std::sync::Arc<dyn Vm>,
}

impl Guest {
    fn new(hypervisor: &dyn Hypervisor, code: &[u8], ring: u8) -> Result<Self> {
        let vm = hypervisor.create_vm(&VmConfig { vcpus: 1, irq: None })?;
        let memory = GuestMemory::anonymous(MEMORY)?;
        for region in memory.regions() {
            vm.map(MemorySlot::whole(region))?;
        }
        let vcpu = vm.create_vcpu(VcpuId(0), &hypervisor.caps().cpu)?;
        let image = Flat::long_mode(code).at(GuestAddress(IMAGE));
        let mut guest = Self { vcpu, ring, image, memory, _vm: vm };
        guest.rewind(0)?;
        Ok(guest)
    }

    /// Puts the vCPU back to the start, with `count` in RDI.
    fn rewind(&mut self, count: u64) -> Result<()> {
        let image = self.image.clone().arguments([count, DONE, 0]);
        let mut entry = image.load(&self.memory, &BoardInfo::new(1))?;
        if self.ring == 3 {
            let data = Segment::data(RING3_DATA, 3);
            let system = &mut entry.system;
            system.cs = Segment::code64(RING3_CODE, 3);
            (system.ds, system.es, system.ss) = (data, data, data);
            let tables = paging::identity_map(system.cr3, paging::WRITABLE | paging::USER);
            let bytes: Vec<u8> = tables.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.memory.write(GuestAddress(system.cr3), &bytes)?;
        }
        let made = self.vcpu.system_regs()?;
        entry.system.apic_base = made.apic_base;
        self.vcpu.set_system_regs(&entry.system)?;
        self.vcpu.set_regs(&entry.regs)
    }

    /// Runs to the store and gives the value stored, or `None` if the guest cannot be run that far.
    fn run(&mut self) -> Result<Option<u32>> {
        let done = Done::default();
        loop {
            match self.vcpu.run(&done)? {
                VcpuExit::PowerOff(_) => return Ok(done.take()),
                VcpuExit::Interrupted | VcpuExit::Kicked => {}
                _ => return Ok(None),
            }
        }
    }

    /// The time of one whole run of [`LOOP`].
    fn timed(&mut self, count: u64) -> Result<Duration> {
        self.rewind(count)?;
        let start = Instant::now();
        let stored = self.run()?;
        let took = start.elapsed();
        match stored {
            Some(_) => Ok(took),
            None => Err(Error::unsupported(format!("a loop in ring {} does not run", self.ring))),
        }
    }
}

/// Ends `run` at the store, and keeps its value.
#[derive(Default)]
struct Done(Mutex<Option<u32>>);

impl Done {
    fn take(&self) -> Option<u32> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl GuestIo for Done {
    fn mmio_read(&self, _: GuestAddress, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn mmio_write(&self, _: GuestAddress, data: &[u8]) -> Flow {
        let value = data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
        ControlFlow::Break(VcpuExit::PowerOff(0))
    }

    fn port_in(&self, _: u16, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn port_out(&self, _: u16, _: &[u8]) -> Flow {
        CONTINUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_busy_host_do_not_change_the_cost() {
        for cost in [0.3, 1.5, 900.0] {
            let mut runs = 0;
            let measured = slope(|count| {
                runs += 1;
                // Four of five runs have one, each longer than a loop has to be.
                let pause = if runs % 5 == 0 { 0 } else { 2_000_000 + runs % 3 * 1_000_000 };
                let loops = (count as f64 * cost) as u64;
                Ok(Duration::from_nanos(5_000 + loops + pause))
            });
            let measured = measured.unwrap();
            assert!((measured / cost - 1.0).abs() < 0.01, "{measured} instead of {cost}");
        }
    }
}
