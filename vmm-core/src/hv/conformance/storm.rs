//! A storm of kicks, and breaks, on a guest that mixes everything: nothing is lost, nothing comes
//! twice.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Setup,
    guest::{Guest, Kind, PATIENCE, unexpected, value},
    random::Random,
};
use crate::{
    exit::{CONTINUE, Flow, VcpuExit},
    hv::{GuestIo, Kicker},
    memory::GuestAddress,
};

/// Kicks of one storm.
const KICKS: u64 = 5_000;
/// The longest time between two, in microseconds.
const LONGEST_GAP: u64 = 200;
/// What a kick must be answered in.
const PROMPT: Duration = Duration::from_secs(1);
/// Accesses that show that a guest goes on.
const MANY: u64 = 1_000;

/// Ten thousand kicks at random moments: each ends one `run` within a second, as a kick and not as
/// a foreign signal, and no access of the guest is lost, doubled, or given the wrong data. While
/// accesses break too, each kick and each break ends a `run` of its own.
pub(super) fn no_kick_of_a_storm_is_lost_nor_any_access(setup: &Setup<'_>) -> Result<(), Failure> {
    // Breaks would hide a kick that the guest does not notice: `run` would return for them.
    weather(setup, None)?;
    weather(setup, Some(BREAK_EVERY))
}

/// One storm; with breaks after every so many accesses.
fn weather(setup: &Setup<'_>, break_every: Option<u64>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("storm"))?;
    let rounds = Rounds(Mutex::new(Round::new(break_every)));
    let over = AtomicBool::new(false);
    let (report, reports) = mpsc::channel();
    let kicker = guest.vcpu.kicker();
    let (ran, kicked) = thread::scope(|scope| {
        let storm = Storm { kicker, reports, rounds: &rounds, over: &over };
        let kicks = scope.spawn(move || storm.kick_all());
        let ran = ride(&mut guest, &rounds, &report, &over);
        drop(report);
        (ran, kicks.join())
    });
    let round = rounds.lock();
    ensure!(round.wrong.is_none(), "not the next access: {:?}", round.wrong);
    ensure_eq!(ran?, round.breaks, "runs that ended by a break");
    kicked.map_err(|_| Failure::from("the storm panicked".to_owned()))??;
    ensure!(round.number > 100, "the guest came no further than round {}", round.number);
    Ok(())
}

/// Runs the guest until the storm is over, reporting kicks; returns how many breaks ended a `run`.
fn ride(
    guest: &mut Guest,
    rounds: &Rounds,
    report: &mpsc::Sender<()>,
    over: &AtomicBool,
) -> Result<u64, Failure> {
    let mut breaks = 0;
    while !over.load(SeqCst) {
        match guest.vcpu.run(rounds)? {
            VcpuExit::Kicked => {
                report.send(()).map_err(|_| Failure::from("nobody kicks".to_owned()))?;
            }
            VcpuExit::Reset => breaks += 1,
            other => return Err(unexpected(&other, &*guest.vcpu)),
        }
    }
    Ok(breaks)
}

/// The kicking side.
struct Storm<'a> {
    kicker: Kicker,
    /// One for each `run` that returned as kicked; disconnected when nobody runs the guest.
    reports: mpsc::Receiver<()>,
    rounds: &'a Rounds,
    over: &'a AtomicBool,
}

impl Storm<'_> {
    fn kick_all(&self) -> Result<(), Failure> {
        let mut random = Random::new(0xdead_10cc);
        let kicked = (1..=KICKS).try_for_each(|n| {
            spin_for(Duration::from_micros(random.below(LONGEST_GAP)));
            self.kick(n)
        });
        self.over.store(true, SeqCst);
        // Brings the runner back to see that it is over, whatever became of the other kicks.
        while self.report(Duration::from_millis(1)) != Err(RecvTimeoutError::Disconnected) {
            self.kicker.kick();
        }
        kicked
    }

    fn kick(&self, n: u64) -> Result<(), Failure> {
        let accesses = self.rounds.lock().accesses;
        ensure!(self.reports.try_recv().is_err(), "`run` came back kicked before kick {n}");
        self.kicker.kick();
        let mut waited = Duration::ZERO;
        while let Err(why) = self.report(PROMPT) {
            ensure!(why == RecvTimeoutError::Timeout, "the guest ended before kick {n}");
            waited += PROMPT;
            // A host that has no time for the guest at all is no reason to fail.
            let gone_on = self.rounds.lock().accesses - accesses;
            ensure!(gone_on < MANY, "{gone_on} accesses in {waited:?} after kick {n}: it is lost");
            ensure!(waited < PATIENCE, "kick {n} did not end `run` in {waited:?}");
        }
        Ok(())
    }

    fn report(&self, time: Duration) -> Result<(), RecvTimeoutError> {
        self.reports.recv_timeout(time)
    }
}

/// Sleeping has a granularity of about 60 us, longer than most gaps.
fn spin_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// What an access of `guests/storm.S` carries.
#[derive(Clone, Copy)]
enum Carries {
    /// Read: a value not given before.
    Fresh,
    /// Written: the number of the round.
    Number,
    /// Written: the oldest fresh value not yet written.
    Oldest,
}

const MMIO: u64 = 0xd000_0000;

/// One round of `guests/storm.S`.
const ROUND: [(Kind, u64, usize, Carries); 19] = [
    (Kind::PortOut, 0x90, 4, Carries::Number),
    (Kind::MmioWrite, MMIO, 4, Carries::Number),
    (Kind::MmioRead, MMIO + 8, 4, Carries::Fresh),
    (Kind::MmioWrite, MMIO + 16, 4, Carries::Oldest),
    (Kind::PortIn, 0x98, 4, Carries::Fresh),
    (Kind::PortOut, 0x9c, 4, Carries::Oldest),
    (Kind::MmioRead, MMIO + 24, 4, Carries::Fresh),
    (Kind::MmioWrite, MMIO + 24, 4, Carries::Number),
    (Kind::MmioWrite, MMIO + 32, 4, Carries::Oldest),
    (Kind::PortIn, 0xa0, 1, Carries::Fresh),
    (Kind::PortIn, 0xa0, 1, Carries::Fresh),
    (Kind::PortIn, 0xa0, 1, Carries::Fresh),
    (Kind::PortIn, 0xa0, 1, Carries::Fresh),
    (Kind::PortIn, 0xa0, 1, Carries::Fresh),
    (Kind::PortOut, 0xa4, 1, Carries::Oldest),
    (Kind::PortOut, 0xa4, 1, Carries::Oldest),
    (Kind::PortOut, 0xa4, 1, Carries::Oldest),
    (Kind::PortOut, 0xa4, 1, Carries::Oldest),
    (Kind::PortOut, 0xa4, 1, Carries::Oldest),
];

/// Every so many accesses one breaks; no divisor of a round, so that each access has its turn.
const BREAK_EVERY: u64 = 11;

/// The host's side of `guests/storm.S`: knows the next access and answers it. Ends `run` for good
/// at another one, and for a moment every now and then.
struct Rounds(Mutex<Round>);

struct Round {
    break_every: Option<u64>,
    breaks: u64,
    accesses: u64,
    number: u32,
    step: usize,
    given: u32,
    /// Values given to the guest that it has not yet written back.
    owed: VecDeque<u64>,
    /// The first access that was not the next one.
    wrong: Option<String>,
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn new(break_every: Option<u64>) -> Self {
        Self {
            break_every,
            breaks: 0,
            accesses: 0,
            number: 1,
            step: 0,
            given: 0,
            owed: VecDeque::new(),
            wrong: None,
        }
    }

    fn access(&mut self, kind: Kind, address: u64, data: &mut [u8]) -> Flow {
        let (expected_kind, at, width, carries) = ROUND[self.step];
        let right = match carries {
            Carries::Fresh => self.give(data),
            Carries::Number => value(data) == u64::from(self.number),
            Carries::Oldest => Some(value(data)) == self.owed.pop_front(),
        };
        if !right || (kind, address, data.len()) != (expected_kind, at, width) {
            let place = format!("round {}, access {}", self.number, self.step);
            self.wrong.get_or_insert(format!("{place}: {kind:?} {address:#x} {data:x?}"));
            return Flow::Break(VcpuExit::PowerOff(1));
        }
        self.step = (self.step + 1) % ROUND.len();
        self.number += u32::from(self.step == 0);
        self.accesses += 1;
        if self.break_every.is_some_and(|every| self.accesses.is_multiple_of(every)) {
            self.breaks += 1;
            return Flow::Break(VcpuExit::Reset);
        }
        CONTINUE
    }

    fn give(&mut self, data: &mut [u8]) -> bool {
        self.given += 1;
        data.iter_mut().zip(self.given.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.owed.push_back(value(data));
        true
    }
}

impl GuestIo for Rounds {
    fn mmio_read(&self, at: GuestAddress, data: &mut [u8]) -> Flow {
        self.lock().access(Kind::MmioRead, at.0, data)
    }

    fn mmio_write(&self, at: GuestAddress, data: &[u8]) -> Flow {
        self.lock().access(Kind::MmioWrite, at.0, &mut data.to_vec())
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> Flow {
        self.lock().access(Kind::PortIn, port.into(), data)
    }

    fn port_out(&self, port: u16, data: &[u8]) -> Flow {
        self.lock().access(Kind::PortOut, port.into(), &mut data.to_vec())
    }
}
