//! The reactor wakes devices while their machine runs, and at no other time.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    Error, ErrorKind, Machine, Result,
    boot::Flat,
    hv::script::{Access, Script},
    machine::{
        Builder, Device, Handle, Interest, Next, Outcome, Reactor, Slot, State, Wake, Watch,
    },
};

const LONG: Duration = Duration::from_secs(60);

/// Wakes by a closure.
struct On<F>(F);

impl<F: FnMut() -> Result<Next> + Send> Wake for On<F> {
    fn wake(&mut self) -> Result<Next> {
        (self.0)()
    }
}

/// Gives the test its reactor.
struct Ask(Arc<OnceLock<Reactor>>);

impl Device for Ask {
    fn name(&self) -> &str {
        "watcher"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        self.0.set(slot.reactor()?).unwrap();
        Ok(())
    }
}

fn builder() -> Builder {
    Machine::builder()
        .hypervisor(Script::new([Access::Spin]))
        .memory(1 << 20)
        .vcpus(2)
        .boot(Flat::real_mode([0xf4]))
}

fn machine() -> (Machine, Reactor) {
    let slot = Arc::default();
    let machine = builder().device(Ask(Arc::clone(&slot))).build().unwrap();
    let reactor = slot.get().unwrap().clone();
    (machine, reactor)
}

/// A machine on a thread of its own; stopped when this is dropped.
struct Running {
    handle: Handle,
    outcome: mpsc::Receiver<Result<Outcome>>,
}

impl Running {
    fn start(machine: Arc<Machine>) -> Self {
        let (sender, outcome) = mpsc::channel();
        let handle = machine.handle();
        thread::spawn(move || sender.send(machine.run()).unwrap());
        while handle.state().unwrap() == State::Ready {
            thread::yield_now();
        }
        Self { handle, outcome }
    }

    fn end(&self) -> Result<Outcome> {
        self.outcome.recv_timeout(LONG).expect("the run does not end")
    }

    fn stop(&self) {
        self.handle.stop().unwrap();
        assert_eq!(self.end().unwrap(), Outcome::Stopped);
    }
}

/// Counts the bytes of a pipe.
fn counting(mut reader: PipeReader, next: Next) -> (impl Wake, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let wake = On(move || {
        let mut byte = [0];
        match reader.read(&mut byte).unwrap() {
            0 => Ok(Next::Never),
            _ => {
                counted.fetch_add(1, SeqCst);
                Ok(next)
            }
        }
    });
    (wake, count)
}

fn watch_pipe(reactor: &Reactor, next: Next) -> (PipeWriter, Watch, Arc<AtomicU64>) {
    let (reader, writer) = io::pipe().unwrap();
    let fd = reader.try_clone().unwrap();
    let (wake, count) = counting(reader, next);
    (writer, reactor.watch(fd, Interest::Readable, wake).unwrap(), count)
}

fn wait_for(count: &AtomicU64, value: u64) {
    wait_until(|| count.load(SeqCst) >= value);
    assert_eq!(count.load(SeqCst), value);
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "it does not happen");
        thread::yield_now();
    }
}

#[test]
fn devices_are_woken_only_while_the_machine_runs() {
    let (machine, reactor) = machine();
    let (mut writer, _watch, count) = watch_pipe(&reactor, Next::Again);
    writer.write_all(b"a").unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(count.load(SeqCst), 0);
    let machine = Arc::new(machine);
    let running = Running::start(Arc::clone(&machine));
    wait_for(&count, 1);
    for round in 1..300 {
        running.handle.pause(LONG).unwrap();
        writer.write_all(b"b").unwrap();
        if round % 20 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(count.load(SeqCst), round);
        running.handle.resume().unwrap();
        wait_for(&count, round + 1);
    }
    running.stop();
    writer.write_all(b"c").unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(count.load(SeqCst), 300);
}

#[test]
fn no_wake_is_lost_between_a_wait_and_its_end() {
    const ROUNDS: u64 = 5_000;
    let (machine, reactor) = machine();
    let (mut writer, watch, count) = watch_pipe(&reactor, Next::Wait);
    let running = Running::start(Arc::new(machine));
    // More than it is woken for: it is always ready, and only `resume` lets it go on.
    writer.write_all(&[7; ROUNDS as usize + 10]).unwrap();
    for round in 0..ROUNDS {
        wait_until(|| count.load(SeqCst) > round);
        watch.resume();
        if round % 500 == 0 {
            watch.resume();
        }
    }
    wait_until(|| count.load(SeqCst) > ROUNDS);
    thread::sleep(Duration::from_millis(20));
    let rest = count.load(SeqCst);
    assert!(rest <= ROUNDS + 10, "{rest}");
    running.stop();
}

#[test]
fn a_hang_up_does_not_wake_a_device_that_waits() {
    let (machine, reactor) = machine();
    let (mut writer, watch, count) = watch_pipe(&reactor, Next::Wait);
    writer.write_all(b"ab").unwrap();
    drop(writer);
    let running = Running::start(Arc::new(machine));
    wait_for(&count, 1);
    thread::sleep(Duration::from_millis(30));
    wait_for(&count, 1);
    watch.resume();
    wait_for(&count, 2);
    running.stop();
}

#[test]
fn what_is_done_is_closed() {
    let (machine, reactor) = machine();
    let (mut writer, watch, count) = watch_pipe(&reactor, Next::Never);
    writer.write_all(b"a").unwrap();
    let running = Running::start(Arc::new(machine));
    wait_for(&count, 1);
    let start = Instant::now();
    // The device's end and the reactor's copy.
    while writer.write_all(b"b").is_ok() {
        assert!(start.elapsed() < LONG, "its descriptor is still open");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(count.load(SeqCst), 1);
    watch.resume();
    running.stop();
}

#[test]
fn files_and_devices_that_are_always_ready_are_watched_too() {
    for path in ["/proc/self/exe", "/dev/null"] {
        let (machine, reactor) = machine();
        let mut file = File::open(path).unwrap();
        let fd = file.try_clone().unwrap();
        let (sender, read) = mpsc::channel();
        let wake = On(move || {
            let mut data = [0; 65_536];
            let len = file.read(&mut data).unwrap();
            sender.send(len).unwrap();
            Ok(if len == 0 { Next::Never } else { Next::Again })
        });
        let _watch = reactor.watch(fd, Interest::Readable, wake).unwrap();
        let running = Running::start(Arc::new(machine));
        let total: usize = read.iter().sum();
        assert_eq!(
            total,
            File::open(path).unwrap().read_to_end(&mut Vec::new()).unwrap(),
            "{path}"
        );
        running.stop();
    }
}

#[test]
fn a_device_that_fails_or_panics_in_a_wake_ends_the_run_with_its_name() {
    type Answer = fn() -> Result<Next>;
    let cases: [(Answer, &str); 2] = [
        (|| panic!("out of cheese"), "device 'watcher' panicked: out of cheese"),
        (|| Err(Error::new(ErrorKind::Host, "gone")), "device 'watcher': gone"),
    ];
    for (answer, says) in cases {
        let (machine, reactor) = machine();
        let (reader, mut writer) = io::pipe().unwrap();
        let watch = reactor.watch(reader, Interest::Readable, On(answer)).unwrap();
        writer.write_all(b"a").unwrap();
        let error = machine.run().unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Poisoned, says));
        assert_eq!(machine.run().unwrap_err().kind(), ErrorKind::WrongState);
        assert_eq!(machine.reset().unwrap_err().kind(), ErrorKind::Poisoned);
        drop(watch);
    }
}

#[test]
fn a_panic_in_what_a_device_leaves_behind_ends_the_run() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("tick");
        }
    }
    let (machine, reactor) = machine();
    let (reader, mut writer) = io::pipe().unwrap();
    let bomb = Bomb;
    let wake = On(move || {
        let _ = &bomb;
        Ok(Next::Never)
    });
    let _watch = reactor.watch(reader, Interest::Readable, wake).unwrap();
    writer.write_all(b"a").unwrap();
    let error = machine.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
}

#[test]
fn a_wake_is_a_callback() {
    let (machine, reactor) = machine();
    let machine = Arc::new(machine);
    let (reader, mut writer) = io::pipe().unwrap();
    let kinds: Arc<Mutex<Vec<ErrorKind>>> = Arc::default();
    let (inside, seen) = (Arc::downgrade(&machine), Arc::clone(&kinds));
    let wake = On(move || {
        let machine: Arc<Machine> = Weak::upgrade(&inside).unwrap();
        let handle = machine.handle();
        let errors = [
            machine.run().unwrap_err(),
            machine.reset().unwrap_err(),
            handle.pause(LONG).unwrap_err(),
        ];
        seen.lock().unwrap().extend(errors.iter().map(Error::kind));
        handle.request_pause().unwrap();
        Ok(Next::Wait)
    });
    let _watch = reactor.watch(reader, Interest::Readable, wake).unwrap();
    writer.write_all(b"a").unwrap();
    let running = Running::start(machine);
    wait_until(|| running.handle.state().unwrap() == State::Paused);
    assert_eq!(*kinds.lock().unwrap(), [ErrorKind::InCallback; 3]);
    running.handle.stop().unwrap();
    assert_eq!(running.end().unwrap(), Outcome::Stopped);
}

#[test]
fn a_wake_that_takes_long_makes_a_pause_time_out() {
    let (machine, reactor) = machine();
    let (reader, mut writer) = io::pipe().unwrap();
    let (inside, entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let wake = On(move || {
        inside.send(()).unwrap();
        released.recv().unwrap();
        Ok(Next::Never)
    });
    let _watch = reactor.watch(reader, Interest::Readable, wake).unwrap();
    writer.write_all(b"a").unwrap();
    let running = Running::start(Arc::new(machine));
    entered.recv_timeout(LONG).unwrap();
    let error = running.handle.pause(Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.os_error(), Some(libc::ETIMEDOUT), "{error}");
    release.send(()).unwrap();
    running.handle.pause(LONG).unwrap();
    running.stop();
}

#[test]
fn registrations_come_and_go_while_everything_is_ready() {
    let (machine, reactor) = machine();
    let running = Running::start(Arc::new(machine));
    let alive = Arc::new(());
    let woken = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (reader, mut writer) = io::pipe().unwrap();
                writer.write_all(b"a").unwrap();
                let mut kept: Vec<Watch> = Vec::new();
                for round in 0..1_500 {
                    let (alive, woken) = (Arc::clone(&alive), Arc::clone(&woken));
                    let wake = On(move || {
                        let _ = &alive;
                        woken.fetch_add(1, SeqCst);
                        Ok([Next::Again, Next::Wait, Next::Never][round % 3])
                    });
                    kept.push(reactor.watch(&reader, Interest::Readable, wake).unwrap());
                    // Dropped in an order that is neither first nor last.
                    if kept.len() > 8 {
                        drop(kept.swap_remove(round % 8));
                    }
                    if let Some(watch) = kept.get(round % 5) {
                        watch.resume();
                    }
                }
                wait_until(|| woken.load(SeqCst) > 0);
            });
        }
        for _ in 0..50 {
            running.handle.pause(LONG).unwrap();
            let before = woken.load(SeqCst);
            thread::sleep(Duration::from_micros(300));
            assert_eq!(woken.load(SeqCst), before);
            running.handle.resume().unwrap();
        }
    });
    wait_until(|| Arc::strong_count(&alive) == 1);
    running.stop();
}

#[test]
fn a_stop_in_a_storm_of_wakes_ends_the_run() {
    for round in 0..1_000_u64 {
        let (machine, reactor) = machine();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"a").unwrap();
        let storm = On(|| Ok(Next::Again));
        let _watch = reactor.watch(reader, Interest::Readable, storm).unwrap();
        let running = Running::start(Arc::new(machine));
        (0..round * 16 % 5_000).for_each(|_| std::hint::spin_loop());
        running.stop();
    }
}

#[test]
fn a_wake_may_register_and_drop_watches() {
    let (machine, reactor) = machine();
    let (first, mut knock) = io::pipe().unwrap();
    let (mut old_writer, old, old_count) = watch_pipe(&reactor, Next::Again);
    let (sender, made) = mpsc::channel();
    let mut old = Some(old);
    let inside = reactor.clone();
    let wake = On(move || {
        drop(old.take());
        sender.send(watch_pipe(&inside, Next::Again)).unwrap();
        Ok(Next::Never)
    });
    let _first = reactor.watch(first, Interest::Readable, wake).unwrap();
    let running = Running::start(Arc::new(machine));
    old_writer.write_all(b"a").unwrap();
    wait_for(&old_count, 1);
    knock.write_all(b"a").unwrap();
    let (mut new_writer, _new, new_count) = made.recv_timeout(LONG).unwrap();
    new_writer.write_all(b"a").unwrap();
    wait_for(&new_count, 1);
    let start = Instant::now();
    while old_writer.write_all(b"b").is_ok() {
        assert!(start.elapsed() < LONG, "its descriptor is still open");
        thread::sleep(Duration::from_millis(1));
    }
    running.stop();
}

#[test]
fn watches_outlive_their_machine_and_the_reverse() {
    for machine_first in [false, true] {
        let (machine, reactor) = machine();
        let alive = Arc::new(());
        let (reader, writer) = io::pipe().unwrap();
        let inside = Arc::clone(&alive);
        let wake = On(move || {
            let _ = &inside;
            Ok(Next::Again)
        });
        let watch = reactor.watch(reader, Interest::Readable, wake).unwrap();
        if machine_first {
            drop(machine);
            assert_eq!(Arc::strong_count(&alive), 1);
            watch.resume();
            drop(watch);
        } else {
            // Nothing runs that could do it later.
            drop(watch);
            assert_eq!(Arc::strong_count(&alive), 1);
            drop(machine);
        }
        let (reader, _) = io::pipe().unwrap();
        let error = reactor.watch(reader, Interest::Readable, On(|| Ok(Next::Never))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState);
        drop(writer);
    }
}
