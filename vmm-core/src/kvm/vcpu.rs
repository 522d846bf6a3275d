//! A vCPU of KVM: the loop around KVM_RUN.
//!
//! KVM finishes a port or MMIO access only at the next KVM_RUN. Whenever `run` returns, that has
//! happened: either the return is an EINTR, which KVM gives only between instructions, or the
//! access is completed first by entering once more with `immediate_exit` set.
#![expect(unsafe_code, reason = "KVM_RUN; tells the kicker where the exit flag is")]

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::Instant,
};

use kvm_bindings::{CpuId, KVMIO};
use kvm_ioctls::{Cap, VcpuFd};
use vmm_sys_util::{errno, ioctl::ioctl, ioctl_io_nr};

use super::{
    alarm::Alarm,
    convert,
    run_page::{End, Exit, Mmio, Port, RunPage},
    state,
    vm::VmState,
};
use crate::{
    arch::{CpuModel, CpuState, Feature, Regs, SystemRegs, VcpuId},
    error::{Context, Error, HostResult, Result},
    exit::{CONTINUE, Fault, FaultKind, Flow, VcpuExit},
    hv::{CallPort, Entry, GuestIo, KickTarget, Kicker, Vcpu, listen},
};

// Not by `kvm-ioctls`, which takes every exit apart; the run page is read here.
ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);

/// The instruction pointer after a reset.
const RESET_RIP: u64 = 0xfff0;

/// One vCPU.
pub(super) struct KvmVcpu {
    id: VcpuId,
    pub(super) fd: VcpuFd,
    pub(super) page: RunPage,
    kick: Arc<KickTarget>,
    alarm: Alarm,
    /// How the guest calls the host. If it can, the general registers are those in the run page.
    pub(super) call: Option<CallPort>,
    /// What `state` has found out about the size of its vector state.
    pub(super) xsave_size: OnceLock<usize>,
    pub(super) vm: Arc<VmState>,
}

/// What one KVM_RUN came to.
enum Entered {
    /// An exit is in the run page.
    Exit,
    /// EINTR: `immediate_exit` or a signal.
    Interrupted,
}

impl KvmVcpu {
    pub(super) fn new(vm: Arc<VmState>, id: VcpuId, cpu: &CpuModel) -> Result<Self> {
        let fd = vm.fd.create_vcpu(u64::from(id.0)).map_err(|error| match error.errno() {
            libc::EEXIST => Error::bad_config(format!("{id} exists already")),
            errno => Error::host(format!("creating {id}"), errno),
        })?;
        let page = RunPage::map(&fd, vm.fd.run_size())?;
        // SAFETY: the flag is valid while the page is mapped, and `drop` closes the target before
        // it unmaps the page.
        let kick = unsafe { KickTarget::signalled(page.exit_flag()) };
        let vcpu = Self {
            id,
            fd,
            page,
            kick,
            alarm: Alarm::default(),
            call: None,
            xsave_size: OnceLock::new(),
            vm,
        };
        vcpu.set_cpuid(cpu)?;
        Ok(vcpu)
    }

    fn set_cpuid(&self, cpu: &CpuModel) -> Result<()> {
        let mut leaves = cpu.for_vcpu(self.id, self.vm.config.vcpus);
        if self.vm.config.irq.is_none() {
            let apic = [Feature::APIC, Feature::X2APIC, Feature::TSC_DEADLINE];
            let model = CpuModel::from_leaves(leaves);
            leaves = apic.into_iter().fold(model, CpuModel::without).into_leaves();
        }
        let entries: Vec<_> = leaves.iter().map(convert::cpuid_to_kvm).collect();
        let entries = CpuId::from_entries(&entries).map_err(|_| {
            Error::bad_config(format!("{} CPUID leaves are too many", leaves.len()))
        })?;
        self.fd.set_cpuid2(&entries).host(|| format!("setting the CPUID of {}", self.id))
    }

    fn run_loop(&mut self, io: &dyn GuestIo) -> Result<VcpuExit> {
        loop {
            match self.enter()? {
                Entered::Interrupted if self.kick.is_pending() => return Ok(VcpuExit::Kicked),
                Entered::Interrupted if self.alarm.has_passed() => return Ok(VcpuExit::Expired),
                Entered::Interrupted => return Ok(VcpuExit::Interrupted),
                Entered::Exit => {}
            }
            let call = self.call;
            let flow = match self.page.exit() {
                Exit::Port(access) if let Some(resume) = called(call, &access) => {
                    self.page.set_rip(resume);
                    return Ok(VcpuExit::HostCall);
                }
                Exit::Port(mut access) => port_access(&mut access, io),
                Exit::Mmio(mut access) => mmio_access(&mut access, io),
                Exit::Notice => CONTINUE,
                Exit::End => return Ok(self.end()),
            };
            if let ControlFlow::Break(exit) = flow {
                return self.complete(exit, io);
            }
        }
    }

    /// Why KVM came back for good.
    fn end(&self) -> VcpuExit {
        match self.page.end() {
            End::Halted => VcpuExit::Halted,
            End::PowerOff => VcpuExit::PowerOff(0),
            End::Reset => VcpuExit::Reset,
            End::Fault(kind) => {
                let rip = self.fd.get_regs().ok().map(|regs| regs.rip);
                // On AMD processors KVM has reset the vCPU by now; that is not where the guest was.
                let was_reset = kind == FaultKind::TripleFault && rip == Some(RESET_RIP);
                let rip = rip.filter(|_| !was_reset);
                VcpuExit::Fault(Box::new(Fault::new(kind, rip)))
            }
        }
    }

    /// KVM_RUN, once.
    fn enter(&mut self) -> Result<Entered> {
        loop {
            // SAFETY: KVM_RUN takes no argument; what the kernel writes to the run page meanwhile
            // is read through it only, and by nobody while this has `&mut self`.
            if unsafe { ioctl(&self.fd, KVM_RUN()) } == 0 {
                return Ok(Entered::Exit);
            }
            match errno::Error::last().errno() {
                libc::EINTR => return Ok(Entered::Interrupted),
                libc::EFAULT | libc::EHWPOISON if let Some(at) = self.page.memory_fault() => {
                    return Err(no_memory(self.id, at));
                }
                // An application processor has just seen its INIT or SIPI.
                libc::EAGAIN => {}
                errno => return Err(Error::host(format!("running {}", self.id), errno)),
            }
        }
    }

    /// Lets KVM finish the access that a device answered with `exit`, and whatever further ones the
    /// instruction makes.
    fn complete(&mut self, exit: VcpuExit, io: &dyn GuestIo) -> Result<VcpuExit> {
        self.kick.raise_exit_flag();
        let completed = loop {
            match self.enter() {
                Err(error) => break Err(error),
                Ok(Entered::Interrupted) => break Ok(exit),
                Ok(Entered::Exit) => {}
            }
            // The rest of a split access or of a string: its devices answer too, but the first
            // `Break` stands.
            let _ = match self.page.exit() {
                Exit::Port(mut access) => port_access(&mut access, io),
                Exit::Mmio(mut access) => mmio_access(&mut access, io),
                Exit::Notice => CONTINUE,
                // The instruction ended in a fault or the like; the next `run` meets it again.
                Exit::End => break Ok(exit),
            };
        };
        self.kick.lower_exit_flag();
        completed
    }
}

/// Where the guest goes on, if this access is its call.
///
/// KVM stops before an OUT that the processor intercepted, and behind one that it emulated; with
/// RIP changed it takes the former for completed (`complete_fast_pio_out` in Linux' kvm/x86.c).
#[inline]
fn called(call: Option<CallPort>, access: &Port<'_>) -> Option<u64> {
    let call = call?;
    (access.out && access.port == call.port).then_some(call.resume)
}

fn mmio_access(access: &mut Mmio<'_>, io: &dyn GuestIo) -> Flow {
    match access.write {
        true => io.mmio_write(access.at, access.data),
        false => io.mmio_read(access.at, access.data),
    }
}

/// The host could not give the memory behind a mapped guest address.
#[cold]
fn no_memory(id: VcpuId, address: u64) -> Error {
    Error::host(format!("running {id}: memory at guest address {address:#x}"), libc::EFAULT)
}

#[inline]
fn port_access(access: &mut Port<'_>, io: &dyn GuestIo) -> Flow {
    if access.data.len() == access.width {
        return port_element(access.port, access.out, access.data, io);
    }
    string_access(access, io)
}

/// A string instruction: the first `Break` stands, but the guest sees all elements.
#[cold]
fn string_access(access: &mut Port<'_>, io: &dyn GuestIo) -> Flow {
    let mut flow = CONTINUE;
    for element in access.data.chunks_exact_mut(access.width.max(1)) {
        let answer = port_element(access.port, access.out, element, io);
        if flow.is_continue() {
            flow = answer;
        }
    }
    flow
}

fn port_element(port: u16, out: bool, data: &mut [u8], io: &dyn GuestIo) -> Flow {
    match out {
        true => io.port_out(port, data),
        false => io.port_in(port, data),
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn GuestIo) -> Result<VcpuExit> {
        self.vm.owner.check()?;
        if self.alarm.has_passed() {
            return Ok(VcpuExit::Expired);
        }
        let _listening = listen()?;
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
        if self.call.is_some() {
            return Ok(convert::regs_from_kvm(&self.page.regs()));
        }
        let regs = self.fd.get_regs().host(|| format!("reading the registers of {}", self.id))?;
        Ok(convert::regs_from_kvm(&regs))
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        self.vm.owner.check()?;
        let regs = convert::regs_to_kvm(regs);
        if self.call.is_some() {
            self.page.set_regs(&regs);
            return Ok(());
        }
        self.fd.set_regs(&regs).host(|| format!("setting the registers of {}", self.id))
    }

    fn note_pause(&mut self) {
        // Refused unless the guest uses KVM's clock, by which it would be told.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn set_call_port(&mut self, call: CallPort) -> Result<()> {
        self.vm.owner.check()?;
        if !self.vm.fd.check_extension(Cap::SyncRegs) {
            return Err(Error::unsupported("host calls: this KVM has no KVM_CAP_SYNC_REGS"));
        }
        if self.call.is_none() {
            let regs = self.fd.get_regs().host(|| "reading the registers")?;
            self.page.ask_for_regs();
            self.page.note_regs(&regs);
        }
        self.call = Some(call);
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Option<Instant>) -> Result<()> {
        self.vm.owner.check()?;
        self.alarm.set(deadline)
    }

    fn system_regs(&self) -> Result<SystemRegs> {
        self.vm.owner.check()?;
        let regs =
            self.fd.get_sregs().host(|| format!("reading the system registers of {}", self.id))?;
        Ok(convert::system_from_kvm(&regs))
    }

    fn set_system_regs(&mut self, regs: &SystemRegs) -> Result<()> {
        self.vm.owner.check()?;
        self.page.set_cr8(regs.cr8);
        self.fd
            .set_sregs(&convert::system_to_kvm(regs))
            .host(|| format!("setting the system registers of {}", self.id))
    }

    fn state(&self) -> Result<CpuState> {
        self.vm.owner.check()?;
        state::save(self).context(|| format!("saving {}", self.id))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        self.vm.owner.check()?;
        state::restore(self, state).context(|| format!("restoring {}", self.id))
    }

    fn set_program_state(&mut self, state: &CpuState) -> Result<()> {
        self.vm.owner.check()?;
        state::restore_program(self, state).context(|| format!("restoring {}", self.id))
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kick.close();
    }
}
