//! A machine that is paused stands still, can be looked at, and goes on as if nothing had been.
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
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_core::{
    ErrorKind, Machine, Result,
    arch::VcpuId,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    hv::script::{Access, Script},
    machine::{Builder, Device, Event, Handle, Outcome, Slot, State},
    memory::GuestAddress,
};
use vmm_devices::DebugExit;

/// Longer than any pause takes.
const LONG: Duration = Duration::from_secs(60);
/// The port of the device under test.
const KNOCK: u16 = 0x80;
const FIRST: VcpuId = VcpuId(0);

/// A device that does what the test says when it is written to.
struct Callback<F>(F);

impl<F: Fn() -> Flow + Send + Sync> BusDevice for Callback<F> {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
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
        slot.ports(KNOCK, 1, Arc::new(*self))
    }
}

/// Counts its writes.
fn counter() -> (Callback<impl Fn() -> Flow + Send + Sync>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let count_one = move || {
        counted.fetch_add(1, SeqCst);
        CONTINUE
    };
    (Callback(count_one), count)
}

fn knock() -> Access {
    Access::port_out(KNOCK, &[0])
}

fn power_off() -> Access {
    Access::port_out(0xf4, &[7])
}

/// A machine played by a script.
fn builder(accesses: impl Into<Vec<Access>>) -> Builder {
    Machine::builder()
        .hypervisor(Script::new(accesses))
        .memory(1 << 20)
        .boot(Flat::real_mode([0xf4]))
        .device(DebugExit::new())
}

/// A machine on a thread of its own.
struct Running {
    machine: Arc<Machine>,
    handle: Handle,
    outcome: mpsc::Receiver<Result<Outcome>>,
}

impl Running {
    fn start(machine: Machine) -> Self {
        let machine = Arc::new(machine);
        let (sender, outcome) = mpsc::channel();
        let running = Arc::clone(&machine);
        thread::spawn(move || sender.send(running.run()).unwrap());
        let handle = machine.handle();
        while handle.state().unwrap() == State::Ready {
            thread::yield_now();
        }
        Self { handle, machine, outcome }
    }

    fn end(&self) -> Result<Outcome> {
        self.outcome.recv_timeout(LONG).expect("the run does not end")
    }

    fn has_ended(&self) -> bool {
        self.machine.handle().state().unwrap() == State::Ended
    }

    fn wait_until(&self, state: State) {
        let start = Instant::now();
        while self.handle.state().unwrap() != state {
            assert!(start.elapsed() < LONG, "still {:?}", self.handle.state());
            thread::yield_now();
        }
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Whether the machine's descriptor says that an event waits.
fn is_readable(machine: &Machine) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(machine.event_fd().unwrap(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn a_paused_machine_stands_still_and_goes_on() {
    let (device, count) = counter();
    let script = [knock(), Access::Spin];
    let running = Running::start(builder(script).vcpus(3).device(device).build().unwrap());
    while count.load(SeqCst) == 0 {
        thread::yield_now();
    }
    assert_eq!(running.handle.state().unwrap(), State::Running);
    assert_eq!(kind(running.machine.regs(FIRST)), ErrorKind::WrongState);
    running.handle.pause(LONG).unwrap();
    running.handle.pause(LONG).unwrap();
    assert_eq!(running.handle.state().unwrap(), State::Paused);
    assert_eq!(running.machine.regs(VcpuId(2)).unwrap().rip, 0);
    assert_eq!(running.machine.regs(FIRST).unwrap().rip, 0x7c00);
    assert!(!running.machine.system_regs(FIRST).unwrap().cs.long);
    assert_eq!(kind(running.machine.regs(VcpuId(3))), ErrorKind::NotFound);
    assert_eq!(kind(running.machine.run()), ErrorKind::WrongState);
    running.handle.resume().unwrap();
    assert_eq!(running.handle.state().unwrap(), State::Running);
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
}

#[test]
fn a_machine_that_was_started_runs_for_everyone_at_once() {
    for _ in 0..50 {
        let machine = Arc::new(builder([Access::Spin]).vcpus(2).build().unwrap());
        let runner = machine.start().unwrap();
        assert_eq!(machine.handle().state().unwrap(), State::Running);
        assert_eq!(kind(machine.run()), ErrorKind::WrongState);
        assert_eq!(machine.start().unwrap_err().kind(), ErrorKind::WrongState);
        machine.handle().pause(LONG).unwrap();
        machine.handle().stop().unwrap();
        assert_eq!(runner.join().unwrap().unwrap(), Outcome::Stopped);
        assert!(matches!(machine.next_event(), Ok(Some(Event::Ended(Ok(Outcome::Stopped))))));
    }
}

#[test]
fn a_pause_before_the_run_makes_it_wait() {
    let (device, count) = counter();
    let machine = builder([knock(), power_off()]).vcpus(2).device(device).build().unwrap();
    let handle = machine.handle();
    assert_eq!(handle.state().unwrap(), State::Ready);
    handle.pause(Duration::ZERO).unwrap();
    assert_eq!(handle.state().unwrap(), State::Paused);
    let running = Running::start(machine);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(running.handle.state().unwrap(), State::Paused);
    assert_eq!(count.load(SeqCst), 0);
    let mut regs = running.machine.regs(FIRST).unwrap();
    regs.rbx = 5;
    running.machine.set_regs(FIRST, &regs).unwrap();
    handle.resume().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
    assert_eq!(count.load(SeqCst), 1);
    assert_eq!(running.machine.regs(FIRST).unwrap().rbx, 5);
}

#[test]
fn a_paused_machine_can_be_stopped_and_dropped() {
    let running = Running::start(builder([Access::Spin]).vcpus(2).build().unwrap());
    running.handle.pause(LONG).unwrap();
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
    assert_eq!(running.handle.state().unwrap(), State::Ended);
    assert_eq!(kind(running.handle.pause(LONG)), ErrorKind::WrongState);
    running.handle.resume().unwrap();

    let machine = builder([Access::Spin]).build().unwrap();
    let handle = machine.handle();
    handle.pause(LONG).unwrap();
    handle.stop().unwrap();
    assert_eq!(handle.state().unwrap(), State::Ended);
    drop(machine);
    assert_eq!(handle.state().unwrap(), State::Ended);
    assert_eq!(kind(handle.pause(LONG)), ErrorKind::WrongState);
    handle.resume().unwrap();
}

#[test]
fn a_machine_that_ended_cannot_be_paused_but_be_looked_at() {
    let machine = builder([power_off()]).build().unwrap();
    machine.run().unwrap();
    let error = machine.handle().pause(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("powered off with code 7"), "{error}");
    assert_eq!(machine.regs(FIRST).unwrap().rip, 0x7c00);
}

#[test]
fn a_halted_machine_can_be_paused_between_two_runs() {
    let script = [Access::Halt, Access::Halt];
    let machine = builder(script).interrupts(None).build().unwrap();
    let handle = machine.handle();
    assert_eq!(machine.run().unwrap(), Outcome::Halted);
    handle.pause(Duration::ZERO).unwrap();
    let running = Running::start(machine);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(handle.state().unwrap(), State::Paused);
    handle.resume().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Halted);
}

/// A device that keeps its thread until the test lets it go.
fn stuck() -> (Callback<impl Fn() -> Flow + Send + Sync>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (inside, entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let device = Callback(move || {
        inside.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        CONTINUE
    });
    (device, entered, release)
}

#[test]
fn a_pause_that_times_out_changes_nothing() {
    let (device, entered, release) = stuck();
    let running = Running::start(
        builder([knock(), knock(), power_off()]).vcpus(3).device(device).build().unwrap(),
    );
    entered.recv_timeout(LONG).unwrap();
    let error = running.handle.pause(Duration::from_millis(20)).unwrap_err();
    assert_eq!((error.kind(), error.os_error()), (ErrorKind::Host, Some(libc::ETIMEDOUT)));
    assert_eq!(running.handle.state().unwrap(), State::Running);
    release.send(()).unwrap();
    // It is not held, or it would not come here again.
    entered.recv_timeout(LONG).unwrap();
    release.send(()).unwrap();
    assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
}

#[test]
fn a_pause_that_times_out_leaves_that_of_another_thread() {
    let (device, entered, release) = stuck();
    let running = Running::start(builder([knock(), Access::Spin]).device(device).build().unwrap());
    entered.recv_timeout(LONG).unwrap();
    let patient = {
        let handle = running.handle.clone();
        thread::spawn(move || handle.pause(LONG))
    };
    thread::sleep(Duration::from_millis(50));
    assert_eq!(kind(running.handle.pause(Duration::from_millis(1))), ErrorKind::Host);
    release.send(()).unwrap();
    patient.join().unwrap().unwrap();
    assert_eq!(running.handle.state().unwrap(), State::Paused);
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
}

#[test]
fn a_pause_that_times_out_leaves_one_that_was_requested() {
    let (device, entered, release) = stuck();
    let running = Running::start(builder([knock(), Access::Spin]).device(device).build().unwrap());
    entered.recv_timeout(LONG).unwrap();
    running.handle.request_pause().unwrap();
    assert_eq!(kind(running.handle.pause(Duration::from_millis(1))), ErrorKind::Host);
    release.send(()).unwrap();
    running.wait_until(State::Paused);
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
}

#[test]
fn a_resume_takes_back_a_pause_that_is_not_complete() {
    let (device, entered, release) = stuck();
    let running = Running::start(builder([knock(), power_off()]).device(device).build().unwrap());
    entered.recv_timeout(LONG).unwrap();
    let pauser = {
        let handle = running.handle.clone();
        thread::spawn(move || handle.pause(LONG))
    };
    // One before the pause takes nothing back.
    while !pauser.is_finished() {
        running.handle.resume().unwrap();
        thread::yield_now();
    }
    assert_eq!(kind(pauser.join().unwrap()), ErrorKind::WrongState);
    release.send(()).unwrap();
    assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
}

#[test]
fn a_pause_that_meets_the_guests_end_says_so() {
    let (device, entered, release) = stuck();
    let script = [knock(), power_off()];
    let running = Running::start(builder(script).device(device).build().unwrap());
    entered.recv_timeout(LONG).unwrap();
    running.handle.request_pause().unwrap();
    // The stop comes while the device still works: it goes before the pause.
    let pauser = {
        let handle = running.handle.clone();
        thread::spawn(move || handle.pause(LONG))
    };
    thread::sleep(Duration::from_millis(20));
    running.handle.stop().unwrap();
    release.send(()).unwrap();
    assert_eq!(kind(pauser.join().unwrap()), ErrorKind::WrongState);
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
    assert!(running.has_ended());
}

#[test]
fn a_device_cannot_pause_but_ask_for_it() {
    let slot: Arc<OnceLock<Handle>> = Arc::default();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let device = {
        let (slot, answers) = (Arc::clone(&slot), Arc::clone(&answers));
        Callback(move || {
            let handle = slot.get().unwrap();
            answers.lock().unwrap().push(handle.pause(LONG).map_err(|error| error.kind()));
            answers.lock().unwrap().push(handle.request_pause().map_err(|error| error.kind()));
            CONTINUE
        })
    };
    let machine = builder([knock(), power_off()]).vcpus(2).device(device).build().unwrap();
    slot.set(machine.handle()).unwrap();
    let running = Running::start(machine);
    running.wait_until(State::Paused);
    assert_eq!(*answers.lock().unwrap(), [Err(ErrorKind::InCallback), Ok(())]);
    running.handle.resume().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
}

#[test]
fn the_event_descriptor_is_readable_while_there_is_something_to_tell() {
    let machine = builder([Access::Spin]).vcpus(2).build().unwrap();
    assert!(!is_readable(&machine));
    assert!(machine.next_event().unwrap().is_none());
    machine.handle().pause(LONG).unwrap();
    assert!(is_readable(&machine));
    machine.handle().resume().unwrap();
    assert!(!is_readable(&machine), "the pause is over");

    let running = Running::start(machine);
    running.handle.request_pause().unwrap();
    running.wait_until(State::Paused);
    let machine = &running.machine;
    assert!(is_readable(machine));
    assert!(matches!(machine.next_event().unwrap(), Some(Event::Paused)));
    assert!(!is_readable(machine));
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
    assert!(is_readable(machine));
    let event = machine.next_event().unwrap();
    assert!(matches!(event, Some(Event::Ended(Ok(Outcome::Stopped)))), "{event:?}");
    assert!(machine.next_event().unwrap().is_none());
    assert!(!is_readable(machine));
}

#[test]
fn an_event_that_came_before_the_descriptor_is_not_lost() {
    let machine = builder([Access::Halt, Access::Halt]).interrupts(None).build().unwrap();
    machine.run().unwrap();
    assert!(is_readable(&machine));
    machine.run().unwrap();
    let event = machine.next_event().unwrap();
    assert!(matches!(event, Some(Event::Ended(Ok(Outcome::Halted)))), "{event:?}");
    assert!(!is_readable(&machine));
}

#[test]
fn a_stop_is_told_once_whether_it_meets_a_run_or_not() {
    let mut seed = 3;
    for _ in 0..2_000 {
        let machine = Arc::new(builder([Access::Spin]).build().unwrap());
        let running = Arc::clone(&machine);
        let runner = thread::spawn(move || drop(running.run()));
        dawdle(&mut seed);
        machine.handle().stop().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(machine.event_fd().unwrap(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        let event = machine.next_event().unwrap();
        assert!(matches!(event, Some(Event::Ended(Ok(Outcome::Stopped)))), "{event:?}");
        runner.join().unwrap();
        machine.handle().stop().unwrap();
        assert!(machine.next_event().unwrap().is_none());
    }
}

/// A pseudo-random number that decides how long to dawdle.
fn dawdle(seed: &mut u64) {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (0..*seed >> 54).for_each(|_| std::hint::spin_loop());
}

#[test]
fn thousands_of_pauses_lose_and_repeat_nothing() {
    const ACCESSES: usize = 300_000;
    let (device, count) = counter();
    let mut script = vec![knock(); ACCESSES];
    script.push(power_off());
    let running = Running::start(builder(script).vcpus(2).device(device).build().unwrap());
    let (mut seed, mut pauses) = (1, 0);
    // On some hosts the guest hardly comes to run between two of them.
    while pauses < 10_000 {
        match running.handle.pause(LONG) {
            Ok(()) => {
                let before = count.load(SeqCst);
                dawdle(&mut seed);
                assert_eq!(running.handle.state().unwrap(), State::Paused);
                assert_eq!(running.machine.regs(FIRST).unwrap().rip, 0x7c00);
                assert_eq!(count.load(SeqCst), before);
                running.handle.resume().unwrap();
                pauses += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
                break;
            }
        }
    }
    println!("{pauses} pauses");
    assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
    assert_eq!(count.load(SeqCst), ACCESSES as u64);
    assert!(running.has_ended());
}

#[test]
fn pauses_that_race_with_the_end_never_hang_or_change_it() {
    let mut seed = 2;
    let mut met = [0, 0];
    for round in 0..3_000_u32 {
        let script = vec![knock(); (round % 7) as usize * 8];
        let script = script.into_iter().chain([power_off()]).collect::<Vec<_>>();
        let vcpus = 1 + round % 3;
        let running = Running::start(builder(script).vcpus(vcpus).build().unwrap());
        dawdle(&mut seed);
        match running.handle.pause(LONG) {
            Ok(()) => {
                met[0] += 1;
                running.machine.regs(FIRST).unwrap();
                running.handle.resume().unwrap();
            }
            Err(error) => {
                met[1] += 1;
                assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
            }
        }
        assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
    }
    println!("paused {}, too late {}", met[0], met[1]);
}

#[test]
fn many_threads_may_pause_resume_and_look_at_once() {
    let running = Running::start(builder([Access::Spin]).vcpus(3).build().unwrap());
    thread::scope(|scope| {
        for n in 0..4 {
            let (handle, machine) = (&running.handle, &running.machine);
            scope.spawn(move || {
                let mut seed = n;
                for _ in 0..1_000 {
                    if let Err(error) = handle.pause(LONG) {
                        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
                    }
                    dawdle(&mut seed);
                    match machine.regs(VcpuId(n as u32 % 3)) {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WrongState, "{error}"),
                    }
                    handle.resume().unwrap();
                }
            });
        }
    });
    assert_eq!(running.handle.state().unwrap(), State::Running);
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
}

/// Real mode, counts in memory: inc dword [0x9000]; jmp to it.
const COUNT: &[u8] = &[0x66, 0xff, 0x06, 0x00, 0x90, 0xeb, 0xf9];
const COUNTER: GuestAddress = GuestAddress(0x9000);

/// Machines with this guest, one a back end.
fn on_each(test: &str, guest: &'static [u8], vcpus: u32) -> impl Iterator<Item = Builder> {
    each::back_end(test).into_iter().map(move |hypervisor| {
        let builder = Machine::builder().hypervisor(hypervisor).memory(1 << 20).vcpus(vcpus);
        builder.boot(Flat::real_mode(guest)).device(DebugExit::new())
    })
}

#[test]
fn a_guest_executes_nothing_while_it_is_paused() {
    for builder in on_each("a_guest_executes_nothing_while_it_is_paused", COUNT, 4) {
        let running = Running::start(builder.build().unwrap());
        let count = || running.machine.memory().read_obj::<u32>(COUNTER).unwrap();
        for _ in 0..20 {
            let before = count();
            let start = Instant::now();
            while count() == before {
                assert!(start.elapsed() < LONG, "the guest does not run");
                thread::yield_now();
            }
            running.handle.pause(LONG).unwrap();
            let (paused, rip) = (count(), running.machine.regs(FIRST).unwrap().rip);
            assert!((0x7c00..0x7c07).contains(&rip), "{rip:#x}");
            thread::sleep(Duration::from_millis(2));
            assert_eq!((count(), running.machine.regs(FIRST).unwrap().rip), (paused, rip));
            running.handle.resume().unwrap();
        }
        running.handle.stop().unwrap();
        assert_eq!(running.end().unwrap(), Outcome::Stopped);
    }
}

#[test]
fn registers_set_while_paused_are_the_guests_own() {
    // jmp to itself; behind it, out 0xf4, al.
    let guest = &[0xeb, 0xfe, 0xe6, 0xf4];
    for builder in on_each("registers_set_while_paused_are_the_guests_own", guest, 1) {
        let running = Running::start(builder.build().unwrap());
        running.handle.pause(LONG).unwrap();
        let mut regs = running.machine.regs(FIRST).unwrap();
        assert_eq!(regs.rip, 0x7c00);
        (regs.rip, regs.rax) = (0x7c02, 42);
        running.machine.set_regs(FIRST, &regs).unwrap();
        running.handle.resume().unwrap();
        assert_eq!(running.end().unwrap(), Outcome::PowerOff(42));
    }
}

#[test]
fn pauses_between_exits_lose_nothing() {
    // mov cx, 20000; out 0x80, al; loop; mov al, 7; out 0xf4, al.
    let guest = &[0xb9, 0x20, 0x4e, 0xe6, KNOCK as u8, 0xe2, 0xfc, 0xb0, 7, 0xe6, 0xf4];
    for builder in on_each("pauses_between_exits_lose_nothing", guest, 2) {
        let (device, count) = counter();
        let running = Running::start(builder.device(device).build().unwrap());
        let mut pauses = 0;
        // On a busy host the guest may hardly come to run between two of them.
        while pauses < 5_000 && running.handle.pause(LONG).is_ok() {
            let before = count.load(SeqCst);
            // The guest has counted down as often as the device was reached, or is about to.
            let left = running.machine.regs(FIRST).unwrap().rcx & 0xffff;
            let is_right = (20_000 - before..=20_001 - before).contains(&left);
            assert!(is_right || (before, left) == (0, 0), "{before} and {left}");
            assert_eq!(count.load(SeqCst), before);
            running.handle.resume().unwrap();
            pauses += 1;
        }
        println!("{pauses} pauses");
        assert_eq!(running.end().unwrap(), Outcome::PowerOff(7));
        assert_eq!(count.load(SeqCst), 20_000);
    }
}

#[test]
fn a_device_that_ends_the_run_goes_before_a_pause_it_asked_for() {
    let slot: Arc<OnceLock<Handle>> = Arc::default();
    let device = {
        let slot = Arc::clone(&slot);
        Callback(move || {
            slot.get().unwrap().request_pause().unwrap();
            ControlFlow::Break(vmm_core::exit::VcpuExit::PowerOff(3))
        })
    };
    let machine = builder([knock()]).device(device).build().unwrap();
    slot.set(machine.handle()).unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff(3));
    assert_eq!(machine.handle().state().unwrap(), State::Ended);
}
