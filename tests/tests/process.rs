//! What happens around a machine in its process: `fork()`, and signals that are not ours.
#![expect(unsafe_code, reason = "fork, waitpid and signals have no safe form")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod this_host;

use std::{
    io::{PipeReader, Read, Write},
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use vmm_core::{
    ErrorKind, Machine, Result,
    arch::VcpuId,
    boot::Flat,
    hv::{
        Hypervisor,
        script::{Access, Script},
    },
    machine::{Device, Handle, Interest, Next, Outcome, Slot, State, Wake, Watch},
    memory::GuestAddress,
};
use vmm_devices::DebugExit;
use vmm_sandbox::Sandbox;

/// jmp to itself.
const SPIN: &[u8] = &[0xeb, 0xfe];
/// mov al, 7; out 0xf4, al.
const SEVEN: &[u8] = &[0xb0, 7, 0xe6, 0xf4];

fn machine(kvm: &Arc<dyn Hypervisor>, guest: &[u8]) -> Machine {
    Machine::builder()
        .hypervisor(Arc::clone(kvm))
        .memory(1 << 20)
        .boot(Flat::real_mode(guest))
        .device(DebugExit::new())
        .build()
        .unwrap()
}

/// Runs `child` in a forked process and gives its exit status: 0 if it returned true.
fn in_child(child: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child only calls the library under test and leaves by `_exit`; glibc keeps malloc
    // usable in it.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let good = child();
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!good)) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for our own child, with a valid pointer.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert!(libc::WIFEXITED(status), "the child was killed: status {status:#x}");
            libc::WEXITSTATUS(status)
        }
    }
}

#[test]
fn after_fork_the_child_gets_wrong_process_and_the_parent_goes_on() {
    let test = "after_fork_the_child_gets_wrong_process_and_the_parent_goes_on";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let built = machine(&kvm, SEVEN);
    let parts = (built.memory().clone(), built.handle(), Arc::clone(&kvm));
    let status = in_child(|| {
        let wrong = |kind| kind == ErrorKind::WrongProcess;
        let run = built.run().is_err_and(|error| wrong(error.kind()));
        let read = parts.0.read(GuestAddress(0), &mut [0]).is_err_and(|e| wrong(e.kind()));
        let handle = &parts.1;
        let controls = [
            handle.stop(),
            handle.pause(Duration::ZERO),
            handle.request_pause(),
            handle.resume(),
            handle.state().map(|_| ()),
            built.regs(VcpuId(0)).map(|_| ()),
            built.event_fd().map(|_| ()),
            built.next_event().map(|_| ()),
        ];
        let control = controls.into_iter().all(|called| called.is_err_and(|e| wrong(e.kind())));
        // What was mapped where guest RAM is in the parent belongs to the child; dropping must not
        // unmap it.
        drop((built.memory().clone(), parts.2));
        run && read && control
    });
    assert_eq!(status, 0);
    assert_eq!(built.run().unwrap(), Outcome::PowerOff(7));
}

#[test]
fn a_child_has_machines_of_its_own_and_its_child_has_not() {
    let test = "a_child_has_machines_of_its_own_and_its_child_has_not";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let parents = machine(&kvm, SEVEN);
    let is_refused = |machine: &Machine| {
        machine.run().is_err_and(|error| error.kind() == ErrorKind::WrongProcess)
    };
    let status = in_child(|| {
        let own: Arc<dyn Hypervisor> = vmm_core::kvm::Kvm::open().unwrap().into();
        let childs = machine(&own, SEVEN);
        let grandchild = in_child(|| is_refused(&parents) && is_refused(&childs));
        is_refused(&parents) && grandchild == 0 && childs.run().unwrap() == Outcome::PowerOff(7)
    });
    assert_eq!(status, 0);
    assert_eq!(parents.run().unwrap(), Outcome::PowerOff(7));
}

#[test]
fn a_sandbox_is_its_own_process_s() {
    let test = "a_sandbox_is_its_own_process_s";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/calls")).as_slice();
    let make = || Sandbox::image(program).hypervisor(Arc::clone(&kvm)).build().unwrap();
    let (mut new, mut ready) = (Some(make()), Some(make()));
    ready.as_mut().unwrap().start().unwrap();
    let mut bytes = [1, 2, 3];
    let status = in_child(|| {
        let wrong = |kind| kind == ErrorKind::WrongProcess;
        let started = new.as_mut().unwrap().start().is_err_and(|e| wrong(e.kind()));
        let called = ready.as_mut().unwrap().call::<u64>("reverse", (bytes.as_mut_slice(),));
        drop((new.take(), ready.take()));
        started && called.is_err_and(|e| wrong(e.kind()))
    });
    assert_eq!(status, 0);
    assert_eq!(ready.unwrap().call::<u64>("reverse", (bytes.as_mut_slice(),)).unwrap(), 3);
    assert_eq!(bytes, [3, 2, 1]);
    assert_eq!(new.unwrap().start().unwrap(), vmm_sandbox::Outcome::Ready);
}

#[test]
fn a_machine_dropped_in_the_child_harms_neither() {
    let test = "a_machine_dropped_in_the_child_harms_neither";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let mut built = Some(machine(&kvm, SEVEN));
    let status = in_child(|| {
        drop(built.take());
        true
    });
    assert_eq!(status, 0);
    assert_eq!(built.unwrap().run().unwrap(), Outcome::PowerOff(7));
}

/// Has a pipe watched; says when a byte has come, and hands out the watch.
struct Ear(PipeReader, mpsc::Sender<u8>, Arc<Mutex<Option<Watch>>>);

impl Device for Ear {
    fn name(&self) -> &str {
        "ear"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let Self(reader, sender, watch) = *self;
        let fd = reader.try_clone().unwrap();
        let woken = Hear(reader, sender);
        *watch.lock().unwrap() = Some(slot.reactor()?.watch(fd, Interest::Readable, woken)?);
        Ok(())
    }
}

struct Hear(PipeReader, mpsc::Sender<u8>);

impl Wake for Hear {
    fn wake(&mut self) -> Result<Next> {
        let mut byte = [0];
        if self.0.read(&mut byte).unwrap() == 0 {
            return Ok(Next::Never);
        }
        self.1.send(byte[0]).unwrap();
        Ok(Next::Again)
    }
}

#[test]
fn what_is_watched_stays_watched_when_a_child_drops_its_copy() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (sender, heard) = mpsc::channel();
    let watch = Arc::default();
    let machine = Machine::builder().hypervisor(Script::new([Access::Spin])).memory(1 << 20);
    let ear = Ear(reader, sender, Arc::clone(&watch));
    let mut machine =
        Some(Arc::new(machine.boot(Flat::real_mode(SPIN)).device(ear).build().unwrap()));
    let handle = machine.as_ref().unwrap().handle();
    let runner = {
        let machine = machine.clone().unwrap();
        thread::spawn(move || machine.run().map(|_| ()))
    };
    wait_for_the_run(&handle);
    for round in 0..20 {
        writer.write_all(&[round]).unwrap();
        assert_eq!(heard.recv_timeout(Duration::from_secs(60)).unwrap(), round);
        let status = in_child(|| {
            if let Ok(mut watch) = watch.try_lock() {
                drop(watch.take());
            }
            drop(machine.take());
            true
        });
        assert_eq!(status, 0);
    }
    handle.stop().unwrap();
    runner.join().unwrap().unwrap();
}

/// Waits until another thread runs the machine: a stop that comes before would refuse the run.
fn wait_for_the_run(handle: &Handle) {
    while handle.state().unwrap() == State::Ready {
        thread::yield_now();
    }
}

/// Gives SIGUSR1, which nothing else here uses, an empty handler. It restarts system calls, as
/// those of many programs do.
fn handle_sigusr1() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
}

#[test]
fn a_foreign_signal_interrupts_a_run_that_waits_and_the_machine_stays_paused() {
    handle_sigusr1();
    let machine = Machine::builder().hypervisor(Script::new([])).memory(1 << 20).vcpus(3);
    let built = machine.boot(Flat::real_mode(SPIN)).build().unwrap();
    let handle = built.handle();
    handle.pause(Duration::ZERO).unwrap();
    let (sender, events) = mpsc::channel();
    let runner = thread::spawn(move || {
        // SAFETY: always succeeds.
        let me = unsafe { libc::pthread_self() };
        for _ in 0..100 {
            sender.send(Ok(me)).unwrap();
            sender.send(Err(built.run().map_err(|error| error.kind()))).unwrap();
        }
        sender.send(Err(built.run().map_err(|error| error.kind()))).unwrap();
    });
    for round in 0..100 {
        let thread = events.recv().unwrap().unwrap();
        // The signal may come before the run, where it interrupts nothing.
        let interrupted = loop {
            // SAFETY: the thread lives until it is joined below.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            if let Ok(event) = events.recv_timeout(Duration::from_millis(1 + round % 3)) {
                break event.unwrap_err();
            }
        };
        assert_eq!(interrupted, Err(ErrorKind::Interrupted));
        assert_eq!(handle.state().unwrap(), State::Paused);
    }
    handle.resume().unwrap();
    let outcome = events.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
    assert!(matches!(outcome, Ok(Outcome::Fault(_))), "{outcome:?}");
    runner.join().unwrap();
}

#[test]
fn foreign_signals_do_not_disturb_a_sandbox_that_asks_what_to_do_about_them() {
    let test = "foreign_signals_do_not_disturb_a_sandbox_that_asks_what_to_do_about_them";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    handle_sigusr1();
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/calls")).as_slice();
    let asked = Arc::new(AtomicU64::new(0));
    let (count, done) = (Arc::clone(&asked), Arc::new(AtomicBool::new(false)));
    let ask = move || {
        count.fetch_add(1, SeqCst);
        ControlFlow::Continue(())
    };
    let mut sandbox = Sandbox::image(program).hypervisor(kvm).interruptible(ask).build().unwrap();
    sandbox.start().unwrap();
    // SAFETY: always succeeds.
    let me = unsafe { libc::pthread_self() };
    let ended = Arc::clone(&done);
    let sender = thread::spawn(move || {
        while !ended.load(SeqCst) {
            // SAFETY: the thread joins this one before it ends.
            unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
            thread::yield_now();
        }
    });
    let mut calls = 0;
    while calls < 1_000 || asked.load(SeqCst) < 10 {
        calls += 1;
        assert_eq!(sandbox.call::<i64>("counted", ()).unwrap(), calls);
    }
    done.store(true, SeqCst);
    sender.join().unwrap();
}

#[test]
fn a_foreign_signal_interrupts_and_the_guest_goes_on() {
    let test = "a_foreign_signal_interrupts_and_the_guest_goes_on";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    handle_sigusr1();
    let built = machine(&kvm, SPIN);
    let handle = built.handle();
    let (sender, events) = mpsc::channel();
    let runner = thread::spawn(move || {
        // SAFETY: always succeeds.
        let me = unsafe { libc::pthread_self() };
        sender.send(Ok(me)).unwrap();
        sender.send(Err(built.run().map_err(|error| error.kind()))).unwrap();
        sender.send(Err(built.run().map_err(|error| error.kind()))).unwrap();
    });
    let thread = events.recv().unwrap().unwrap();
    wait_for_the_run(&handle);
    // One that comes when the thread is not inside the guest yet interrupts nothing.
    let mut interrupted = Err(mpsc::RecvTimeoutError::Timeout);
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(50));
        // SAFETY: the thread lives until it is joined below.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        interrupted = events.recv_timeout(Duration::from_secs(2));
        if interrupted.is_ok() {
            break;
        }
    }
    let interrupted = interrupted.unwrap().unwrap_err();
    assert_eq!(interrupted, Err(ErrorKind::Interrupted));
    wait_for_the_run(&handle);
    handle.stop().unwrap();
    let stopped = events.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
    assert_eq!(stopped, Ok(Outcome::Stopped));
    runner.join().unwrap();
}

#[test]
fn a_thread_that_blocks_every_signal_can_still_be_stopped() {
    let test = "a_thread_that_blocks_every_signal_can_still_be_stopped";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let built = machine(&kvm, SPIN);
    let handle = built.handle();
    let (sender, outcome) = mpsc::channel();
    let runner = thread::spawn(move || {
        // SAFETY: a `sigset_t` is plain bits, filled before use.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        }
        sender.send(built.run().map_err(|error| error.kind())).unwrap();
    });
    wait_for_the_run(&handle);
    handle.stop().unwrap();
    let stopped = outcome.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(stopped, Ok(Outcome::Stopped));
    runner.join().unwrap();
}

#[test]
fn a_stop_is_not_lost_when_no_signal_can_be_queued() {
    let test = "a_stop_is_not_lost_when_no_signal_can_be_queued";
    let Some(kvm) = this_host::kvm_for(test) else { return };
    let built = machine(&kvm, SPIN);
    let handle = built.handle();
    let (sender, outcome) = mpsc::channel();
    let runner = thread::spawn(move || {
        sender.send(built.run().map_err(|error| error.kind())).unwrap();
    });
    wait_for_the_run(&handle);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure to fill.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_SIGPENDING, &mut limit) }, 0);
    let none = libc::rlimit { rlim_cur: 0, ..limit };
    // SAFETY: a valid structure; nothing else in this process queues signals.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &none) }, 0);
    handle.stop().unwrap();
    let stopped = outcome.recv_timeout(Duration::from_secs(60));
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) };
    assert_eq!(stopped.unwrap(), Ok(Outcome::Stopped));
    runner.join().unwrap();
}
