//! A device in a machine whose guest is a script: doorbell, reactor, interrupt, pause.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Machine,
    boot::Flat,
    hv::script::{Access, Script},
    irq::Gsi,
    machine::{Accounting, Outcome},
    memory::GuestAddress,
    virtio::Traffic,
};

use crate::Echo;

const WINDOW: u64 = 0xd000_0000;
const DESCRIPTORS: u64 = 0x4000;
const DRIVER: u64 = 0x5000;
const DEVICE: u64 = 0x6000;
const BUFFER: u64 = 0x7000;

/// What a guest's driver does to lend the device one chain: a byte to read, one to write.
fn script() -> Vec<Access> {
    let set = |register: u64, value: u32| Access::store(WINDOW + register, &value.to_le_bytes());
    let mut script = vec![Access::load(WINDOW, 4), Access::load(WINDOW + 8, 4)];
    script.extend([set(0x70, 3), set(0x24, 1), set(0x20, 1), set(0x70, 11)]);
    script.extend([set(0x80, DESCRIPTORS as u32), set(0x90, DRIVER as u32)]);
    script.extend([set(0xa0, DEVICE as u32), set(0x44, 1), set(0x70, 15)]);
    let describe = |n: u64, at: u64, flags: u16, next: u16| {
        let at_descriptor = DESCRIPTORS + 16 * n;
        let rest = 1_u64 | u64::from(flags) << 32 | u64::from(next) << 48;
        [
            Access::store(at_descriptor, &at.to_le_bytes()),
            Access::store(at_descriptor + 8, &rest.to_le_bytes()),
        ]
    };
    script.extend(describe(0, BUFFER, 1, 1));
    script.extend(describe(1, BUFFER + 1, 2, 0));
    script.push(Access::store(BUFFER, b"a"));
    script.extend([Access::store(DRIVER + 4, &[0, 0]), Access::store(DRIVER + 2, &[1, 0])]);
    script.extend([set(0x50, 0), Access::Spin]);
    script
}

fn machine(echo: &Echo, script: &Script) -> Arc<Machine> {
    let builder = Machine::builder().hypervisor(script.clone()).memory(1 << 20);
    let builder = builder.boot(Flat::real_mode([0xf4])).device(echo.clone());
    Arc::new(builder.account(Accounting::Counts).build().unwrap())
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_guest_lends_a_chain_and_gets_it_back() {
    let script = Script::new(script());
    let machine = machine(&Echo::default(), &script);
    let runner = Arc::clone(&machine);
    let runner = thread::spawn(move || runner.run());
    let used = || machine.memory().read_obj::<u16>(GuestAddress(DEVICE + 2)).unwrap();
    wait_for("the chain to come back", || used() == 1);
    wait_for("the interrupt", || script.record().lines.contains(&(Gsi(16), true)));
    // The device may have found the chain when its driver was ready, before that rang.
    wait_for("the bell", || machine.exits().unwrap().virtio[0].1.notifications == 1);
    machine.handle().stop().unwrap();
    assert_eq!(runner.join().unwrap().unwrap(), Outcome::Stopped);
    assert_eq!(machine.memory().read_obj::<[u8; 2]>(GuestAddress(BUFFER)).unwrap(), *b"ab");
    assert_eq!(script.record().replies, [b"virt".to_vec(), vec![42, 0, 0, 0]]);
    let [(name, traffic)] = &machine.exits().unwrap().virtio[..] else { panic!("one device") };
    let Traffic { notifications, interrupts, requests, read_bytes, written_bytes, errors, .. } =
        *traffic;
    assert_eq!((name.as_str(), notifications, interrupts), ("echo", 1, 1));
    assert_eq!((requests, read_bytes, written_bytes, errors), (1, 1, 1, 0));
}

#[test]
fn a_pause_waits_for_what_a_device_has_begun() {
    let script = Script::new(script());
    let echo = Echo::keeping();
    let machine = machine(&echo, &script);
    let runner = Arc::clone(&machine);
    let runner = thread::spawn(move || runner.run());
    wait_for("the chain to be lent", || echo.kept() == 1);
    let error = machine.handle().pause(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), vmm_core::ErrorKind::Host, "{error}");
    thread::scope(|scope| {
        let pause = scope.spawn(|| machine.handle().pause(Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(20));
        echo.complete_all();
        pause.join().unwrap().unwrap();
    });
    let used = machine.memory().read_obj::<u16>(GuestAddress(DEVICE + 2)).unwrap();
    assert_eq!(used, 1, "complete once the machine is paused");
    machine.handle().resume().unwrap();
    machine.handle().stop().unwrap();
    runner.join().unwrap().unwrap();
}

#[test]
fn a_machine_that_is_reset_has_a_new_device() {
    let accesses: Vec<_> = script().into_iter().filter(|a| *a != Access::Spin).collect();
    let mut accesses = accesses;
    accesses.push(Access::port_out(0x608, &[1]));
    accesses.push(Access::load(WINDOW + 0x70, 4));
    accesses.push(Access::load(WINDOW + 0x44, 4));
    accesses.push(Access::port_out(0x608, &[1]));
    let script = Script::new(accesses);
    let machine = machine(&Echo::default(), &script);
    assert_eq!(machine.run().unwrap(), Outcome::Reset);
    machine.reset().unwrap();
    // A script's vCPU begins anew with its machine.
    assert_eq!(machine.run().unwrap(), Outcome::Reset);
    assert_eq!(script.record().replies.len(), 4);
}

#[test]
fn as_many_devices_as_there_are_lines() {
    let build = |count| {
        let mut builder = Machine::builder().hypervisor(Script::new([])).memory(1 << 20);
        builder = builder.boot(Flat::real_mode([0xf4]));
        for _ in 0..count {
            builder = builder.device(Echo::default());
        }
        builder.build()
    };
    build(16).unwrap();
    let error = build(17).unwrap_err();
    assert!(error.to_string().contains("all 16 interrupt lines"), "{error}");
}
