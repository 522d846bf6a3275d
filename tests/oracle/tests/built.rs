//! Whatever CPUID reports is built: every instruction of every feature.
#![expect(clippy::unwrap_used, reason = "a test")]

use iced_x86::{Code, Decoder, DecoderOptions, Encoder};
use vmm_cpu::{CpuidLeaf, Nobody, Segment};
use vmm_oracle::{
    arena::{PAGE, Rights},
    codes,
    features::{self, WITHOUT_INSTRUCTIONS},
    operands::{Form, instruction},
    random::Random,
    space::Space,
};

const CODE: u64 = 0x1000_0000;

/// Bytes of an instruction of this code that decode to it; `None` if there are none in 64-bit mode
/// of AMD's processors.
fn bytes(code: Code, form: Form, random: &mut Random) -> Option<Vec<u8>> {
    (0..100).find_map(|_| {
        let i = instruction(code, form, CODE, random)?;
        let mut encoder = Encoder::new(64);
        encoder.encode(&i, CODE).ok()?;
        let bytes = encoder.take_buffer();
        let decoded = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::AMD).decode();
        (decoded.code() == code).then_some(bytes)
    })
}

/// Whether the CPU knows what to do with these bytes, in a program and in a system.
fn is_built(bytes: &[u8]) -> bool {
    [true, false].iter().all(|user| {
        let mut space = Space::new(64);
        let page = space.take(1);
        space.map(CODE, page, Rights::Write, true);
        space.ram.write(page, bytes);
        let (mut cpu, mut state) = space.cpu();
        if !user {
            state.segments[1] = Segment::code64(0x10, 0);
            state.segments[2] = Segment::data(0x18, 0);
        }
        state.registers.general = [CODE + PAGE / 2; 16];
        state.registers.rip = CODE;
        cpu.set_state(&state).unwrap();
        cpu.step(&space.ram, &Nobody);
        cpu.unknown().count() == 0
    })
}

#[test]
fn every_instruction_of_the_features_that_are_reported_is_built() {
    let mut random = Random::new(1);
    let (mut built, mut missing, mut no_encoding) = (0, Vec::new(), Vec::new());
    for code in Code::values() {
        let op = code.op_code();
        let is_ours = |feature: &_| features::is_ours(*feature);
        // FWAIT and what comes after it are two instructions.
        if !op.mode64() || !op.amd_decoder64() || !op.is_instruction() || op.fwait() {
            continue;
        }
        if !code.cpuid_features().iter().all(is_ours) {
            continue;
        }
        let (memory, registers) = codes::forms(code);
        for (has, form) in [(memory, Form::Memory), (registers, Form::Registers)] {
            match has.then(|| bytes(code, form, &mut random)) {
                Some(Some(bytes)) if is_built(&bytes) => built += 1,
                Some(Some(_)) => missing.push((code, form)),
                Some(None) => no_encoding.push((code, form)),
                None => {}
            }
        }
    }
    println!("{built} codes and forms are built; no encoding: {no_encoding:?}");
    assert_eq!(missing, []);
    assert!(built > 2_000);
}

/// A bit that this crate does not know could tell of instructions that nobody looks for.
#[test]
fn every_bit_that_is_reported_is_known_here() {
    let is_known = |bit| {
        features::bits().any(|known| known == bit)
            || WITHOUT_INSTRUCTIONS.iter().any(|(_, known)| *known == bit)
    };
    for leaf in CpuidLeaf::supported() {
        let words: &[usize] = match leaf.function {
            1 | 0x8000_0001 => &[2, 3],
            7 => &[1, 2, 3],
            0xd if leaf.index == Some(1) => &[0],
            0x8000_0007 => &[3],
            0x8000_0021 => &[0],
            _ => &[],
        };
        for (register, bit) in words.iter().flat_map(|word| (0..32).map(|bit| (*word, bit))) {
            // Function 8000_0001 repeats some of function 1.
            let repeated = leaf.function == 0x8000_0001 && register == 3;
            let place = (leaf.function, leaf.index.unwrap_or(0), register, bit);
            let known = is_known(place) || repeated && is_known((1, 0, 3, bit));
            assert!(leaf.regs[register] >> bit & 1 == 0 || known, "{place:x?}");
        }
    }
}
