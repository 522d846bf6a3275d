//! Bytes that claim to be saved state: an error or a value, never a panic and no more memory than they back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm_core::{
    arch::CpuState,
    persist::{Kind, StateReader, StateWriter},
};

const KIND: Kind = Kind { name: "a", version: 1 };

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    // The list of records itself, or one record of the right name: random bytes seldom get that far.
    let bytes = if choice & 0x80 != 0 { one_record(bytes) } else { bytes.to_vec() };
    let Ok(mut from) = StateReader::from_bytes(&bytes) else { return };
    let _ = from.has(KIND);
    match choice & 0x7f {
        0 => same_again(&mut from),
        1 => drop(from.take::<String>(KIND)),
        2 => drop(from.take::<Vec<u64>>(KIND)),
        3 => drop(from.take::<Vec<Vec<(u8, String)>>>(KIND)),
        4 => drop(from.take::<Option<[u128; 4]>>(KIND)),
        5 => drop(from.take::<(bool, char, f64, i64)>(KIND)),
        _ => drop(from.scope("a", |from| from.take::<CpuState>(KIND))),
    }
    let _ = from.finish();
});

/// A CPU state that is read is written and read again as it was.
fn same_again(from: &mut StateReader) {
    let Ok(state) = from.take::<CpuState>(KIND) else { return };
    let mut out = StateWriter::new();
    out.put(KIND, &state).expect("a state that was read can be written");
    let bytes = out.into_bytes().expect("records can be written");
    let mut from = StateReader::from_bytes(&bytes).expect("what was written can be read");
    assert_eq!(from.take::<CpuState>(KIND).expect("the record is there"), state);
}

/// What `StateWriter` makes of one record of this data.
fn one_record(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, b'a', 1];
    let mut len = data.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(data);
    bytes
}
