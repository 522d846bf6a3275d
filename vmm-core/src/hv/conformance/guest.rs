//! What bodies build their guests with: a VM about to execute a program, a record of its accesses,
//! a run that ends.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::{Failure, Setup};
use crate::{
    arch::{
        CpuModel, DescriptorTable, Regs, Segment, SystemRegs, VcpuId, cr0, cr4, efer, paging,
        rflags,
    },
    error::Result,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::{GuestIo, IrqConfig, Kicker, MemorySlot, Vcpu, Vm, VmConfig},
    memory::{GuestAddress, GuestMemory},
};

/// Where a program lies and starts. The stack is right below.
pub(super) const CODE: u64 = 0x1000;
/// What a program must stay below: there the tables of long mode lie.
pub(super) const CODE_END: u64 = GDT;
/// How far the entries of a program of single instructions are apart.
pub(super) const ENTRY_SIZE: u64 = 16;
/// A store of the exit code to this port ends `run` with [`VcpuExit::PowerOff`].
pub(super) const EXIT_PORT: u16 = 0xf4;

const GDT: u64 = 0x9_0000;
const TASK: u64 = 0x9_0800;
const TASK_LIMIT: u32 = 0x67;
const PAGE_TABLES: u64 = 0x9_1000;

/// The selectors of the GDT a long-mode guest starts with. The order suits SYSCALL and SYSRET.
pub(super) const CODE64: u16 = 0x08;
pub(super) const DATA: u16 = 0x10;
pub(super) const USER_DATA: u16 = 0x1b;
pub(super) const USER_CODE64: u16 = 0x23;
pub(super) const TASK_STATE: u16 = 0x28;

/// How long a guest may run unless its body says otherwise. A host may be slow; that a guest hangs
/// is what is to be found.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A VM whose first vCPU is about to execute a program.
pub(super) struct Guest {
    pub(super) vm: Arc<dyn Vm>,
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) memory: GuestMemory,
}

/// How a guest is made, where it is not the usual way.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) irq: Option<IrqConfig>,
    /// Bytes of RAM.
    pub(super) memory: u64,
    /// How many vCPUs the VM may have; only this one is made.
    pub(super) vcpus: u32,
    pub(super) id: VcpuId,
    /// Of which processor; the hypervisor's unless it is said.
    pub(super) cpu: Option<CpuModel>,
}

impl Default for Plan {
    /// One vCPU, 2 MiB, no interrupt controllers.
    fn default() -> Self {
        Self { irq: None, memory: 2 << 20, vcpus: 1, id: VcpuId(0), cpu: None }
    }
}

impl Guest {
    /// In real mode: all segments 0, `ip` and `sp` at [`CODE`], interrupts off, other registers 0.
    pub(super) fn real(
        setup: &Setup<'_>,
        irq: Option<IrqConfig>,
        code: &[u8],
    ) -> Result<Self, Failure> {
        Self::real_as(setup, &Plan { irq, ..Plan::default() }, code)
    }

    /// In 64-bit mode at ring 0: 4 GiB mapped one to one, for ring 3 too; a GDT with the selectors
    /// of this module, TR loaded, an empty IDT; `rip` and `rsp` at [`CODE`], interrupts off, other
    /// registers 0.
    pub(super) fn long(
        setup: &Setup<'_>,
        irq: Option<IrqConfig>,
        code: &[u8],
    ) -> Result<Self, Failure> {
        Self::long_as(setup, &Plan { irq, ..Plan::default() }, code)
    }

    /// Like [`real`](Self::real).
    pub(super) fn real_as(setup: &Setup<'_>, plan: &Plan, code: &[u8]) -> Result<Self, Failure> {
        let mut guest = Self::empty(setup, plan)?;
        guest.start(&SystemRegs::real_mode(), code)?;
        Ok(guest)
    }

    /// Like [`long`](Self::long).
    pub(super) fn long_as(setup: &Setup<'_>, plan: &Plan, code: &[u8]) -> Result<Self, Failure> {
        let mut guest = Self::empty(setup, plan)?;
        let system = long_mode(&guest.memory)?;
        guest.start(&system, code)?;
        Ok(guest)
    }

    fn empty(setup: &Setup<'_>, plan: &Plan) -> Result<Self, Failure> {
        let config = VmConfig { vcpus: plan.vcpus, irq: plan.irq.clone() };
        let vm = setup.hypervisor.create_vm(&config)?;
        let memory = GuestMemory::anonymous(plan.memory)?;
        for region in memory.regions() {
            vm.map(MemorySlot::whole(region))?;
        }
        let cpu = plan.cpu.as_ref().unwrap_or(&setup.hypervisor.caps().cpu);
        let vcpu = vm.create_vcpu(plan.id, cpu)?;
        Ok(Self { vm, vcpu, memory })
    }

    fn start(&mut self, system: &SystemRegs, code: &[u8]) -> Result<(), Failure> {
        ensure!(CODE + code.len() as u64 <= CODE_END, "a program of {} bytes", code.len());
        self.memory.write(GuestAddress(CODE), code)?;
        enter(&mut *self.vcpu, system, CODE)?;
        Ok(())
    }

    /// Performs entry `entry` of a program of single instructions (see `guests/guest.h`) on these
    /// registers, up to the HLT behind it; returns the registers then.
    pub(super) fn perform(
        &mut self,
        io: &dyn GuestIo,
        entry: u64,
        regs: Regs,
    ) -> Result<Regs, Failure> {
        self.prepare(entry, regs)?;
        self.run_to_halt(io)?;
        Ok(self.vcpu.regs()?)
    }

    /// Puts the first vCPU before entry `entry` of a program of single instructions.
    pub(super) fn prepare(&mut self, entry: u64, regs: Regs) -> Result<(), Failure> {
        let rip = CODE + entry * ENTRY_SIZE;
        let flags = rflags::FIXED | regs.rflags;
        Ok(self.vcpu.set_regs(&Regs { rip, rsp: CODE, rflags: flags, ..regs })?)
    }

    /// Runs the first vCPU as [`run_to_end`] does.
    pub(super) fn run(&mut self, io: &dyn GuestIo) -> Result<VcpuExit, Failure> {
        run_to_end(&mut *self.vcpu, io)
    }

    /// Runs the first vCPU; anything but a power-off with code 0 is a failure.
    pub(super) fn run_to_power_off(&mut self, io: &dyn GuestIo) -> Result<(), Failure> {
        match self.run(io)? {
            VcpuExit::PowerOff(0) => Ok(()),
            other => Err(unexpected(&other, &*self.vcpu)),
        }
    }

    /// Runs the first vCPU, which must not access anything; any end but a kick is a failure.
    pub(super) fn run_to_kick(&mut self) -> Result<(), Failure> {
        let io = Recorder::new();
        match self.run(&io)? {
            VcpuExit::Kicked => {
                ensure_eq!(io.take(), [], "accesses before a kick");
                Ok(())
            }
            other => Err(unexpected(&other, &*self.vcpu)),
        }
    }

    /// Runs the first vCPU; anything but HLT is a failure.
    pub(super) fn run_to_halt(&mut self, io: &dyn GuestIo) -> Result<(), Failure> {
        match self.run(io)? {
            VcpuExit::Halted => Ok(()),
            other => Err(unexpected(&other, &*self.vcpu)),
        }
    }
}

/// An exit that the body did not expect, with where the guest is.
pub(super) fn unexpected(exit: &VcpuExit, vcpu: &dyn Vcpu) -> Failure {
    match vcpu.regs() {
        Ok(Regs { rip, rax, rcx, .. }) => Failure::from(format!(
            "unexpected end: {exit} (rip {rip:#x} rax {rax:#x} rcx {rcx:#x})"
        )),
        Err(error) => Failure::from(format!("unexpected end: {exit}, and registers: {error}")),
    }
}

/// Puts a vCPU at `rip` in the mode of `system`, with the stack right below [`CODE`].
pub(super) fn enter(vcpu: &mut dyn Vcpu, system: &SystemRegs, rip: u64) -> Result<()> {
    let made = vcpu.system_regs()?;
    let system = SystemRegs { cr8: made.cr8, apic_base: made.apic_base, ..system.clone() };
    vcpu.set_system_regs(&system)?;
    vcpu.set_regs(&Regs { rip, rsp: CODE, rflags: rflags::FIXED, ..Regs::default() })
}

/// Writes GDT and page tables and gives the registers that use them.
pub(super) fn long_mode(memory: &GuestMemory) -> Result<SystemRegs> {
    let (code, data) = (Segment::code64(CODE64, 0), Segment::data(DATA, 0));
    let (user_data, user_code) = (Segment::data(USER_DATA, 3), Segment::code64(USER_CODE64, 3));
    let task = Segment::task(TASK_STATE, TASK, TASK_LIMIT);
    let segments = [code, data, user_data, user_code, task];
    // The descriptor of a 64-bit TSS takes two entries; the upper half of its base is 0.
    let gdt: Vec<u64> =
        [0].into_iter().chain(segments.map(|s| s.descriptor())).chain([0]).collect();
    write_words(memory, GDT, &gdt)?;
    let tables = paging::identity_map(PAGE_TABLES, paging::WRITABLE | paging::USER);
    write_words(memory, PAGE_TABLES, &tables)?;
    Ok(SystemRegs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        gdt: DescriptorTable { base: GDT, limit: (8 * gdt.len() - 1) as u16 },
        idt: DescriptorTable { base: 0, limit: 0 },
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
        cr3: PAGE_TABLES,
        cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT,
        efer: efer::LME | efer::LMA,
        ..SystemRegs::real_mode()
    })
}

/// Writes 64-bit words to guest memory.
pub(super) fn write_words(memory: &GuestMemory, at: u64, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(GuestAddress(at), &bytes)
}

/// The kinds of access outside RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    MmioRead,
    MmioWrite,
    PortIn,
    PortOut,
}

impl Kind {
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::MmioRead | Self::PortIn)
    }
}

/// One access outside RAM: for reads `data` is what the guest was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    pub(super) kind: Kind,
    pub(super) address: u64,
    pub(super) data: Vec<u8>,
}

impl Access {
    /// The access of `kind` that carries these bytes.
    pub(super) fn new(kind: Kind, address: u64, data: &[u8]) -> Self {
        Self { kind, address, data: data.to_vec() }
    }
}

type Answer<'a> = dyn Fn(Kind, u64, &mut [u8]) -> Flow + Send + Sync + 'a;

/// Logs every access and answers it. An OUT to [`EXIT_PORT`] ends `run` with [`VcpuExit::PowerOff`]
/// and is neither logged nor seen by the answer.
pub(super) struct Recorder<'a> {
    log: Mutex<Vec<Access>>,
    answer: Box<Answer<'a>>,
    exit_port: Option<u16>,
}

impl<'a> Recorder<'a> {
    /// Each byte read is the [`pattern`] of its address.
    pub(super) fn new() -> Self {
        Self::answering(|kind, address, data| {
            if kind.is_read() {
                data.copy_from_slice(&patterns(address, data.len()));
            }
            CONTINUE
        })
    }

    /// `answer` is called for each access with its kind, address and data, which it fills for reads
    /// (it comes in as all ones); what it does to the data of a write has no effect.
    pub(super) fn answering(
        answer: impl Fn(Kind, u64, &mut [u8]) -> Flow + Send + Sync + 'a,
    ) -> Self {
        Self { log: Mutex::default(), answer: Box::new(answer), exit_port: Some(EXIT_PORT) }
    }

    /// Without the port that ends `run`.
    pub(super) fn without_exit_port(self) -> Self {
        Self { exit_port: None, ..self }
    }

    /// The accesses so far, which are then forgotten.
    pub(super) fn take(&self) -> Vec<Access> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Access>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, kind: Kind, address: u64, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        let flow = (self.answer)(kind, address, data);
        self.lock().push(Access::new(kind, address, data));
        flow
    }

    fn write(&self, kind: Kind, address: u64, data: &[u8]) -> Flow {
        self.lock().push(Access::new(kind, address, data));
        (self.answer)(kind, address, &mut data.to_vec())
    }
}

impl GuestIo for Recorder<'_> {
    fn mmio_read(&self, at: GuestAddress, data: &mut [u8]) -> Flow {
        self.read(Kind::MmioRead, at.0, data)
    }

    fn mmio_write(&self, at: GuestAddress, data: &[u8]) -> Flow {
        self.write(Kind::MmioWrite, at.0, data)
    }

    fn port_in(&self, port: u16, data: &mut [u8]) -> Flow {
        self.read(Kind::PortIn, port.into(), data)
    }

    fn port_out(&self, port: u16, data: &[u8]) -> Flow {
        if self.exit_port == Some(port) {
            return Flow::Break(VcpuExit::PowerOff(value(data) as i32));
        }
        self.write(Kind::PortOut, port.into(), data)
    }
}

/// A byte that says where it comes from: neighbours differ, the high bit is set as often as not.
pub(super) fn pattern(address: u64) -> u8 {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The patterns of `len` addresses.
pub(super) fn patterns(address: u64, len: usize) -> Vec<u8> {
    (address..).take(len).map(pattern).collect()
}

/// Up to 8 little-endian bytes as a number.
pub(super) fn value(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Runs a vCPU until it comes back by itself, for at most [`PATIENCE`].
pub(super) fn run_to_end(vcpu: &mut dyn Vcpu, io: &dyn GuestIo) -> Result<VcpuExit, Failure> {
    let watchdog = Watchdog::new(vcpu.kicker(), PATIENCE);
    loop {
        let exit = vcpu.run(io)?;
        watchdog.check()?;
        match exit {
            // A signal of the test's own surroundings, say a debugger's.
            VcpuExit::Interrupted => {}
            exit => return Ok(exit),
        }
    }
}

/// Kicks a vCPU that is still being watched after a while, so that no body can hang.
pub(super) struct Watchdog {
    patience: Duration,
    barked: Arc<AtomicBool>,
    /// Dropping it calls the thread off.
    leash: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Watches from now on, until it is dropped.
    pub(super) fn new(kicker: Kicker, patience: Duration) -> Self {
        let barked = Arc::new(AtomicBool::new(false));
        let (leash, called_off) = mpsc::channel::<()>();
        let bark = Arc::clone(&barked);
        let thread = thread::spawn(move || {
            let mut patience = patience;
            while called_off.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                bark.store(true, SeqCst);
                kicker.kick();
                // Again and again: the body may go back into the guest before it looks.
                patience = Duration::from_millis(100);
            }
        });
        Self { patience, barked, leash: Some(leash), thread: Some(thread) }
    }

    /// Whether the time is over.
    pub(super) fn has_barked(&self) -> bool {
        self.barked.load(SeqCst)
    }

    /// A failure once the time is over; to be asked after each `run`.
    pub(super) fn check(&self) -> Result<(), Failure> {
        ensure!(!self.has_barked(), "did not end in {} s", self.patience.as_secs());
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.leash = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the watchdog of a conformance body panicked");
        }
    }
}
