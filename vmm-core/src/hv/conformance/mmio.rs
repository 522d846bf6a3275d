//! Loads from and stores to addresses outside RAM.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, patterns, value},
};
use crate::{
    arch::{Regs, rflags},
    memory::GuestAddress,
};

/// Outside RAM, far from everything.
const HOLE: u64 = 0xd000_0000;
/// The end of a guest's RAM.
const RAM_END: u64 = 2 << 20;
const PAGE: u64 = 0x1000;

/// How a load puts what it has read into RAX.
#[derive(Clone, Copy, Debug)]
enum Extend {
    /// Leaves the rest as it is.
    Keep,
    /// Sign-extends to this many bytes; 4 clear the upper half of RAX, 2 leave it.
    Sign(usize),
    Zero,
}

/// Width and extension of the entries of `guests/load.S`.
const LOADS: [(usize, Extend); 14] = [
    (1, Extend::Keep),
    (2, Extend::Keep),
    (4, Extend::Zero),
    (8, Extend::Zero),
    (1, Extend::Zero),
    (2, Extend::Zero),
    (1, Extend::Zero),
    (2, Extend::Zero),
    (1, Extend::Sign(2)),
    (1, Extend::Sign(4)),
    (2, Extend::Sign(4)),
    (1, Extend::Sign(8)),
    (2, Extend::Sign(8)),
    (4, Extend::Sign(8)),
];

/// What the entries of `guests/store.S` store of [`RAX`].
const STORES: [&[u8]; 8] = [
    &[0x88],
    &[0x88, 0x77],
    &[0x88, 0x77, 0x66, 0x55],
    &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
    &[0x5a],
    &[0xa5, 0x5a],
    &[0xef, 0xcd, 0xab, 0x89],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];
const RAX: u64 = 0x1122_3344_5566_7788;

/// MOV, MOVZX and MOVSX of 1, 2, 4 and 8 bytes: one access of that width, and the right value in
/// all of RAX.
pub(super) fn mmio_loads_of_each_width_are_extended_right(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("load"))?;
    for (entry, (width, extend)) in (0..).zip(LOADS) {
        // Enough addresses that high bits are both set and clear.
        for address in (HOLE..).step_by(width).take(8) {
            let io = Recorder::new();
            let regs = Regs { rax: RAX, rbx: address, ..Regs::default() };
            let regs = guest.perform(&io, entry, regs)?;
            let data = patterns(address, width);
            let access = Access::new(Kind::MmioRead, address, &data);
            ensure_eq!(io.take(), [access], "load {entry} from {address:#x}");
            let expected = extended(value(&data), width, extend);
            ensure_eq!(regs.rax, expected, "RAX after load {entry} from {address:#x}");
        }
    }
    Ok(())
}

/// RAX after a load into it.
fn extended(read: u64, width: usize, extend: Extend) -> u64 {
    let low = |value: u64, bytes: usize| value & u64::MAX >> (64 - 8 * bytes);
    let keep = |value: u64, bytes: usize| RAX & !low(u64::MAX, bytes) | low(value, bytes);
    match extend {
        Extend::Keep => keep(read, width),
        Extend::Zero => read,
        Extend::Sign(to) => {
            let unused = 64 - 8 * width as u32;
            let wide = ((read << unused) as i64 >> unused) as u64;
            if to == 2 { keep(wide, to) } else { low(wide, to) }
        }
    }
}

/// MOV of 1, 2, 4 and 8 bytes, of a register and of an immediate: one access of that width with the
/// right bytes.
pub(super) fn mmio_stores_of_each_width_arrive_whole(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("store"))?;
    for (entry, data) in (0..).zip(STORES) {
        for address in (HOLE..).step_by(data.len()).take(8) {
            let io = Recorder::new();
            guest.perform(&io, entry, Regs { rax: RAX, rbx: address, ..Regs::default() })?;
            let access = Access::new(Kind::MmioWrite, address, data);
            ensure_eq!(io.take(), [access], "store {entry} to {address:#x}");
        }
    }
    Ok(())
}

/// Unaligned loads and stores, also across two pages outside RAM: every byte once, cut anyhow.
pub(super) fn mmio_accesses_across_pages_have_every_byte_once(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    for address in (HOLE + PAGE - 8..=HOLE + PAGE).chain([HOLE + 1, HOLE + 5]) {
        let mut guest = Guest::long(setup, None, program!("store"))?;
        for (entry, data) in (0..).zip(STORES) {
            let io = Recorder::new();
            guest.perform(&io, entry, Regs { rax: RAX, rbx: address, ..Regs::default() })?;
            let expected = bytes(&[Access::new(Kind::MmioWrite, address, data)]);
            ensure_eq!(bytes(&io.take()), expected, "store {entry} to {address:#x}");
        }
        let mut guest = Guest::long(setup, None, program!("load"))?;
        for (entry, (width, extend)) in (0..).zip(LOADS) {
            let io = Recorder::new();
            let regs = Regs { rax: RAX, rbx: address, ..Regs::default() };
            let regs = guest.perform(&io, entry, regs)?;
            let data = patterns(address, width);
            let expected = bytes(&[Access::new(Kind::MmioRead, address, &data)]);
            ensure_eq!(bytes(&io.take()), expected, "load {entry} from {address:#x}");
            ensure_eq!(
                regs.rax,
                extended(value(&data), width, extend),
                "load {entry} {address:#x}"
            );
        }
    }
    Ok(())
}

/// A load and a store that straddle the end of RAM: the bytes in RAM are read and written there,
/// the others by `io`.
pub(super) fn accesses_across_the_end_of_ram_are_cut_there(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    const STORE64: u64 = 3;
    const LOAD64: u64 = 3;
    for in_ram in 1..8usize {
        let address = RAM_END - in_ram as u64;
        let regs = Regs { rax: RAX, rbx: address, ..Regs::default() };
        let data = RAX.to_le_bytes();
        let (ram, hole) = data.split_at(in_ram);

        let io = Recorder::new();
        let mut guest = Guest::long(setup, None, program!("store"))?;
        guest.perform(&io, STORE64, regs)?;
        let mut stored = vec![0; in_ram];
        guest.memory.read(GuestAddress(address), &mut stored)?;
        ensure_eq!(stored, ram, "RAM after a store to {address:#x}");
        let expected = bytes(&[Access::new(Kind::MmioWrite, RAM_END, hole)]);
        ensure_eq!(bytes(&io.take()), expected, "the rest of a store to {address:#x}");

        let mut guest = Guest::long(setup, None, program!("load"))?;
        guest.memory.write(GuestAddress(address), ram)?;
        let loaded = guest.perform(&io, LOAD64, regs)?.rax.to_le_bytes();
        let rest = patterns(RAM_END, 8 - in_ram);
        ensure_eq!(loaded.to_vec(), [ram, &rest].concat(), "a load from {address:#x}");
        let expected = bytes(&[Access::new(Kind::MmioRead, RAM_END, &rest)]);
        ensure_eq!(bytes(&io.take()), expected, "the rest of a load from {address:#x}");
    }
    Ok(())
}

/// REP MOVS of each width from RAM to MMIO, back, and within MMIO, in both directions: every byte
/// once, in order.
pub(super) fn string_moves_reach_mmio_in_order(setup: &Setup<'_>) -> Result<(), Failure> {
    const RAM: u64 = 0x10_0000;
    const COUNT: u64 = 100;
    /// The entries of `guests/string.S` and the bytes of an element.
    const MOVS: [(u64, usize); 4] = [(6, 1), (7, 2), (8, 4), (9, 8)];
    let places = [(RAM, HOLE), (HOLE, RAM), (HOLE, HOLE + PAGE)];
    let mut guest = Guest::long(setup, None, program!("string"))?;
    for (entry, width) in MOVS {
        for (from, to) in places {
            for flags in [0, rflags::DF] {
                let what = format!("MOVS {entry} {from:#x} to {to:#x}, flags {flags:#x}");
                let moves = Moves { from, to, width, count: COUNT, down: flags != 0 };
                guest.memory.write(GuestAddress(RAM), &patterns(RAM, 0x1000))?;
                let io = Recorder::new();
                let regs = guest.perform(&io, entry, Regs { rflags: flags, ..moves.regs() })?;
                let end = (0, moves.address(from, COUNT), moves.address(to, COUNT));
                ensure_eq!((regs.rcx, regs.rsi, regs.rdi), end, "RCX, RSI, RDI after {what}");
                ensure_eq!(bytes(&io.take()), bytes(&moves.accesses()), "{what}");
                moves.check_ram(&guest, &what)?;
            }
        }
    }
    Ok(())
}

/// One execution of REP MOVS.
struct Moves {
    from: u64,
    to: u64,
    width: usize,
    count: u64,
    down: bool,
}

impl Moves {
    /// The address of element `n`; going down, the first element is the last in memory.
    fn address(&self, base: u64, n: u64) -> u64 {
        let width = self.width as u64;
        if self.down { base + self.count * width - n * width } else { base + n * width }
    }

    fn regs(&self) -> Regs {
        let (rsi, rdi) = (self.address(self.from, 0), self.address(self.to, 0));
        Regs { rcx: self.count, rsi, rdi, ..Regs::default() }
    }

    fn accesses(&self) -> Vec<Access> {
        let mut accesses = Vec::new();
        for n in 0..self.count {
            let data = patterns(self.address(self.from, n), self.width);
            let sides = [(Kind::MmioRead, self.from), (Kind::MmioWrite, self.to)];
            for (kind, base) in sides.into_iter().filter(|(_, base)| *base >= HOLE) {
                accesses.push(Access::new(kind, self.address(base, n), &data));
            }
        }
        accesses
    }

    fn check_ram(&self, guest: &Guest, what: &str) -> Result<(), Failure> {
        for n in (0..self.count).filter(|_| self.to < HOLE) {
            let mut moved = vec![0; self.width];
            guest.memory.read(GuestAddress(self.address(self.to, n)), &mut moved)?;
            let expected = patterns(self.address(self.from, n), self.width);
            ensure_eq!(moved, expected, "element {n} in RAM, {what}");
        }
        Ok(())
    }
}

/// Accesses cut into single bytes. Within one access the order of bytes says nothing, so each is
/// put in ascending order.
pub(super) fn bytes(log: &[Access]) -> Vec<(Kind, u64, u8)> {
    log.iter()
        .flat_map(|a| (a.address..).zip(&a.data).map(|(at, byte)| (a.kind, at, *byte)))
        .collect()
}
