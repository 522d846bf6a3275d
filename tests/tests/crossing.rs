//! Guests that go from one back end to the other and back, in the middle of what they do, and notice
//! nothing; what cannot go is refused with the reason.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use vmm_core::{
    ErrorKind, Result,
    arch::{CpuModel, CpuState, VcpuId, msr::MsrValue},
    host,
    hv::{
        Caps, Hypervisor, Vcpu, Vm, VmConfig,
        conformance::{BODIES, Setup, Verdict},
    },
    kvm::Kvm,
    soft::Soft,
};

/// Makes its VMs on KVM and on the software CPU in turn; their processors have the features of both.
struct Both {
    back_ends: [Arc<dyn Hypervisor>; 2],
    caps: Caps,
    made: AtomicU32,
}

impl Both {
    fn open() -> Result<Self> {
        let (kvm, soft) = (Kvm::open()?, Soft::new()?);
        let (there, cpu) = (&kvm.caps().cpu, &soft.caps().cpu);
        let common = cpu.missing_in(there).fold(cpu.clone(), CpuModel::without);
        let mut caps = soft.caps().clone();
        caps.cpu = common;
        Ok(Self { back_ends: [kvm.into(), soft.into()], caps, made: AtomicU32::new(0) })
    }
}

impl Hypervisor for Both {
    fn name(&self) -> &'static str {
        "both"
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        let turn = self.made.fetch_add(1, SeqCst) as usize;
        self.back_ends[turn % 2].create_vm(config)
    }
}

/// Runs a body that moves its guest from VM to VM, so many times at least.
fn crosses(name: &str, least: u32) {
    let both = match Both::open() {
        Ok(both) => both,
        Err(error) => {
            println!("skipped: {name}: {error}");
            return;
        }
    };
    let body = BODIES.iter().find(|body| body.name == name).expect("a body of that name");
    match body.run(&Setup { hypervisor: &both, limits: &[], rounds: 0 }) {
        Ok(Verdict::Passed) => println!("{name}: between soft and {}", host::probe().kvm),
        Ok(Verdict::Skipped(reason)) => panic!("{name} was skipped: {reason}"),
        Err(failure) => panic!("{name}: {failure}"),
    }
    assert!(both.made.load(SeqCst) > least);
}

#[test]
fn a_computation_crosses_a_hundred_times() {
    crosses("a_computation_survives_a_hundred_moves", 100);
}

#[test]
fn a_computation_and_its_timer_cross_a_hundred_times() {
    crosses("a_computation_and_its_timer_survive_a_hundred_moves", 100);
}

#[test]
fn a_halted_vcpu_crosses_and_wakes() {
    crosses("a_halted_vcpu_is_moved_and_wakes", 1);
}

#[test]
fn a_pending_interrupt_crosses() {
    crosses("a_pending_interrupt_is_moved", 1);
}

/// A vCPU of its own VM, without interrupt controllers.
fn vcpu(hypervisor: &dyn Hypervisor) -> Box<dyn Vcpu> {
    let vm = hypervisor.create_vm(&VmConfig { vcpus: 1, irq: None }).unwrap();
    vm.create_vcpu(VcpuId(0), &hypervisor.caps().cpu).unwrap()
}

/// What the software CPU says of a state that was changed like this.
fn refused(change: fn(&mut CpuState)) -> String {
    let mut vcpu = vcpu(&Soft::new().unwrap());
    let before = vcpu.state().unwrap();
    let mut state = before.clone();
    change(&mut state);
    let error = vcpu.set_state(&state).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let after = vcpu.state().unwrap();
    assert_eq!((after.regs, after.tsc_khz), (before.regs, before.tsc_khz));
    error.to_string()
}

#[test]
fn what_the_software_cpu_cannot_go_on_from_is_named() {
    // XSTATE_BV: AVX.
    let said = refused(|state| state.xsave[512] |= 4);
    assert!(said.contains("state components 0x"), "{said}");
    let said = refused(|state| state.msrs.push(MsrValue { index: 0x48, value: 1 }));
    assert!(said.contains("register 0x48: 0x1"), "{said}");
    let said = refused(|state| (state.system.cr4, state.tsc_khz) = (0x20020, Some(7)));
    assert!(said.contains("no such bits in CR4: 0x20020"), "{said}");
    let said = refused(|state| state.tsc_khz = Some(0));
    assert!(said.contains("time-stamp counter"), "{said}");
}

#[test]
fn a_time_stamp_counter_goes_on_at_its_speed_or_says_why_not() {
    let name = "a_time_stamp_counter_goes_on_at_its_speed_or_says_why_not";
    let soft = Soft::new().unwrap();
    let mut one = vcpu(&soft);
    let state = CpuState { tsc_khz: Some(1_234_567), ..one.state().unwrap() };
    one.set_state(&state).unwrap();
    assert_eq!(one.state().unwrap().tsc_khz, Some(1_234_567));
    let Ok(kvm) = Kvm::open() else {
        println!("skipped: {name}: no /dev/kvm here");
        return;
    };
    let mut other = vcpu(&kvm);
    match other.set_state(&one.state().unwrap()) {
        Ok(()) => {
            let khz = other.state().unwrap().tsc_khz.unwrap();
            assert!(khz.abs_diff(1_234_567) < 1000, "{khz}");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Incompatible);
            assert!(error.to_string().contains("TSC frequency: 1234567 kHz"), "{error}");
        }
    }
}
