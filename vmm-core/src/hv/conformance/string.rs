//! REP INS and REP OUTS: every element, its order, and the registers behind them.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, patterns},
};
use crate::{
    arch::{Regs, rflags},
    memory::GuestAddress,
};

const PORT: u64 = 0x1f0;
const BUFFER: u64 = 0x10_0000;
const BUFFER_LEN: usize = 0x1_0000;
/// Elements: none, one, less than a page, more than a page of each width.
const COUNTS: [u64; 4] = [0, 1, 1_000, 5_000];
/// From a page's start, and so that elements cross its end.
const STARTS: [u64; 2] = [0x8000, 0x7fff];

/// One string instruction: the entry in `guests/string.S`, and the bytes of an element.
const OUTS: [(u64, usize); 3] = [(0, 1), (1, 2), (2, 4)];
const INS: [(u64, usize); 3] = [(3, 1), (4, 2), (5, 4)];

/// One execution of a string instruction.
#[derive(Clone, Copy, Debug)]
struct Case {
    entry: u64,
    width: usize,
    count: u64,
    start: u64,
    down: bool,
}

impl Case {
    fn all(instructions: [(u64, usize); 3]) -> impl Iterator<Item = Self> {
        let starts = STARTS.into_iter().flat_map(|start| [false, true].map(|down| (start, down)));
        let places = starts.flat_map(|place| COUNTS.map(|count| (place, count)));
        places.flat_map(move |((start, down), count)| {
            let start = BUFFER + start;
            instructions.map(|(entry, width)| Self { entry, width, count, start, down })
        })
    }

    /// How RSI or RDI moves with each element.
    fn stride(&self) -> u64 {
        if self.down { (self.width as u64).wrapping_neg() } else { self.width as u64 }
    }

    fn address(&self, element: u64) -> u64 {
        self.start.wrapping_add(element.wrapping_mul(self.stride()))
    }

    fn regs(&self) -> Regs {
        let rflags = if self.down { rflags::DF } else { 0 };
        let (rsi, rdi) = (self.start, self.start);
        Regs { rcx: self.count, rdx: PORT, rsi, rdi, rflags, ..Regs::default() }
    }
}

/// REP OUTSB, OUTSW and OUTSD in both directions.
pub(super) fn string_output_of_any_length_arrives_in_order(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("string"))?;
    guest.memory.write(GuestAddress(BUFFER), &patterns(BUFFER, BUFFER_LEN))?;
    for case in Case::all(OUTS) {
        let io = Recorder::new();
        let regs = guest.perform(&io, case.entry, case.regs())?;
        ensure_eq!((regs.rcx, regs.rsi), (0, case.address(case.count)), "RCX and RSI, {case:x?}");
        ensure_eq!(regs.rdi, case.start, "RDI, {case:x?}");
        check_elements(&case, &io.take(), Kind::PortOut, |n| {
            patterns(case.address(n), case.width)
        })?;
    }
    Ok(())
}

/// REP INSB, INSW and INSD in both directions.
pub(super) fn string_input_of_any_length_arrives_in_order(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("string"))?;
    for case in Case::all(INS) {
        guest.memory.write(GuestAddress(BUFFER), &[0; BUFFER_LEN])?;
        let elements = std::sync::atomic::AtomicU64::new(0);
        let io = Recorder::answering(|_, _, data| {
            let n = elements.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            data.copy_from_slice(&element(n, data.len()));
            crate::exit::CONTINUE
        });
        let regs = guest.perform(&io, case.entry, case.regs())?;
        ensure_eq!((regs.rcx, regs.rdi), (0, case.address(case.count)), "RCX and RDI, {case:x?}");
        ensure_eq!(regs.rsi, case.start, "RSI, {case:x?}");
        check_elements(&case, &io.take(), Kind::PortIn, |n| element(n, case.width))?;
        check_buffer(&case, &guest)?;
    }
    Ok(())
}

/// What the port gives as element `n`.
fn element(n: u64, width: usize) -> Vec<u8> {
    patterns(n * 8, width)
}

fn check_elements(
    case: &Case,
    log: &[Access],
    kind: Kind,
    data: impl Fn(u64) -> Vec<u8>,
) -> Result<(), Failure> {
    ensure_eq!(log.len() as u64, case.count, "elements, {case:x?}");
    for (n, access) in (0..).zip(log) {
        ensure_eq!(*access, Access::new(kind, PORT, &data(n)), "element {n}, {case:x?}");
    }
    Ok(())
}

/// The buffer has the elements where they belong, and nothing else has changed.
fn check_buffer(case: &Case, guest: &Guest) -> Result<(), Failure> {
    let mut expected = vec![0; BUFFER_LEN];
    for n in 0..case.count {
        let at = (case.address(n) - BUFFER) as usize;
        expected[at..at + case.width].copy_from_slice(&element(n, case.width));
    }
    let mut buffer = vec![0; BUFFER_LEN];
    guest.memory.read(GuestAddress(BUFFER), &mut buffer)?;
    let wrong = expected.iter().zip(&buffer).position(|(a, b)| a != b);
    ensure!(wrong.is_none(), "byte {wrong:x?} of the buffer is wrong, {case:x?}");
    Ok(())
}
