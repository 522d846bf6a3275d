//! A port and an MMIO access, through the bus to a device and back, beside the bare loop around
//! KVM_RUN.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use kvm_ioctls::VcpuExit as KvmExit;
use vmm_core::{
    Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    kvm::Kvm,
    machine::{Device, Outcome, Place, Slot},
    memory::GuestAddress,
};

use crate::{
    bare::Bare,
    sample::{nanoseconds, pairs, print_pair},
};

/// A write here ends the run with its value as code.
pub(crate) const END: u16 = 0xf4;

const RAM: u64 = 1 << 20;
/// Exits in one sample.
const EXITS: u64 = 2_000;
const PORT: u16 = 0x80;
/// Within reach of a real-mode segment, and no RAM: the machine has less than this.
const MMIO: u64 = 0x10_0000;

/// 1: out 0x80, al; jmp 1b.
const PORT_LOOP: &[u8] = &[0xe6, PORT as u8, 0xeb, 0xfc];

/// mov ax, 0xffff; mov ds, ax; 1: mov [0x10], al; jmp 1b. Segment 0xFFFF and offset 0x10 are
/// address 0x100000.
const MMIO_LOOP: &[u8] = &[0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa2, 0x10, 0x00, 0xeb, 0xfb];

pub(crate) fn rows() {
    let port = pairs(40, ours(PORT_LOOP), bare(PORT_LOOP));
    print_pair("port write exit to a device", &port);
    let mmio = pairs(40, ours(MMIO_LOOP), bare(MMIO_LOOP));
    print_pair("MMIO write exit to a device", &mmio);
}

/// A machine whose guest writes for ever, and whose device ends the run at every 2,000th write.
fn ours(image: &[u8]) -> impl FnMut() -> f64 {
    let machine = Machine::builder()
        .hypervisor(Kvm::open().unwrap())
        .memory(RAM)
        .interrupts(None)
        .boot(Flat::real_mode(image))
        .device(Tick::default())
        .build()
        .unwrap();
    move || {
        let time = nanoseconds(|| assert_eq!(machine.run().unwrap(), Outcome::Halted));
        time / EXITS as f64
    }
}

/// The same guest and the same number of KVM_RUNs, looking at each exit.
fn bare(image: &[u8]) -> impl FnMut() -> f64 {
    let mut vm = Bare::new().vm(RAM, false, &Flat::real_mode(image));
    let mut bytes = 0u64;
    move || {
        // The closure takes all of the VM, not only its vCPU: the memory has to live on.
        let vm = &mut vm;
        let time = nanoseconds(|| {
            for _ in 0..EXITS {
                match vm.vcpu.run().unwrap() {
                    KvmExit::IoOut(_, data) | KvmExit::MmioWrite(_, data) => {
                        bytes += data.len() as u64;
                    }
                    exit => panic!("{exit:?}"),
                }
            }
        });
        time / EXITS as f64
    }
}

/// Counts writes.
#[derive(Clone, Default)]
struct Tick(Arc<AtomicU64>);

impl BusDevice for Tick {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        match (self.0.fetch_add(1, Relaxed) + 1).is_multiple_of(EXITS) {
            true => ControlFlow::Break(VcpuExit::Halted),
            false => CONTINUE,
        }
    }
}

impl Device for Tick {
    fn name(&self) -> &str {
        "tick"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(PORT, 1, Arc::new((*self).clone()))?;
        slot.mmio(Place::At(GuestAddress(MMIO)), 0x1000, Arc::new(*self)).map(|_| ())
    }
}

/// Ends the run at a write.
pub(crate) struct EndPort;

impl BusDevice for EndPort {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, data: &[u8]) -> Flow {
        ControlFlow::Break(VcpuExit::PowerOff(data.first().copied().unwrap_or(0).into()))
    }
}

impl Device for EndPort {
    fn name(&self) -> &str {
        "end"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(END, 1, Arc::new(*self))
    }
}
