//! Sandboxes take everything with them when they are dropped, however their programs have ended and
//! however many lived at once. One test, alone in its process: it counts what the process has,
//! threads too, and changes what it may have.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod held;

use std::{collections::BTreeSet, env, sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_core::{
    host::{self, Need},
    hv::Hypervisor,
};
use vmm_sandbox::{Cause, Outcome, Pool, Sandbox};

use self::held::Held;

/// The program that `build.rs` made of `guests/sandbox/NAME.c`.
macro_rules! program {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/", $name)).as_slice()
    };
}

/// Descriptors that a child may take, generously, and that all else does.
const DESCRIPTORS: u64 = 4;
const OTHERS: u64 = 100;

#[test]
fn sandboxes_leave_nothing_behind() {
    let choice = match env::var("VMM_BACKEND") {
        Ok(name) => host::named(&name).unwrap(),
        Err(_) => host::best(Need::Program).unwrap(),
    };
    let here = Here(choice.into());
    let place = match here.0.name() {
        "kvm" => host::probe().kvm.to_string(),
        name => name.to_owned(),
    };
    let say = |what| println!("sandboxes_leave_nothing_behind: {what}: on {place}");
    say("ten thousand calls, a thousand sandboxes");
    many_one_after_the_other(&here);
    say("children that live at once");
    many_at_once(&here);
    say("more than there are descriptors for");
    too_many(&here);
}

/// The back end: the best one here, or the one that `VMM_BACKEND` names.
struct Here(Arc<dyn Hypervisor>);

impl Here {
    fn calls(&self) -> vmm_sandbox::Builder {
        Sandbox::image(program!("calls"))
            .hypervisor(Arc::clone(&self.0))
            .host_fn("lookup", |key: &str| key.to_uppercase())
            .host_fn("sum", |n: i64, plus: f64| n as f64 + plus)
    }

    fn warm(&self) -> Sandbox {
        let warm = Sandbox::image(program!("warm")).hypervisor(Arc::clone(&self.0));
        let mut sandbox = warm.build().unwrap();
        assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
        sandbox
    }

    /// One that is called forty times and crashes, one that ends, one that is stopped, one that is
    /// never started.
    fn four(&self) {
        let mut called = self.calls().build().unwrap();
        assert_eq!(called.start().unwrap(), Outcome::Ready);
        for n in 0..20 {
            assert_eq!(called.call::<i64>("ask_sum", (n,)).unwrap(), 2 * n + 1);
            assert_eq!(called.call::<i64>("ask", ("key",)).unwrap(), 3);
        }
        called.call::<()>("crash", ()).unwrap_err();
        let mut ended = self.calls().args(["calls", "end"]).build().unwrap();
        assert_eq!(ended.start().unwrap(), Outcome::Exited(7));
        let limit = Duration::from_millis(2);
        let spin = Sandbox::image(program!("greedy")).args(["greedy", "spin"]);
        let spin = spin.hypervisor(Arc::clone(&self.0)).timeout(limit);
        let outcome = spin.build().unwrap().start().unwrap();
        assert_eq!(outcome, Outcome::Killed(Cause::TimedOut(limit)));
        self.calls().build().unwrap();
    }

    /// Children of one parent that are all there at once: each answers, is reset, and is as new.
    fn family(&self, children: u64) {
        let mut parent = self.warm();
        let hash: u64 = parent.call("hash", ()).unwrap();
        let snapshot = parent.snapshot().unwrap();
        let mut all: Vec<_> = (0..children).map(|_| snapshot.fork().unwrap()).collect();
        let mut identities = BTreeSet::new();
        for (n, child) in all.iter_mut().enumerate() {
            child.call::<()>("touch", (n as i64 % 100,)).unwrap();
            assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
            let mut identity = [0_u8; 16];
            child.call::<()>("identity", (identity.as_mut_slice(),)).unwrap();
            assert!(identities.insert(identity), "{n} is taken for another");
        }
        println!("{children} live at once: {:?}", Held::now());
        for child in &mut all {
            child.reset(&snapshot).unwrap();
            assert_eq!(child.call::<u64>("hash", ()).unwrap(), hash);
        }
        drop(all);
        assert_eq!(parent.call::<u64>("hash", ()).unwrap(), hash);
    }
}

fn is_long() -> bool {
    env::var("VMM_LONG").as_deref() == Ok("1")
}

/// The soft limit of descriptors, as long as this lives.
struct Descriptors(Rlimit);

impl Descriptors {
    fn at_most(current: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        let current = before.maximum.map_or(current, |most| current.min(most));
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

fn many_one_after_the_other(here: &Here) {
    // The lab is slow.
    let fours = if host::probe().kvm == host::KvmKind::Whole && !is_long() { 8 } else { 250 };
    held::no_round_leaves_anything(|| (0..fours).for_each(|_| here.four()));
    let before = Held::now();
    let mut sandbox = here.calls().build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    let (own, used) = (Held::now(), sandbox.statistics().memory);
    for n in 0..10_000_i64 {
        assert_eq!(sandbox.call::<i64>("add", (n, 1_i64)).unwrap(), n + 1);
    }
    held::nothing_is_left(&own);
    assert!(sandbox.statistics().memory <= used + 8192, "a call lays out its arguments once");
    drop(sandbox);
    held::nothing_is_left(&before);
}

fn many_at_once(here: &Here) {
    let many = if is_long() { 1000 } else { 64 };
    let _room = Descriptors::at_most(OTHERS + DESCRIPTORS * many);
    held::no_round_leaves_anything(|| here.family(many));
}

/// The limit of open files is named, by a fork and by a pool.
fn too_many(here: &Here) {
    const ROOM: u64 = 20;
    let snapshot = here.warm().snapshot().unwrap();
    drop(snapshot.fork().unwrap());
    let before = Held::now();
    let limit = before.descriptors as u64 + ROOM;
    let says = format!("RLIMIT_NOFILE, now {limit}");
    let room = Descriptors::at_most(limit);
    let mut children = Vec::new();
    let error = loop {
        match snapshot.fork() {
            Ok(child) if children.len() as u64 <= ROOM => children.push(child),
            Ok(_) => {
                println!("a fork takes no descriptor on {}", here.0.name());
                return;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.os_error(), Some(libc::EMFILE), "{error}");
    assert!(error.to_string().contains(&says), "{error}");
    // So does a pool, which has none to wait for.
    let pool = Pool::new(&snapshot, 2).unwrap();
    let error = pool.take().unwrap_err();
    assert_eq!(error.os_error(), Some(libc::EMFILE), "{error}");
    let said = error.to_string();
    assert!(said.contains(&says) && said.contains("a pool of 2"), "{said}");
    // Those that live are none the worse for it, and where one goes another can come.
    for child in &mut children {
        assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
    }
    children.pop();
    assert_eq!(snapshot.fork().unwrap().call::<i64>("count", ()).unwrap(), 1);
    drop(children);
    assert_eq!(pool.take().unwrap().call::<i64>("count", ()).unwrap(), 1);
    drop((pool, room));
    held::nothing_is_left(&before);
}
