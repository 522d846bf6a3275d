//! Pools: each user finds a sandbox as it was snapshot, whatever the one before has done.

use std::{
    thread,
    time::{Duration, Instant},
};

use vmm_core::ErrorKind;
use vmm_sandbox::{Outcome, Pool, PoolStatistics, Sandbox, Snapshot};

use crate::{can_run, program};

fn warm() -> Snapshot {
    let built = Sandbox::image(program!("warm")).hypervisor(crate::backend()).build();
    let mut sandbox = built.unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    sandbox.snapshot().unwrap()
}

/// Waits until the pool is in such a state; there is no hurry.
fn wait_for(pool: &Pool, what: impl Fn(PoolStatistics) -> bool) -> PoolStatistics {
    let begun = Instant::now();
    loop {
        let now = pool.statistics().unwrap();
        if what(now) {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{now:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_pool_is_filled_ahead_and_never_grows() {
    if !can_run("a_pool_is_filled_ahead_and_never_grows") {
        return;
    }
    let warm = warm();
    assert_eq!(Pool::new(&warm, 0).unwrap_err().kind(), ErrorKind::BadConfig);
    let pool = Pool::new(&warm, 3).unwrap();
    wait_for(&pool, |now| now.ready == 3);
    let mut leases: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
    assert!(pool.try_take().unwrap().is_none());
    for lease in &mut leases {
        assert_eq!(lease.call::<i64>("count", ()).unwrap(), 1);
    }
    let waiter = thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.take().unwrap().call::<i64>("count", ()).unwrap());
        wait_for(&pool, |now| now.waits == 1);
        drop(leases.pop());
        waiter.join().unwrap()
    });
    assert_eq!(waiter, 1);
    drop(leases);
    let now = wait_for(&pool, |now| now.ready == 3);
    assert_eq!((now.forks, now.resets, now.replaced, now.in_use), (3, 4, 0, 0));
}

#[test]
fn whatever_a_user_leaves_the_next_one_finds_it_new() {
    if !can_run("whatever_a_user_leaves_the_next_one_finds_it_new") {
        return;
    }
    let pool = Pool::new(&warm(), 1).unwrap();
    let deeds: [&dyn Fn(&mut Sandbox); 5] = [
        &|s| s.call::<()>("touch", (300_i64,)).unwrap(),
        &|s| assert_eq!(s.call::<i64>("die", ()).unwrap_err().kind(), ErrorKind::Poisoned),
        &|s| assert_eq!(s.call::<i64>("leave", ()).unwrap_err().kind(), ErrorKind::Poisoned),
        &|s| s.call::<()>("say", ("a secret",)).unwrap(),
        &|s| s.canceller().cancel(),
    ];
    let before = pool.take().unwrap().call::<u64>("hash", ()).unwrap();
    let mut identities = Vec::new();
    for deed in deeds {
        deed(&mut pool.take().unwrap());
        let mut next = pool.take().unwrap();
        assert_eq!(next.take_stdout(), b"");
        assert_eq!(next.call::<i64>("count", ()).unwrap(), 1);
        assert_eq!(next.call::<u64>("hash", ()).unwrap(), before);
        identities.push(next.identity());
    }
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), deeds.len());
}

#[test]
fn threads_share_a_pool() {
    if !can_run("threads_share_a_pool") {
        return;
    }
    let pool = Pool::new(&warm(), 3).unwrap();
    thread::scope(|scope| {
        for number in 0..8_i64 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut lease = pool.take().unwrap();
                    lease.call::<()>("touch", (number,)).unwrap();
                    assert_eq!(lease.call::<i64>("count", ()).unwrap(), 1);
                }
            });
        }
    });
    let now = pool.statistics().unwrap();
    assert_eq!((now.resets, now.in_use, now.replaced), (80, 0, 0));
    assert!(now.forks <= 3);
    // What is lent out outlives the pool.
    let mut last = pool.take().unwrap();
    drop(pool);
    assert_eq!(last.call::<i64>("count", ()).unwrap(), 1);
}
