//! String instructions: MOVS, STOS, LODS, SCAS, CMPS, alone and repeated.
//!
//! Every iteration leaves the registers as if the instruction were to begin anew, so that a fault or
//! a call for attention may come between any two. A device, or code that is overwritten, is met one
//! iteration at a time; plain memory is copied and filled as far as a page goes.

use iced_x86::{Code, Instruction, OpKind};

use super::Done;
use crate::{
    core::{Core, World},
    decode::Lowering,
    flags::DF,
    op::{Exec, Op, Stop, exec},
    ram::{OFFSET, PAGE_SIZE},
    regs::{BASES, NONE, PAGE, RAX, RCX, RDI, RSI},
    system::ES,
    word::Word,
};

/// How many iterations there are at most before the CPU looks up.
const PATIENCE: u32 = 1000;
/// How many iterations a page is worth.
const PAGES_WORTH: u32 = 16;

/// One of the instructions.
trait Element: 'static {
    /// One iteration, but for the count; on a fault, nothing. False if it is not to be repeated.
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop>;

    /// Up to `most` iterations more, not none: as many as are easy; returns how many.
    fn rush<W: Word>(_: &mut Core, _: &Op, _most: u64, _: &World<'_>) -> u64 {
        0
    }
}

/// `WHILE` is the ZF with which it is repeated.
struct Cmps<const WHILE: bool>;
struct Lods;
struct Movs;
struct Scas<const WHILE: bool>;
struct Stos;

/// In [`Op::base`]: the destination's segment is to be checked; in [`Op::index`]: the source's. Where
/// it is not, the base of the source is in `third`.
const CHECKED: u8 = 1;

/// The linear address of an element of the source.
#[inline(always)]
fn source<W: Word>(core: &mut Core, op: &Op) -> Result<u64, Stop> {
    let offset = core.regs[RSI] & op.imm;
    if op.index == CHECKED {
        let segment = op.third.wrapping_sub(BASES);
        return core.segment_address(segment, offset, W::BYTES, false);
    }
    Ok(offset.wrapping_add(core.regs[op.third]))
}

/// The linear address of an element of the destination, which is in ES; `write`: to be stored to.
#[inline(always)]
fn target<W: Word>(core: &mut Core, op: &Op, write: bool) -> Result<u64, Stop> {
    let offset = core.regs[RDI] & op.imm;
    if op.base == CHECKED {
        return core.segment_address(ES, offset, W::BYTES, write);
    }
    Ok(offset)
}

/// The linear addresses of both, if several elements can be done at once: where no segment is in the
/// way, and addresses do not begin anew within a page.
fn ends(core: &Core, op: &Op) -> Option<(u64, u64)> {
    let easy = op.base != CHECKED && op.index != CHECKED && op.imm > 0xffff;
    let from = (core.regs[RSI] & op.imm).wrapping_add(core.regs[op.third]);
    easy.then(|| (from, core.regs[RDI] & op.imm))
}

#[inline(always)]
fn is_upward(core: &Core) -> bool {
    core.other_flags & DF == 0
}

/// Moves an index register by so many elements.
#[inline(always)]
fn advance<W: Word>(core: &mut Core, op: &Op, register: u8, elements: u64) {
    let bytes = elements.wrapping_mul(W::BYTES);
    let by = if is_upward(core) { bytes } else { bytes.wrapping_neg() };
    set_masked(core, register, core.regs[register].wrapping_add(by), op.imm);
}

/// Sets as much of a register as addresses have.
#[inline(always)]
pub(super) fn set_masked(core: &mut Core, register: u8, value: u64, mask: u64) {
    // What is written of 32 bits clears those above, of 16 bits it does not.
    let kept = if mask == 0xffff { core.regs[register] & !mask } else { 0 };
    core.regs[register] = kept | value & mask;
}

impl<const WHILE: bool> Element for Cmps<WHILE> {
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop> {
        let from = source::<W>(core, op)?;
        let a = core.load::<W>(from, world)?;
        let to = target::<W>(core, op, false)?;
        let b = core.load::<W>(to, world)?;
        advance::<W>(core, op, RSI, 1);
        advance::<W>(core, op, RDI, 1);
        Ok(compare(core, a, b) == WHILE)
    }
}

impl Element for Lods {
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop> {
        let from = source::<W>(core, op)?;
        let value = core.load::<W>(from, world)?;
        core.set_reg(RAX, value);
        advance::<W>(core, op, RSI, 1);
        Ok(true)
    }
}

impl Element for Movs {
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop> {
        let (from, to) = (source::<W>(core, op)?, target::<W>(core, op, true)?);
        if core.careful {
            // A device is not to be read for a store that faults.
            core.probe_read(from, W::BYTES as usize, world)?;
            core.probe_write(to, W::BYTES as usize, world)?;
        }
        let value = core.load::<W>(from, world)?;
        core.store(to, value, world)?;
        advance::<W>(core, op, RSI, 1);
        advance::<W>(core, op, RDI, 1);
        Ok(true)
    }

    fn rush<W: Word>(core: &mut Core, op: &Op, most: u64, world: &World<'_>) -> u64 {
        let Some((from, to)) = ends(core, op) else { return 0 };
        let upward = is_upward(core);
        // Each is taken when it is known: the TLB may have room for one of them only.
        let Some(here) = core.entry_to_read(from, world) else { return 0 };
        let Some(there) = core.entry_to_write(to, world) else { return 0 };
        // An element that is read only after it was written bounds what is copied at once.
        let apart = here.distance(from, (&there, to));
        let apart = if upward { apart } else { -apart };
        let clear = if apart > 0 { apart as u64 / W::BYTES } else { u64::MAX };
        let count = most.min(on_page::<W>(from, upward)).min(on_page::<W>(to, upward)).min(clear);
        let (from, to) = (lowest::<W>(from, count, upward), lowest::<W>(to, count, upward));
        let len = (count * W::BYTES) as usize;
        if count == 0 || !here.copy(from, (&there, to), len, upward) {
            return 0;
        }
        advance::<W>(core, op, RSI, count);
        advance::<W>(core, op, RDI, count);
        count
    }
}

impl<const WHILE: bool> Element for Scas<WHILE> {
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop> {
        let to = target::<W>(core, op, false)?;
        let b = core.load::<W>(to, world)?;
        advance::<W>(core, op, RDI, 1);
        Ok(compare(core, core.reg::<W>(RAX), b) == WHILE)
    }
}

impl Element for Stos {
    fn step<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Result<bool, Stop> {
        let to = target::<W>(core, op, true)?;
        core.store(to, core.reg::<W>(RAX), world)?;
        advance::<W>(core, op, RDI, 1);
        Ok(true)
    }

    fn rush<W: Word>(core: &mut Core, op: &Op, most: u64, world: &World<'_>) -> u64 {
        let Some((_, to)) = ends(core, op) else { return 0 };
        let upward = is_upward(core);
        let count = most.min(on_page::<W>(to, upward));
        let at = lowest::<W>(to, count, upward);
        let Some(there) = core.entry_to_write(to, world) else { return 0 };
        // As many copies of the element as 8 bytes hold.
        let pattern =
            core.reg::<W>(RAX).zext().wrapping_mul(u64::MAX / (u64::MAX >> (64 - W::BITS)));
        let len = (count * W::BYTES) as usize;
        if count == 0 || !there.fill(at, pattern, len) {
            return 0;
        }
        advance::<W>(core, op, RDI, count);
        count
    }
}

/// Sets the flags; whether both are the same.
fn compare<W: Word>(core: &mut Core, a: W, b: W) -> bool {
    core.flags.sub(a, b, W::of(a.zext().wrapping_sub(b.zext())));
    a == b
}

/// How many elements there are from this one on that lie on its page.
fn on_page<W: Word>(linear: u64, upward: bool) -> u64 {
    let offset = linear & OFFSET;
    match upward {
        true => (PAGE_SIZE - offset) / W::BYTES,
        false if offset > PAGE_SIZE - W::BYTES => 0,
        false => offset / W::BYTES + 1,
    }
}

/// The lowest address of so many elements, not none, that begin with the one at `linear`.
fn lowest<W: Word>(linear: u64, count: u64, upward: bool) -> u64 {
    if upward { linear } else { linear.wrapping_sub(count.wrapping_sub(1).wrapping_mul(W::BYTES)) }
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let while_equal = i.has_rep_prefix() || !i.has_repne_prefix();
    match i.code() {
        Code::Movsb_m8_m8 => choose::<u8, Movs>(l),
        Code::Movsw_m16_m16 => choose::<u16, Movs>(l),
        Code::Movsd_m32_m32 => choose::<u32, Movs>(l),
        Code::Movsq_m64_m64 => choose::<u64, Movs>(l),
        Code::Stosb_m8_AL => choose::<u8, Stos>(l),
        Code::Stosw_m16_AX => choose::<u16, Stos>(l),
        Code::Stosd_m32_EAX => choose::<u32, Stos>(l),
        Code::Stosq_m64_RAX => choose::<u64, Stos>(l),
        Code::Lodsb_AL_m8 => choose::<u8, Lods>(l),
        Code::Lodsw_AX_m16 => choose::<u16, Lods>(l),
        Code::Lodsd_EAX_m32 => choose::<u32, Lods>(l),
        Code::Lodsq_RAX_m64 => choose::<u64, Lods>(l),
        _ if while_equal => comparison::<Cmps<true>, Scas<true>>(l),
        _ => comparison::<Cmps<false>, Scas<false>>(l),
    }
}

fn comparison<C: Element, S: Element>(l: &mut Lowering<'_>) -> Option<()> {
    match l.instruction.code() {
        Code::Cmpsb_m8_m8 => choose::<u8, C>(l),
        Code::Cmpsw_m16_m16 => choose::<u16, C>(l),
        Code::Cmpsd_m32_m32 => choose::<u32, C>(l),
        Code::Cmpsq_m64_m64 => choose::<u64, C>(l),
        Code::Scasb_AL_m8 => choose::<u8, S>(l),
        Code::Scasw_AX_m16 => choose::<u16, S>(l),
        Code::Scasd_EAX_m32 => choose::<u32, S>(l),
        Code::Scasq_RAX_m64 => choose::<u64, S>(l),
        _ => None,
    }
}

fn choose<W: Word, E: Element>(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let repeats = i.has_rep_prefix() || i.has_repne_prefix();
    let exec: Exec = if repeats { exec!(repeat::<W, E>) } else { exec!(once::<W, E>) };
    let third = l.segment();
    let base = if l.is_segmented() { CHECKED } else { 0 };
    let index = if !l.is_long() && third != NONE { CHECKED } else { 0 };
    l.push(Op { imm: mask(i), third, base, index, ..l.bare(exec) });
    if repeats {
        l.end_block();
    }
    Some(())
}

/// The bits of addresses, and of the counter.
pub(super) fn mask(i: &Instruction) -> u64 {
    let is = |kinds: [OpKind; 2]| (0..i.op_count()).any(|n| kinds.contains(&i.op_kind(n)));
    if is([OpKind::MemorySegSI, OpKind::MemoryESDI]) {
        0xffff
    } else if is([OpKind::MemorySegESI, OpKind::MemoryESEDI]) {
        u64::from(u32::MAX)
    } else {
        u64::MAX
    }
}

fn once<W: Word, E: Element>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    E::step::<W>(core, op, world).map(drop)
}

fn repeat<W: Word, E: Element>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let mut patience = if core.careful { 1 } else { PATIENCE };
    let mut left = core.regs[RCX] & op.imm;
    while left != 0 && patience != 0 {
        let again = E::step::<W>(core, op, world)?;
        left -= 1;
        patience -= 1;
        if again && left != 0 && !core.careful {
            let more = E::rush::<W>(core, op, left, world);
            left -= more;
            patience = patience.saturating_sub(if more != 0 { PAGES_WORTH } else { 0 });
        }
        set_masked(core, RCX, left, op.imm);
        if !again {
            break;
        }
        if left != 0 && patience == 0 {
            // The instruction goes on from here later. It is counted when it is done; on its own,
            // each iteration is, for each can be trapped.
            if !core.careful {
                core.instructions = core.instructions.wrapping_sub(1);
                core.limit = core.limit.saturating_sub(1);
            }
            core.rip = core.regs[PAGE].wrapping_add(u64::from(op.offset));
            return Err(Stop::Jump);
        }
    }
    core.rip = core.regs[PAGE].wrapping_add(op.next());
    Err(Stop::Jump)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::{Cpu, Exit},
        exception::Vector,
        ram::Flat,
        testing::{CODE, DATA, Nobody, machine, system},
    };

    fn run(cpu: &mut Cpu, ram: &Flat) {
        while cpu.core.rip < CODE + 0x100 && cpu.run(ram, &Nobody) != Exit::Halted {}
    }

    /// A copy of 10,000 bytes by MOVS of the size that `code` has; `apart`: the destination is so
    /// far above the source. Compared with a copy of one element after the other.
    fn copies(code: &[u8], size: usize, apart: u64, upward: bool) {
        let (mut cpu, ram) = machine(&[code, &[0xf4]].concat());
        let before: Vec<u8> = (0..40_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        ram.write(DATA, &before);
        let len = 10_000 / size * size;
        let (from, to) = (1001, 1001 + apart as usize);
        let mut wanted = before;
        for n in 0..len / size {
            let n = if upward { n } else { len / size - 1 - n };
            wanted.copy_within(from + n * size..from + (n + 1) * size, to + n * size);
        }
        let last = if upward { 0 } else { (len - size) as u64 };
        cpu.core.regs[RSI] = DATA + from as u64 + last;
        cpu.core.regs[RDI] = DATA + to as u64 + last;
        cpu.core.regs[RCX] = (len / size) as u64;
        cpu.core.other_flags |= if upward { 0 } else { DF };
        run(&mut cpu, &ram);
        let mut after = vec![0; 40_000];
        ram.read(DATA, &mut after);
        assert!(after == wanted, "{code:x?}, {apart} apart, upward: {upward}");
        let moved = if upward { len as u64 } else { (size as u64).wrapping_neg() };
        let end = DATA + from as u64;
        assert_eq!(cpu.core.regs[RSI], end.wrapping_add(moved));
        assert_eq!((cpu.core.regs[RCX], cpu.instructions()), (0, 2));
    }

    #[test]
    fn copies_overlap_as_one_after_the_other_does() {
        for apart in [0, 1, 2, 3, 4, 7, 8, 9, 64, 4096, 5000, 20_000] {
            for upward in [true, false] {
                copies(&[0xf3, 0xa4], 1, apart, upward);
                copies(&[0xf3, 0x66, 0xa5], 2, apart, upward);
                copies(&[0xf3, 0xa5], 4, apart, upward);
                copies(&[0xf3, 0x48, 0xa5], 8, apart, upward);
            }
        }
    }

    #[test]
    fn a_fault_in_the_middle_leaves_what_was_done() {
        // std; rep stosd, down to a page that is not there.
        let (mut cpu, ram) = machine(&[0xfd, 0xf3, 0xab, 0xf4]);
        system(&mut cpu, &ram);
        ram.write(0x4000 + (DATA / PAGE_SIZE - 1) * 8, &[0; 8]);
        (cpu.core.regs[RDI], cpu.core.regs[RCX]) = (DATA + 4000, 5000);
        cpu.core.regs[RAX] = 0x1234_5678;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.rip & 0xff0, Vector::PageFault as u64 * 16);
        assert_eq!(cpu.core.system.cr2, DATA - 4);
        assert_eq!((cpu.core.regs[RDI], cpu.core.regs[RCX]), (DATA - 4, 5000 - 1001));
        let mut low = [0; 8];
        ram.read(DATA, &mut low);
        assert_eq!(low, [0x78, 0x56, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12]);
    }

    #[test]
    fn attention_is_paid_in_the_middle() {
        // repe scasb
        let (mut cpu, ram) = machine(&[0xf3, 0xae, 0xf4]);
        (cpu.core.regs[RDI], cpu.core.regs[RCX]) = (DATA, 100_000);
        cpu.attention().call();
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Attention);
        let other = cpu.attention();
        std::thread::scope(|scope| {
            scope.spawn(move || other.call());
            // However the two meet, the registers agree.
            while cpu.run(&ram, &Nobody) == Exit::Attention {
                let (done, left) = (cpu.core.regs[RDI] - DATA, cpu.core.regs[RCX]);
                assert_eq!(done + left, 100_000);
            }
        });
        assert_eq!((cpu.core.regs[RCX], cpu.instructions()), (0, 2));
    }

    #[test]
    fn a_step_is_one_iteration() {
        let (mut cpu, ram) = machine(&[0xf3, 0xaa, 0xf4]);
        (cpu.core.regs[RDI], cpu.core.regs[RCX]) = (DATA, 2);
        for (rip, left) in [(CODE, 1), (CODE + 2, 0)] {
            assert_eq!(cpu.step(&ram, &Nobody), Exit::Step);
            assert_eq!((cpu.core.rip, cpu.core.regs[RCX]), (rip, left));
        }
    }

    #[test]
    fn code_that_is_overwritten_is_decoded_anew() {
        // rep stosb over the HLT after it and what follows: NOPs, up to the last HLT.
        let (mut cpu, ram) = machine(&[0xf3, 0xaa, 0xf4, 0xf4, 0xf4, 0xf4]);
        (cpu.core.regs[RDI], cpu.core.regs[RCX]) = (CODE + 2, 3);
        cpu.core.regs[RAX] = 0x90;
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.rip, CODE + 6);
    }
}
