//! Calls of functions in sandboxes, what they compute, and sandboxes made, run and dropped.
//!
//! Calls stand beside the cheapest way from ring 3 to the host and back, with nothing around it.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Arc, OnceLock},
    thread,
};

use vmm_core::{
    boot::Flat,
    host::{self, Need},
    hv::Hypervisor,
    memory::GuestAddress,
};
use vmm_sandbox::{Builder, Outcome, Sandbox};

use crate::{
    bare::Bare,
    create,
    sample::{Samples, nanoseconds, pairs, print, print_pair},
    trip,
};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/sandbox"));
const SMALL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/small"));

/// Calls in one sample.
const CALLS: u64 = 500;
/// Sandboxes in one sample of what a processor does for them.
const SANDBOXES: u32 = 100;
/// The memory that a sandbox has unless told otherwise.
const MEMORY: u64 = 64 << 20;

pub(crate) fn rows() {
    calls();
    compute(&File::new("large", PROGRAM));
    creation(&File::new("small", SMALL));
}

/// The back end that sandboxes get: the best one here, or the one that `VMM_BACKEND` names.
pub(crate) fn hypervisor() -> Arc<dyn Hypervisor> {
    static CHOSEN: OnceLock<Arc<dyn Hypervisor>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match env::var("VMM_BACKEND") {
        Ok(name) => host::named(&name).unwrap().into(),
        Err(_) => host::best(Need::Program).unwrap().into(),
    });
    Arc::clone(chosen)
}

/// Whether it is KVM, and can be measured beside bare system calls.
pub(crate) fn on_kvm() -> bool {
    hypervisor().name() == "kvm"
}

/// The program that is measured.
pub(crate) fn image() -> Builder {
    Sandbox::image(PROGRAM).hypervisor(hypervisor())
}

/// It has started, with such a limit of memory.
pub(crate) fn ready(memory: u64) -> Sandbox {
    let mut app = image().memory(memory).build().unwrap();
    assert_eq!(app.start().unwrap(), Outcome::Ready);
    app
}

/// A row beside the bare work, if there is any.
pub(crate) fn print_beside<B: FnMut() -> f64>(
    what: &str,
    n: usize,
    ours: impl FnMut() -> f64,
    bare: Option<B>,
) {
    match bare {
        Some(bare) => print_pair(what, &pairs(n, ours, bare)),
        None => print(what, &Samples::take(n, ours)),
    }
}

fn calls() {
    let cheapest = on_kvm().then(trip::cheapest);
    if let Some((way, _)) = &cheapest {
        println!("sandbox: the cheapest trip from ring 3 is by {way}");
    }
    let mut trip = cheapest.map(|(_, trip)| trip);
    let mut app = image().host_fn("nothing", || ()).build().unwrap();
    assert_eq!(app.start().unwrap(), Outcome::Ready);
    let call = each_call(&mut app, "nothing");
    print_beside("sandbox: call of an empty function", 40, call, trip.as_mut());
    let call = each_call(&mut app, "host");
    print_beside("sandbox: call with one host call inside", 40, call, trip.as_mut());
    let system_call = |app: &mut Sandbox| {
        nanoseconds(|| app.call::<()>("call_kernel", (CALLS as i64,)).unwrap()) / CALLS as f64
    };
    print_beside("sandbox: getppid", 40, || system_call(&mut app), trip.as_mut());
    let native = || {
        let calls = || (0..CALLS).filter(|_| rustix::process::getppid().is_some()).count();
        nanoseconds(calls) / CALLS as f64
    };
    let row = pairs(40, || system_call(&mut app), native);
    print_pair("sandbox: getppid, beside native", &row);
}

/// Nanoseconds for one call.
fn each_call(app: &mut Sandbox, name: &'static str) -> impl FnMut() -> f64 {
    move || {
        let time = nanoseconds(|| (0..CALLS).for_each(|_| app.call::<()>(name, ()).unwrap()));
        time / CALLS as f64
    }
}

/// The same program, here and there; it says itself how long it took.
fn compute(file: &File) {
    for what in ["registers", "sha256", "matrix"] {
        let ours = || {
            let mut sandbox = file.sandbox(what).build().unwrap();
            assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
            parse(&sandbox.take_stdout())
        };
        let native = || parse(&Command::new(&file.0).arg(what).output().unwrap().stdout);
        print_pair(&format!("sandbox: {what}, beside native"), &pairs(20, ours, native));
    }
}

fn parse(output: &[u8]) -> f64 {
    String::from_utf8_lossy(output).trim().parse().unwrap()
}

fn creation(file: &File) {
    let output = || {
        let mut sandbox = file.sandbox("output").build().unwrap();
        assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
        assert_eq!(sandbox.take_stdout(), b"output\n");
        sandbox
    };
    if !on_kvm() {
        print("sandbox: from file to its output", &Samples::take(40, || create::measure(output)));
        let whole = || {
            let mut sandbox = Sandbox::program(&file.0).hypervisor(hypervisor()).build().unwrap();
            assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
        };
        let row = Samples::take(40, || nanoseconds(whole));
        print("sandbox: from file, empty main, dropped", &row);
        return;
    }
    let bare = Bare::new();
    let issue = || {
        let image = fs::read(&file.0).unwrap();
        let mut vm = bare.vm(MEMORY, false, &Flat::real_mode([0xe6, 0x80]));
        vm.memory.write(GuestAddress(1 << 20), &image).unwrap();
        vm.vcpu.run().unwrap();
        vm
    };
    let row = pairs(40, || create::measure(output), || create::measure(issue));
    print_pair("sandbox: from file to its output", &row);
    // Now and then the host's kernel waits for a grace period before it makes a VM.
    let row = pairs(40, || processor_time(output), || processor_time(issue));
    print_pair("  without waits", &row);
    let whole = || {
        let mut sandbox = Sandbox::program(&file.0).build().unwrap();
        assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
    };
    let print_whole = |what: &str| {
        let row = pairs(40, || nanoseconds(whole), || nanoseconds(|| drop(issue())));
        print_pair(&format!("sandbox: from file, empty main, dropped{what}"), &row);
        // What is idle is so for all processors together.
        if thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) {
            let row = pairs(3, || busy(whole), || busy(|| drop(issue())));
            print_pair("  without waits", &row);
        }
    };
    print_whole("");
    // Linux patches its code when the first vCPU without a local APIC comes and the last one goes.
    let another = output();
    print_whole(", beside another");
    drop(another);
}

/// Nanoseconds of this thread's processor time for `make`, not for dropping what it made.
fn processor_time<T>(make: impl FnOnce() -> T) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        1e9 * time.tv_sec as f64 + time.tv_nsec as f64
    };
    let before = now();
    let made = make();
    let time = now() - before;
    drop(made);
    time
}

/// Nanoseconds that the one processor is busy for `work`.
fn busy<T>(mut work: impl FnMut() -> T) -> f64 {
    let before = idle();
    let time = nanoseconds(|| (0..SANDBOXES).for_each(|_| drop(work())));
    (time - (idle() - before)) / f64::from(SANDBOXES)
}

/// For how many nanoseconds the processor had nothing to do (proc(5), uptime); to 10 ms.
fn idle() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    1e9 * text.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
}

/// A program as a file, which goes with this.
struct File(PathBuf);

impl File {
    fn new(name: &str, program: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("vmm-benches-{}-{name}", process::id()));
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn sandbox(&self, what: &str) -> Builder {
        let program = Sandbox::program(AsRef::<Path>::as_ref(&self.0)).args(["program", what]);
        program.hypervisor(hypervisor())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
