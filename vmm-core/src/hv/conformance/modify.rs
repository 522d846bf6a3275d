//! Instructions that read a place outside RAM and write it back changed.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, value},
};
use crate::{arch::Regs, exit::CONTINUE};

const AT: u64 = 0xd000_0040;

/// What is written, given what was read, RAX and RCX.
type Change = fn(u64, u64, u64) -> u64;
/// What RAX is afterwards, given the same.
type Result64 = fn(u64, u64, u64) -> u64;

/// One entry of `guests/modify.S`.
struct Case {
    name: &'static str,
    width: usize,
    written: Change,
    rax: Result64,
}

const fn case(name: &'static str, width: usize, written: Change, rax: Result64) -> Case {
    Case { name, width, written, rax }
}

/// RAX as it was.
const KEPT: Result64 = |_, rax, _| rax;
const XCHG: Change = |_, rax, _| rax;
/// The SDM: "the processor never produces a locked read without also producing a locked write", so
/// a CMPXCHG that does not find what it compares with writes back what it found. It does so without
/// LOCK too.
const CMPXCHG32: Change = |old, rax, rcx| if old as u32 == rax as u32 { rcx } else { old };
const CMPXCHG32_RAX: Result64 = |old, rax, _| if old as u32 == rax as u32 { rax } else { old };

const CASES: [Case; 18] = [
    case("xchgb", 1, XCHG, |old, rax, _| rax & !0xff | old),
    case("xchgw", 2, XCHG, |old, rax, _| rax & !0xffff | old),
    case("xchgl", 4, XCHG, |old, _, _| old),
    case("xchgq", 8, XCHG, |old, _, _| old),
    case("cmpxchgl", 4, CMPXCHG32, CMPXCHG32_RAX),
    case("lock cmpxchgl", 4, CMPXCHG32, CMPXCHG32_RAX),
    case("lock cmpxchgq", 8, |old, rax, rcx| if old == rax { rcx } else { old }, |old, _, _| old),
    case("addb", 1, |old, _, rcx| old.wrapping_add(rcx), KEPT),
    case("addq", 8, |old, _, rcx| old.wrapping_add(rcx), KEPT),
    case("lock addl", 4, |old, _, rcx| old.wrapping_add(rcx), KEPT),
    case("orw", 2, |old, _, rcx| old | rcx, KEPT),
    case("lock orl", 4, |old, _, rcx| old | rcx, KEPT),
    case("incl", 4, |old, _, _| old.wrapping_add(1), KEPT),
    case("lock incq", 8, |old, _, _| old.wrapping_add(1), KEPT),
    case("xaddl", 4, |old, rax, _| old.wrapping_add(rax), |old, _, _| old),
    case("lock xaddq", 8, |old, rax, _| old.wrapping_add(rax), |old, _, _| old),
    case("notl", 4, |old, _, _| !old, KEPT),
    case("subl", 4, |old, _, rcx| old.wrapping_sub(rcx), KEPT),
];

const RAX: u64 = 0x1111_2222_8333_4444;
const RCX: u64 = 0x5555_6666_7777_8808;

/// XCHG, CMPXCHG, XADD, ADD, SUB, OR, INC and NOT on MMIO, with LOCK and without: one read, then
/// one write of the result.
pub(super) fn read_modify_write_on_mmio_is_one_read_then_one_write(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("modify"))?;
    // The second is what CMPXCHG compares with; all ones make additions carry.
    for found in [0x0123_4567_89ab_cdef, RAX, u64::MAX] {
        for (entry, case) in (0..).zip(&CASES) {
            check(&mut guest, entry, case, found)?;
        }
    }
    Ok(())
}

fn check(guest: &mut Guest, entry: u64, case: &Case, found: u64) -> Result<(), Failure> {
    let width = case.width;
    let io = Recorder::answering(|kind, _, data| {
        if kind.is_read() {
            let bytes = found.to_le_bytes();
            data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        CONTINUE
    });
    let regs = Regs { rax: RAX, rbx: AT, rcx: RCX, ..Regs::default() };
    let regs = guest.perform(&io, entry, regs)?;
    let what = format!("{} on {found:#x}", case.name);

    let read = found.to_le_bytes();
    let old = value(&read[..width]);
    let written = (case.written)(old, RAX, RCX).to_le_bytes();
    let expected = [
        Access::new(Kind::MmioRead, AT, &read[..width]),
        Access::new(Kind::MmioWrite, AT, &written[..width]),
    ];
    ensure_eq!(io.take(), expected, "{what}");
    ensure_eq!(regs.rax, (case.rax)(old, RAX, RCX), "RAX after {what}");
    ensure_eq!(regs.rcx, RCX, "RCX after {what}");
    Ok(())
}
