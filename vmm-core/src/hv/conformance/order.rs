//! What vCPUs see of each other's loads and stores: no more than x86 allows (Intel SDM 3-9.2, "Memory
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
/// Where the vCPUs say how far they are.
const HERE: [u64; 4] = [0x1_0000, 0x1_0040, 0x1_0180, 0x1_01c0];
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
    let mut pair = Vcpus::new(setup, 2, 3)?;
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
    Vcpus::new(setup, 2, 3)?.in_step(setup.rounds, 4, [X, Y], |round, [a, b]| {
        ensure!(a < round || b < round, "both loaded what was stored after it, in round {round}");
        Ok(())
    })
}

/// Who sees a store sees all those before it, by the same vCPU, however they lie.
pub(super) fn stores_are_seen_in_order(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut pair = Vcpus::new(setup, 2, 3)?;
    // Alone in its line, not aligned, across two lines, across two pages, and the word itself.
    for message in [X, LINE + 1, LINE + 62, BORDER - 2, Y] {
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            pair.run(
                rounds,
                &[5, 6].map(|rip| Regs { rip, r8: message, r9: Y, ..Regs::default() }),
            )?;
        }
    }
    Ok(())
}

/// Two vCPUs that look at what two others store, each in an order of its own, agree on which store came
/// first; and nobody who has seen a store sees an earlier one of the same place.
pub(super) fn all_see_stores_of_others_in_one_order(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut four = Vcpus::new(setup, 4, 3)?;
    let looks = |n: usize, first, second| Regs {
        rip: 15,
        rbx: RESULTS[n],
        r8: first,
        r9: second,
        ..Regs::default()
    };
    let stores = |place| Regs { rip: 16, r8: place, r9: HERE[0], r10: HERE[1], ..Regs::default() };
    for rounds in parts(setup.rounds) {
        four.clear()?;
        four.run(rounds, &[looks(0, X, Y), looks(1, Y, X), stores(X), stores(Y)])?;
        let seen_by = |n: usize| -> Result<Vec<[u64; 2]>, Failure> {
            let at = |look: u32| GuestAddress(RESULTS[n] + 16 * u64::from(look));
            (0..rounds).map(|look| Ok(four.guest.memory.read_obj(at(look))?)).collect()
        };
        agree(&seen_by(0)?, &seen_by(1)?)?;
    }
    Ok(())
}

/// What one vCPU saw, first of X and then of Y, and another first of Y and then of X: never that X was stored
/// when Y was not yet, and the reverse.
fn agree(x_then_y: &[[u64; 2]], y_then_x: &[[u64; 2]]) -> Result<(), Failure> {
    for looks in [x_then_y, y_then_x] {
        let back = looks.windows(2).find(|pair| pair[1][0] < pair[0][0] || pair[1][1] < pair[0][1]);
        ensure!(back.is_none(), "a store was seen, and then an earlier one: {back:?}");
    }
    let mut looks = x_then_y.iter().peekable();
    for [y, x] in y_then_x {
        // Of those that saw a later X, the first saw the earliest Y.
        while looks.next_if(|[later, _]| later <= x).is_some() {}
        let Some([later, earlier]) = looks.peek() else { break };
        ensure!(
            y <= earlier,
            "one vCPU saw X at {later} before Y was past {earlier}, another Y at {y} before X was past {x}"
        );
    }
    Ok(())
}

/// Two vCPUs that count in one place by locked accesses lose nothing, however it lies, nor what is
/// stored beside it.
pub(super) fn locked_accesses_are_atomic_however_they_lie(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut pair = Vcpus::new(setup, 2, 3)?;
    for place in [X, LINE + 2, LINE + 62, BORDER - 1, BORDER - 3] {
        let at = |rip| Regs { rip, r8: place, ..Regs::default() };
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            pair.run(rounds, &[7, 7].map(at))?;
            let count: u32 = pair.guest.memory.read_obj(GuestAddress(place))?;
            ensure_eq!(count, 2 * rounds, "counted at {place:#x}");
            pair.clear()?;
            pair.run(rounds, &[14, 8].map(at))?;
            let count: u32 = pair.guest.memory.read_obj(GuestAddress(place))?;
            let expected = rounds.wrapping_add(rounds << 24);
            ensure_eq!(count, expected, "counted at {place:#x}, with stores to its last byte");
        }
    }
    for rounds in parts(setup.rounds) {
        pair.clear()?;
        pair.run(rounds, &[9, 9].map(|rip| Regs { rip, r8: LINE, ..Regs::default() }))?;
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
    let mut pair = Vcpus::new(setup, 2, 3)?;
    for pages in [1, 2, 64] {
        let regs = |rip| Regs { rip, r8: PAGES, r10: pages - 1, ..Regs::default() };
        for rounds in parts(setup.rounds) {
            pair.clear()?;
            pair.run(rounds, &[10, 11].map(regs))?;
        }
    }
    Ok(())
}

/// An entry of a page table is marked as used by one vCPU while another changes its other bits:
/// neither undoes what the other does.
pub(super) fn page_tables_are_marked_without_losing_other_changes(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut pair = Vcpus::new(setup, 2, 0)?;
    for rounds in parts(setup.rounds) {
        pair.clear()?;
        let regs = |rip| Regs { rip, r8: LARGE_ENTRY, r9: LARGE, ..Regs::default() };
        pair.run(rounds, &[12, 13].map(regs))?;
    }
    Ok(())
}

/// So many rounds, in parts.
fn parts(rounds: u32) -> impl Iterator<Item = u32> {
    (0..rounds).step_by(AT_ONCE as usize).map(move |done| AT_ONCE.min(rounds - done))
}

/// The vCPUs of a VM.
struct Vcpus {
    guest: Guest,
    others: Vec<Box<dyn Vcpu>>,
    system: SystemRegs,
}

impl Vcpus {
    /// So many, in 64-bit mode, in this ring.
    fn new(setup: &Setup<'_>, count: u32, ring: u8) -> Result<Self, Failure> {
        let plan = Plan { vcpus: count, memory: 4 << 20, ..Plan::default() };
        let guest = Guest::long_as(setup, &plan, program!("order"))?;
        let cpu = &setup.hypervisor.caps().cpu;
        let others: Result<_, _> =
            (1..count).map(|id| guest.vm.create_vcpu(VcpuId(id), cpu)).collect();
        let mut system = long_mode(&guest.memory)?;
        if ring == 3 {
            system.cs = Segment::code64(USER_CODE64, 3);
            let data = Segment::data(USER_DATA, 3);
            (system.ds, system.es, system.ss) = (data, data, data);
        }
        Ok(Self { guest, others: others?, system })
    }

    /// What the vCPUs share is 0.
    fn clear(&self) -> Result<(), Failure> {
        let zeros = [0; 0x3000];
        Ok(self.guest.memory.write(GuestAddress(HERE[0]), &zeros)?)
    }

    /// Two begin at one entry, the second with the two places the other way around. In each round `look`
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
                rip: entry,
                rbx: RESULTS[n],
                r8: places[n].0,
                r9: places[n].1,
                r10: OWN[n],
                ..Regs::default()
            });
            self.run(rounds, &regs)?;
            for round in 1..=rounds {
                let at = |results: u64| GuestAddress(results + 4 * u64::from(round));
                let memory = &self.guest.memory;
                look(round, [memory.read_obj(at(RESULTS[0]))?, memory.read_obj(at(RESULTS[1]))?])?;
            }
        }
        Ok(())
    }

    /// Each runs with its registers, of which RIP is the number of an entry, to the end.
    fn run(&mut self, rounds: u32, regs: &[Regs]) -> Result<(), Failure> {
        let Self { guest, others, system } = self;
        let mut all: Vec<&mut dyn Vcpu> = vec![&mut *guest.vcpu];
        all.extend(others.iter_mut().map(|vcpu| &mut **vcpu as &mut dyn Vcpu));
        for (n, (vcpu, regs)) in all.iter_mut().zip(regs).enumerate() {
            // They look at each other by twos.
            let (here, there) = (HERE[n], HERE[n ^ 1]);
            prepare(*vcpu, system, Regs { rdi: rounds.into(), rsi: here, rdx: there, ..*regs })?;
        }
        let kickers: Vec<_> = all.iter().map(|vcpu| vcpu.kicker()).collect();
        let kickers = &kickers;
        let ends: Vec<_> = thread::scope(|scope| {
            let run = |vcpu| scope.spawn(move || to_power_off(vcpu, kickers));
            let threads: Vec<_> = all.into_iter().map(run).collect();
            let panicked = |_| Err(Failure::from("a panic".to_owned()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        // Those that were kicked were so because of another.
        let ends = ends.into_iter().collect::<Result<Vec<_>, _>>()?;
        ensure_eq!(ends, vec![true; regs.len()], "vCPUs that powered off");
        Ok(())
    }
}

/// Puts a vCPU before the entry whose number is in `regs.rip`, to say how far it is at RSI, and to look at
/// RDX.
fn prepare(vcpu: &mut dyn Vcpu, system: &SystemRegs, regs: Regs) -> Result<(), Failure> {
    let rip = CODE + ENTRY * regs.rip;
    enter(vcpu, system, rip)?;
    let rflags = rflags::FIXED | IOPL;
    Ok(vcpu.set_regs(&Regs { rip, rflags, rsp: CODE, ..regs })?)
}

/// Runs a vCPU until it powers off with code 0. False if it was kicked; any other end kicks all.
fn to_power_off(vcpu: &mut dyn Vcpu, all: &[Kicker]) -> Result<bool, Failure> {
    let ended = match run_to_end(vcpu, &Recorder::new()) {
        Ok(VcpuExit::PowerOff(0)) => return Ok(true),
        Ok(VcpuExit::Kicked) => return Ok(false),
        Ok(exit) => unexpected(&exit, vcpu),
        Err(failure) => failure,
    };
    all.iter().for_each(Kicker::kick);
    Err(ended)
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn two_that_saw_stores_in_different_orders_disagree() {
        let other = |y_then_x: &[[u64; 2]]| agree(&[[1, 1], [5, 3], [6, 9]], y_then_x).is_ok();
        assert!(other(&[[0, 0], [3, 4], [9, 5], [9, 6]]));
        // X at 5 was there when Y was not past 3; so it was there when Y was.
        assert!(!other(&[[4, 4]]));
        assert!(!other(&[[0, 0], [3, 4], [10, 5]]));
        // Nobody's Y or X goes back.
        assert!(!other(&[[2, 2], [1, 2]]) && !other(&[[2, 2], [2, 1]]));
    }
}
