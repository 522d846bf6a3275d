//! Processor modes and the ways between them, all done by the guest.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, unexpected},
};
use crate::{
    arch::{SystemRegs, cr0, efer},
    exit::{CONTINUE, Flow, VcpuExit},
};

const STAGE_PORT: u64 = 0x80;
const RESULT_PORT: u64 = 0x84;

/// From real mode through 32-bit mode and long mode to ring 3, and back to ring 0 by an exception.
/// At each stage the host reads the mode out of the vCPU.
pub(super) fn a_guest_can_go_from_real_mode_to_ring_3_and_back(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::real(setup, None, program!("mode"))?;
    let io = Recorder::answering(|_, address, _| match address {
        STAGE_PORT => Flow::Break(VcpuExit::Reset),
        _ => CONTINUE,
    });
    for stage in 1..=4u8 {
        let exit = guest.run(&io)?;
        ensure!(
            matches!(exit, VcpuExit::Reset),
            "stage {stage}: {}",
            unexpected(&exit, &*guest.vcpu)
        );
        ensure_eq!(io.take(), [Access::new(Kind::PortOut, STAGE_PORT, &[stage])], "stage {stage}");
        ensure_eq!(
            Mode::of(&guest.vcpu.system_regs()?),
            MODES[stage as usize - 1],
            "stage {stage}"
        );
    }
    guest.run_to_power_off(&io)?;
    let sum = 1000u32 * 1001 / 2;
    ensure_eq!(io.take(), [result(sum)], "what ring 3 has computed");
    Ok(())
}

/// What tells the modes apart.
#[derive(Debug, PartialEq, Eq)]
struct Mode {
    protected: bool,
    paging: bool,
    long_active: bool,
    code_long: bool,
    code_big: bool,
    ring: u8,
}

impl Mode {
    fn of(regs: &SystemRegs) -> Self {
        Self {
            protected: regs.cr0 & cr0::PE != 0,
            paging: regs.cr0 & cr0::PG != 0,
            long_active: regs.efer & efer::LMA != 0,
            code_long: regs.cs.long,
            code_big: regs.cs.big,
            ring: regs.ss.dpl,
        }
    }
}

const REAL: Mode = Mode {
    protected: false,
    paging: false,
    long_active: false,
    code_long: false,
    code_big: false,
    ring: 0,
};
const FLAT32: Mode = Mode { protected: true, code_big: true, ..REAL };
const LONG: Mode =
    Mode { protected: true, paging: true, long_active: true, code_long: true, ..REAL };
/// Stages 1 to 4.
const MODES: [Mode; 4] = [REAL, FLAT32, LONG, LONG];

/// Paging outside long mode: 32-bit tables with pages of 4 KiB and 4 MiB, PAE tables with pages of
/// 4 KiB and 2 MiB.
pub(super) fn paging_outside_long_mode_works(setup: &Setup<'_>) -> Result<(), Failure> {
    let mut guest = Guest::real(setup, None, program!("paging32"))?;
    let io = Recorder::new();
    guest.run_to_power_off(&io)?;
    let seen = [1u32, 2, 2, 1, 3, 3].map(|n| result(0xcafe_0000 + n));
    ensure_eq!(io.take(), seen, "what the guest has seen through its mappings");
    Ok(())
}

fn result(value: u32) -> Access {
    Access::new(Kind::PortOut, RESULT_PORT, &value.to_le_bytes())
}
