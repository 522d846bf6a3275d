//! Cases: an instruction of a given code, and everything it can see, at random.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory,
    MemorySize, Mnemonic, OpKind, Register, UsedMemory,
};

use crate::{
    arena::{CODE, CODE_SIZE, DATA, DATA_SIZE, PAGE, blank_data, is_safe},
    case::{Case, Registers, Window},
    codes,
    operands::{Form, instruction},
    random::{Kind, Random},
};

/// Makes cases; the same for the same seed.
pub struct Generator {
    random: Random,
    encoder: Encoder,
    infos: InstructionInfoFactory,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("random", &self.random).finish_non_exhaustive()
    }
}

/// How far around an access memory is looked at.
const AROUND: u64 = 64;
/// The longest jump back that follows an instruction.
const LANDING: u64 = 14;

impl Generator {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            encoder: Encoder::new(64),
            infos: InstructionInfoFactory::new(),
        }
    }

    /// A case; `None` if this code has none of this form.
    pub fn case(&mut self, code: Code, form: Form) -> Option<Case> {
        // Some operands do not go together, some addresses are not safe: then another is tried.
        (0..200).find_map(|_| self.attempt(code, form))
    }

    fn attempt(&mut self, code: Code, form: Form) -> Option<Case> {
        let random = &mut self.random;
        let mut before = Registers { rip: CODE + random.below(CODE_SIZE - 64), ..<_>::default() };
        let mut made = instruction(code, form, before.rip, random)?;
        let kind = natural_kind(code);
        registers(&mut before, kind, random);
        self.lead(&mut made, &mut before);
        let bytes = self.encode(&made, &mut before)?;
        let i = decode(&bytes, before.rip);
        if i.code() != code && i.mnemonic() != code.mnemonic() {
            return None;
        }
        special_registers(&i, &mut before, &mut self.random);
        let windows = self.windows(&i, &before, kind)?;
        let jumps = i.flow_control() != FlowControl::Next;
        let mut case = Case { before, code: bytes, windows, jumps };
        special_memory(&i, &mut case, &mut self.random);
        Some(case)
    }

    /// Chooses where memory operands lead, and sets registers and displacements for it.
    fn lead(&mut self, i: &mut Instruction, before: &mut Registers) {
        let random = &mut self.random;
        let size = i.memory_size().size().max(1) as u64;
        let size =
            if size == 1 { i.code().op_code().memory_size().size().max(1) as u64 } else { size };
        let target = target(size, random);
        if i.segment_prefix() != Register::None {
            let near = target.wrapping_sub(random.below(1 << 20));
            let base =
                if random.percent(50) && (near << 16).cast_signed() >> 16 == near.cast_signed() {
                    near
                } else {
                    random.below(4096)
                };
            *(if i.segment_prefix() == Register::FS { &mut before.fs } else { &mut before.gs }) =
                base;
        }
        let base = match i.segment_prefix() {
            Register::FS => before.fs,
            Register::GS => before.gs,
            _ => 0,
        };
        lead_operand(i, before, target.wrapping_sub(base), random);
        for n in 0..i.op_count() {
            let near = random.below(300);
            match i.op_kind(n) {
                OpKind::MemorySegRSI | OpKind::MemorySegESI => {
                    before.general[6] = target.wrapping_sub(base);
                }
                OpKind::MemorySegRDI | OpKind::MemorySegEDI => {
                    before.general[7] = target.wrapping_sub(base);
                }
                OpKind::MemoryESRDI | OpKind::MemoryESEDI => {
                    // Near the source: overlapping moves.
                    let close = random.percent(40) && i.op_count() == 2;
                    let other = self::target(size, random);
                    before.general[7] = if close {
                        before.general[6].wrapping_add(near).wrapping_sub(150)
                    } else {
                        other
                    };
                }
                _ => {}
            }
        }
        let stack =
            i.is_stack_instruction() || matches!(i.mnemonic(), Mnemonic::Leave | Mnemonic::Enter);
        let uses_rsp = |r: Register| r.full_register() == Register::RSP;
        if stack && !uses_rsp(i.memory_base()) {
            before.general[4] = self::target(8, random);
        }
        if matches!(i.mnemonic(), Mnemonic::Leave | Mnemonic::Enter) {
            before.general[5] = self::target(8, random);
        }
    }

    /// The instruction's bytes, perhaps with prefixes that change nothing, perhaps across the border
    /// of two pages or into nothing.
    fn encode(&mut self, i: &Instruction, before: &mut Registers) -> Option<Vec<u8>> {
        let random = &mut self.random;
        let straddles = random.percent(3);
        if straddles {
            // The end of the second page has nothing behind it: then a fault must be what happens.
            let end = CODE + random.of(&[PAGE, CODE_SIZE]);
            before.rip = end - 1 - random.below(7);
        }
        let mut i = *i;
        let mut prefixes = Vec::new();
        while random.percent(6) && prefixes.len() < 3 && i.segment_prefix() == Register::None {
            // Segments that 64-bit mode does not have.
            prefixes.push(random.of(&[0x26, 0x2e, 0x36, 0x3e]));
        }
        let by = prefixes.len() as u64;
        i.set_ip(before.rip + by);
        let done = self.encoder.encode(&i, before.rip + by);
        // Also what a failure has left.
        let encoded = self.encoder.take_buffer();
        let len = done.ok()?;
        // Prefixes come before; a branch with one may be a hint.
        if !(i.is_jcc_short_or_near() || len as u64 + by > 15) {
            prefixes.extend(&encoded);
        } else if by == 0 {
            prefixes = encoded;
        } else {
            return None;
        }
        let end = before.rip + prefixes.len() as u64;
        // Either all of it and the way back are there, or not all of it is.
        let whole = end + LANDING <= CODE + CODE_SIZE;
        (whole || end > CODE + CODE_SIZE).then_some(prefixes)
    }

    /// The memory that the instruction uses, as windows. `None` if some of it is not safe.
    fn windows(&mut self, i: &Instruction, before: &Registers, kind: Kind) -> Option<Vec<Window>> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for used in self.infos.info(i).used_memory() {
            let (at, size) = range(i, used, before)?;
            let last = at.wrapping_add(size - 1);
            if !is_safe(at) || !is_safe(last) {
                return None;
            }
            let data = DATA..DATA + DATA_SIZE;
            if data.contains(&at) || data.contains(&last) {
                let end = last.wrapping_add(AROUND).clamp(DATA, data.end);
                ranges.push((at.saturating_sub(AROUND).clamp(DATA, data.end), end));
            }
        }
        let random = &mut self.random;
        if i.is_string_instruction() && !ranges.is_empty() {
            let mut bytes = blank_data();
            let dull = random.percent(50);
            for (from, to) in ranges {
                let part = &mut bytes[(from - DATA) as usize..(to - DATA) as usize];
                if dull { part.fill(before.general[0] as u8) } else { random.fill(kind, part) }
            }
            return Some(vec![Window { offset: 0, bytes }]);
        }
        ranges.sort_unstable();
        let mut windows: Vec<Window> = Vec::new();
        let mut last_end = DATA;
        for (from, to) in ranges {
            let from = from.max(last_end);
            if from >= to {
                continue;
            }
            last_end = to;
            let mut bytes = vec![0; (to - from) as usize];
            let kind = if random.percent(70) { kind } else { any_kind(random) };
            // Lanes begin where the operand does.
            let skew = (AROUND as usize) % width(kind);
            bytes[..skew].fill(0);
            random.fill(kind, &mut bytes[skew..]);
            windows.push(Window { offset: (from - DATA) as usize, bytes });
        }
        (windows.len() <= 3).then_some(windows)
    }
}

fn width(kind: Kind) -> usize {
    match kind {
        Kind::Single => 4,
        Kind::Extended => 10,
        Kind::Double | Kind::Integer => 8,
        Kind::Lanes(width) => width,
    }
}

/// Decodes what was encoded.
pub fn decode(bytes: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, rip, DecoderOptions::AMD).decode()
}

/// An address for an operand of this size.
fn target(size: u64, random: &mut Random) -> u64 {
    let within = 1 + random.below(size.clamp(2, 64) - 1);
    let aligned = |at: u64| at & !(size.next_power_of_two().min(64) - 1);
    let page = |n: u64| DATA + n * PAGE;
    match random.below(100) {
        0..=64 => page(1) + aligned(random.below(2 * PAGE - size.min(2048))),
        65..=79 => page(1) + random.below(2 * PAGE - size.min(2048)),
        80..=84 => page(2) - within,
        85..=87 => page(3) - within,
        88..=90 => page(4) + aligned(random.below(PAGE)),
        91 => page(5) - within,
        92 => page(1) - within,
        93 => page(random.of(&[0, 3, 6, 8])) + random.below(PAGE - 64),
        94 => page(8) - within,
        95 => 0xffff_8000_0000_0000 + random.below(1 << 30),
        96 => 0x0000_8000_0000_0000 + random.below(1 << 20),
        97 => 0xffff_7fff_ffff_ff00 - random.below(1 << 20),
        98 => random.below(4096),
        _ => random.bits() | 1 << 62,
    }
}

/// Makes the memory operand lead to `at`, relative to its segment.
fn lead_operand(i: &mut Instruction, before: &mut Registers, at: u64, random: &mut Random) {
    let (base, index) = (i.memory_base(), i.memory_index());
    if (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Memory) {
        return;
    }
    let scale = u64::from(i.memory_index_scale());
    let number = |r: Register| r.full_register().number();
    if index == Register::AL {
        let al = before.general[0] & 0xff;
        before.general[3] = at.wrapping_sub(al);
    } else if base.is_ip() || base == Register::None && index == Register::None {
        i.set_memory_displacement64(at);
    } else if base == Register::None {
        before.general[number(index)] = random.below(1000);
        let by = before.general[number(index)] * scale;
        i.set_memory_displacement64(at.wrapping_sub(by));
    } else {
        let indexed = if index == Register::None { 0 } else { before.general[number(index)] };
        let value = at.wrapping_sub(indexed.wrapping_mul(scale));
        let value = value.wrapping_sub(i.memory_displacement64());
        let short = base.size() == 4;
        before.general[number(base)] =
            if short { value & 0xffff_ffff | random.bits() << 32 } else { value };
    }
}

/// Where an instruction uses memory, and how much.
fn range(i: &Instruction, used: &UsedMemory, before: &Registers) -> Option<(u64, u64)> {
    let mut at = used.virtual_address(0, |register, _, _| Some(before.of(register)))?;
    // Bits are numbered from the operand on, as far as the register says.
    let by_bit =
        matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if by_bit && i.op1_kind() == OpKind::Register {
        let bits = i.op1_register().size() as u32 * 8;
        let number = before.general[i.op1_register().number()] << (64 - bits);
        let number = number.cast_signed() >> (64 - bits);
        let far = (number >> bits.ilog2()) * i64::from(bits / 8);
        let sum = at.wrapping_add_signed(far);
        // In a segment, 32 bits of address go around.
        let segment = before.of(i.memory_segment());
        let alone = i.memory_base() == Register::None && i.memory_displ_size() == 4;
        let short = alone || i.memory_base().size() == 4 || i.memory_index().size() == 4;
        let within = sum.wrapping_sub(segment) & 0xffff_ffff;
        at = if short { within.wrapping_add(segment) } else { sum };
    }
    let size = match used.memory_size() {
        MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => 512,
        MemorySize::Xsave | MemorySize::Xsave64 => 1024,
        size => size.size().max(1) as u64,
    };
    Some((at, size))
}

/// What the code's data are.
fn natural_kind(code: Code) -> Kind {
    let size = code.op_code().memory_size();
    match size.element_type() {
        MemorySize::Float32 => Kind::Single,
        MemorySize::Float64 => Kind::Double,
        MemorySize::Float80 => Kind::Extended,
        _ if size.is_packed() => Kind::Lanes(size.element_size().clamp(1, 8)),
        _ => Kind::Integer,
    }
}

fn any_kind(random: &mut Random) -> Kind {
    random.of(&[
        Kind::Single,
        Kind::Double,
        Kind::Integer,
        Kind::Lanes(1),
        Kind::Lanes(2),
        Kind::Lanes(4),
        Kind::Lanes(8),
    ])
}

/// All registers, at random.
fn registers(before: &mut Registers, kind: Kind, random: &mut Random) {
    before.general.iter_mut().for_each(|register| *register = random.integer());
    if random.percent(20) {
        let [from, to] = [random.below(16), random.below(16)];
        before.general[to as usize] = before.general[from as usize];
    }
    // CF, PF, AF, ZF, SF, OF; seldom DF, ID, NT.
    before.rflags = 0x202 | random.bits() & 0x8d5;
    before.rflags |=
        if random.percent(10) { random.bits() & (1 << 10 | 1 << 14 | 1 << 21) } else { 0 };
    before.fs = DATA + PAGE + random.below(PAGE);
    before.gs = random.of(&[0, DATA + PAGE, 0xffff_ffff_ffff_0000, 0x7fff_0000]);
    x87(&mut before.fx, random);
    mxcsr(&mut before.fx, random);
    let xmm = &mut before.fx[160..416];
    for register in xmm.chunks_mut(16) {
        let kind = if random.percent(70) { kind } else { any_kind(random) };
        random.fill(kind, register);
    }
    if random.percent(25) {
        let [from, to] = [random.below(16) as usize, random.below(16) as usize];
        xmm.copy_within(from * 16..from * 16 + 16, to * 16);
    }
}

fn x87(fx: &mut [u8; 512], random: &mut Random) {
    let masks = if random.percent(10) { random.bits() as u16 & 0x3f } else { 0x3f };
    let precision = random.of(&[0_u16, 2, 3, 3, 3]);
    let control = 0x40 | masks | precision << 8 | (random.below(4) as u16) << 10;
    let raised = if random.percent(20) { random.bits() as u16 & 0x3f } else { 0 };
    let pending = if raised & !masks & 0x3f != 0 { 0x8080 } else { 0 };
    let status = raised | pending | random.bits() as u16 & 0x7f00;
    fx[..2].copy_from_slice(&control.to_le_bytes());
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = if random.percent(60) { 0xff } else { random.bits() as u8 };
    if pending != 0 {
        // The last instruction and its operand. AMD's processors forget them whenever the kernel
        // saves state without an exception pending.
        fx[6..8].copy_from_slice(&(random.bits() as u16 & 0x7ff).to_le_bytes());
        fx[8..16].copy_from_slice(&random.bits().to_le_bytes());
        fx[16..24].copy_from_slice(&random.bits().to_le_bytes());
    }
    for register in fx[32..160].chunks_mut(16) {
        register[..10].copy_from_slice(&random.extended());
    }
}

fn mxcsr(fx: &mut [u8; 512], random: &mut Random) {
    let masks = if random.percent(10) { random.bits() as u32 & 0x1f80 } else { 0x1f80 };
    let mut mxcsr = masks | (random.below(4) as u32) << 13;
    // FTZ, DAZ, MM.
    let misaligned = if codes::may_misalign() { 10 } else { 0 };
    for (bit, part) in [(15, 20), (6, 20), (17, misaligned)] {
        mxcsr |= u32::from(random.percent(part)) << bit;
    }
    mxcsr |= if random.percent(30) { random.bits() as u32 & 0x3f } else { 0 };
    fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
}

/// What some instructions want of registers to do more than fault.
fn special_registers(i: &Instruction, before: &mut Registers, random: &mut Random) {
    let general = &mut before.general;
    let uses = |n: usize| {
        let is = |r: Register| r != Register::None && r.is_gpr() && r.full_register().number() == n;
        is(i.memory_base()) || is(i.memory_index())
    };
    match i.mnemonic() {
        Mnemonic::Div | Mnemonic::Idiv if random.percent(70) => {
            let negative = random.percent(30) && i.mnemonic() == Mnemonic::Idiv;
            let high = if negative { u64::MAX } else { random.below(3) };
            let byte = i.op0_kind() == OpKind::Register && i.op0_register().size() == 1
                || i.memory_size().size() == 1;
            if byte && !uses(0) {
                general[0] = general[0] & !0xff00 | (high & 0xff) << 8;
            } else if !uses(2) {
                general[2] = high;
            }
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register =>
        {
            let n = i.op1_register().full_register().number();
            if !uses(n) {
                let near = random.below(1024).wrapping_sub(512);
                let high = random.bits() << (i.op1_register().size().min(7) * 8);
                let wide = i.op1_register().size() == 8;
                let mask = if wide { u64::MAX } else { (1 << (i.op1_register().size() * 8)) - 1 };
                general[n] = near & mask | if wide { 0 } else { high & !mask };
            }
        }
        Mnemonic::Xsave
        | Mnemonic::Xsave64
        | Mnemonic::Xsaveopt
        | Mnemonic::Xsaveopt64
        | Mnemonic::Xsavec
        | Mnemonic::Xsavec64
        | Mnemonic::Xrstor
        | Mnemonic::Xrstor64 => {
            // x87 and SSE are all that the software CPU has.
            (general[0], general[2]) = (random.below(4), 0);
        }
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase if random.percent(60) => {
            let n = i.op0_register().full_register().number();
            general[n] = (general[n] << 16).cast_signed().wrapping_shr(16) as u64;
        }
        Mnemonic::Cmpxchg if i.op0_kind() == OpKind::Register && random.percent(40) => {
            let n = i.op0_register().full_register().number();
            general[n] = general[0];
        }
        Mnemonic::Jrcxz | Mnemonic::Jecxz | Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
            general[1] = random.of(&[0, 1, 2, 1 << 32, 1 << 32 | 1, general[1]]);
        }
        _ if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) => {
            general[1] = match random.below(10) {
                0 => 0,
                1 => random.below(5000),
                2 => random.bits(),
                _ => random.below(64),
            };
            before.rflags ^= u64::from(random.percent(30)) << 10;
        }
        _ => {}
    }
}

/// What some instructions want of memory to do more than fault; and what must not be.
fn special_memory(i: &Instruction, case: &mut Case, random: &mut Random) {
    let (general, fx) = (case.before.general, case.before.fx);
    let operand = case.operand(i).wrapping_sub(DATA) as usize;
    let mut put = |at: usize, bytes: &[u8]| {
        for window in &mut case.windows {
            if let Some(place) = at.checked_sub(window.offset)
                && let Some(part) = window.bytes.get_mut(place..)
                && let Some(part) = part.get_mut(..bytes.len())
            {
                part.copy_from_slice(bytes);
            }
        }
    };
    match i.mnemonic() {
        Mnemonic::Popf | Mnemonic::Popfq => {
            // TF would trap where nobody expects it.
            let at = general[4].wrapping_sub(DATA) as usize;
            let image = random.bits() & !(1 << 8);
            // AC alone makes unaligned accesses fault, also those of whoever lands.
            put(at, &(image & !(1 << 18)).to_le_bytes());
        }
        Mnemonic::Cmpxchg if random.percent(50) => {
            let size = i.memory_size().size();
            put(operand, &general[0].to_le_bytes()[..size]);
        }
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if random.percent(50) => {
            let half = i.memory_size().size() / 2;
            put(operand, &general[0].to_le_bytes()[..half]);
            put(operand.wrapping_add(half), &general[2].to_le_bytes()[..half]);
        }
        Mnemonic::Ldmxcsr if random.percent(90) => {
            put(operand, &(random.bits() as u32 & 0x2_ffff).to_le_bytes());
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 if random.percent(90) => {
            put(operand, &fx[..416]);
        }
        Mnemonic::Xrstor | Mnemonic::Xrstor64 if random.percent(90) => {
            put(operand, &fx[..416]);
            let mut header = [0; 64];
            header[0] = random.below(4) as u8;
            put(operand.wrapping_add(512), &header);
        }
        Mnemonic::Xsave | Mnemonic::Xsave64 if random.percent(90) => {
            put(operand.wrapping_add(512), &[0; 64]);
        }
        _ => {}
    }
}
