//! What a caller does wrong gets a clear error of the right kind, and nothing hangs, panics or
//! stays behind.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod each;
mod this_host;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, OnceLock, Weak, mpsc},
    thread,
    time::Duration,
};

use vmm_core::{
    Error, ErrorKind, Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::{
        VmConfig,
        script::{Access, Script},
    },
    irq::Gsi,
    machine::{Builder, Device, Outcome, Place, Slot},
    memory::{GuestAddress, GuestMemory, RamRegion},
};
use vmm_devices::Serial;

/// A machine that would work, played by a script.
fn builder(accesses: impl Into<Vec<Access>>) -> Builder {
    Machine::builder()
        .hypervisor(Script::new(accesses))
        .memory(1 << 20)
        .interrupts(None)
        .boot(Flat::real_mode([0xf4]))
}

fn assert_bad_config(builder: Builder, says: &str) {
    let error = builder.build().expect_err(says);
    assert_eq!(error.kind(), ErrorKind::BadConfig, "{error}");
    assert!(error.to_string().contains(says), "'{error}' does not say '{says}'");
}

/// Takes places as the test says.
struct Plug(fn(&mut Slot<'_>) -> Result<()>);

impl Device for Plug {
    fn name(&self) -> &str {
        "plug"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        (self.0)(slot)
    }
}

/// A device that does nothing.
struct Idle;

impl BusDevice for Idle {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        CONTINUE
    }
}

#[test]
fn a_machine_without_its_parts_is_bad_config() {
    assert_bad_config(Machine::builder(), "without a hypervisor");
    let script = || Script::new([]);
    assert_bad_config(Machine::builder().hypervisor(script()), "without memory");
    let no_image = Machine::builder().hypervisor(script()).memory(1 << 20);
    assert_bad_config(no_image, "without anything to boot");
}

#[test]
fn bad_counts_and_sizes_are_bad_config() {
    assert_bad_config(builder([]).vcpus(0), "0 vCPUs");
    assert_bad_config(builder([]).vcpus(65), "65 vCPUs: script on this host has at most 64");
    assert_bad_config(builder([]).memory(0), "empty");
    assert_bad_config(builder([]).memory(4097), "not a multiple of 4096");
}

#[test]
fn several_vcpus_without_interrupts_are_bad_config() {
    assert_bad_config(builder([]).vcpus(2), "2 vCPUs and no interrupt controllers");
}

#[test]
fn a_vm_of_no_or_too_many_vcpus_is_bad_config() {
    for hypervisor in each::back_end("a_vm_of_no_or_too_many_vcpus_is_bad_config") {
        for vcpus in [0, hypervisor.caps().max_vcpus + 1, u32::MAX] {
            let vm = hypervisor.create_vm(&VmConfig { vcpus, irq: None });
            let error = vm.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadConfig, "{error}");
        }
    }
}

#[test]
fn places_of_the_machines_own_chips_are_refused() {
    let with_irqs = || builder([]).interrupts(Some(Default::default()));
    let timer = Plug(|slot| slot.ports(0x42, 4, Arc::new(Idle)));
    assert_bad_config(with_irqs().device(timer), "chips answer at 0x40");
    let apic =
        Plug(|slot| slot.mmio(Place::At(GuestAddress(0xfee0_0000)), 8, Arc::new(Idle)).map(|_| ()));
    assert_bad_config(with_irqs().device(apic), "own chips are from 0xfec00000 on");
    let cascade = Plug(|slot| slot.irq(Place::At(Gsi(2))).map(|_| ()));
    assert_bad_config(with_irqs().device(cascade), "GSI 2 is taken");
}

#[test]
fn more_vcpus_than_a_back_end_has_are_bad_config() {
    for hypervisor in each::back_end("more_vcpus_than_a_back_end_has_are_bad_config") {
        let most = hypervisor.caps().max_vcpus;
        let builder = builder([]).hypervisor(hypervisor).vcpus(most + 1);
        assert_bad_config(builder, &format!("at most {most}"));
    }
}

#[test]
fn overlapping_ram_is_bad_config() {
    let region = |at| RamRegion::anonymous(GuestAddress(at), 2 << 20).unwrap();
    let error = GuestMemory::from_regions(vec![region(0), region(1 << 20)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig);
    assert!(error.to_string().contains("0x100000..=0x2fffff"), "{error}");
}

#[test]
fn device_windows_that_overlap_are_bad_config() {
    let ports = Plug(|slot| {
        slot.ports(0x100, 8, Arc::new(Idle))?;
        slot.ports(0x107, 1, Arc::new(Idle))
    });
    assert_bad_config(builder([]).device(ports), "overlaps the one at 0x100..=0x107");
    let mmio = Plug(|slot| {
        let at = slot.mmio(Place::Any, 0x1000, Arc::new(Idle))?;
        slot.mmio(Place::At(at), 8, Arc::new(Idle)).map(|_| ())
    });
    assert_bad_config(builder([]).device(mmio), "overlaps the one at");
    let ram =
        Plug(|slot| slot.mmio(Place::At(GuestAddress(0xf_fff8)), 16, Arc::new(Idle)).map(|_| ()));
    assert_bad_config(builder([]).device(ram), "overlaps RAM");
    let beyond = Plug(|slot| slot.ports(0xffff, 2, Arc::new(Idle)));
    assert_bad_config(builder([]).device(beyond), "pass port 0xffff");
    let huge = Plug(|slot| slot.mmio(Place::Any, u64::MAX, Arc::new(Idle)).map(|_| ()));
    assert_bad_config(builder([]).device(huge), "no room");
}

#[test]
fn interrupt_lines_are_given_once_and_run_out_with_the_limit_named() {
    let with_irqs = || builder([]).interrupts(Some(Default::default()));
    let twice = Plug(|slot| {
        slot.irq(Place::At(Gsi(5)))?;
        slot.irq(Place::At(Gsi(5))).map(|_| ())
    });
    assert_bad_config(with_irqs().device(twice), "GSI 5 is taken");
    let beyond = Plug(|slot| slot.irq(Place::At(Gsi(24))).map(|_| ()));
    assert_bad_config(with_irqs().device(beyond), "the last one is 23");
    let all = Plug(|slot| (0..17).try_for_each(|_| slot.irq(Place::Any).map(|_| ())));
    assert_bad_config(with_irqs().device(all), "all 16 interrupt lines");
    with_irqs().device(Plug(|slot| platforms(slot, 16))).build().unwrap();
    assert_bad_config(
        with_irqs().device(Plug(|slot| platforms(slot, 17))),
        "all 16 interrupt lines",
    );
    let none = Plug(|slot| slot.irq(Place::Any).map(|_| ()));
    let error = builder([]).device(none).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Takes windows with interrupt lines that the guest is told of.
fn platforms(slot: &mut Slot<'_>, count: usize) -> Result<()> {
    (0..count).try_for_each(|_| platform(slot, "LNRO0005"))
}

fn platform(slot: &mut Slot<'_>, hid: &'static str) -> Result<()> {
    slot.platform(hid, 0x200, |_| Ok(Arc::new(Idle))).map(|_| ())
}

#[test]
fn a_hardware_id_that_is_none_is_bad_config() {
    type Plugging = fn(&mut Slot<'_>) -> Result<()>;
    let with_irqs = || builder([]).interrupts(Some(Default::default()));
    let cases: [(Plugging, &str); 4] = [
        (|slot| platform(slot, ""), "hardware ID ''"),
        (|slot| platform(slot, "LNRO05"), "hardware ID 'LNRO05'"),
        (|slot| platform(slot, "PNP05G1"), "hardware ID 'PNP05G1'"),
        (|slot| platform(slot, "LNRÖ005"), "hardware ID 'LNRÖ005'"),
    ];
    for (plug, says) in cases {
        assert_bad_config(with_irqs().device(Plug(plug)), says);
    }
    let good = Plug(|slot| platform(slot, "PNP0501").and_then(|()| platform(slot, "ACPI0010")));
    with_irqs().device(good).build().unwrap();
}

#[test]
fn a_fifth_serial_port_is_bad_config() {
    let five = (0..5).fold(builder([]), |builder, _| builder.device(Serial::capture().0));
    assert_bad_config(five, "a serial port are taken");
}

#[test]
fn a_bad_image_is_refused_at_build() {
    let error = builder([]).boot(Flat::real_mode([])).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
}

#[test]
fn a_machine_that_ended_or_was_stopped_does_not_run_again() {
    let ended = builder([]).build().unwrap();
    assert!(matches!(ended.run().unwrap(), Outcome::Fault(_)));
    let error = ended.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    assert!(error.to_string().contains("the script is at its end"), "{error}");

    let stopped = builder([Access::Spin]).build().unwrap();
    stopped.handle().stop().unwrap();
    assert_eq!(stopped.run().unwrap_err().kind(), ErrorKind::WrongState);
}

#[test]
fn a_halted_machine_without_interrupts_goes_on_behind_the_halt() {
    let accesses = [Access::Halt, Access::Halt];
    let machine = builder(accesses).build().unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::Halted);
    assert_eq!(machine.run().unwrap(), Outcome::Halted);
    assert!(matches!(machine.run().unwrap(), Outcome::Fault(_)));
}

#[test]
fn a_machine_runs_on_one_thread_at_a_time_and_stops_from_any() {
    let (knocked, running) = mpsc::sync_channel(1);
    let callback = Callback(move || {
        knocked.send(()).unwrap();
        CONTINUE
    });
    let accesses = [Access::port_out(0x80, &[0]), Access::Spin];
    let machine = Arc::new(builder(accesses).device(callback).build().unwrap());
    let handle = machine.handle();
    let (runner, outcome) = spawn_run(Arc::clone(&machine));
    running.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| handle.stop().unwrap())));
    });
    assert_eq!(outcome.recv_timeout(Duration::from_secs(60)).unwrap(), Ok(Outcome::Stopped));
    runner.join().unwrap();
    assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
    drop(machine);
    handle.stop().unwrap();
}

/// Runs on a thread of its own and sends the outcome, or the kind of error.
fn spawn_run(
    machine: Arc<Machine>,
) -> (thread::JoinHandle<()>, mpsc::Receiver<Result<Outcome, ErrorKind>>) {
    let (sender, receiver) = mpsc::channel();
    let runner = thread::spawn(move || {
        sender.send(machine.run().map_err(|error| error.kind())).unwrap();
    });
    (runner, receiver)
}

/// Does what the test says at each write to port 0x80.
struct Callback<F>(F);

impl<F: Fn() -> Flow + Send + Sync> BusDevice for Callback<F> {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        (self.0)()
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        (self.0)()
    }
}

impl<F: Fn() -> Flow + Send + Sync + 'static> Device for Callback<F> {
    fn name(&self) -> &str {
        "callback"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(0x80, 1, Arc::new(*self))
    }
}

fn knock(times: usize) -> Vec<Access> {
    vec![Access::port_out(0x80, &[0]); times]
}

#[test]
fn run_from_a_callback_of_its_own_is_in_callback() {
    let machine: Arc<OnceLock<Weak<Machine>>> = Arc::default();
    let errors: Arc<Mutex<Vec<Error>>> = Arc::default();
    let (inside, seen) = (Arc::clone(&machine), Arc::clone(&errors));
    let callback = Callback(move || {
        let machine = inside.get().unwrap().upgrade().unwrap();
        seen.lock().unwrap().push(machine.run().unwrap_err());
        CONTINUE
    });
    let built = Arc::new(builder(knock(1)).device(callback).build().unwrap());
    machine.set(Arc::downgrade(&built)).unwrap();
    assert!(matches!(built.run().unwrap(), Outcome::Fault(_)));
    let errors = errors.lock().unwrap();
    assert_eq!(errors.iter().map(Error::kind).collect::<Vec<_>>(), [ErrorKind::InCallback]);
}

#[test]
fn stop_from_a_callback_takes_effect_when_it_returns() {
    let handle = Arc::new(OnceLock::new());
    let inside: Arc<OnceLock<vmm_core::machine::Handle>> = Arc::clone(&handle);
    let callback = Callback(move || {
        inside.get().unwrap().stop().unwrap();
        CONTINUE
    });
    let machine = builder(knock(3)).device(callback).build().unwrap();
    handle.set(machine.handle()).unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::Stopped);
}

#[test]
fn a_machine_dropped_from_a_callback_is_freed_when_run_returns() {
    let owner: Arc<Mutex<Option<Arc<Machine>>>> = Arc::default();
    let inside = Arc::clone(&owner);
    let callback = Callback(move || {
        inside.lock().unwrap().take();
        CONTINUE
    });
    let machine = Arc::new(builder(knock(2)).device(callback).build().unwrap());
    *owner.lock().unwrap() = Some(Arc::clone(&machine));
    let gone = Arc::downgrade(&machine);
    let (runner, outcome) = spawn_run(machine);
    assert!(matches!(outcome.recv().unwrap(), Ok(Outcome::Fault(_))));
    runner.join().unwrap();
    assert!(owner.lock().unwrap().is_none());
    assert!(gone.upgrade().is_none());
}

#[test]
fn a_device_that_panics_is_named_and_its_machine_ends() {
    let callback = Callback(|| panic!("out of cheese"));
    let machine = builder(knock(2)).device(callback).build().unwrap();
    let error = machine.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(error.to_string(), "device 'callback' panicked: out of cheese");
    assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
}

#[test]
fn a_device_that_panics_ends_every_vcpu() {
    for hypervisor in each::back_end("a_device_that_panics_ends_every_vcpu") {
        // out 0x80, al; then spin. The second vCPU waits for a SIPI that never comes.
        let machine = builder([])
            .hypervisor(hypervisor)
            .interrupts(Some(Default::default()))
            .vcpus(2)
            .boot(Flat::real_mode([0xe6, 0x80, 0xeb, 0xfe]))
            .device(Callback(|| panic!("out of cheese")))
            .build()
            .unwrap();
        assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}

#[test]
fn a_device_that_fails_is_named_and_its_machine_ends() {
    let callback = Callback(|| {
        let error = Error::new(ErrorKind::Host, "the disk is gone");
        ControlFlow::Break(VcpuExit::Failed(error))
    });
    let machine = builder(knock(2)).device(callback).build().unwrap();
    let error = machine.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(error.to_string(), "device 'callback': the disk is gone");
}
