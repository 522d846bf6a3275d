//! Calls from guest to host by one OUT.

use super::{
    Failure, Setup,
    guest::{Access, CODE, Guest, Kind, PATIENCE, Recorder, unexpected},
};
use crate::{
    arch::Regs,
    exit::VcpuExit,
    hv::{CallPort, GuestIo, Vcpu},
    memory::GuestAddress,
};

const PORT: u16 = 0x5c;
const CALLS: u64 = 200;

/// An OUT to the call port ends `run` with the registers of the guest; what is set then is what the
/// guest goes on with behind the OUT. Other ports go to the [`GuestIo`], kicks come as always, and a
/// state saved at a call goes on behind it in another vCPU.
pub(super) fn a_host_call_ends_run_with_registers_in_place(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("host_call"))?;
    let resume: u64 = guest.memory.read_obj(GuestAddress(CODE + 8))?;
    let call = CallPort { port: PORT, resume };
    guest.vcpu.set_call_port(call)?;
    let io = Recorder::new();
    let mut rdx = 0;
    for count in 1..=CALLS {
        if count % 3 == 0 {
            guest.vcpu.kicker().kick();
            ensure!(matches!(guest.vcpu.run(&io)?, VcpuExit::Kicked), "a kick before a run");
        }
        to_call(&mut *guest.vcpu, &io)?;
        let regs = guest.vcpu.regs()?;
        ensure_eq!((regs.rax, regs.rdx, regs.rip), (count, rdx, resume), "call {count}");
        rdx = count * 0x0123_4567_89ab;
        guest.vcpu.set_regs(&Regs { rbx: count + 1, rcx: rdx, ..regs })?;
        if count == CALLS / 2 {
            move_to_another(setup, &mut guest, call)?;
        }
    }
    to_call(&mut *guest.vcpu, &io)?;
    let regs = guest.vcpu.regs()?;
    guest.vcpu.set_regs(&Regs { rbx: 0, ..regs })?;
    guest.run_to_power_off(&io)?;
    let said = (2..=CALLS + 1).chain([0]).map(|n| Access::new(Kind::PortOut, 0x80, &[n as u8]));
    ensure_eq!(io.take(), said.collect::<Vec<_>>(), "the other port");
    Ok(())
}

/// The guest goes on in a new VM over the same memory.
fn move_to_another(setup: &Setup<'_>, guest: &mut Guest, call: CallPort) -> Result<(), Failure> {
    let state = guest.vcpu.state()?;
    let other = Guest::long(setup, None, &[])?;
    let mut bytes = vec![0; program!("host_call").len()];
    guest.memory.read(GuestAddress(CODE), &mut bytes)?;
    other.memory.write(GuestAddress(CODE), &bytes)?;
    *guest = other;
    guest.vcpu.set_call_port(call)?;
    guest.vcpu.set_state(&state)?;
    ensure_eq!(guest.vcpu.regs()?, state.regs, "the registers of the other vCPU");
    Ok(())
}

fn to_call(vcpu: &mut dyn Vcpu, io: &dyn GuestIo) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    loop {
        match vcpu.run(io)? {
            VcpuExit::HostCall => return Ok(()),
            VcpuExit::Interrupted if start.elapsed() < PATIENCE => {}
            other => return Err(unexpected(&other, vcpu)),
        }
    }
}
