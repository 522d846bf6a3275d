//! Instructions that a guest's kernel counts on and some hosts do not have in ring 0.

use super::{
    Failure, Setup,
    guest::{Access, CODE, Guest, Kind, Recorder},
};
use crate::memory::GuestAddress;

const MEMORY: u64 = 0x1_0000;

/// CMPXCHG16B stores if it finds what it compares with, and otherwise loads what it has found.
pub(super) fn cmpxchg16b_works_in_ring_0(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("cmpxchg16b"))?;
    guest.run_to_power_off(&Recorder::new())?;
    let words: [u64; 4] = guest.memory.read_obj(GuestAddress(MEMORY))?;
    ensure_eq!(words, [3, 4, 3, 4], "memory, and RDX:RAX after the second");
    Ok(())
}

/// SSE, SSE2 and the x87 compute in ring 0.
pub(super) fn simd_and_floating_point_work_in_ring_0(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("simd"))?;
    guest.run_to_power_off(&Recorder::new())?;
    let doubled: [u32; 4] = guest.memory.read_obj(GuestAddress(MEMORY))?;
    ensure_eq!(doubled, [2, 4, 6, 8], "PADDD");
    let squares: [u32; 4] = guest.memory.read_obj(GuestAddress(MEMORY + 16))?;
    ensure_eq!(squares.map(f32::from_bits), [0.25, 2.25, 6.25, 12.25], "MULPS");
    let [root, two_pi]: [u64; 2] = guest.memory.read_obj(GuestAddress(MEMORY + 32))?;
    ensure_eq!(f64::from_bits(root), std::f64::consts::SQRT_2, "SQRTSD");
    ensure_eq!(f64::from_bits(two_pi), std::f64::consts::TAU, "FADDP");
    Ok(())
}

/// INT3 and INT n in ring 0 go to their handlers, which return behind them.
pub(super) fn software_interrupts_work_in_ring_0(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("software_interrupt"))?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;
    let callers: [u32; 2] = guest.memory.read_obj(GuestAddress(CODE + 8))?;
    let said = |vector: u8, caller: u32| {
        [(0x80, vec![vector]), (0x84, caller.to_le_bytes().to_vec())]
            .map(|(port, data)| Access::new(Kind::PortOut, port, &data))
    };
    let expected = [said(3, callers[0]), said(0x80, callers[1])].concat();
    ensure_eq!(io.take(), expected, "what the handlers said");
    Ok(())
}

/// SYSCALL and INT n take ring 3 to ring 0 with what the manuals say in registers and on the stack.
pub(super) fn system_calls_enter_ring_0(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("system_call"))?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;
    let stages = [1, 2].map(|stage| Access::new(Kind::PortOut, 0x80, &[stage]));
    ensure_eq!(io.take(), stages, "the stages");
    Ok(())
}
