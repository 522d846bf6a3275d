//! HLT.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder},
};

/// Without interrupt controllers HLT ends `run`, each time, and the next `run` goes on behind it.
pub(super) fn halt_without_interrupt_controllers_ends_run(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::real(setup, None, program!("halt"))?;
    let io = Recorder::new();
    for round in 1..=3u8 {
        guest.run_to_halt(&io)?;
        ensure_eq!(io.take(), [Access::new(Kind::PortOut, 0x80, &[round])], "before HLT {round}");
    }
    guest.run_to_power_off(&io)
}
