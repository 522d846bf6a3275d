//! A guest on one thread and the world outside it on another, and the words in memory by which they
//! know of each other.
//!
//! Guests that take interrupts (`guests/irq_apic.h`) count them in memory and power off when they
//! have their target.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Setup,
    guest::{Guest, Recorder},
};
use crate::{
    error::Result,
    hv::IrqConfig,
    irq::IrqController,
    memory::{GuestAddress, GuestMemory},
};

/// Interrupts the guest has taken and acknowledged.
pub(super) const COUNT: Word = Word(0x8000);
/// How many it waits for.
pub(super) const TARGET: Word = Word(0x8004);
/// Not 0: it is set up and about to wait.
pub(super) const READY: Word = Word(0x8008);
/// What the guest is told besides, or tells; each program says what.
pub(super) const FIRST: Word = Word(0x800c);
/// As above.
pub(super) const SECOND: Word = Word(0x8010);

/// How long the guest may take to do what the world outside waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// What a guest that halts is given to come back wrongly.
pub(super) const A_WHILE: Duration = Duration::from_millis(30);

/// The address of 32 bits that guest and host share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) fn read(self, memory: &GuestMemory) -> Result<u32> {
        memory.read_obj(GuestAddress(self.0))
    }

    pub(super) fn write(self, memory: &GuestMemory, value: u32) -> Result<()> {
        memory.write_obj(GuestAddress(self.0), value)
    }
}

/// A guest in 64-bit mode with all interrupt controllers, and these words set.
pub(super) fn interruptible(
    setup: &Setup<'_>,
    code: &[u8],
    words: &[(Word, u32)],
) -> Result<Guest, Failure> {
    let guest = Guest::long(setup, Some(IrqConfig::default()), code)?;
    for (word, value) in words {
        word.write(&guest.memory, *value)?;
    }
    Ok(guest)
}

/// The interrupt controllers of a guest that was made with them.
pub(super) fn irqs(guest: &Guest) -> Result<Arc<dyn IrqController>, Failure> {
    let irqs = guest.vm.irqs();
    irqs.ok_or_else(|| Failure::from("the VM has no interrupt controllers".to_owned()))
}

/// What the world outside can see and do.
pub(super) struct Outside<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) irqs: &'a dyn IrqController,
    ended: &'a AtomicBool,
}

impl Outside<'_> {
    /// Waits until `word` is at least `value`.
    pub(super) fn wait(&self, word: Word, value: u32) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            // Before the word is read: the guest may write it and end.
            let ended = self.check(&format!("waiting for {value} in {word:x?}"));
            let now = word.read(self.memory)?;
            if now >= value {
                return Ok(());
            }
            ended?;
            ensure!(
                start.elapsed() < PATIENCE,
                "{word:x?} is {now}, not {value}, for {PATIENCE:?}"
            );
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// A failure if `run` has returned.
    pub(super) fn check(&self, doing: &str) -> Result<(), Failure> {
        ensure!(!self.ended.load(SeqCst), "`run` has returned while {doing}");
        Ok(())
    }
}

/// Runs the guest until it powers off, while `outside` plays the world on another thread.
pub(super) fn play(
    guest: &mut Guest,
    outside: impl FnOnce(&Outside<'_>) -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    let (irqs, memory, kicker) = (irqs(guest)?, guest.memory.clone(), guest.vcpu.kicker());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let world = scope.spawn(|| {
            let played = outside(&Outside { memory: &memory, irqs: &*irqs, ended: &ended });
            if played.is_err() {
                kicker.kick();
            }
            played
        });
        let end = guest.run_to_power_off(&Recorder::new());
        ended.store(true, SeqCst);
        let played = world.join().unwrap_or_else(|_| Err("the world panicked".to_owned().into()));
        match (played, end) {
            // Each may be the consequence of the other.
            (Err(played), Err(end)) => Err(Failure::from(format!("{played}; {end}"))),
            (played, end) => played.and(end),
        }
    })
}
