//! A vCPU in software: the loop around [`Cpu::run`], and its accesses on their way to devices.

use std::{
    cell::RefCell,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Instant,
};

use vmm_cpu::{Cpu, Exit, Io};

use super::{convert, gate::Inside, vm::VmState};
use crate::{
    arch::{CpuModel, CpuState, Regs, SystemRegs, VcpuId},
    error::{Context, Error, Result},
    exit::{Fault, FaultKind, Flow, VcpuExit},
    hv::{CallPort, Entry, GuestIo, IoAddress, KickTarget, Kicker, Vcpu},
    memory::GuestAddress,
};

/// How many instructions are executed between two looks at the clock, when there is a deadline: a
/// millisecond of the slower ones.
const SLICE: u64 = 100_000;

/// The one vCPU of a VM.
pub(super) struct SoftVcpu {
    id: VcpuId,
    cpu: Cpu,
    kick: Arc<KickTarget>,
    call: Option<CallPort>,
    deadline: Option<Instant>,
    /// Nobody is there whose address it could be; what is set is what is read.
    apic_base: u64,
    vm: Arc<VmState>,
}

impl SoftVcpu {
    pub(super) fn new(vm: Arc<VmState>, id: VcpuId, model: &CpuModel) -> Self {
        let mut cpu = Cpu::new(Arc::clone(&vm.code));
        let leaves = model.for_vcpu(id, 1);
        cpu.set_cpuid(&leaves.iter().map(convert::leaf_to_soft).collect::<Vec<_>>());
        vm.gate.guard(cpu.attention());
        let kick = KickTarget::shared(cpu.attention().into());
        Self { id, cpu, kick, call: None, deadline: None, apic_base: 0, vm }
    }

    fn run_loop(&mut self, io: &dyn GuestIo) -> VcpuExit {
        let vm = Arc::clone(&self.vm);
        loop {
            let (layout, inside) = vm.gate.enter(|| vm.layout());
            let calls = Calls { io, vm: &vm, call: self.call, inside, exit: RefCell::default() };
            let exit = match self.deadline {
                Some(deadline) if deadline <= Instant::now() => return VcpuExit::Expired,
                Some(_) => self.cpu.run_for(SLICE, &*layout, &calls),
                None => self.cpu.run(&*layout, &calls),
            };
            let asked = calls.exit.into_inner();
            match exit {
                Exit::Halted => return asked.unwrap_or(VcpuExit::Halted),
                Exit::TripleFault => {
                    let rip = self.cpu.registers().rip;
                    let fault = Fault::new(FaultKind::TripleFault, Some(rip));
                    return asked.unwrap_or_else(|| VcpuExit::Fault(Box::new(fault)));
                }
                _ => {}
            }
            match asked {
                Some(VcpuExit::HostCall) => {
                    self.resume_call();
                    return VcpuExit::HostCall;
                }
                Some(exit) => return exit,
                None if self.kick.is_pending() => return VcpuExit::Kicked,
                // The memory slots have changed, or it is time to look at the clock.
                None => {}
            }
        }
    }

    /// The guest goes on where it was said, wherever it called from.
    fn resume_call(&mut self) {
        let mut registers = self.cpu.registers();
        registers.rip = self.call.map_or(registers.rip, |call| call.resume);
        self.cpu.set_registers(&registers);
    }

    fn set(&mut self, state: &vmm_cpu::State) -> Result<()> {
        let set = self.cpu.set_state(state);
        set.map_err(|error| Error::incompatible(format!("{}: {error}", self.id)))
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, io: &dyn GuestIo) -> Result<VcpuExit> {
        self.vm.owner.check()?;
        let kick = Arc::clone(&self.kick);
        let Entry::Go(running) = kick.enter() else { return Ok(VcpuExit::Kicked) };
        let exit = self.run_loop(io);
        running.leave(matches!(exit, VcpuExit::Kicked));
        Ok(exit)
    }

    fn kicker(&self) -> Kicker {
        self.kick.kicker()
    }

    fn regs(&self) -> Result<Regs> {
        self.vm.owner.check()?;
        Ok(convert::regs_from_soft(&self.cpu.registers()))
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        self.vm.owner.check()?;
        self.cpu.set_registers(&convert::regs_to_soft(regs));
        Ok(())
    }

    fn set_call_port(&mut self, call: CallPort) -> Result<()> {
        self.vm.owner.check()?;
        self.call = Some(call);
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Option<Instant>) -> Result<()> {
        self.deadline = deadline;
        Ok(())
    }

    fn system_regs(&self) -> Result<SystemRegs> {
        self.vm.owner.check()?;
        Ok(convert::system_from_soft(&self.cpu.state(), self.apic_base))
    }

    fn set_system_regs(&mut self, regs: &SystemRegs) -> Result<()> {
        self.vm.owner.check()?;
        let mut state = self.cpu.state();
        convert::system_to_soft(regs, &mut state);
        state.msrs.clear();
        self.set(&state)?;
        self.apic_base = regs.apic_base;
        Ok(())
    }

    fn state(&self) -> Result<CpuState> {
        self.vm.owner.check()?;
        Ok(convert::state_from_soft(&self.cpu.state(), self.apic_base))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        self.vm.owner.check()?;
        let soft = convert::state_to_soft(state).context(|| format!("restoring {}", self.id))?;
        self.set(&soft)?;
        self.apic_base = state.system.apic_base;
        Ok(())
    }
}

impl Drop for SoftVcpu {
    fn drop(&mut self) {
        self.kick.close();
        self.vm.has_vcpu.store(false, SeqCst);
    }
}

/// The accesses of a vCPU, on their way to doorbells and devices.
struct Calls<'a> {
    io: &'a dyn GuestIo,
    vm: &'a VmState,
    call: Option<CallPort>,
    inside: Inside<'a>,
    /// The first wish to leave: of several by one instruction that one stands.
    exit: RefCell<Option<VcpuExit>>,
}

impl Calls<'_> {
    fn ask(&self, access: impl FnOnce(&dyn GuestIo) -> Flow) -> ControlFlow<()> {
        match self.inside.out(|| access(self.io)) {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(exit) => self.leave(exit),
        }
    }

    fn leave(&self, exit: VcpuExit) -> ControlFlow<()> {
        self.exit.borrow_mut().get_or_insert(exit);
        ControlFlow::Break(())
    }
}

impl Io for Calls<'_> {
    fn read(&self, at: u64, data: &mut [u8]) -> ControlFlow<()> {
        self.ask(|io| io.mmio_read(GuestAddress(at), data))
    }

    fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()> {
        if self.vm.bells.ring(IoAddress::Mmio(GuestAddress(at)), data) {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.mmio_write(GuestAddress(at), data))
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()> {
        self.ask(|io| io.port_in(port, data))
    }

    fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()> {
        if self.call.is_some_and(|call| call.port == port) {
            return self.leave(VcpuExit::HostCall);
        }
        if self.vm.bells.ring(IoAddress::Port(port), data) {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.port_out(port, data))
    }
}
