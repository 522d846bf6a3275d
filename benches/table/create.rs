//! Building a machine, up to its first exit, and taking it away; or resetting it instead.

use kvm_ioctls::VcpuExit;
use vmm_core::{
    Machine,
    boot::Flat,
    hv::{Hypervisor, IrqConfig},
    kvm::Kvm,
    machine::Outcome,
};

use crate::{
    bare::Bare,
    exit::{END, EndPort},
    sample::{nanoseconds, pairs, print_pair},
};

const RAM: u64 = 64 << 20;

/// `out 0xf4, al` in real mode, which ends the run.
const IMAGE: &[u8] = &[0xe6, END as u8, 0xf4];

pub(crate) fn rows() {
    let kvm: std::sync::Arc<dyn Hypervisor> = Kvm::open().unwrap().into();
    let bare = Bare::new();
    for (what, irqchip) in [("with", true), ("without", false)] {
        let build = || {
            let machine = Machine::builder()
                .hypervisor(std::sync::Arc::clone(&kvm))
                .memory(RAM)
                .interrupts(irqchip.then(IrqConfig::default))
                .boot(Flat::real_mode(IMAGE))
                .device(EndPort)
                .build()
                .unwrap();
            assert_eq!(machine.run().unwrap(), Outcome::PowerOff(0));
            machine
        };
        let issue = || {
            let mut vm = bare.vm(RAM, irqchip, &Flat::real_mode(IMAGE));
            assert!(matches!(vm.vcpu.run().unwrap(), VcpuExit::IoOut(END, _)));
            vm
        };
        // The machine is dropped outside the measured time: closing a VM takes milliseconds of its
        // own on some hosts.
        let create = pairs(100, || measure(build), || measure(issue));
        print_pair(&format!("create 64 MiB, first exit, {what} irqchip"), &create);
        let and_drop = pairs(100, || nanoseconds(build), || nanoseconds(issue));
        print_pair(&format!("the same and drop, {what} irqchip"), &and_drop);
        let machine = build();
        let reset = || {
            machine.reset().unwrap();
            assert_eq!(machine.run().unwrap(), Outcome::PowerOff(0));
        };
        // Here "bare" is what a caller without reset does.
        let instead = pairs(100, || nanoseconds(reset), || nanoseconds(build));
        print_pair(&format!("reset, beside rebuilding, {what} irqchip"), &instead);
    }
}

/// The time of `make`, not of dropping what it made.
pub(crate) fn measure<T>(make: impl FnOnce() -> T) -> f64 {
    let mut made = None;
    let time = nanoseconds(|| made = Some(make()));
    drop(made);
    time
}
