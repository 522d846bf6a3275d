//! A machine that was reset is as it was built, without having been built anew.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod each;
mod starter;
mod this_host;

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use vmm_core::{
    Error, ErrorKind, Machine, Result,
    arch::VcpuId,
    boot::{BoardInfo, Entry, Flat, Loader},
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::script::{Access, Script},
    machine::{Builder, Device, Outcome, Slot, State},
    memory::{GuestAddress, GuestMemory},
};
use vmm_devices::{DebugExit, I8042};

const LONG: Duration = Duration::from_secs(60);
const FIRST: VcpuId = VcpuId(0);
/// The port of the device under test.
const PORT: u16 = 0x80;

/// A machine played by a script.
fn builder(script: &Script) -> Builder {
    Machine::builder()
        .hypervisor(script.clone())
        .memory(1 << 20)
        .boot(Flat::real_mode([0xf4]))
        .device(DebugExit::new())
        .device(I8042::new())
}

fn power_off() -> Access {
    Access::port_out(0xf4, &[7])
}

fn reboot() -> Access {
    Access::port_out(0x64, &[0xfe])
}

/// Counts what is written to it; says how often that was and how often it was reset.
#[derive(Default)]
struct Counts {
    writes: AtomicU32,
    resets: AtomicU32,
    panics: AtomicBool,
}

struct Counter(Arc<Counts>);

impl BusDevice for Counter {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        let counts = if offset == 0 { &self.0.writes } else { &self.0.resets };
        data[0] = counts.load(SeqCst) as u8;
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        self.0.writes.fetch_add(1, SeqCst);
        CONTINUE
    }

    fn reset(&self) {
        assert!(!self.0.panics.load(SeqCst), "out of cheese");
        self.0.writes.store(0, SeqCst);
        self.0.resets.fetch_add(1, SeqCst);
    }
}

impl Device for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    /// In two windows: it is to be reset once all the same.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let device: Arc<dyn BusDevice> = Arc::new(*self);
        slot.ports(PORT, 4, Arc::clone(&device))?;
        slot.ports(PORT + 8, 4, device)
    }
}

#[test]
fn each_reset_starts_from_power_on() {
    const MARK: u64 = 0x8000;
    let script = Script::new([
        Access::load(MARK, 1),
        Access::store(MARK, &[1]),
        Access::load(0x7c00, 1),
        Access::store(0x7c00, &[0]),
        Access::port_in(PORT, 1),
        Access::port_out(PORT, &[0]),
        Access::port_in(PORT + 1, 1),
        reboot(),
    ]);
    let machine = builder(&script).vcpus(2).device(Counter(Arc::default())).build().unwrap();
    for round in 0..5_u8 {
        let mut regs = machine.regs(FIRST).unwrap();
        assert_eq!((regs.rip, regs.rbx), (0x7c00, 0));
        (regs.rip, regs.rbx) = (1, 1);
        machine.set_regs(FIRST, &regs).unwrap();
        assert_eq!(machine.run().unwrap(), Outcome::Reset);
        let replies = script.record().replies.split_off(usize::from(round) * 4);
        assert_eq!(replies, [[0], [0xf4], [0], [round]]);
        assert_eq!(machine.handle().state().unwrap(), State::Ended);
        machine.reset().unwrap();
        assert_eq!(machine.handle().state().unwrap(), State::Ready);
        assert!(machine.next_event().unwrap().is_none());
    }
}

#[test]
fn a_paused_machine_goes_on_from_power_on() {
    let script = Script::new([Access::port_out(PORT, &[0]), Access::Spin]);
    let counts = Arc::new(Counts::default());
    let device = Counter(Arc::clone(&counts));
    let machine = Arc::new(builder(&script).vcpus(3).device(device).build().unwrap());
    let runner = {
        let machine = Arc::clone(&machine);
        thread::spawn(move || machine.run())
    };
    let handle = machine.handle();
    for round in 0..50 {
        while counts.writes.load(SeqCst) == 0 {
            thread::yield_now();
        }
        assert_eq!(machine.reset().unwrap_err().kind(), ErrorKind::WrongState);
        handle.pause(LONG).unwrap();
        machine.reset().unwrap();
        assert_eq!(handle.state().unwrap(), State::Paused);
        assert_eq!((counts.writes.load(SeqCst), counts.resets.load(SeqCst)), (0, round + 1));
        handle.resume().unwrap();
    }
    handle.stop().unwrap();
    assert_eq!(runner.join().unwrap().unwrap(), Outcome::Stopped);
}

#[test]
fn what_cannot_be_reset_says_why() {
    let stopped = builder(&Script::new([])).build().unwrap();
    stopped.handle().stop().unwrap();
    let error = stopped.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("it was stopped"), "{error}");

    let machine = builder(&Script::new([Access::port_out(PORT, &[0])]));
    let machine = machine.device(Callback(Box::new(|| panic!("out of cheese")))).build().unwrap();
    machine.run().unwrap_err();
    let error = machine.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("out of cheese"), "{error}");
    assert_eq!(machine.regs(FIRST).unwrap_err().kind(), ErrorKind::Poisoned);
}

/// Does what the test says at each write.
struct Callback(Box<dyn Fn() -> Flow + Send + Sync>);

impl BusDevice for Callback {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        (self.0)()
    }
}

impl Device for Callback {
    fn name(&self) -> &str {
        "callback"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(PORT, 1, Arc::new(*self))
    }
}

#[test]
fn a_device_cannot_reset_its_machine() {
    let slot: Arc<OnceLock<Weak<Machine>>> = Arc::default();
    let kinds: Arc<Mutex<Vec<ErrorKind>>> = Arc::default();
    let device = {
        let (slot, kinds) = (Arc::clone(&slot), Arc::clone(&kinds));
        Callback(Box::new(move || {
            let machine = slot.get().unwrap().upgrade().unwrap();
            kinds.lock().unwrap().push(machine.reset().unwrap_err().kind());
            kinds.lock().unwrap().push(machine.regs(FIRST).unwrap_err().kind());
            CONTINUE
        }))
    };
    let script = Script::new([Access::port_out(PORT, &[0]), power_off()]);
    let machine = Arc::new(builder(&script).device(device).build().unwrap());
    slot.set(Arc::downgrade(&machine)).unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff(7));
    assert_eq!(*kinds.lock().unwrap(), [ErrorKind::InCallback, ErrorKind::InCallback]);
}

#[test]
fn a_reset_that_fails_ends_the_machine() {
    let counts = Arc::new(Counts::default());
    let script = Script::new([reboot()]);
    let machine = builder(&script).device(Counter(Arc::clone(&counts))).build().unwrap();
    machine.run().unwrap();
    counts.panics.store(true, SeqCst);
    let error = machine.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(error.to_string(), "device 'counter' panicked: out of cheese");
    let error = machine.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("resetting: device 'counter' panicked"), "{error}");
    assert_eq!(machine.reset().unwrap_err().kind(), ErrorKind::Poisoned);
}

/// Loads an image the first time it is asked.
struct Once(AtomicBool);

impl Loader for Once {
    fn load(&self, memory: &GuestMemory, board: &BoardInfo) -> Result<Entry> {
        match self.0.swap(true, SeqCst) {
            false => Flat::real_mode([0xf4]).load(memory, board),
            true => Err(Error::bad_image("the file is gone")),
        }
    }
}

#[test]
fn an_image_that_is_gone_at_the_reset_is_an_error() {
    let script = Script::new([reboot()]);
    let machine = builder(&script).boot(Once(AtomicBool::new(false))).build().unwrap();
    machine.run().unwrap();
    let error = machine.reset().unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::BadImage, "the file is gone"));
    assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
}

#[test]
fn a_reset_that_fails_while_paused_ends_the_run_with_the_same_error() {
    let counts = Arc::new(Counts::default());
    let script = Script::new([Access::Spin]);
    let device = Counter(Arc::clone(&counts));
    let machine = Arc::new(builder(&script).vcpus(2).device(device).build().unwrap());
    let runner = {
        let machine = Arc::clone(&machine);
        thread::spawn(move || machine.run())
    };
    while machine.handle().state().unwrap() != State::Running {
        thread::yield_now();
    }
    machine.handle().pause(LONG).unwrap();
    counts.panics.store(true, SeqCst);
    assert_eq!(machine.reset().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(runner.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(machine.handle().state().unwrap(), State::Ended);
}

#[test]
fn memory_of_the_callers_is_zeroed_too() {
    let memory = GuestMemory::memfd(1 << 20).unwrap();
    let script = Script::new([reboot()]);
    let machine = builder(&script).guest_memory(memory.clone()).build().unwrap();
    machine.run().unwrap();
    memory.write_obj(GuestAddress(0xf_fff8), u64::MAX).unwrap();
    machine.reset().unwrap();
    assert_eq!(memory.read_obj::<u64>(GuestAddress(0xf_fff8)).unwrap(), 0);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x7c00)).unwrap(), 0xf4);
}

#[test]
fn resets_pauses_runs_and_looks_at_once_only_ever_find_the_wrong_state() {
    let counts = Arc::new(Counts::default());
    let knocks = vec![Access::port_out(PORT, &[0]); 50];
    let script = Script::new(knocks.into_iter().chain([reboot()]).collect::<Vec<_>>());
    let device = Counter(Arc::clone(&counts));
    let machine = builder(&script).vcpus(2).device(device).build().unwrap();
    let handle = machine.handle();
    let rounds = 1_500;
    let wrong_state = |result: Result<()>| {
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| (0..rounds).for_each(|_| wrong_state(machine.run().map(|_| ()))));
        scope.spawn(|| (0..rounds).for_each(|_| wrong_state(machine.reset())));
        scope.spawn(|| (0..rounds).for_each(|_| wrong_state(machine.regs(FIRST).map(|_| ()))));
        for _ in 0..rounds {
            wrong_state(handle.pause(LONG));
            wrong_state(machine.reset());
            wrong_state(handle.resume());
        }
        // A reset under way refuses a resume.
        while handle.state().unwrap() == State::Paused {
            wrong_state(handle.resume());
        }
    });
    wrong_state(machine.reset());
    assert_eq!(machine.run().unwrap(), Outcome::Reset);
    assert_eq!(counts.writes.load(SeqCst), 50);
}

/// Adds up what it finds in places that power-on decides, changes each of them, and ends with the
/// sum: both PICs' masks, three registers of its APIC, a word of RAM, PAT, LSTAR and CR2.
const SUM: &[u8] = &[
    0x31, 0xdb, //                          xor ebx, ebx
    0xbe, 0x00, 0x00, 0xe0, 0xfe, //        mov esi, 0xfee00000
    0xe4, 0x21, 0x0f, 0xb6, 0xc0, //        in al, 0x21; movzx eax, al
    0x01, 0xc3, //                          add ebx, eax
    0xe4, 0xa1, 0x0f, 0xb6, 0xc0, //        in al, 0xa1; movzx eax, al
    0x01, 0xc3, //                          add ebx, eax
    0x03, 0x9e, 0xf0, 0x00, 0x00, 0x00, //  add ebx, [rsi + 0xf0]
    0x03, 0x9e, 0x80, 0x00, 0x00, 0x00, //  add ebx, [rsi + 0x80]
    0x03, 0x9e, 0x50, 0x03, 0x00, 0x00, //  add ebx, [rsi + 0x350]
    0x03, 0x1c, 0x25, 0x00, 0x00, 0x02, 0x00, // add ebx, [0x20000]
    0xb9, 0x77, 0x02, 0x00, 0x00, 0x0f, 0x32, // mov ecx, 0x277; rdmsr
    0x01, 0xc3, //                          add ebx, eax
    0xb9, 0x82, 0x00, 0x00, 0xc0, 0x0f, 0x32, // mov ecx, 0xc0000082; rdmsr
    0x01, 0xc3, //                          add ebx, eax
    0x0f, 0x20, 0xd0, 0x01, 0xc3, //        mov rax, cr2; add ebx, eax
    0xb0, 0x5a, 0xe6, 0x21, 0xe6, 0xa1, //  mov al, 0x5a; out 0x21, al; out 0xa1, al
    0xc7, 0x86, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00,
    0x00, // mov dword [rsi + 0xf0], 0x1ff
    0xc7, 0x86, 0x80, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00,
    0x00, // mov dword [rsi + 0x80], 0x20
    0xc7, 0x86, 0x50, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01,
    0x00, // mov dword [rsi + 0x350], 0x10000
    0xc7, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00, 0x45, 0x23, 0x01,
    0x00, // mov dword [0x20000], 0x12345
    0xb8, 0x34, 0x12, 0x00, 0x00, //        mov eax, 0x1234
    0x0f, 0x22, 0xd0, 0x31, 0xd2, //        mov cr2, rax; xor edx, edx
    0xb9, 0x82, 0x00, 0x00, 0xc0, 0x0f, 0x30, // mov ecx, 0xc0000082; wrmsr
    0xb9, 0x77, 0x02, 0x00, 0x00, //        mov ecx, 0x277
    0xb8, 0x06, 0x06, 0x06, 0x06, 0x0f, 0x30, // mov eax, 0x6060606; wrmsr
    0x89, 0xd8, 0xe7, 0xf4, //              mov eax, ebx; out 0xf4, eax
    0xeb, 0xe7, //                          jmp to what reads the sum again
];

#[test]
fn processor_chips_and_memory_start_anew() {
    for hypervisor in each::back_end("processor_chips_and_memory_start_anew") {
        let build = || {
            let builder = Machine::builder().hypervisor(Arc::clone(&hypervisor)).memory(4 << 20);
            builder.boot(Flat::long_mode(SUM)).device(DebugExit::new()).build().unwrap()
        };
        let machine = build();
        let (fresh, system) = (machine.run().unwrap(), build().system_regs(FIRST).unwrap());
        assert!(matches!(fresh, Outcome::PowerOff(sum) if sum != 0), "{fresh}");
        for _ in 0..5 {
            machine.reset().unwrap();
            assert_eq!(machine.system_regs(FIRST).unwrap(), system);
            assert_eq!(machine.run().unwrap(), fresh);
        }
    }
}

#[test]
fn application_processors_wait_again_to_be_started() {
    for hypervisor in each::back_end("application_processors_wait_again_to_be_started") {
        let machine = Machine::builder()
            .hypervisor(hypervisor)
            .memory(1 << 20)
            .vcpus(4)
            .boot(starter::image())
            .device(DebugExit::new())
            .build()
            .unwrap();
        for _ in 0..20 {
            assert_eq!(machine.run().unwrap(), Outcome::PowerOff(9));
            machine.reset().unwrap();
            assert_eq!(machine.regs(FIRST).unwrap().rip, starter::ENTRY.0);
        }
    }
}

#[test]
fn a_guest_that_faulted_starts_anew_and_one_whose_device_failed_does_not() {
    let test = "a_guest_that_faulted_starts_anew_and_one_whose_device_failed_does_not";
    for hypervisor in each::back_end(test) {
        // ud2, without an IDT: a triple fault.
        let machine = Machine::builder().hypervisor(Arc::clone(&hypervisor)).memory(1 << 20);
        let machine = machine.boot(Flat::long_mode([0x0f, 0x0b])).build().unwrap();
        for _ in 0..3 {
            assert!(matches!(machine.run().unwrap(), Outcome::Fault(_)));
            machine.reset().unwrap();
        }
        let failing = Callback(Box::new(|| {
            let gone = Error::new(ErrorKind::Host, "the disk is gone");
            ControlFlow::Break(VcpuExit::Failed(gone))
        }));
        let machine = Machine::builder().hypervisor(hypervisor).memory(1 << 20).device(failing);
        // out 0x80, al.
        let machine = machine.boot(Flat::real_mode([0xe6, PORT as u8])).build().unwrap();
        assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(machine.reset().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}
