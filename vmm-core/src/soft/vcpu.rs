//! A vCPU in software: the loop around [`Cpu::run`], and its accesses on their way to devices.

use std::{
    cell::RefCell,
    ops::ControlFlow,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_cpu::{Cpu, Exit, Io};

use super::{convert, gate::Inside, irqs::Irqs, local::Local, vm::VmState};
use crate::{
    arch::{CpuModel, CpuState, CpuidLeaf, Feature, Regs, SystemRegs, VcpuId},
    error::{Context, Error, Result},
    exit::{Fault, FaultKind, Flow, VcpuExit},
    hv::{CallPort, Entry, GuestIo, IoAddress, KickTarget, Kicker, Vcpu, Woken},
    memory::GuestAddress,
};

/// How many instructions are executed at most between two looks at the clock, when something is to
/// come: a millisecond of the slower ones. And at least.
const SLICE: u64 = 100_000;
const SHORTEST: u64 = 500;
/// Nanoseconds that an instruction takes at most, mostly: a slice ends before what is to come.
const INSTRUCTION: u64 = 8;

/// A vCPU of a VM.
pub(super) struct SoftVcpu {
    id: VcpuId,
    cpu: Cpu,
    kick: Arc<KickTarget>,
    call: Option<CallPort>,
    deadline: Option<Instant>,
    /// Where no local APIC has it, nobody is there whose address it could be: what is set is what
    /// is read.
    apic_base: u64,
    local: Option<Local>,
    vm: Arc<VmState>,
}

impl SoftVcpu {
    pub(super) fn new(vm: Arc<VmState>, id: VcpuId, model: &CpuModel) -> Result<Self> {
        let mut cpu = Cpu::new(Arc::clone(&vm.code));
        let mut leaves = model.for_vcpu(id, vm.vcpus);
        let local = match &vm.irqs {
            Some(irqs) => Some(Local::new(id, Arc::clone(irqs), &cpu)?),
            None => {
                leaves = without_apic(leaves);
                None
            }
        };
        cpu.set_cpuid(&leaves.iter().map(convert::leaf_to_soft).collect::<Vec<_>>());
        vm.gate.guard(id, Some(cpu.attention()));
        vm.join_time(&cpu.tsc());
        let kick = KickTarget::shared(cpu.attention().into(), local.as_ref().map(Local::doze));
        Ok(Self { id, cpu, kick, call: None, deadline: None, apic_base: 0, local, vm })
    }

    fn run_loop(&mut self, io: &dyn GuestIo) -> Result<VcpuExit> {
        loop {
            let (runs, due) = match &mut self.local {
                Some(local) => local.attend(&mut self.cpu),
                None => (true, None),
            };
            if self.kick.is_pending() {
                return Ok(VcpuExit::Kicked);
            }
            let until = due.into_iter().chain(self.deadline).min();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(VcpuExit::Expired);
            }
            let exit = match &self.local {
                Some(local) if !runs => match local.wait(until)? {
                    Woken::Interrupted => Some(VcpuExit::Interrupted),
                    Woken::Ready => None,
                },
                _ => self.execute(left, io),
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// Executes guest code, for some of the time that is left, until there is something to be looked
    /// at or only the caller can decide.
    fn execute(&mut self, left: Option<Duration>, io: &dyn GuestIo) -> Option<VcpuExit> {
        let (exit, asked) = self.execute_once(left, io);
        match (exit, &mut self.local) {
            (Exit::Halted, Some(local)) => local.halt(),
            (Exit::Halted, None) => return Some(asked.unwrap_or(VcpuExit::Halted)),
            (Exit::TripleFault, _) => {
                return Some(asked.unwrap_or_else(|| self.fault(FaultKind::TripleFault)));
            }
            (Exit::Unsupported(what), _) => {
                let why = format!("the software CPU has no {what}");
                return Some(asked.unwrap_or_else(|| self.fault(FaultKind::Other(why))));
            }
            // Something has come, or it is time to look at the clock.
            _ => {}
        }
        if let Some(VcpuExit::HostCall) = asked {
            self.resume_call();
        }
        asked.or_else(|| self.kick.is_pending().then_some(VcpuExit::Kicked))
    }

    /// Lets the CPU run until it comes back; why, and what a device wished meanwhile.
    fn execute_once(
        &mut self,
        left: Option<Duration>,
        io: &dyn GuestIo,
    ) -> (Exit, Option<VcpuExit>) {
        let Self { id, cpu, call, local, vm, .. } = self;
        let (layout, inside) = vm.gate.enter(*id, || vm.layout());
        let (irqs, local, exit) = (vm.irqs.as_deref(), local.as_ref(), RefCell::default());
        let calls = Calls { id: *id, io, vm, irqs, local, call: *call, inside, exit };
        let came_back = match left {
            Some(left) => {
                let count = left.as_nanos() / u128::from(INSTRUCTION);
                let slice = count.clamp(SHORTEST.into(), SLICE.into()) as u64;
                cpu.run_for(slice, &*layout, &calls)
            }
            None => cpu.run(&*layout, &calls),
        };
        (came_back, calls.exit.into_inner())
    }

    fn fault(&self, kind: FaultKind) -> VcpuExit {
        VcpuExit::Fault(Box::new(Fault::new(kind, Some(self.cpu.registers().rip))))
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
        running.leave(matches!(exit, Ok(VcpuExit::Kicked)));
        exit
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
        let mut regs = convert::system_from_soft(&self.cpu.state(), self.apic_base);
        if let Some(local) = &self.local {
            local.add_to_system(&mut regs);
        }
        Ok(regs)
    }

    fn set_system_regs(&mut self, regs: &SystemRegs) -> Result<()> {
        self.vm.owner.check()?;
        let mut state = self.cpu.state();
        convert::system_to_soft(regs, &mut state);
        state.msrs.clear();
        self.set(&state)?;
        self.apic_base = regs.apic_base;
        self.local.as_ref().map_or(Ok(()), |local| local.take_from_system(regs))
    }

    fn state(&self) -> Result<CpuState> {
        self.vm.owner.check()?;
        let khz = self.cpu.tsc().khz();
        let Some(local) = &self.local else {
            return Ok(convert::state_from_soft(&self.cpu.state(), self.apic_base, khz));
        };
        let mut state = convert::state_from_soft(&local.settled(&self.cpu), self.apic_base, khz);
        local.add_to(&mut state);
        Ok(state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        self.vm.owner.check()?;
        let mut state = state.clone();
        let doing = || format!("restoring {}", self.id);
        if let Some(local) = &mut self.local {
            local.take_from(&mut state).context(doing)?;
        }
        let soft = convert::state_to_soft(&state).context(doing)?;
        // First, because the counter's value is among the registers.
        let (tsc, before) = (self.cpu.tsc(), self.cpu.tsc().khz());
        tsc.set_khz(state.tsc_khz.unwrap_or(before));
        self.set(&soft).inspect_err(|_| tsc.set_khz(before))?;
        self.apic_base = state.system.apic_base;
        self.vm.settle_time(&self.cpu.tsc());
        if let Some(local) = &self.local {
            local.tell_time(&self.vm);
        }
        Ok(())
    }
}

impl Drop for SoftVcpu {
    fn drop(&mut self) {
        self.kick.close();
        self.vm.gate.guard(self.id, None);
        self.vm.vcpu_gone(self.id);
    }
}

/// The features of a processor without a local APIC.
fn without_apic(leaves: Vec<CpuidLeaf>) -> Vec<CpuidLeaf> {
    let apic = [Feature::APIC, Feature::X2APIC, Feature::TSC_DEADLINE];
    apic.into_iter().fold(CpuModel::from_leaves(leaves), CpuModel::without).into_leaves()
}

/// The accesses of a vCPU, on their way to interrupt controllers, doorbells and devices.
struct Calls<'a> {
    id: VcpuId,
    io: &'a dyn GuestIo,
    vm: &'a VmState,
    irqs: Option<&'a Irqs>,
    local: Option<&'a Local>,
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
        if self.irqs.is_some_and(|irqs| irqs.load(self.id, at, data)) {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.mmio_read(GuestAddress(at), data))
    }

    fn write(&self, at: u64, data: &[u8]) -> ControlFlow<()> {
        if self.irqs.is_some_and(|irqs| irqs.store(self.id, at, data))
            || self.vm.bells.ring(IoAddress::Mmio(GuestAddress(at)), data)
        {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.mmio_write(GuestAddress(at), data))
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> ControlFlow<()> {
        if self.irqs.is_some_and(|irqs| irqs.port_in(port, data)) {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.port_in(port, data))
    }

    fn port_out(&self, port: u16, data: &[u8]) -> ControlFlow<()> {
        if self.call.is_some_and(|call| call.port == port) {
            return self.leave(VcpuExit::HostCall);
        }
        if self.irqs.is_some_and(|irqs| irqs.port_out(port, data))
            || self.vm.bells.ring(IoAddress::Port(port), data)
        {
            return ControlFlow::Continue(());
        }
        self.ask(|io| io.port_out(port, data))
    }

    fn acknowledge(&self) -> Option<u8> {
        self.irqs?.acknowledge(self.id)
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        self.local?.read_msr(index)
    }

    fn write_msr(&self, index: u32, value: u64) -> Option<()> {
        self.local?.write_msr(index, value, self.vm)
    }

    fn task_priority(&self) -> Option<u8> {
        Some(self.irqs?.task_priority(self.id))
    }

    fn set_task_priority(&self, priority: u8) {
        if let Some(irqs) = self.irqs {
            irqs.set_task_priority(self.id, priority);
        }
    }

    fn exclusive(&self, act: &mut dyn FnMut()) {
        if self.vm.vcpus == 1 { act() } else { self.inside.alone(act) }
    }

    fn spins(&self) {
        if self.vm.vcpus > 1 {
            thread::yield_now();
        }
    }
}
