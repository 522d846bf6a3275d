//! The fuzz targets' checks, with random inputs: a short run of what fuzz/ does for long.

use vmm_oracle::{
    anything::survives, codes, disorder, generate::Generator, operands::Form, random::Random,
};

#[test]
fn any_bytes_as_code_state_and_tables() {
    let mut random = Random::new(11);
    for _ in 0..1000 {
        let len = 100 + random.below(300) as usize;
        let mut input = vec![0; len];
        // Small bytes, so that registers mostly lead into memory.
        input.iter_mut().for_each(|byte| *byte = random.integer() as u8);
        survives(&input);
    }
}

#[test]
fn any_tables_descriptors_gates_and_registers_in_any_mode() {
    let mut random = Random::new(14);
    for _ in 0..3000 {
        let len = 300 + random.below(300) as usize;
        let input: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
        disorder::survives(&input);
    }
}

/// Random bytes seldom are an instruction of two bytes' opcode; here each code has its turn.
#[test]
fn any_state_and_tables_with_real_instructions() {
    let (mut random, mut generator) = (Random::new(12), Generator::new(13));
    for code in codes::candidates() {
        let mut input: Vec<u8> = (0..220).map(|_| random.integer() as u8).collect();
        for form in [Form::Registers, Form::Memory, Form::Registers] {
            input.extend(generator.case(code, form).into_iter().flat_map(|case| case.code));
        }
        survives(&input);
    }
}
