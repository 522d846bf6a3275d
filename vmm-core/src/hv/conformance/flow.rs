//! Ending `run` from inside an access: the access is done, the instruction complete, and the guest
//! goes on as if nothing had happened.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{
    Failure, Setup,
    guest::{
        Access, CODE, ENTRY_SIZE, Guest, Kind, Recorder, pattern, patterns, unexpected, value,
    },
    mmio::bytes,
};
use crate::{
    arch::Regs,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::GuestIo,
    memory::GuestAddress,
};

const PORT: u64 = 0x1f0;
const MMIO: u64 = 0xd000_0100;
/// The last bytes of one page and the first of the next.
const SPLIT: u64 = 0xd000_0ffc;
const RAX: u64 = 0x1122_3344_5566_7788;
const HLT: u8 = 0xf4;

/// The entries of `guests/io.S`: width, and what is kept of RAX by a read.
const READS: [(u64, usize, u64); 4] = [(0, 1, !0xff), (1, 4, 0), (2, 2, !0xffff), (3, 8, 0)];
const WRITES: [(u64, usize); 4] = [(4, 1), (5, 4), (6, 4), (7, 8)];
const XCHG: u64 = 8;

/// A `Break` from a read: the guest has the data, `run` returns with the instruction complete, and
/// the next goes on.
pub(super) fn break_from_a_read_comes_after_the_data(setup: &Setup<'_>) -> Result<(), Failure> {
    let program = program!("io");
    let mut guest = Guest::long(setup, None, program)?;
    for (entry, width, kept) in READS {
        for at in places(entry, width) {
            let io = breaking(Kind::is_read);
            let regs = run_to_break(&mut guest, &io, entry, at)?;
            let what = format!("read {entry} of {at:#x}");
            let data = value(&patterns(at, width));
            ensure_eq!(regs.rax, RAX & kept | data, "RAX after a break from {what}");
            ensure_eq!(regs.rip, halt_behind(program, entry), "rip after a break from {what}");
            let expected = access(true, at, &patterns(at, width));
            ensure_eq!(bytes(&io.take()), bytes(&[expected]), "the accesses of {what}");
            goes_on(&mut guest, &io, &what)?;
        }
    }
    Ok(())
}

/// A `Break` from a write: `run` returns with the instruction complete, and the next goes on behind
/// it.
pub(super) fn break_from_a_write_comes_after_the_instruction(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let program = program!("io");
    let mut guest = Guest::long(setup, None, program)?;
    for (entry, width) in WRITES {
        for at in places(entry, width) {
            let io = breaking(|kind| !kind.is_read());
            let regs = run_to_break(&mut guest, &io, entry, at)?;
            let what = format!("write {entry} to {at:#x}");
            ensure_eq!(regs.rax, RAX, "RAX after a break from {what}");
            ensure_eq!(regs.rip, halt_behind(program, entry), "rip after a break from {what}");
            let expected = access(false, at, &RAX.to_le_bytes()[..width]);
            ensure_eq!(bytes(&io.take()), bytes(&[expected]), "the accesses of {what}");
            goes_on(&mut guest, &io, &what)?;
        }
    }
    Ok(())
}

/// A `Break` from the read of an XCHG: the write belongs to the same instruction and is done before
/// `run` returns.
pub(super) fn break_from_the_read_of_an_exchange_comes_after_its_write(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let program = program!("io");
    let mut guest = Guest::long(setup, None, program)?;
    let io = breaking(Kind::is_read);
    let regs = run_to_break(&mut guest, &io, XCHG, MMIO)?;
    let read = patterns(MMIO, 4);
    let written = RAX.to_le_bytes();
    ensure_eq!((regs.rax, regs.rip), (value(&read), halt_behind(program, XCHG)), "RAX and RIP");
    let expected = [access(true, MMIO, &read), access(false, MMIO, &written[..4])];
    ensure_eq!(io.take(), expected, "the accesses");
    goes_on(&mut guest, &io, "XCHG")
}

/// Where an entry is tried: a port, or MMIO inside a page and across two.
fn places(entry: u64, width: usize) -> Vec<u64> {
    match entry {
        0 | 1 | 4 | 5 => vec![PORT],
        _ if width == 8 => vec![MMIO, SPLIT],
        _ => vec![MMIO],
    }
}

fn access(read: bool, at: u64, data: &[u8]) -> Access {
    let kind = match (read, at == PORT) {
        (true, true) => Kind::PortIn,
        (true, false) => Kind::MmioRead,
        (false, true) => Kind::PortOut,
        (false, false) => Kind::MmioWrite,
    };
    Access::new(kind, at, data)
}

/// Answers reads with the pattern, and breaks from the first access of the given kinds; a piece of
/// a split one is one.
fn breaking(from: impl Fn(Kind) -> bool + Send + Sync + 'static) -> Recorder<'static> {
    let seen = AtomicU64::new(0);
    Recorder::answering(move |kind, address, data| {
        if kind.is_read() {
            data.copy_from_slice(&patterns(address, data.len()));
        }
        match from(kind) && seen.fetch_add(1, SeqCst) == 0 {
            true => Flow::Break(VcpuExit::Reset),
            false => CONTINUE,
        }
    })
}

fn run_to_break(guest: &mut Guest, io: &dyn GuestIo, entry: u64, at: u64) -> Result<Regs, Failure> {
    guest.prepare(entry, Regs { rax: RAX, rbx: at, rdx: PORT, ..Regs::default() })?;
    match guest.run(io)? {
        VcpuExit::Reset => Ok(guest.vcpu.regs()?),
        other => Err(unexpected(&other, &*guest.vcpu)),
    }
}

/// The guest meets the HLT behind the instruction, with a register that was changed meanwhile, and
/// without another access.
fn goes_on(guest: &mut Guest, io: &Recorder<'_>, what: &str) -> Result<(), Failure> {
    let before = Regs { r15: 0x15, ..guest.vcpu.regs()? };
    guest.vcpu.set_regs(&before)?;
    guest.run_to_halt(io)?;
    let after = Regs { rip: before.rip + 1, ..before };
    ensure_eq!(guest.vcpu.regs()?, after, "registers at the HLT behind {what}");
    ensure_eq!(io.take(), [], "accesses behind {what}");
    Ok(())
}

/// The address of the HLT behind the instruction of an entry.
fn halt_behind(program: &[u8], entry: u64) -> u64 {
    let at = entry * ENTRY_SIZE;
    let len = program.iter().skip(at as usize).position(|byte| *byte == HLT);
    CODE + at + len.unwrap_or_default() as u64
}

const BUFFER: u64 = 0x10_0000;
const COUNT: u64 = 300;
/// The elements whose access breaks.
const BREAKS: [u64; 4] = [0, 4, 150, COUNT - 1];
/// The entries of `guests/string.S` for bytes.
const OUTSB: u64 = 0;
const INSB: u64 = 3;
const MOVSB: u64 = 6;

/// A `Break` within REP OUTS, INS or MOVS comes between two elements, as RCX says; what is left
/// follows, and nothing comes twice.
pub(super) fn break_within_a_string_instruction_loses_nothing(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let instructions =
        [(OUTSB, BUFFER, 0), (INSB, 0, BUFFER), (MOVSB, BUFFER, MMIO), (MOVSB, MMIO, BUFFER)];
    for (entry, rsi, rdi) in instructions {
        let mut guest = Guest::long(setup, None, program!("string"))?;
        guest.memory.write(GuestAddress(BUFFER), &patterns(BUFFER, COUNT as usize))?;
        let accesses = AtomicU64::new(0);
        let io = Recorder::answering(|kind, _, data| {
            let n = accesses.fetch_add(data.len() as u64, SeqCst);
            if kind.is_read() {
                let given = (n..).map(|n| pattern(!n));
                data.iter_mut().zip(given).for_each(|(to, from)| *to = from);
            }
            let breaks = (n..).take(data.len()).any(|n| BREAKS.contains(&n));
            if breaks { Flow::Break(VcpuExit::Reset) } else { CONTINUE }
        });
        let regs = Regs { rcx: COUNT, rdx: PORT, rsi, rdi, ..Regs::default() };
        guest.prepare(entry, regs)?;
        run_between_elements(&mut guest, &io, &accesses)
            .map_err(|why| Failure::from(format!("string instruction {entry}: {why}")))?;
        check_bytes(&guest, &io, entry, rsi)?;
    }
    Ok(())
}

/// Runs up to the HLT, looking at the registers at every return.
fn run_between_elements(
    guest: &mut Guest,
    io: &dyn GuestIo,
    accesses: &AtomicU64,
) -> Result<(), Failure> {
    let start = guest.vcpu.regs()?;
    let mut returns = 0;
    loop {
        let exit = guest.run(io)?;
        let regs = guest.vcpu.regs()?;
        let done = accesses.load(SeqCst);
        ensure_eq!(regs.rcx + done, COUNT, "RCX and elements done");
        let moved = |before: u64, after: u64| after == before || after == before + done;
        ensure!(moved(start.rsi, regs.rsi) && moved(start.rdi, regs.rdi), "RSI or RDI: {regs:x?}");
        match exit {
            VcpuExit::Reset => returns += 1,
            VcpuExit::Halted => break,
            other => return Err(unexpected(&other, &*guest.vcpu)),
        }
        // A back end may be a few elements further when it can return, past the next break too; but
        // not further than the end.
        ensure!(returns <= BREAKS.len(), "{returns} returns for {} breaks", BREAKS.len());
    }
    ensure!(returns > 0, "no break ended run");
    Ok(())
}

/// Every byte arrived once, where it belongs.
fn check_bytes(guest: &Guest, io: &Recorder<'_>, entry: u64, rsi: u64) -> Result<(), Failure> {
    let seen: Vec<u8> = bytes(&io.take()).into_iter().map(|(.., byte)| byte).collect();
    let given: Vec<u8> = (0..COUNT).map(|n| pattern(!n)).collect();
    let into_memory = rsi != BUFFER;
    let expected = if into_memory { given.clone() } else { patterns(BUFFER, COUNT as usize) };
    ensure_eq!(seen, expected, "what string instruction {entry} moved");
    if into_memory {
        let mut buffer = vec![0; COUNT as usize];
        guest.memory.read(GuestAddress(BUFFER), &mut buffer)?;
        ensure_eq!(buffer, given, "what string instruction {entry} put into memory");
    }
    Ok(())
}
