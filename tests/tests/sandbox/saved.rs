//! Snapshots in files: what is opened goes on as it was, here and with another back end, or is refused
//! with the reason.

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_core::{
    ErrorKind,
    arch::{CpuModel, CpuidLeaf},
    host,
    hv::Hypervisor,
};
use vmm_sandbox::{Access, Builder, Obstacle, Outcome, Pool, Sandbox, Snapshot, State};

use crate::{can_run, program};

/// What was saved by each version of the format, on the software CPU and on a KVM where programs see
/// the host's own processor. `write_goldens` makes those of this version.
const GOLDENS: &[(&str, &[u8])] = &[
    ("sandbox-1-soft.vmm", include_bytes!("../../goldens/sandbox-1-soft.vmm")),
    ("sandbox-1-kvm.vmm", include_bytes!("../../goldens/sandbox-1-kvm.vmm")),
];

fn soft() -> Arc<dyn Hypervisor> {
    host::named("soft").unwrap().into()
}

/// The first x86-64 processors: SSE2 and what they had beside it.
fn baseline() -> CpuModel {
    let leaf = |function, regs| CpuidLeaf { function, index: 0, indexed: false, regs };
    CpuModel::from_leaves(vec![
        leaf(1, [0, 0, 0, 0x0788_8111]),
        CpuidLeaf { function: 0xd, index: 0, indexed: true, regs: [3, 576, 576, 0] },
        leaf(0x8000_0001, [0, 0, 1, 0x2000_0800]),
    ])
}

fn warm() -> Sandbox {
    let mut sandbox = with_add(Sandbox::image(program!("warm"))).build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox
}

fn with_add(builder: Builder) -> Builder {
    builder.hypervisor(crate::backend()).host_fn("add", |n: i64| n + 1).stdin("first\nsecond\n")
}

fn hash(sandbox: &mut Sandbox) -> u64 {
    sandbox.call("hash", ()).unwrap()
}

#[test]
fn what_was_saved_goes_on_as_it_was() {
    if !can_run("what_was_saved_goes_on_as_it_was") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("warm.vmm");
    let mut parent = warm();
    parent.call::<()>("touch", (30_i64,)).unwrap();
    assert_eq!(parent.call::<i64>("log_line", ("parent",)).unwrap(), 14);
    let before = hash(&mut parent);
    let (uptime, used) = (parent.call::<i64>("uptime", ()).unwrap(), parent.statistics().memory);
    parent.snapshot().unwrap().save(&path).unwrap();
    drop(parent);

    assert_eq!(with_add(Sandbox::saved(&path)).check().unwrap(), []);
    let mut opened = with_add(Sandbox::saved(&path)).build().unwrap();
    assert_eq!(*opened.state(), State::Ready);
    assert!(opened.statistics().memory <= used, "page tables are no more than they were");
    assert_eq!(hash(&mut opened), before);
    let snapshot = opened.snapshot().unwrap();
    let fork = snapshot.fork().unwrap();
    for mut sandbox in [opened, fork] {
        for _ in 0..2 {
            assert_eq!(hash(&mut sandbox), before);
            let mut seen = [0_u8; 16];
            sandbox.call::<()>("identity", (seen.as_mut_slice(),)).unwrap();
            assert!(seen == sandbox.identity() && seen != [0; 16]);
            assert!(sandbox.call::<i64>("uptime", ()).unwrap() > uptime);
            assert_eq!(sandbox.call::<i64>("call_host", (41_i64,)).unwrap(), 42);
            assert_eq!(sandbox.call::<i64>("log_length", ()).unwrap(), 14);
            assert_eq!(sandbox.call::<i64>("log_line", ("more",)).unwrap(), 18);
            assert_eq!(sandbox.call::<i64>("through_pipe", (7_i64,)).unwrap(), 7);
            sandbox.call::<()>("say", ("here",)).unwrap();
            assert_eq!(sandbox.take_stdout(), b"here\n");
            assert_eq!(sandbox.call::<i64>("churn", (50_i64,)).unwrap(), 0);
            assert_eq!(sandbox.call::<i64>("scatter", (9_i64,)).unwrap(), 9);
            assert_eq!(sandbox.call::<i64>("remove_log", ()).unwrap(), 0);
            sandbox.reset(&snapshot).unwrap();
        }
    }
    // What has no name any more is saved too, and what was opened is saved again.
    let mut third = snapshot.fork().unwrap();
    assert_eq!(third.call::<i64>("remove_log", ()).unwrap(), 0);
    third.snapshot().unwrap().save(&path).unwrap();
    let mut fourth = with_add(Sandbox::saved(&path)).build().unwrap();
    assert_eq!(fourth.call::<i64>("log_length", ()).unwrap(), -2);
    assert_eq!(fourth.call::<i64>("log_line", ("still",)).unwrap(), 19);
    assert_eq!(hash(&mut fourth), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let pool = Pool::new(&fourth.snapshot().unwrap(), 2).unwrap();
    assert_eq!(hash(&mut pool.take().unwrap()), before);
}

#[test]
fn what_was_lent_is_given_again_or_missed_by_name() {
    if !can_run("what_was_lent_is_given_again_or_missed_by_name") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("warm.vmm");
    let granted = directory.path().join("granted");
    fs::create_dir(&granted).unwrap();
    let mut parent = with_add(Sandbox::image(program!("warm")))
        .mount(&granted, "/tmp", Access::ReadWrite)
        .build()
        .unwrap();
    assert_eq!(parent.start().unwrap(), Outcome::Ready);
    let snapshot = parent.snapshot().unwrap();
    snapshot.save(&path).unwrap();
    drop((parent, snapshot));

    let bare = || Sandbox::saved(&path).hypervisor(crate::backend());
    let (function, mount) = (Obstacle::Function("add".into()), Obstacle::Directory("/tmp".into()));
    assert_eq!(bare().check().unwrap(), [function, mount.clone()]);
    let error = bare().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let said = error.to_string();
    assert!(
        said.contains("\"add\"") && said.contains("/tmp") && said.contains("warm.vmm"),
        "{said}"
    );
    let read_only = with_add(bare()).mount(&granted, "/tmp/", Access::ReadOnly);
    assert_eq!(read_only.check().unwrap(), [mount]);
    let root = with_add(bare()).mount(&granted, "/tmp", Access::ReadWrite);
    let root = root.root(&granted, Access::ReadOnly);
    assert_eq!(root.check().unwrap(), [Obstacle::Directory("/".into())]);

    let again = || with_add(bare()).mount(&granted, "/tmp", Access::ReadWrite);
    let mut opened = again().build().unwrap();
    assert_eq!(opened.call::<i64>("log_line", ("opened\n",)).unwrap(), 15);
    assert_eq!(fs::read_to_string(granted.join("log")).unwrap(), "started\nopened\n");
    fs::remove_file(granted.join("log")).unwrap();
    let error = again().build().unwrap_err();
    assert_eq!(error.os_error(), Some(libc::ENOENT), "{error}");
    let error = opened.snapshot().unwrap().save(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    for (limit, says) in [(again().memory(1 << 20), "memory"), (again().file_limit(600), "files")] {
        fs::write(granted.join("log"), "").unwrap();
        let said = limit.build().unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_program_is_saved_before_its_start_and_in_the_middle() {
    if !can_run("a_program_is_saved_before_its_start_and_in_the_middle") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.vmm");
    let soft = crate::backend().name() == "soft";
    let (rounds, moments) = if soft { ("8", 8) } else { ("40", 30) };
    let moments = if crate::is_long() { 100 } else { moments };
    let builder = Sandbox::image(program!("compute")).args(["compute", rounds]);
    let mut plain = builder.hypervisor(crate::backend()).build().unwrap();
    plain.snapshot().unwrap().save(&path).unwrap();
    let begun = Instant::now();
    assert_eq!(plain.start().unwrap(), Outcome::Exited(0));
    let (whole, result) = (begun.elapsed(), plain.take_stdout());
    let open = |path: &Path| Sandbox::saved(path).hypervisor(crate::backend()).build().unwrap();
    let finish = |mut sandbox: Sandbox| {
        assert_eq!(*sandbox.state(), State::New);
        assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
        assert_eq!(sandbox.take_stdout(), result);
    };
    finish(open(&path));
    let part = directory.path().join("moment.vmm");
    // The moments are spread over the run, whatever this host makes of its length.
    let mut step = whole.mul_f64(0.9) / 10;
    let mut taken = 0;
    while taken < moments {
        let mut sandbox = open(&path);
        let canceller = sandbox.canceller();
        let taken_before = taken;
        let interrupter = thread::spawn(move || {
            for _ in 0..10 {
                thread::sleep(step);
                canceller.interrupt();
            }
        });
        let outcome = loop {
            match sandbox.start() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    match sandbox.snapshot().unwrap().save(&part) {
                        Ok(()) => finish(open(&part)),
                        // In the middle of an exception.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WrongState, "{error}"),
                    }
                    taken += 1;
                }
                outcome => break outcome.unwrap(),
            }
        };
        assert_eq!(outcome, Outcome::Exited(0));
        assert_eq!(sandbox.take_stdout(), result);
        interrupter.join().unwrap();
        if taken == taken_before {
            // The run that was timed had less of the processor than this one.
            step /= 2;
        }
    }
}

/// The portable program, ready.
fn portable(hypervisor: Arc<dyn Hypervisor>) -> Snapshot {
    let mut sandbox = Sandbox::image(program!("portable"))
        .hypervisor(hypervisor)
        .cpu(baseline())
        .memory(1 << 20)
        .host_fn("add", |n: i64| n + 1)
        .build()
        .unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    assert_eq!(sandbox.take_stdout(), b"ready\n");
    sandbox.snapshot().unwrap()
}

fn opened(path: &Path, hypervisor: Arc<dyn Hypervisor>) -> Builder {
    let builder = Sandbox::saved(path).hypervisor(hypervisor).memory(1 << 20);
    builder.host_fn("add", |n: i64| n + 1)
}

/// What every copy of the portable program answers. It does not depend on the host.
fn answers(sandbox: &mut Sandbox) -> [u64; 2] {
    assert_eq!(sandbox.call::<i64>("rounded", (2.25,)).unwrap(), 3, "it rounds up");
    assert_eq!(sandbox.call::<i64>("from_pipe", ()).unwrap(), 77);
    assert_eq!(sandbox.call::<i64>("add_line", ()).unwrap(), 10);
    assert_eq!(sandbox.call::<i64>("where", ()).unwrap(), 10);
    assert_eq!(sandbox.call::<i64>("call_host", (1_i64,)).unwrap(), 2);
    let mut seen = [0_u8; 16];
    sandbox.call::<()>("identity", (seen.as_mut_slice(),)).unwrap();
    assert_eq!(seen, sandbox.identity());
    [0, 500].map(|count: u64| sandbox.call("advance", (count,)).unwrap())
}

/// Where the golden program stands, and 500 steps further.
const ADVANCED: [u64; 2] = [6_078_775_391_065_129_953, 14_574_281_008_074_028_599];

#[test]
fn a_snapshot_goes_from_back_end_to_back_end() {
    let test = "a_snapshot_goes_from_back_end_to_back_end";
    if !can_run(test) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portable.vmm");
    portable(crate::backend()).save(&path).unwrap();
    // There and back again, and from each a little further.
    for hypervisor in [soft(), crate::backend(), soft()] {
        let name = hypervisor.name();
        let builder = opened(&path, hypervisor).baseline_only();
        assert_eq!(builder.check().unwrap(), [], "{name}");
        let mut sandbox = builder.build().unwrap();
        let snapshot = sandbox.snapshot().unwrap();
        assert_eq!(answers(&mut sandbox), ADVANCED, "{name}");
        sandbox.reset(&snapshot).unwrap();
        snapshot.save(&path).unwrap();
    }
}

#[test]
fn a_back_end_that_hides_cpuid_needs_no_promise() {
    let test = "a_back_end_that_hides_cpuid_needs_no_promise";
    if !can_run(test) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portable.vmm");
    let here = crate::backend();
    portable(Arc::clone(&here)).save(&path).unwrap();
    let elsewhere = opened(&path, soft());
    let hides = here.name() == "soft" || host::probe().kvm == host::KvmKind::Whole;
    let found = elsewhere.check().unwrap();
    if hides {
        // There and back again: only the baseline was seen on either.
        for hypervisor in [soft(), Arc::clone(&here), soft(), here] {
            let name = hypervisor.name();
            let builder = opened(&path, hypervisor);
            assert_eq!(builder.check().unwrap(), [], "{name}");
            let mut sandbox = builder.build().unwrap();
            let snapshot = sandbox.snapshot().unwrap();
            assert_eq!(answers(&mut sandbox), ADVANCED, "{name}");
            snapshot.save(&path).unwrap();
        }
        return;
    }
    // The processor's own features were there to be seen, and the software CPU lacks some of them.
    let features = CpuModel::of_host().program_features_missing_in(&soft().caps().cpu);
    assert_eq!(found, features.into_iter().map(Obstacle::Feature).collect::<Vec<_>>());
    assert!(found.is_empty() || elsewhere.build().unwrap_err().kind() == ErrorKind::Incompatible);
}

#[test]
fn what_earlier_versions_saved_is_opened_and_run() {
    if !can_run("what_earlier_versions_saved_is_opened_and_run") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in GOLDENS {
        let golden = directory.path().join(name);
        fs::write(&golden, bytes).unwrap();
        for hypervisor in [soft(), crate::backend()] {
            let mut builder = opened(&golden, hypervisor);
            if name.contains("kvm") {
                builder = builder.baseline_only();
            }
            assert_eq!(builder.check().unwrap(), [], "{name}");
            assert_eq!(answers(&mut builder.build().unwrap()), ADVANCED, "{name}");
        }
    }
}

/// Makes the goldens of this version: one of the software CPU, one of this host's KVM.
#[test]
#[ignore = "writes into the source tree"]
fn write_goldens() {
    let version = vmm_core::snapshot::VERSION;
    for hypervisor in [soft(), host::named("kvm").unwrap().into()] {
        let name = format!("sandbox-{version}-{}.vmm", hypervisor.name());
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");
        portable(hypervisor).save(Path::new(goldens).join(name)).unwrap();
    }
}

#[test]
fn every_change_and_every_cut_is_refused_with_the_section() {
    let bytes = GOLDENS[0].1.to_vec();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("changed.vmm");
    let names = ["header", "table", "'origin'", "'records'", "'memory'", "'pages'"];
    let refused = |changed: &[u8]| {
        fs::write(&path, changed).unwrap();
        let error = opened(&path, soft()).baseline_only().build().unwrap_err();
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Snapshot, "{said}");
        assert!(names.iter().any(|name| said.contains(name)), "{said}");
    };
    let step = if crate::is_long() { 1 } else { 61 };
    for at in (0..bytes.len()).step_by(step) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at / step % 8);
        refused(&changed);
        refused(&bytes[..at]);
    }
    println!("{} bytes, every {step}th changed and cut", bytes.len());
    fs::write(&path, &bytes).unwrap();
    opened(&path, soft()).baseline_only().build().unwrap();
}

#[test]
fn a_save_leaves_a_whole_file_or_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portable.vmm");
    let snapshot = portable(soft());
    // Whoever opens it meanwhile finds one or the other.
    thread::scope(|scope| {
        snapshot.save(&path).unwrap();
        let saver = scope.spawn(|| (0..20).for_each(|_| snapshot.save(&path).unwrap()));
        while !saver.is_finished() {
            opened(&path, soft()).build().unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        saver.join().unwrap();
    });
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let error = snapshot.save(directory.path().join("no/such")).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Host);
}
