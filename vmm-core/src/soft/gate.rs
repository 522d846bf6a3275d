//! Keeping vCPUs out of guest code for a moment.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vmm_cpu::Attention;

use crate::arch::VcpuId;

/// Lets vCPUs into guest code, unless somebody changes what they rely on, or must be alone.
///
/// A vCPU that asks a device is not in guest code: who changes the VM from a device's callback, or
/// holds a lock that a device waits for, does not wait for it. The lock is held for a few
/// instructions, and with it only that of the slots is taken.
///
/// Nobody is kept waiting by others who are faster: changes come in the order in which they were
/// asked for, and between two of them all vCPUs go in that wait for it.
pub(super) struct Gate {
    state: Mutex<State>,
    /// A vCPU has left, and the gate is shut.
    left: Condvar,
    /// The gate is open again, or nobody waits to go in any more.
    opened: Condvar,
}

struct State {
    /// Somebody wants all to be out, or has them out.
    shut: bool,
    /// How many vCPUs wait to go in.
    coming: u32,
    /// How many changes were asked for, and how many are done.
    asked: u64,
    done: u64,
    /// The vCPUs in guest code.
    inside: u64,
    /// What brings each of them out.
    attentions: Vec<Option<Attention>>,
}

/// The most vCPUs that a gate is for.
pub(super) const MOST_VCPUS: u32 = u64::BITS;

impl Gate {
    pub(super) fn new(vcpus: u32) -> Self {
        let attentions = (0..vcpus).map(|_| None).collect();
        Self {
            state: Mutex::new(State {
                shut: false,
                coming: 0,
                asked: 0,
                done: 0,
                inside: 0,
                attentions,
            }),
            left: Condvar::new(),
            opened: Condvar::new(),
        }
    }

    /// The attention that is to be called for a vCPU from now on.
    pub(super) fn guard(&self, vcpu: VcpuId, attention: Option<Attention>) {
        if let Some(place) = self.state().attentions.get_mut(vcpu.0 as usize) {
            *place = attention;
        }
    }

    /// Takes a vCPU into guest code with what `look` finds at that moment.
    pub(super) fn enter<T>(&self, vcpu: VcpuId, look: impl FnOnce() -> T) -> (T, Inside<'_>) {
        let mut state = self.come();
        let found = look();
        state.inside |= 1 << vcpu.0;
        drop(state);
        (found, Inside { gate: self, vcpu })
    }

    /// Does `change` while no vCPU is in guest code: each is at a border of instructions, or asks a
    /// device. All come back from guest code soon after it, even if they were not there.
    pub(super) fn shut<T>(&self, change: impl FnOnce() -> T) -> T {
        self.alone(u64::MAX, change)
    }

    /// Does `change` while no vCPU is in guest code, and calls the attention of those whose bit is
    /// set in `called`, or who are there.
    fn alone<T>(&self, called: u64, change: impl FnOnce() -> T) -> T {
        let mut state = self.state();
        let turn = state.asked;
        state.asked += 1;
        while state.done != turn || state.coming != 0 {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.shut = true;
        for (attention, n) in state.attentions.iter().zip(0..) {
            if (called | state.inside) >> n & 1 != 0
                && let Some(attention) = attention
            {
                attention.call();
            }
        }
        while state.inside != 0 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _opens = Opens(self);
        change()
    }

    /// The state, once the gate is open for a vCPU.
    fn come(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.shut {
            state.coming += 1;
            while state.shut {
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.coming -= 1;
            if state.coming == 0 {
                self.opened.notify_all();
            }
        }
        state
    }

    fn leave(&self, vcpu: VcpuId) {
        let mut state = self.state();
        state.inside &= !(1 << vcpu.0);
        if state.shut && state.inside == 0 {
            self.left.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the gate again, also if the change has panicked.
struct Opens<'a>(&'a Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.shut = false;
        state.done += 1;
        self.0.opened.notify_all();
    }
}

/// A vCPU is in guest code.
pub(super) struct Inside<'a> {
    gate: &'a Gate,
    vcpu: VcpuId,
}

impl Inside<'_> {
    /// Asks a device: outside for as long as that takes. The rest of the instruction is executed
    /// afterwards.
    pub(super) fn out<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.gate.leave(self.vcpu);
        let answer = ask();
        self.gate.come().inside |= 1 << self.vcpu.0;
        answer
    }

    /// Does `act` while no other vCPU is in guest code.
    pub(super) fn alone<T>(&self, act: impl FnOnce() -> T) -> T {
        self.out(|| self.gate.alone(0, act))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.vcpu);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        thread,
    };

    use super::*;

    /// Threads go in and out, and some of them want to be alone: nobody is in then.
    #[test]
    fn who_is_alone_is_alone_whoever_comes_and_goes() {
        let gate = Gate::new(4);
        let (inside, alone) = (AtomicU32::new(0), AtomicBool::new(false));
        let inside_for_a_moment = || {
            assert!(!alone.load(SeqCst));
            inside.fetch_add(1, SeqCst);
            thread::yield_now();
            assert!(!alone.load(SeqCst));
            inside.fetch_sub(1, SeqCst);
        };
        let be_alone = || {
            assert!(!alone.swap(true, SeqCst) && inside.load(SeqCst) == 0);
            thread::yield_now();
            assert!(alone.swap(false, SeqCst) && inside.load(SeqCst) == 0);
        };
        thread::scope(|scope| {
            for n in 0..4 {
                let (gate, be_alone, inside_for_a_moment) =
                    (&gate, &be_alone, &inside_for_a_moment);
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let ((), here) = gate.enter(VcpuId(n), || ());
                        inside_for_a_moment();
                        match (round + n) % 3 {
                            0 => here.alone(be_alone),
                            1 => here.out(|| gate.shut(be_alone)),
                            _ => {}
                        }
                        inside_for_a_moment();
                    }
                });
            }
        });
    }

    #[test]
    fn all_are_called_for_a_change_and_only_those_inside_for_a_moment_alone() {
        let gate = Gate::new(3);
        let calls: Vec<_> = (0..3).map(|_| Attention::default()).collect();
        calls.iter().zip(0..).for_each(|(call, n)| gate.guard(VcpuId(n), Some(call.clone())));
        let called = || -> Vec<bool> {
            let flags = calls.iter().cloned().map(std::sync::Arc::<AtomicBool>::from);
            flags.map(|flag| flag.swap(false, SeqCst)).collect()
        };
        let ((), first) = gate.enter(VcpuId(0), || ());
        let second = gate.enter(VcpuId(1), || ()).1;
        thread::scope(|scope| {
            scope.spawn(|| first.alone(|| ()));
            // It comes out when it is called, as a CPU does.
            let flag = std::sync::Arc::<AtomicBool>::from(calls[1].clone());
            while !flag.load(SeqCst) {
                thread::yield_now();
            }
            drop(second);
        });
        assert_eq!(called(), [false, true, false]);
        first.out(|| gate.shut(|| ()));
        assert_eq!(called(), [true; 3]);
    }
}
