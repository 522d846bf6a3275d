//! Port input and output.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, patterns, value},
};
use crate::memory::GuestAddress;

/// The ports of `guests/port.S` in its order, and how many bytes it moves there.
const PORTS: [(u64, usize); 6] =
    [(0x90, 1), (0x92, 2), (0x94, 4), (0x1235, 1), (0x2346, 2), (0xfffc, 4)];
const TABLE: u64 = 0x1_0000;

/// IN and OUT of 1, 2 and 4 bytes, to an immediate port and to DX: what is written arrives, what is
/// read has the right effect on all of RAX.
pub(super) fn port_accesses_of_each_width_and_form_work(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("port"))?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;

    let written = 0x4433_2211u32.to_le_bytes();
    let outs = PORTS.map(|(port, width)| Access::new(Kind::PortOut, port, &written[..width]));
    let ins = PORTS.map(|(port, width)| Access::new(Kind::PortIn, port, &patterns(port, width)));
    ensure_eq!(io.take(), [outs, ins].concat(), "the accesses");

    for (n, (port, width)) in (0u64..).zip(PORTS) {
        let rax: u64 = guest.memory.read_obj(GuestAddress(TABLE + 8 * n))?;
        ensure_eq!(rax, after_input(value(&patterns(port, width)), width), "RAX after IN {n}");
    }
    Ok(())
}

/// RAX after an IN of `width` bytes that found it all ones: only 4 bytes clear the upper half.
fn after_input(read: u64, width: usize) -> u64 {
    match width {
        4 => read,
        _ => read | u64::MAX << (8 * width),
    }
}
