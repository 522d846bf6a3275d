//! VMs that are used again: nothing of a program reaches the next one in its VM.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::hv::Hypervisor;
use vmm_sandbox::{Outcome, Sandbox, Snapshot, State, VmCache, testing};

use crate::{can_run, program};

fn started(image: &'static [u8], vms: &VmCache) -> Sandbox {
    started_on(crate::backend(), image, vms)
}

fn started_on(hypervisor: Arc<dyn Hypervisor>, image: &'static [u8], vms: &VmCache) -> Sandbox {
    let mut sandbox = Sandbox::image(image)
        .hypervisor(hypervisor)
        .host_fn("add", |n: i64| n + 1)
        .memory(32 << 20)
        .vm_cache(vms)
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox
}

fn hash(sandbox: &mut Sandbox) -> u64 {
    sandbox.call("hash", ()).unwrap()
}

/// All that can be told of a sandbox that has not run: its registers, and its memory.
fn all_of(snapshot: &Snapshot) -> (String, Vec<u64>) {
    let mut child = snapshot.fork().unwrap();
    (testing::registers(&mut child).unwrap(), testing::pages(&mut child))
}

#[test]
fn a_vm_that_was_used_shows_nothing_of_it() {
    if !can_run("a_vm_that_was_used_shows_nothing_of_it") {
        return;
    }
    let vms = VmCache::new(1).unwrap();
    let mut parent = started(program!("warm"), &vms);
    let before = hash(&mut parent);
    let snapshot = parent.snapshot().unwrap();
    parent.call::<()>("rewrite", (2_i64,)).unwrap();
    let lives: [&dyn Fn(&mut Sandbox); 8] = [
        &|_| {},
        &|s| s.call::<()>("rewrite", (3_i64,)).unwrap(),
        &|s| assert_eq!(s.call::<i64>("churn", (200_i64,)).unwrap(), 0),
        &|s| assert_eq!(s.call::<i64>("scatter", (60_i64,)).unwrap(), 60),
        &|s| assert_eq!(s.call::<i64>("set_thread_pointer", ()).unwrap(), 0),
        &|s| assert!(s.call::<i64>("die", ()).is_err()),
        &|s| assert!(s.call::<i64>("leave", ()).is_err()),
        &|s| {
            s.canceller().cancel();
            assert!(s.call::<i64>("spin", ()).is_err());
        },
    ];
    let mut identities = Vec::new();
    for (n, live) in lives.iter().enumerate() {
        let mut child = snapshot.fork().unwrap();
        assert_eq!(vms.statistics().reused, n as u64, "the first makes the VM, the others take it");
        assert_eq!(*child.state(), State::Ready);
        assert_eq!(hash(&mut child), before, "life {n}");
        assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
        identities.push(child.identity());
        live(&mut child);
    }
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), lives.len());
    // Resets, and forks of forks, are in such a VM as in any other.
    let mut child = snapshot.fork().unwrap();
    let grandchildren = child.snapshot().unwrap();
    for seed in 5..7_i64 {
        child.call::<()>("rewrite", (seed,)).unwrap();
        child.reset(&snapshot).unwrap();
        assert_eq!(hash(&mut child), before);
        child.call::<()>("touch", (16_i64,)).unwrap();
        child.reset(&snapshot).unwrap();
        assert_eq!(hash(&mut child), before);
    }
    child.call::<()>("rewrite", (9_i64,)).unwrap();
    let childs = hash(&mut child);
    drop(parent);
    let mut grandchild = grandchildren.fork().unwrap();
    assert_eq!(hash(&mut grandchild), before, "in the VM of its grandparent");
    grandchild.call::<()>("rewrite", (4_i64,)).unwrap();
    assert_eq!(hash(&mut child), childs);
}

#[test]
fn programs_take_turns_in_one_vm() {
    if !can_run("programs_take_turns_in_one_vm") {
        return;
    }
    let vms = VmCache::new(1).unwrap();
    let hypervisor = crate::backend();
    let mut warm = started_on(Arc::clone(&hypervisor), program!("warm"), &vms);
    let mut other = started_on(hypervisor, program!("ring0"), &vms);
    let before = hash(&mut warm);
    let [warm, other] = [&mut warm, &mut other].map(|parent| parent.snapshot().unwrap());
    drop(warm.fork().unwrap());
    for turn in 1..4 {
        let mut child = other.fork().unwrap();
        assert_eq!(child.call::<i64>("look", ()).unwrap(), 42);
        drop(child);
        let mut child = warm.fork().unwrap();
        assert_eq!(hash(&mut child), before, "turn {turn}");
        child.call::<()>("rewrite", (turn,)).unwrap();
        drop(child);
        assert_eq!(vms.statistics().reused, 2 * turn as u64);
    }
}

#[test]
fn ring_0_leaves_nothing_in_a_vm() {
    if !can_run("ring_0_leaves_nothing_in_a_vm") {
        return;
    }
    let vms = VmCache::new(1).unwrap();
    let snapshot = started(program!("ring0"), &vms).snapshot().unwrap();
    // The snapshot's own sandbox is gone, and its VM is what the forks take. This is a new one:
    let held = snapshot.fork().unwrap();
    let clean = all_of(&snapshot);
    drop(held);
    for which in 0..6 {
        let mut child = snapshot.fork().unwrap();
        let ended = testing::ring0(&mut child, "infect", which);
        println!("{which}: {}", ended.unwrap_or_else(|error| error.to_string()));
        drop(child);
        let (registers, pages) = all_of(&snapshot);
        assert_eq!(registers, clean.0, "after {which}");
        let differ = pages.iter().zip(&clean.1).filter(|(one, two)| one != two).count();
        // The page that has the identity.
        assert!(pages.len() == clean.1.len() && differ <= 1, "{differ} pages after {which}");
        let mut child = snapshot.fork().unwrap();
        assert_eq!(child.call::<i64>("look", ()).unwrap(), 42, "after {which}");
        assert_eq!(child.call::<i64>("answer", (21_i64,)).unwrap(), 42);
    }
}

#[test]
fn a_cache_keeps_as_many_as_it_may_and_closes_the_rest() {
    if !can_run("a_cache_keeps_as_many_as_it_may_and_closes_the_rest") {
        return;
    }
    let vms = VmCache::new(2).unwrap();
    let parent = &mut started(program!("warm"), &vms);
    let snapshot = parent.snapshot().unwrap();
    let mut children: Vec<_> = (0..4).map(|_| snapshot.fork().unwrap()).collect();
    let stale = children[3].canceller();
    children.truncate(0);
    let end = Instant::now() + Duration::from_secs(60);
    while vms.statistics().closed < 2 {
        assert!(Instant::now() < end, "{:?}", vms.statistics());
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(vms.statistics().idle, 2);
    // Who could stop a sandbox that is gone cannot stop those that come after it.
    let mut children: Vec<_> = (0..2).map(|_| snapshot.fork().unwrap()).collect();
    stale.cancel();
    for child in &mut children {
        assert_eq!(child.call::<i64>("count", ()).unwrap(), 1);
        stale.cancel();
        assert_eq!(child.call::<i64>("count", ()).unwrap(), 2);
    }
    assert_eq!((vms.statistics().idle, vms.statistics().reused), (0, 2));
    drop(vms);
    assert_eq!(children[0].call::<i64>("count", ()).unwrap(), 3);
    drop(children);
    assert_eq!(snapshot.fork().unwrap().call::<i64>("count", ()).unwrap(), 1);
}

#[test]
fn threads_share_a_cache() {
    if !can_run("threads_share_a_cache") {
        return;
    }
    let vms = VmCache::new(3).unwrap();
    let mut parent = started(program!("warm"), &vms);
    let before = hash(&mut parent);
    let snapshot = parent.snapshot().unwrap();
    thread::scope(|scope| {
        for thread in 0..3_i64 {
            let snapshot = &snapshot;
            scope.spawn(move || {
                for round in 0..4 {
                    let mut child = snapshot.fork().unwrap();
                    assert_eq!(hash(&mut child), before, "{thread} {round}");
                    child.call::<()>("touch", (64_i64,)).unwrap();
                }
            });
        }
    });
    assert!(vms.statistics().reused > 0 && vms.statistics().idle <= 3);
}
