//! What two vCPUs see of each other's loads and stores: no more than x86 allows (Intel SDM 3-9.2, "Memory
//! Ordering"; AMD APM 2-7.2), whatever the host.
//!
//! The programs run in ring 3, where every host has them on a processor if it has one, and power off
//! there by an OUT that IOPL lets through; but for what only ring 0 can do.

use std::thread;

use super::{
    Failure, Setup,
    guest::{
        CODE, Guest, Plan, Recorder, USER_CODE64, USER_DATA, enter, long_mode, run_to_end,
        unexpected,
    },
};
use crate::{
    arch::{Regs, Segment, SystemRegs, VcpuId, rflags},
    exit::VcpuExit,
    hv::{Kicker, Vcpu},
    memory::GuestAddress,
};

/// How far the entries of `guests/order.S` are apart.
const ENTRY: u64 = 0x80;
/// How many rounds are run at a time: their results have room in memory.
const AT_ONCE: u32 = 1000;
/// Where two vCPUs say how far they are.
const HERE: [u64; 2] = [0x1_0000, 0x1_0040];
/// Two words, each in a cache line of its own.
const X: u64 = 0x1_0080;
const Y: u64 = 0x1_00c0;
/// Words that nobody else looks at.
const OWN: [u64; 2] = [0x1_0100, 0x1_0140];
/// A cache line, and the border of two pages.
const LINE: u64 = 0x1_0200;
const BORDER: u64 = 0x1_2000;
/// What each has loaded, by rounds.
const RESULTS: [u64; 2] = [0x2_0000, 0x3_0000];
/// Pages for code.
const PAGES: u64 = 0x10_0000;
/// The second page of 2 MiB, and where the tables have its entry.
const LARGE: u64 = 0x20_0000;
const LARGE_ENTRY: u64 = 0x9_1000 + 0x2000 + 8;
/// IN and OUT in ring 3.
const IOPL: u64 = 3 << 12;

/// A store followed by a load of something else can be late, unless there is a fence between them or
/// one of them is locked: then one of two vCPUs sees the other's.
pub(super) fn a_fence_lets_no_load_pass_a_store(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut pair = Pair::new(setup, 3)?;
    let mut late = 0;
    for (entry, what) in [(0, "nothing"), (1, "MFENCE"), (2, "LOCK INC"), (3, "XCHG")] {
        pair.in_step(setup.rounds, entry, [X, Y], |round, [a, b]| {
            let neither = a < round && b < round;
            late += u32::from(neither && entry == 0);
            ensure!(!neither || entry == 0, "round {round}, with {what} between: {a} and {b}");
            Ok(())
        })?;
    }
    log::info!("{late} of {} loads passed a store", setup.rounds);
    Ok(())
}

/// A load followed by a store: two vCPUs never load what the other stores afterwards.
pub(super) fn no_store_passes_a_load(setup: &Setup<'_>) -> Result<(), Failure> {
    Pair::new(setup, 3)?.in_step(setup.rounds, 4, [X, Y], |round, [a, b]| {
        ensure!(a < round || b < round, "both loaded what was stored after it, in round {round}");
        Ok(())
    })
}

/// Who sees a store sees all those before it, by the same vCPU, however they lie.
pub(super) fn stores_are_seen_in_order(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut pair = Pair::new(setup, 3)?;
    // Alone in its line, not aligned, across two lines, across two pages, and the word itself.
    for message in [X, LINE + 1, LINE + 62, BORDER - 2, Y] {
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            let regs = [0, 1].map(|_| Regs { r8: message, r9: Y, ..Regs::default() });
            pair.run(rounds, [5, 6], regs)?;
        }
    }
    Ok(())
}

/// Two vCPUs that count in one place by locked accesses lose nothing, however it lies, nor what is
/// stored beside it.
pub(super) fn locked_accesses_are_atomic_however_they_lie(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut pair = Pair::new(setup, 3)?;
    for place in [X, LINE + 2, LINE + 62, BORDER - 1, BORDER - 3] {
        let regs = [0, 1].map(|_| Regs { r8: place, ..Regs::default() });
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            pair.run(rounds, [7, 7], regs)?;
            let count: u32 = pair.guest.memory.read_obj(GuestAddress(place))?;
            ensure_eq!(count, 2 * rounds, "counted at {place:#x}");
            pair.clear()?;
            pair.run(rounds, [14, 8], regs)?;
            let count: u32 = pair.guest.memory.read_obj(GuestAddress(place))?;
            let expected = rounds.wrapping_add(rounds << 24);
            ensure_eq!(count, expected, "counted at {place:#x}, with stores to its last byte");
        }
    }
    let regs = [0, 1].map(|_| Regs { r8: LINE, ..Regs::default() });
    for rounds in parts(setup.rounds) {
        pair.clear()?;
        pair.run(rounds, [9, 9], regs)?;
        let halves: [u64; 2] = pair.guest.memory.read_obj(GuestAddress(LINE))?;
        ensure_eq!(halves, [2 * u64::from(rounds); 2], "counted in 16 bytes");
    }
    Ok(())
}

/// A vCPU executes what another one has written, as soon as it knows of it and has serialized: to
/// one page over and over, or to so many that each is forgotten in between.
pub(super) fn code_of_another_vcpu_is_executed_as_written(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut pair = Pair::new(setup, 3)?;
    for pages in [1, 2, 64] {
        let regs = [0, 1].map(|_| Regs { r8: PAGES, r10: pages - 1, ..Regs::default() });
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            pair.run(rounds, [10, 11], regs)?;
        }
    }
    Ok(())
}

/// An entry of a page table is marked as used by one vCPU while another changes its other bits:
/// neither undoes what the other does.
pub(super) fn page_tables_are_marked_without_losing_other_changes(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut pair = Pair::new(setup, 0)?;
    for rounds in parts(setup.rounds) {
        pair.clear()?;
        let regs = [0, 1].map(|_| Regs { r8: LARGE_ENTRY, r9: LARGE, ..Regs::default() });
        pair.run(rounds, [12, 13], regs)?;
    }
    Ok(())
}

/// So many rounds, in parts.
fn parts(rounds: u32) -> impl Iterator<Item = u32> {
    (0..rounds).step_by(AT_ONCE as usize).map(move |done| AT_ONCE.min(rounds - done))
}

/// Two vCPUs of a VM.
struct Pair {
    guest: Guest,
    other: Box<dyn Vcpu>,
    system: SystemRegs,
}

impl Pair {
    /// In 64-bit mode, in this ring.
    fn new(setup: &Setup<'_>, ring: u8) -> Result<Self, Failure> {
        let plan = Plan { vcpus: 2, memory: 4 << 20, ..Plan::default() };
        let guest = Guest::long_as(setup, &plan, program!("order"))?;
        let other = guest.vm.create_vcpu(VcpuId(1), &setup.hypervisor.caps().cpu)?;
        let mut system = long_mode(&guest.memory)?;
        if ring == 3 {
            system.cs = Segment::code64(USER_CODE64, 3);
            let data = Segment::data(USER_DATA, 3);
            (system.ds, system.es, system.ss) = (data, data, data);
        }
        Ok(Self { guest, other, system })
    }

    /// What the vCPUs share is 0.
    fn clear(&self) -> Result<(), Failure> {
        let zeros = [0; 0x3000];
        Ok(self.guest.memory.write(GuestAddress(HERE[0]), &zeros)?)
    }

    /// Both begin at one entry, the second with the two places the other way around. In each round `look`
    /// is shown what they have loaded.
    fn in_step(
        &mut self,
        rounds: u32,
        entry: u64,
        [store, load]: [u64; 2],
        mut look: impl FnMut(u32, [u32; 2]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for rounds in parts(rounds) {
            self.clear()?;
            let places = [(store, load), (load, store)];
            let regs = [0, 1].map(|n| Regs {
                rbx: RESULTS[n],
                r8: places[n].0,
                r9: places[n].1,
                r10: OWN[n],
                ..Regs::default()
            });
            self.run(rounds, [entry, entry], regs)?;
            for round in 1..=rounds {
                let at = |results: u64| GuestAddress(results + 4 * u64::from(round));
                let memory = &self.guest.memory;
                look(round, [memory.read_obj(at(RESULTS[0]))?, memory.read_obj(at(RESULTS[1]))?])?;
            }
        }
        Ok(())
    }

    /// Both run from these entries with these registers to the end.
    fn run(&mut self, rounds: u32, entries: [u64; 2], regs: [Regs; 2]) -> Result<(), Failure> {
        let Self { guest, other, system } = self;
        let (first, second) = (&mut *guest.vcpu, &mut **other);
        prepare(first, system, Regs { rip: entries[0], rdi: rounds.into(), ..regs[0] }, HERE)?;
        let there = [HERE[1], HERE[0]];
        prepare(second, system, Regs { rip: entries[1], rdi: rounds.into(), ..regs[1] }, there)?;
        let kickers = [first.kicker(), second.kicker()];
        thread::scope(|scope| {
            let beside = scope.spawn(|| to_power_off(second, &kickers[0]));
            let ended = to_power_off(first, &kickers[1]);
            let beside = beside.join().unwrap_or_else(|_| Err(Failure::from("a panic".to_owned())));
            // The one that was kicked was so because of the other.
            let both = match (ended, beside) {
                (Err(why), _) | (_, Err(why)) => return Err(why),
                (Ok(first), Ok(second)) => [first, second],
            };
            ensure_eq!(both, [true; 2], "vCPUs that powered off");
            Ok(())
        })
    }
}

/// Puts a vCPU before the entry whose number is in `regs.rip`, to say how far it is at the first of
/// two places, and to look at the second.
fn prepare(
    vcpu: &mut dyn Vcpu,
    system: &SystemRegs,
    regs: Regs,
    [here, there]: [u64; 2],
) -> Result<(), Failure> {
    let rip = CODE + ENTRY * regs.rip;
    enter(vcpu, system, rip)?;
    let rflags = rflags::FIXED | IOPL;
    Ok(vcpu.set_regs(&Regs { rip, rflags, rsp: CODE, rsi: here, rdx: there, ..regs })?)
}

/// Runs a vCPU until it powers off with code 0. False if it was kicked; any other end kicks the
/// other.
fn to_power_off(vcpu: &mut dyn Vcpu, other: &Kicker) -> Result<bool, Failure> {
    let ended = match run_to_end(vcpu, &Recorder::new()) {
        Ok(VcpuExit::PowerOff(0)) => return Ok(true),
        Ok(VcpuExit::Kicked) => return Ok(false),
        Ok(exit) => unexpected(&exit, vcpu),
        Err(failure) => failure,
    };
    other.kick();
    Err(ended)
}
