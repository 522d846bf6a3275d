//! A vCPU's side of the interrupt controllers: what it does when it is called, and how it waits.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use vmm_cpu::{CodeMap, Cpu, State, Tsc};

use super::{
    irqchip::{SavedLapic, Signals},
    irqs::{Bell, Found, Irqs},
    pvclock::ClockPage,
    vm::VmState,
};
use crate::{
    arch::{
        CpuState, RunState, SystemRegs, VcpuId,
        msr::{APIC_BASE, MsrValue, TSC_DEADLINE},
    },
    error::{Error, Result},
    hv::{Doze, Woken},
};

/// What a vCPU has if its VM has interrupt controllers.
pub(super) struct Local {
    id: VcpuId,
    irqs: Arc<Irqs>,
    bell: Bell,
    run_state: RunState,
    tsc: Tsc,
    clock: ClockPage,
}

impl Local {
    /// That of a vCPU with this CPU. The first one runs, the others wait for INIT.
    pub(super) fn new(id: VcpuId, irqs: Arc<Irqs>, cpu: &Cpu) -> Result<Self> {
        let bell = Bell { attention: cpu.attention().into(), doze: Arc::new(Doze::new()?) };
        irqs.sit(id, Some(bell.clone()));
        let run_state = if id.0 == 0 { RunState::Running } else { RunState::Uninitialized };
        Ok(Self { id, irqs, bell, run_state, tsc: cpu.tsc(), clock: ClockPage::default() })
    }

    /// Where the vCPU waits.
    pub(super) fn doze(&self) -> Arc<Doze> {
        Arc::clone(&self.bell.doze)
    }

    /// HLT was executed.
    pub(super) fn halt(&mut self) {
        self.run_state = RunState::Halted;
    }

    /// Does what has come. Returns whether the CPU is to run, and when to look again.
    pub(super) fn attend(&mut self, cpu: &mut Cpu) -> (bool, Option<Instant>) {
        // What comes from here on sets it again.
        self.bell.attention.store(false, SeqCst);
        let Found { signals, interrupt, due } = self.irqs.attend(self.id, &self.tsc);
        self.act(signals, cpu);
        self.run_state = self.after(signals);
        if signals.init {
            self.clock.reset();
        }
        if interrupt {
            cpu.interrupt();
        }
        if self.run_state == RunState::Halted && cpu.wakes() {
            self.run_state = RunState::Running;
        }
        let due = due.and_then(|due| Instant::now().checked_add(Duration::from_nanos(due)));
        (self.run_state == RunState::Running, due)
    }

    /// Tells the CPU what has come.
    fn act(&self, signals: Signals, cpu: &mut Cpu) {
        if signals.init {
            cpu.init();
        }
        if let Some(page) = signals.startup
            && self.waits_for_startup(signals)
        {
            cpu.startup(page);
        }
        if signals.nmi {
            cpu.nmi();
        }
    }

    /// What the vCPU does then. The first one does not wait for a start-up message (Intel SDM
    /// 3-9.1.1).
    fn after(&self, signals: Signals) -> RunState {
        match signals {
            Signals { startup: Some(_), .. } if self.waits_for_startup(signals) => {
                RunState::Running
            }
            Signals { init: true, .. } if self.id.0 == 0 => RunState::Running,
            Signals { init: true, .. } => RunState::InitReceived,
            _ => self.run_state,
        }
    }

    /// Whether it does after an INIT that has come.
    fn waits_for_startup(&self, signals: Signals) -> bool {
        if signals.init { self.id.0 != 0 } else { self.run_state == RunState::InitReceived }
    }

    /// Waits until the vCPU is called, or `until`.
    ///
    /// # Errors
    /// `Host` if the host cannot wait.
    pub(super) fn wait(&self, until: Option<Instant>) -> Result<Woken> {
        self.bell.doze.wait(until, || self.bell.attention.load(SeqCst))
    }

    /// RDMSR of a register that the CPU does not have.
    pub(super) fn read_msr(&self, index: u32) -> Option<u64> {
        self.clock.read_msr(index).or_else(|| self.irqs.read_msr(self.id, index))
    }

    /// WRMSR to a register that the CPU does not have.
    pub(super) fn write_msr(&self, index: u32, value: u64, vm: &VmState) -> Option<()> {
        match self.clock.write_msr(index, value) {
            Some(()) => self.clock.write(Some(index), &vm.layout(), &vm.clock, &self.tsc),
            None => self.irqs.write_msr(self.id, index, value)?,
        }
        Some(())
    }

    /// Tells the guest the time anew, after it was set.
    pub(super) fn tell_time(&self, vm: &VmState) {
        self.clock.write(None, &vm.layout(), &vm.clock, &self.tsc);
    }

    /// The APIC base and the task priority, which are the local APIC's.
    pub(super) fn add_to_system(&self, system: &mut SystemRegs) {
        system.apic_base = self.irqs.read_msr(self.id, APIC_BASE).unwrap_or(0);
        system.cr8 = self.irqs.task_priority(self.id).into();
    }

    /// # Errors
    /// `Incompatible` with an APIC base that cannot be.
    pub(super) fn take_from_system(&self, system: &SystemRegs) -> Result<()> {
        self.irqs.set_task_priority(self.id, system.cr8 as u8);
        let base = system.apic_base;
        let set = self.irqs.write_msr(self.id, APIC_BASE, base);
        set.ok_or_else(|| Error::incompatible(format!("{}: APIC base {base:#x}", self.id)))
    }

    /// The CPU's state with what has come and it does not know yet.
    pub(super) fn settled(&self, cpu: &Cpu) -> State {
        let state = cpu.state();
        match self.saved() {
            Some(SavedLapic { signals, .. }) if signals != Signals::default() => {
                let mut other = Cpu::new(Arc::new(CodeMap::new()));
                if other.set_state(&state).is_err() {
                    return state;
                }
                self.act(signals, &mut other);
                other.state()
            }
            _ => state,
        }
    }

    fn saved(&self) -> Option<SavedLapic> {
        self.irqs.save_lapic(self.id)
    }

    /// Adds to the state of a vCPU what is not the CPU's.
    pub(super) fn add_to(&self, state: &mut CpuState) {
        self.add_to_system(&mut state.system);
        let Some(SavedLapic { lapic, deadline, signals, .. }) = self.saved() else { return };
        state.run_state = self.after(signals);
        state.lapic = Some(lapic);
        state.msrs.extend(self.clock.save());
        state.msrs.push(MsrValue { index: TSC_DEADLINE, value: deadline });
    }

    /// Takes from the state of a vCPU what is not the CPU's.
    ///
    /// # Errors
    /// `Incompatible` with what is no state of a vCPU with interrupt controllers.
    pub(super) fn take_from(&mut self, state: &mut CpuState) -> Result<()> {
        let Some(lapic) = state.lapic.take() else {
            return Err(Error::incompatible(format!("{}: no local APIC", self.id)));
        };
        self.irqs.restore_lapic(self.id, &lapic, state.system.apic_base)?;
        self.clock.reset();
        state.msrs.retain(|msr| match msr.index {
            TSC_DEADLINE => self.irqs.write_msr(self.id, msr.index, msr.value).is_none(),
            _ => self.clock.write_msr(msr.index, msr.value).is_none(),
        });
        self.run_state = std::mem::take(&mut state.run_state);
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.irqs.sit(self.id, None);
    }
}
