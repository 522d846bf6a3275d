//! The hypervisor without a CPU does to a machine what a guest would, and says what came of it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::{
    sync::{Arc, Mutex},
    thread,
};

use vmm_core::{
    ErrorKind, Machine, Result,
    boot::Flat,
    bus::{Locked, LockedDevice},
    exit::{CONTINUE, FaultKind, Flow, VcpuExit},
    hv::{
        Access as Allow, Caps, Hypervisor, IoAddress, Match, MemorySlot, Vm, VmConfig,
        script::{Access, Script},
    },
    irq::{EventFd, Gsi, IrqLine},
    machine::{Device, Outcome, Place, Slot},
    memory::{GuestAddress, RamRegion},
};

const RAM: u64 = 1 << 20;
const MMIO: u64 = 0xd000_0000;
const PORT: u16 = 0x300;
/// A register that resets the machine.
const RESET: u64 = 0xc;
/// The device's interrupt line.
const LINE: Gsi = Gsi(16);

/// A script whose VM the test keeps, because a machine does not give it away.
#[derive(Clone)]
struct Tapped {
    script: Script,
    vm: Arc<Mutex<Option<Arc<dyn Vm>>>>,
}

impl Tapped {
    fn new(accesses: impl Into<Vec<Access>>) -> Self {
        Self { script: Script::new(accesses), vm: Arc::default() }
    }

    fn vm(&self) -> Arc<dyn Vm> {
        self.vm.lock().unwrap().clone().expect("a machine was built")
    }
}

impl Hypervisor for Tapped {
    fn name(&self) -> &'static str {
        self.script.name()
    }

    fn caps(&self) -> &Caps {
        self.script.caps()
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        let vm = self.script.create_vm(config)?;
        *self.vm.lock().unwrap() = Some(Arc::clone(&vm));
        Ok(vm)
    }
}

impl From<Tapped> for Arc<dyn Hypervisor> {
    fn from(tapped: Tapped) -> Self {
        Arc::new(tapped)
    }
}

/// 16 bytes that remember what is written and raise a line for each write.
struct Registers {
    bytes: [u8; 16],
    line: IrqLine,
}

impl LockedDevice for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Flow {
        data.copy_from_slice(&self.bytes[offset as usize..][..data.len()]);
        CONTINUE
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Flow {
        if offset == RESET {
            return Flow::Break(VcpuExit::Reset);
        }
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
        self.line.pulse();
        CONTINUE
    }
}

struct Plugged;

impl Device for Plugged {
    fn name(&self) -> &str {
        "registers"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let line = slot.irq(Place::At(LINE))?;
        let device = Arc::new(Locked::new(Registers { bytes: [0; 16], line }));
        slot.ports(PORT, 16, device.clone())?;
        slot.mmio(Place::At(GuestAddress(MMIO)), 16, device).map(drop)
    }
}

fn machine(hypervisor: impl Into<Arc<dyn Hypervisor>>) -> Machine {
    let builder = Machine::builder().hypervisor(hypervisor).memory(RAM).device(Plugged);
    builder.boot(Flat::real_mode([0xf4])).build().unwrap()
}

/// Runs up to the end of the script.
fn run(machine: &Machine) {
    let outcome = machine.run().unwrap();
    let at_its_end = FaultKind::Other("the script is at its end".into());
    assert!(matches!(&outcome, Outcome::Fault(fault) if fault.kind == at_its_end), "{outcome}");
}

#[test]
fn replies_are_what_ram_and_devices_gave() {
    let script = Script::new([
        Access::store(0x9000, &[1, 2, 3, 4]),
        Access::load(0x9001, 2),
        Access::port_out(PORT, &[5]),
        Access::store(MMIO + 1, &[6, 7]),
        Access::load(MMIO, 4),
        Access::port_in(PORT + 1, 2),
        Access::port_in(0x80, 4),
        Access::load(MMIO + 0x1000, 8),
    ]);
    let machine = machine(script.clone());
    run(&machine);
    let replies = [vec![2, 3], vec![5, 6, 7, 0], vec![6, 7], vec![0xff; 4], vec![0xff; 8]];
    assert_eq!(script.record().replies, replies);
    assert_eq!(machine.memory().read_obj::<u32>(GuestAddress(0x9000)).unwrap(), 0x0403_0201);
}

#[test]
fn every_change_of_a_line_is_recorded_in_order() {
    let script = Script::new([Access::port_out(PORT, &[1]), Access::store(MMIO, &[1])]);
    run(&machine(script.clone()));
    let pulse = [(LINE, true), (LINE, false)];
    assert_eq!(script.record().lines, [pulse, pulse].concat());
    assert_eq!(script.record().messages, []);
}

#[test]
fn a_doorbell_rings_instead_of_its_device_while_it_is_there() {
    let tapped = Tapped::new([
        Access::store(MMIO, &5u32.to_le_bytes()),
        Access::store(MMIO, &6u32.to_le_bytes()),
        Access::store(MMIO, &5u16.to_le_bytes()),
        Access::port_out(PORT, &[1]),
        Access::port_out(PORT, &[1, 2]),
        Access::Spin,
    ]);
    let machine = machine(tapped.clone());
    let vm = tapped.vm();
    let bells = vm.doorbells().unwrap();
    let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let (five, any) = (event(), event());
    let at = IoAddress::Mmio(GuestAddress(MMIO));
    bells.add(at, Match::U32(5), &five).unwrap();
    bells.add(IoAddress::Port(PORT), Match::Any, &any).unwrap();
    // The store of 6 finds this one gone.
    bells.add(at, Match::U32(6), &any).unwrap();
    bells.remove(at, Match::U32(6), &any).unwrap();
    let gone = bells.remove(at, Match::U32(6), &any).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let taken = bells.add(at, Match::U32(5), &any).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::BadConfig);

    let (handle, script) = (machine.handle(), tapped.script.clone());
    thread::spawn(move || {
        // The device's last two changes come with the last access before the guest spins.
        while script.record().lines.len() < 4 {
            thread::yield_now();
        }
        handle.stop().unwrap();
    });
    assert_eq!(machine.run().unwrap(), Outcome::Stopped);
    assert_eq!((five.read().unwrap(), any.read().unwrap()), (1, 2));
    // The device has seen the two stores that did not match.
    assert_eq!(tapped.script.record().lines.len(), 4);
}

#[test]
fn the_dirty_log_has_the_pages_stored_to_and_forgets_them() {
    let at = 4 << 20;
    let tapped = Tapped::new([
        Access::store(at, &[1]),
        Access::store(at + 0x40_fff, &[1, 2]),
        Access::load(at + 0x2000, 8),
        Access::store(0x9000, &[1]),
    ]);
    let machine = machine(tapped.clone());
    let region = RamRegion::anonymous(GuestAddress(at), 0x46_000).unwrap();
    let vm = tapped.vm();
    vm.map(MemorySlot { log_dirty: true, ..MemorySlot::whole(region) }).unwrap();
    run(&machine);
    let log = vm.dirty_log().unwrap();
    assert_eq!(log.take(GuestAddress(at)).unwrap(), [1, 0b11]);
    assert_eq!(log.take(GuestAddress(at)).unwrap(), [0, 0]);
    for unlogged in [0, at + 0x1000] {
        let error = log.take(GuestAddress(unlogged)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{unlogged:#x}");
    }
}

#[test]
fn a_read_only_slot_takes_no_stores() {
    let at = 4 << 20;
    let tapped = Tapped::new([Access::store(at, &[1]), Access::load(at, 1)]);
    let machine = machine(tapped.clone());
    let region = RamRegion::anonymous(GuestAddress(at), 0x1000).unwrap();
    let slot = MemorySlot { access: Allow::ReadOnly, ..MemorySlot::whole(region) };
    tapped.vm().map(slot).unwrap();
    run(&machine);
    assert_eq!(tapped.script.record().replies, [vec![0]]);
}

#[test]
fn the_script_goes_on_behind_a_halt() {
    let script = Script::new([Access::Halt, Access::load(0, 1)]);
    let builder = Machine::builder().hypervisor(script.clone()).memory(RAM).interrupts(None);
    let machine = builder.boot(Flat::real_mode([0xf4])).build().unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::Halted);
    assert_eq!(script.record().replies.len(), 0);
    run(&machine);
    assert_eq!(script.record().replies.len(), 1);
}

#[test]
fn a_reset_by_a_device_is_final() {
    let machine = machine(Script::new([Access::store(MMIO + RESET, &[1]), Access::Spin]));
    assert_eq!(machine.run().unwrap(), Outcome::Reset);
    assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
}
