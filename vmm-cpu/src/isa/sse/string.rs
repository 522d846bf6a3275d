//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (Intel SDM 2-4.1).

use iced_x86::{Code, Instruction, Mnemonic};

use super::Done;
use crate::{
    core::{Core, World},
    flags::{CF, OF, SF, ZF},
    op::{Exec, Op, exec},
    regs::{RAX, RCX, RDX},
    vector::{Lane, Vector},
};

/// The strings are as long as EAX and EDX say, or RAX and RDX; or they end at a zero.
const EXPLICIT: u8 = 1 << 0;
const EXPLICIT_LONG: u8 = 1 << 1;
/// The result is a mask in XMM0, else an index in ECX.
const MASK: u8 = 1 << 2;

/// What executes an instruction.
pub(super) fn exec(i: &Instruction) -> Option<Exec> {
    let long =
        matches!(i.code(), Code::Pcmpestri64_xmm_xmmm128_imm8 | Code::Pcmpestrm64_xmm_xmmm128_imm8);
    Some(match i.mnemonic() {
        Mnemonic::Pcmpestri | Mnemonic::Pcmpestri64 if long => exec!(compare::<EXPLICIT_LONG>),
        Mnemonic::Pcmpestri => exec!(compare::<EXPLICIT>),
        Mnemonic::Pcmpestrm | Mnemonic::Pcmpestrm64 if long => {
            exec!(compare::<{ EXPLICIT_LONG | MASK }>)
        }
        Mnemonic::Pcmpestrm => exec!(compare::<{ EXPLICIT | MASK }>),
        Mnemonic::Pcmpistri => exec!(compare::<0>),
        Mnemonic::Pcmpistrm => exec!(compare::<MASK>),
        _ => return None,
    })
}

/// A string of bytes or words, and how many of them there are.
struct Text {
    elements: [i32; 16],
    len: usize,
}

impl Text {
    /// The immediate's bit 0: words, not bytes; bit 1: signed.
    fn new(vector: Vector, imm: u8, len: Option<u64>) -> Self {
        let mut elements = [0; 16];
        for (i, element) in elements.iter_mut().take(room(imm)).enumerate() {
            *element = match imm & 3 {
                0 => u8::lanes(vector)[i].into(),
                1 => u16::lanes(vector)[i].into(),
                2 => i8::lanes(vector)[i].into(),
                _ => i16::lanes(vector)[i].into(),
            };
        }
        let room = room(imm);
        let end = || elements[..room].iter().position(|element| *element == 0);
        let len = match len {
            Some(len) => len.min(room as u64) as usize,
            None => end().unwrap_or(room),
        };
        Self { elements, len }
    }

    fn get(&self, i: usize) -> Option<i32> {
        self.elements[..self.len].get(i).copied()
    }
}

/// How many elements a vector has.
fn room(imm: u8) -> usize {
    if imm & 1 == 0 { 16 } else { 8 }
}

/// Element by element of `b`: what the comparison that bits 2 and 3 choose says of it.
fn aggregate(a: &Text, b: &Text, imm: u8) -> u32 {
    let room = room(imm);
    let any = |j: usize| b.get(j).is_some_and(|b| a.elements[..a.len].contains(&b));
    let in_range = |j: usize| {
        let ranges = a.elements[..a.len].as_chunks().0;
        b.get(j).is_some_and(|b| ranges.iter().any(|[from, to]| (*from..=*to).contains(&b)))
    };
    let found = |j: usize| (0..room - j).all(|i| i >= a.len || a.get(i) == b.get(j + i));
    let bits = |holds: &dyn Fn(usize) -> bool| {
        (0..room).fold(0, |bits, j| bits | u32::from(holds(j)) << j)
    };
    match imm >> 2 & 3 {
        0 => bits(&any),
        1 => bits(&in_range),
        2 => bits(&|j| a.get(j) == b.get(j)),
        _ => bits(&found),
    }
}

fn compare<const KIND: u8>(core: &mut Core, op: &Op, _: &World<'_>) -> Done {
    let imm = op.imm as u8;
    let len = |field: u8| match KIND & (EXPLICIT | EXPLICIT_LONG) {
        EXPLICIT => Some((core.regs[field] as i32).unsigned_abs().into()),
        EXPLICIT_LONG => Some(core.regs[field].cast_signed().unsigned_abs()),
        _ => None,
    };
    let a = Text::new(core.vectors[op.dst], imm, len(RAX));
    let b = Text::new(core.vectors[op.src], imm, len(RDX));
    let room = room(imm);
    let all = (1 << room) - 1;
    let negated = match imm >> 4 & 3 {
        1 => all,
        3 => (1 << b.len) - 1,
        _ => 0,
    };
    let bits = aggregate(&a, &b, imm) ^ negated;
    let high = imm & 0x40 != 0;
    if KIND & MASK == 0 {
        let index = if high { bits.checked_ilog2() } else { bits.trailing_zeros().into() };
        core.regs[RCX] = index.filter(|_| bits != 0).map_or(room as u64, u64::from);
    } else {
        core.vectors[0] = mask(bits, imm, high);
    }
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    core.flags.set(
        flag(bits != 0, CF)
            | flag(b.len < room, ZF)
            | flag(a.len < room, SF)
            | flag(bits & 1 != 0, OF),
    );
    Ok(())
}

/// The bits as they are, or each as a whole element.
fn mask(bits: u32, imm: u8, elements: bool) -> Vector {
    match (elements, imm & 1) {
        (false, _) => Vector::of(bits),
        (true, 0) => u8::each(|i| if bits >> i & 1 != 0 { u8::MAX } else { 0 }),
        (true, _) => u16::each(|i| if bits >> i & 1 != 0 { u16::MAX } else { 0 }),
    }
}
