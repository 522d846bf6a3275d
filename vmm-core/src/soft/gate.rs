//! Keeping vCPUs out of guest code for a moment.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use vmm_cpu::Attention;

/// Lets a vCPU into guest code, unless somebody changes what it relies on.
///
/// A vCPU that asks a device is not in guest code: who changes the VM from a device's callback, or
/// holds a lock that a device waits for, does not wait for it.
#[derive(Default)]
pub(super) struct Gate {
    /// Held while something is changed, and for the moment of going in.
    door: Mutex<()>,
    /// The vCPU is in guest code.
    inside: AtomicBool,
    /// What brings it out.
    attention: Mutex<Option<Attention>>,
}

impl Gate {
    /// The vCPU whose attention is to be called.
    pub(super) fn guard(&self, attention: Attention) {
        *lock(&self.attention) = Some(attention);
    }

    /// Goes into guest code with what `look` finds at that moment.
    pub(super) fn enter<T>(&self, look: impl FnOnce() -> T) -> (T, Inside<'_>) {
        let _open = lock(&self.door);
        let found = look();
        self.inside.store(true, SeqCst);
        (found, Inside(self))
    }

    /// Does `change` while the vCPU is at a border of instructions, or asks a device.
    pub(super) fn shut<T>(&self, change: impl FnOnce() -> T) -> T {
        let _shut = lock(&self.door);
        if let Some(attention) = &*lock(&self.attention) {
            attention.call();
        }
        for turn in 0u32.. {
            if !self.inside.load(SeqCst) {
                break;
            }
            match turn {
                0..32 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        change()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The vCPU is in guest code.
pub(super) struct Inside<'a>(&'a Gate);

impl Inside<'_> {
    /// Asks a device: outside for as long as that takes. The rest of the instruction is executed
    /// afterwards.
    pub(super) fn out<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.0.inside.store(false, SeqCst);
        let answer = ask();
        let _open = lock(&self.0.door);
        self.0.inside.store(true, SeqCst);
        answer
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.store(false, SeqCst);
    }
}
