//! Forks and resets of a sandbox that was started.
//!
//! Forks stand beside a VM with one vCPU and the same memory made by hand, up to its first exit;
//! resets beside what is put back by hand, with the same pages written in ring 3.

use vmm_core::boot::Flat;
use vmm_sandbox::{Outcome, Snapshot, VmCache};

use crate::{
    bare::Bare,
    create::measure,
    memory::anonymous_kib,
    sample::{Samples, nanoseconds, pairs, print, print_pair},
    sandbox::{image, on_kvm, print_beside, ready},
    trip,
};

/// `out 0xf4, al` in real mode.
const IMAGE: &[u8] = &[0xe6, 0xf4];

const SAMPLES: usize = 100;

pub(crate) fn rows() {
    for (what, limit) in [("64 MiB", 64 << 20), ("4 GiB", 4 << 30)] {
        let mut parent = ready(limit);
        // What a started program may well have in use: 32 MiB.
        parent.call::<()>("touch", (8192_i64,)).unwrap();
        let warm = parent.snapshot().unwrap();
        forks(what, &warm);
        cached(what, limit);
        resets(what, &warm);
        print_memory(what, &warm);
    }
}

fn forks(limit: &str, warm: &Snapshot) {
    let bare = on_kvm().then(Bare::new);
    let make = bare.as_ref().map(|bare| {
        move || {
            let mut vm = bare.vm(32 << 20, false, &Flat::real_mode(IMAGE));
            vm.vcpu.run().unwrap();
            vm
        }
    });
    let made = || make.as_ref().map(|make| move || measure(make));
    let fork = || measure(|| warm.fork().unwrap());
    print_beside(&format!("fork, {limit}"), SAMPLES, fork, made());
    let first = || {
        let mut child = warm.fork().unwrap();
        child.call::<()>("nothing", ()).unwrap();
        child
    };
    print_beside(&format!("fork and first call, {limit}"), SAMPLES, || measure(first), made());
    let dropped = make.as_ref().map(|make| move || nanoseconds(make));
    let what = format!("fork, first call and drop, {limit}");
    print_beside(&what, SAMPLES, || nanoseconds(first), dropped);
}

/// Forks that take the VM of one that is gone, beside those that make their own.
fn cached(limit: &str, bytes: u64) {
    let vms = VmCache::new(2).unwrap();
    let [own, cached] = [None, Some(&vms)].map(|vms| {
        let builder = image().memory(bytes);
        let builder = match vms {
            Some(vms) => builder.vm_cache(vms),
            None => builder,
        };
        let mut parent = builder.build().unwrap();
        assert_eq!(parent.start().unwrap(), Outcome::Ready);
        parent.call::<()>("touch", (8192_i64,)).unwrap();
        parent.snapshot().unwrap()
    });
    let row =
        pairs(SAMPLES, || measure(|| cached.fork().unwrap()), || measure(|| own.fork().unwrap()));
    print_pair(&format!("fork with a VM of a cache, beside without, {limit}"), &row);
    let first = |warm: &Snapshot| {
        let mut child = warm.fork().unwrap();
        child.call::<()>("nothing", ()).unwrap();
        child
    };
    let row = pairs(SAMPLES, || measure(|| first(&cached)), || measure(|| first(&own)));
    print_pair(&format!("  and first call, {limit}"), &row);
    let row = pairs(SAMPLES, || nanoseconds(|| first(&cached)), || nanoseconds(|| first(&own)));
    print_pair(&format!("  and drop, {limit}"), &row);
}

fn resets(limit: &str, warm: &Snapshot) {
    let mut child = warm.fork().unwrap();
    for dirty in [0_i64, 16, 64, 256, 2048] {
        let (mut reset, mut call) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            child.call::<()>("touch", (dirty,)).unwrap();
            reset.push(nanoseconds(|| child.reset(warm).unwrap()));
            call.push(nanoseconds(|| child.call::<()>("nothing", ()).unwrap()));
        }
        print(&format!("reset, {dirty} pages written, {limit}"), &Samples::of(reset));
        print("  the first call after it", &Samples::of(call));
    }
    let both = || {
        nanoseconds(|| {
            child.reset(warm).unwrap();
            child.call::<()>("touch", (64_i64,)).unwrap();
        })
    };
    let what = format!("reset, and a call that writes 64 pages, {limit}");
    print_beside(&what, SAMPLES, both, on_kvm().then(trip::rewinds));
}

/// What the process has more of for each child that was forked and answered once.
fn print_memory(limit: &str, warm: &Snapshot) {
    const CHILDREN: usize = 64;
    let before = anonymous_kib();
    let children: Vec<_> = (0..CHILDREN)
        .map(|_| {
            let mut child = warm.fork().unwrap();
            child.call::<()>("nothing", ()).unwrap();
            child
        })
        .collect();
    let each = anonymous_kib().saturating_sub(before) as f64 / CHILDREN as f64;
    println!("anonymous memory of a child, {limit:<8} {CHILDREN:>14} {each:>7.1} KiB");
    drop(children);
}
