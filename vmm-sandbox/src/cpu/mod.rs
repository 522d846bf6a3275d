//! The processor as a program has it: it runs until the program wants something.
//!
//! One vCPU, which is in ring 0 whenever it stands still, at a place of the stub that the host
//! chooses. How a system call gets there differs: where SYSCALL enters ring 0 it is SYSCALL's own
//! target, and where it does not (user-mode KVM) a trap in ring 3. What a program sees is the same.

mod held;
mod record;
mod stub;

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use vmm_core::{
    Error, Result,
    arch::{
        CpuModel, CpuState, DebugRegs, Feature, Regs, VcpuId, cr4,
        msr::{self, MsrValue},
        rflags,
    },
    exit::{CONTINUE, Fault, Flow, VcpuExit},
    hv::{CallPort, GuestIo, Kicker, Vcpu, Vm},
    memory::GuestAddress,
};

use self::held::Held;
pub(crate) use self::record::{RECORD, Record};
use self::stub::{CALL_PORT, EXCEPTION_PORT, EXCEPTIONS, Stub};
use crate::space::Space;

/// How system calls reach the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// SYSCALL enters ring 0.
    Syscall,
    /// SYSCALL stays in ring 3, where its target traps.
    Trap,
}

/// The state components a program may use: x87, SSE, AVX, AVX-512. Others need a permission from the
/// kernel, or a CR4 bit of their own.
const STATE_COMPONENTS: u64 = 0xe7;

/// How long edits of page tables may take when somebody wants the processor back, and more for each.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_AN_EDIT: Duration = Duration::from_micros(100);

/// RFLAGS that SYSCALL clears on its way to ring 0: TF, IF, DF, NT, AC. The program's are in R11.
const CLEARED: u64 = 0x4_4700;

/// What a program's flags start as.
const PROGRAM_FLAGS: u64 = rflags::FIXED | rflags::IF;

/// Why the processor came back.
#[derive(Debug)]
pub(crate) enum Event {
    Call(SystemCall),
    /// The function that the host called has returned.
    Return(Returned),
    /// The program did what it may not.
    Exception(Exception),
    /// The back end cannot go on with this guest.
    Fault(Fault),
    /// Someone wants the processor to stop, its deadline has passed, or a signal came that is not
    /// ours.
    Kicked,
}

/// A system call, as Linux' registers have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemCall {
    pub(crate) number: u64,
    pub(crate) args: [u64; 6],
}

/// A call of a function, by the System V ABI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionCall {
    pub(crate) function: u64,
    /// A multiple of 16. Arguments beyond the registers are there.
    pub(crate) rsp: u64,
    pub(crate) integers: [u64; 6],
    pub(crate) floats: Option<Floats>,
}

/// The floating-point arguments of a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floats {
    /// Where they are: eight, whatever their number.
    pub(crate) at: u64,
    pub(crate) count: u64,
}

/// What a function leaves, by the System V ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    /// RAX.
    pub(crate) integer: u64,
    /// The low half of XMM0.
    pub(crate) float: u64,
}

/// What a snapshot keeps of the processor.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// With those registers that are not as in a new vCPU.
    state: CpuState,
    /// All of them.
    msrs: Vec<MsrValue>,
    stub: Stub,
    entry: Entry,
}

impl Image {
    /// With every register that a vCPU has.
    fn whole_state(&self) -> CpuState {
        CpuState { msrs: self.msrs.clone(), ..self.state.clone() }
    }
}

/// The model-specific registers that are not as at power-on. A program cannot change any: it has no
/// code in ring 0.
const KEPT_MSRS: [u32; 4] = [msr::TSC, msr::STAR, msr::LSTAR, msr::FMASK];

/// A processor exception in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) vector: u8,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    /// The address of a page fault.
    pub(crate) address: Option<u64>,
}

pub(crate) struct Cpu {
    vcpu: Held,
    stub: Stub,
    entry: Entry,
    has_deadline: bool,
    /// Something came of the program that none in ring 3 can do: there is no register that it may
    /// not have changed.
    is_doubtful: bool,
}

impl Cpu {
    /// Makes the vCPU, and its stub in `space`.
    pub(crate) fn new(
        vm: &Arc<dyn Vm>,
        model: &CpuModel,
        entry: Entry,
        space: &mut Space,
    ) -> Result<Self> {
        let stub = Stub::new(space, entry == Entry::Trap);
        let stub = stub.map_err(|_| Error::bad_config("no room for the stub"))?;
        let mut vcpu = vm.create_vcpu(VcpuId(0), model)?;
        let target = match entry {
            Entry::Syscall => stub.at.syscall_ring0,
            Entry::Trap => stub.at.syscall_ring3,
        };
        let cleared = if entry == Entry::Syscall { CLEARED } else { 0 };
        let apic_base = vcpu.system_regs()?.apic_base;
        let (xcr0, extra_cr4) = extended_state(model);
        let msr = |(index, value)| MsrValue { index, value };
        vcpu.set_state(&CpuState {
            system: stub.system_regs(space.root(), apic_base, extra_cr4),
            xcr0,
            xsave: initial_vectors(),
            debug: DebugRegs { dr6: 0xffff_0ff0, dr7: 0x400, ..DebugRegs::default() },
            msrs: [(msr::STAR, Stub::star()), (msr::LSTAR, target), (msr::FMASK, cleared)]
                .map(msr)
                .to_vec(),
            ..CpuState::default()
        })?;
        vcpu.set_call_port(CallPort { port: CALL_PORT, resume: resume(entry, &stub) })?;
        let vcpu = Held::new(vcpu);
        Ok(Self { vcpu, stub, entry, has_deadline: false, is_doubtful: false })
    }

    /// What it is now. The guest has made all changes to its page tables.
    pub(crate) fn image(&self) -> Result<Image> {
        let mut state = self.vcpu.state()?;
        let msrs = state.msrs.clone();
        state.msrs.retain(|msr| KEPT_MSRS.contains(&msr.index));
        state.tsc_khz = None;
        Ok(Image { state, msrs, stub: self.stub, entry: self.entry })
    }

    /// A vCPU that goes on where an image stands, in a space with its stub.
    pub(crate) fn of_image(vm: &Arc<dyn Vm>, model: &CpuModel, image: &Image) -> Result<Self> {
        let vcpu = vm.create_vcpu(VcpuId(0), model)?;
        Self::standing(vcpu, &image.state, image)
    }

    /// The same with a vCPU that another had, who may have changed every register of it.
    pub(crate) fn of_image_in(vcpu: Box<dyn Vcpu>, image: &Image) -> Result<Self> {
        let mut cpu = Self::standing(vcpu, &image.whole_state(), image)?;
        cpu.vcpu.set_deadline(None)?;
        Ok(cpu)
    }

    fn standing(mut vcpu: Box<dyn Vcpu>, state: &CpuState, image: &Image) -> Result<Self> {
        vcpu.set_state(state)?;
        let (stub, entry) = (image.stub, image.entry);
        vcpu.set_call_port(CallPort { port: CALL_PORT, resume: resume(entry, &stub) })?;
        let vcpu = Held::new(vcpu);
        Ok(Self { vcpu, stub, entry, has_deadline: false, is_doubtful: false })
    }

    /// The vCPU, from one that is dropped.
    pub(crate) fn leave(&mut self) -> Option<Box<dyn Vcpu>> {
        self.vcpu.take()
    }

    /// Goes on where an image stands.
    pub(crate) fn restore(&mut self, image: &Image) -> Result<()> {
        self.set_deadline(None)?;
        if self.is_doubtful {
            self.vcpu.set_state(&image.whole_state())?;
            self.is_doubtful = false;
        }
        self.vcpu.set_program_state(&image.state)
    }

    pub(crate) fn kicker(&self) -> Kicker {
        self.vcpu.kicker()
    }

    /// When [`run`](Self::run) is to come back, at the latest.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) -> Result<()> {
        if deadline.is_some() || self.has_deadline {
            self.vcpu.set_deadline(deadline)?;
        }
        self.has_deadline = deadline.is_some();
        Ok(())
    }

    /// Puts the program at `rip`, with all registers that its code may look at but RSP zero. Not
    /// after a kick.
    pub(crate) fn start(&mut self, rip: u64, rsp: u64) -> Result<()> {
        self.enter(rip, Regs { rsp, ..Regs::default() })
    }

    /// Has the program execute a function. Not after a kick.
    #[inline]
    pub(crate) fn call(&mut self, call: &FunctionCall) -> Result<()> {
        let FunctionCall { function: rbx, rsp, integers, floats } = *call;
        let [rdi, rsi, rdx, r10, r8, r9] = integers;
        let regs = Regs { rbx, rsp, rdi, rsi, rdx, r8, r9, r10, ..Regs::default() };
        match floats {
            None => self.enter(self.stub.at.call, regs),
            // RAX: a function with variable arguments looks there.
            Some(Floats { at: r12, count: rax }) => {
                self.enter(self.stub.at.call_with_floats, Regs { rax, r12, ..regs })
            }
        }
    }

    #[inline]
    fn enter(&mut self, rcx: u64, regs: Regs) -> Result<()> {
        let (rip, rflags, r11) = (self.stub.at.enter, rflags::FIXED, PROGRAM_FLAGS);
        self.vcpu.set_regs(&Regs { rip, rflags, rcx, r11, ..regs })
    }

    /// All there is of it, but for the time.
    #[cfg(feature = "testing")]
    pub(crate) fn registers(&self) -> Result<String> {
        let mut state = self.vcpu.state()?;
        state.msrs.retain(|msr| msr.index != msr::TSC);
        Ok(format!("{state:x?}"))
    }

    /// Has ring 0 execute a function of the program, which nothing a program does can.
    #[cfg(feature = "testing")]
    pub(crate) fn enter_ring0(&mut self, rip: u64, rsp: u64, rdi: u64) -> Result<()> {
        self.vcpu.set_regs(&Regs { rip, rsp, rdi, rflags: rflags::FIXED, ..Regs::default() })
    }

    /// Puts the result of the system call that the program stands at.
    pub(crate) fn answer(&mut self, result: u64) -> Result<()> {
        let regs = self.vcpu.regs()?;
        self.vcpu.set_regs(&Regs { rax: result, ..regs })
    }

    /// The program's RSP at the system call that it stands at.
    pub(crate) fn stack_pointer(&self, space: &Space) -> Result<u64> {
        let rsp = self.vcpu.regs()?.rsp;
        Ok(match self.entry {
            Entry::Syscall => rsp,
            Entry::Trap => self.stub.frame(space, rsp).map_or(0, |[.., rsp, _]| rsp),
        })
    }

    /// The base of FS, where a program's thread-local storage is.
    pub(crate) fn fs_base(&self) -> Result<u64> {
        Ok(self.vcpu.system_regs()?.fs.base)
    }

    /// Sets the base of FS.
    pub(crate) fn set_fs_base(&mut self, base: u64) -> Result<()> {
        let mut system = self.vcpu.system_regs()?;
        system.fs.base = base;
        self.vcpu.set_system_regs(&system)
    }

    /// The base of GS.
    pub(crate) fn gs_base(&self) -> Result<u64> {
        Ok(self.vcpu.system_regs()?.gs.base)
    }

    /// Sets the base of GS.
    pub(crate) fn set_gs_base(&mut self, base: u64) -> Result<()> {
        let mut system = self.vcpu.system_regs()?;
        system.gs.base = base;
        self.vcpu.set_system_regs(&system)
    }

    /// Runs the program until it wants something.
    pub(crate) fn run(&mut self, space: &mut Space) -> Result<Event> {
        if !space.is_settled()
            && let Some(stopped) = self.settle(space)?
        {
            return Ok(stopped);
        }
        match self.vcpu.run(&Ports)? {
            VcpuExit::HostCall => self.called(space),
            exit => self.other(space, exit),
        }
    }

    /// Shows the guest its memory as it is now; gives what came in the way.
    pub(crate) fn settle(&mut self, space: &mut Space) -> Result<Option<Event>> {
        let edits = space.settle()?;
        if edits.is_empty() {
            return Ok(None);
        }
        let regs = self.vcpu.regs()?;
        // Edits are short, and half of them would be worse than none: who kicks waits for them, but
        // not for ever. Ring 0 of the program, if it got there, has made something else of the stub.
        let count: usize = edits.iter().map(|edit| edit.entries.len()).sum();
        let patience = PATIENCE + PATIENCE_AN_EDIT * u32::try_from(count).unwrap_or(u32::MAX);
        let mut end = None;
        for edit in edits {
            let rsi = self.stub.stage(space, &edit.entries);
            let (rip, rcx) = (self.stub.at.edit, edit.entries.len() as u64);
            let flags = rflags::FIXED;
            self.vcpu.set_regs(&Regs { rip, rdi: edit.at, rsi, rcx, rflags: flags, ..regs })?;
            loop {
                match self.vcpu.run(&Ports)? {
                    VcpuExit::HostCall => break,
                    VcpuExit::Expired | VcpuExit::Interrupted | VcpuExit::Kicked => {
                        let now = Instant::now();
                        if end.is_some_and(|end| end <= now) {
                            let why = "the sandbox's stub does not answer".to_owned();
                            let kind = vmm_core::exit::FaultKind::Other(why);
                            self.is_doubtful = true;
                            return Ok(Some(Event::Fault(Fault::new(kind, None))));
                        }
                        if end.is_none() {
                            end = now.checked_add(patience);
                            self.vcpu.set_deadline(end)?;
                        }
                    }
                    exit => return self.other(space, exit).map(Some),
                }
            }
        }
        self.vcpu.set_regs(&regs)?;
        if end.is_some() {
            self.vcpu.set_deadline(None)?;
            self.vcpu.kicker().kick();
        }
        Ok(None)
    }

    /// What a call by the stub means.
    fn called(&mut self, space: &Space) -> Result<Event> {
        let regs = self.vcpu.regs()?;
        if self.entry == Entry::Trap
            && let Some([rip, ..]) = self.stub.frame(space, regs.rsp)
        {
            if rip != self.stub.at.syscall_ring3_trap {
                // An INT3 of the program's own.
                let rip = rip.wrapping_sub(1);
                let vector = stub::BREAKPOINT;
                return Ok(Event::Exception(Exception {
                    vector,
                    error_code: 0,
                    rip,
                    address: None,
                }));
            }
            // Elsewhere than behind the INT3: where the program stands says whether it was answered.
            self.stub.redirect(space, regs.rsp, self.stub.at.syscall_ring3_done);
        }
        if regs.rcx == self.stub.at.call_returned {
            return Ok(Event::Return(Returned { integer: regs.rax, float: regs.rdi }));
        }
        let Regs { rax: number, rdi, rsi, rdx, r10, r8, r9, .. } = regs;
        Ok(Event::Call(SystemCall { number, args: [rdi, rsi, rdx, r10, r8, r9] }))
    }

    #[cold]
    fn other(&mut self, space: &Space, exit: VcpuExit) -> Result<Event> {
        let event = self.unlike_a_call(space, exit)?;
        self.is_doubtful |= matches!(event, Event::Fault(_));
        Ok(event)
    }

    fn unlike_a_call(&self, space: &Space, exit: VcpuExit) -> Result<Event> {
        Ok(match exit {
            VcpuExit::PowerOff(vector) => self.exception(space, vector as u8)?,
            VcpuExit::Expired | VcpuExit::Interrupted | VcpuExit::Kicked => Event::Kicked,
            VcpuExit::Fault(fault) => Event::Fault(*fault),
            VcpuExit::Failed(error) => return Err(error),
            // What only ring 0 can do: halt, and whatever its back end has a name for.
            exit => {
                let kind = vmm_core::exit::FaultKind::Other(format!("ring 0: {exit}"));
                Event::Fault(Fault::new(kind, None))
            }
        })
    }

    /// What the processor pushed for an exception; a program that confused ring 0 has made another
    /// end of itself.
    fn exception(&self, space: &Space, vector: u8) -> Result<Event> {
        let regs = self.vcpu.regs()?;
        let pushed = u64::from(has_error_code(vector)) * 8;
        let error_code = match pushed {
            0 => Some(0),
            _ => self.stub.word(space, regs.rsp),
        };
        let frame = self.stub.frame(space, regs.rsp.wrapping_add(pushed));
        let (Some(error_code), Some([rip, cs, ..])) = (error_code, frame) else {
            return Ok(ring0_fault(vector, regs.rip));
        };
        if cs & 3 != 3 {
            return Ok(ring0_fault(vector, rip));
        }
        // A trap comes behind its instruction.
        let rip = if vector == stub::BREAKPOINT { rip.wrapping_sub(1) } else { rip };
        let address = match vector {
            PAGE_FAULT => Some(self.vcpu.system_regs()?.cr2),
            _ => None,
        };
        Ok(Event::Exception(Exception { vector, error_code, rip, address }))
    }
}

/// Where the guest goes on behind its call.
fn resume(entry: Entry, stub: &Stub) -> u64 {
    match entry {
        Entry::Syscall => stub.at.syscall_ring0_done,
        Entry::Trap => stub.at.breakpoint_done,
    }
}

/// The vector of page faults.
pub(crate) const PAGE_FAULT: u8 = 14;

fn ring0_fault(vector: u8, rip: u64) -> Event {
    let why = format!("exception {vector} in ring 0");
    Event::Fault(Fault::new(vmm_core::exit::FaultKind::Other(why), Some(rip)))
}

/// Intel SDM volume 3, table 6-1.
fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// The state components that a program can have on such a processor.
pub(crate) fn components(model: &CpuModel) -> u64 {
    extended_state(model).0.unwrap_or(3)
}

/// XCR0 and the bits of CR4 that go with what the processor has.
fn extended_state(model: &CpuModel) -> (Option<u64>, u64) {
    let fs_gs = if model.has(Feature::FSGSBASE) { cr4::FSGSBASE } else { 0 };
    if !model.has(Feature::XSAVE) {
        return (None, fs_gs);
    }
    let offered = model.leaf(0xd, 0).map_or(3, |leaf| leaf.regs[0]);
    (Some(u64::from(offered) & STATE_COMPONENTS), fs_gs | cr4::OSXSAVE)
}

/// The x87 and SSE state a program starts with, as XSAVE has it (Intel SDM volume 1, 13.4).
fn initial_vectors() -> Vec<u8> {
    const SIZE: usize = 4096;
    let fields: [(usize, &[u8]); 3] = [
        (0, &[0x7f, 0x03]),  // FCW: all exceptions masked, extended precision
        (24, &[0x80, 0x1f]), // MXCSR: all exceptions masked
        (512, &[0x03]),      // XSTATE_BV: x87 and SSE are given
    ];
    let mut area = vec![0; SIZE];
    for (at, bytes) in fields {
        area.splice(at..at + bytes.len(), bytes.iter().copied());
    }
    area
}

/// Ports other than the call's. What a program in ring 3 tries is an exception; here come only
/// exceptions that the stub reports, and what a broken ring 0 does.
struct Ports;

impl GuestIo for Ports {
    fn mmio_read(&self, _: GuestAddress, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        CONTINUE
    }

    fn mmio_write(&self, _: GuestAddress, _: &[u8]) -> Flow {
        CONTINUE
    }

    fn port_in(&self, _: u16, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        CONTINUE
    }

    fn port_out(&self, port: u16, _: &[u8]) -> Flow {
        match port.checked_sub(EXCEPTION_PORT) {
            Some(vector) if vector < EXCEPTIONS => {
                ControlFlow::Break(VcpuExit::PowerOff(i32::from(vector)))
            }
            _ => CONTINUE,
        }
    }
}
