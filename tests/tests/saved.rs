//! Machines that are saved and restored: what their devices were, who may do it when, and records
//! that are not to be trusted. Guests are scripts; `hvc.rs` moves Debian's kernel.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use vmm_core::{
    ErrorKind, Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    hv::script::{Access, Script},
    machine::{Builder, Device, Outcome, Slot, State},
    persist::{StateReader, StateWriter},
};
use vmm_devices::{Block, Console, DebugExit, I8042, MemoryImage, Rng, Rtc, Serial};

const WITHIN: Duration = Duration::from_secs(60);

fn builder(script: &Script) -> Builder {
    let builder = Machine::builder().hypervisor(script.clone()).memory(1 << 20);
    builder.boot(Flat::real_mode([0xf4]))
}

/// A machine with one of everything.
fn whole(script: &Script) -> Machine {
    let console = Console::capture().unwrap().0.size(80, 25).room(2).unwrap();
    builder(script)
        .device(Serial::capture().0.with_input_bytes("unread"))
        .device(Rtc::with_clock(|| UNIX_EPOCH))
        .device(I8042::new())
        .device(DebugExit::new())
        .device(Block::image(MemoryImage::new(1 << 20).unwrap()).unwrap())
        .device(Rng::new().unwrap())
        .device(console)
        .build()
        .unwrap()
}

fn save(machine: &Machine) -> Vec<u8> {
    let mut out = StateWriter::new();
    machine.save(&mut out).unwrap();
    out.into_bytes().unwrap()
}

fn restore(machine: &Machine, saved: &[u8]) -> Result<()> {
    let mut from = StateReader::from_bytes(saved)?;
    machine.restore(&mut from)?;
    from.finish()
}

/// The window of the first virtio device, and its register of the status.
const STATUS: u64 = 0xd000_0070;

#[test]
fn each_device_is_what_it_was() {
    let set_up = [
        // Scratch of the serial port, a byte of CMOS, the configuration of the keyboard controller,
        // the enable register of ACPI; a virtio driver that has come half the way.
        Access::port_out(0x3ff, &[0x5a]),
        Access::port_out(0x70, &[0x40]),
        Access::port_out(0x71, &[0x77]),
        Access::port_out(0x64, &[0x60]),
        Access::port_out(0x60, &[0x45]),
        Access::port_out(0x602, &[0x20, 0x01]),
        Access::store(STATUS, &3_u32.to_le_bytes()),
        Access::store(STATUS - 0x40, &7_u32.to_le_bytes()),
        Access::load(STATUS, 4),
        Access::Spin,
    ];
    let played = set_up.len() - 1;
    let script = Script::new(set_up);
    let machine = Arc::new(whole(&script));
    let runner = machine.start().unwrap();
    let start = Instant::now();
    while script.record().replies.is_empty() {
        assert!(start.elapsed() < WITHIN);
        thread::yield_now();
    }
    machine.handle().pause(WITHIN).unwrap();
    let saved = save(&machine);
    assert_eq!(save(&machine), saved, "saving changes nothing");
    assert_eq!(machine.handle().state().unwrap(), State::Paused);
    machine.handle().stop().unwrap();
    runner.join().unwrap().unwrap();

    let look = [
        Access::port_in(0x3ff, 1),
        Access::port_in(0x71, 1),
        Access::port_out(0x64, &[0x20]),
        Access::port_in(0x60, 1),
        Access::port_in(0x602, 2),
        Access::load(STATUS, 4),
        Access::port_in(0x3f8, 1),
        Access::port_out(0xf4, &[9]),
    ];
    // It goes on where the other one stood.
    let skipped = vec![Access::port_out(0xf4, &[1]); played];
    let script = Script::new([skipped, look.to_vec()].concat());
    let machine = whole(&script);
    restore(&machine, &saved).unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff(9));
    let expected = [vec![0x5a], vec![0x77], vec![0x45], vec![0x20, 1], vec![3, 0, 0, 0]];
    let replies = script.record().replies;
    assert_eq!(replies[..5], expected);
    assert_eq!(replies[5], [b'u'], "input that waited is there");
}

#[test]
fn another_machine_is_incompatible() {
    let saved = save(&whole(&Script::new([])));
    let others = [
        builder(&Script::new([])),
        builder(&Script::new([])).memory(2 << 20),
        builder(&Script::new([])).device(I8042::new()).device(Rtc::now()),
    ];
    for other in others {
        let other = other.build().unwrap();
        let error = restore(&other, &saved).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        // It is nothing whole any more.
        assert_eq!(other.run().unwrap_err().kind(), ErrorKind::WrongState);
    }
    let same = whole(&Script::new([]));
    restore(&same, &saved).unwrap();
}

#[test]
fn records_are_not_trusted() {
    let saved = save(&whole(&Script::new([Access::Halt])));
    for at in (0..saved.len()).step_by(7) {
        for change in [1, 0x80, 0xff] {
            let mut bytes = saved.clone();
            bytes[at] ^= change;
            let machine = whole(&Script::new([Access::Halt]));
            if restore(&machine, &bytes).is_ok() {
                let _ = machine.run();
            }
        }
    }
}

/// Has state and says nothing of it; calls its machine when it is accessed.
#[derive(Clone, Default)]
struct Silent {
    machine: Arc<OnceLock<Arc<Machine>>>,
    found: Arc<Mutex<Vec<ErrorKind>>>,
}

impl BusDevice for Silent {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        if let Some(machine) = self.machine.get() {
            let saved = machine.save(&mut StateWriter::new()).unwrap_err();
            let restored = restore(machine, &[0]).unwrap_err();
            self.found.lock().unwrap().extend([saved.kind(), restored.kind()]);
        }
        CONTINUE
    }
}

impl Device for Silent {
    fn name(&self) -> &str {
        "silent"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(0x99, 1, Arc::new(*self))
    }
}

#[test]
fn a_device_that_cannot_be_saved_is_named() {
    let machine = builder(&Script::new([])).device(Silent::default()).build().unwrap();
    let error = machine.save(&mut StateWriter::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("'silent'"), "{error}");
    // Nothing happened to it.
    assert_eq!(machine.handle().state().unwrap(), State::Ready);
}

#[test]
fn only_a_machine_that_stands_still_is_saved() {
    let script = Script::new([Access::port_out(0x99, &[0]), Access::Spin]);
    let silent = Silent::default();
    let machine = builder(&script).device(silent.clone()).build().unwrap();
    let machine = Arc::new(machine);
    let _ = silent.machine.set(Arc::clone(&machine));
    let runner = machine.start().unwrap();
    let start = Instant::now();
    while silent.found.lock().unwrap().len() < 2 {
        assert!(start.elapsed() < WITHIN);
        thread::yield_now();
    }
    assert_eq!(*silent.found.lock().unwrap(), [ErrorKind::InCallback, ErrorKind::InCallback]);
    let error = machine.save(&mut StateWriter::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    machine.handle().stop().unwrap();
    runner.join().unwrap().unwrap();
    let error = machine.save(&mut StateWriter::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "there is nothing to go on with: {error}");
}
