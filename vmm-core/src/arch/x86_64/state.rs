//! Everything a vCPU carries from one back end or process to another.

use serde::{Deserialize, Serialize};

use super::{DebugRegs, Regs, SystemRegs, msr::MsrValue};

/// The complete state of one vCPU, in no back end's own format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// Whether it runs, waits or was never started.
    pub run_state: RunState,
    /// General-purpose registers.
    pub regs: Regs,
    /// Segment, table and control registers.
    pub system: SystemRegs,
    /// XCR0: the state components the guest has switched on; `None` without XSAVE.
    pub xcr0: Option<u64>,
    /// The x87, SSE and further vector state as XSAVE stores it, in the standard (not compacted)
    /// format.
    pub xsave: Vec<u8>,
    /// Debug registers.
    pub debug: DebugRegs,
    /// The local APIC, if the VM has interrupt controllers.
    pub lapic: Option<Lapic>,
    /// The frequency of the time-stamp counter in kHz, where the back end knows it.
    pub tsc_khz: Option<u32>,
    /// Model-specific registers, in ascending order of index.
    pub msrs: Vec<MsrValue>,
    /// Exceptions and interrupts on their way into the guest.
    pub events: Events,
}

/// What a vCPU is doing between instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Executing instructions.
    #[default]
    Running,
    /// Waiting in HLT for an interrupt.
    Halted,
    /// An application processor that has not seen INIT.
    Uninitialized,
    /// Has seen INIT and waits for SIPI.
    InitReceived,
}

/// The registers of a local APIC (Intel SDM volume 3, table 10-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapic {
    /// The 64 registers of 32 bits, in the order of their addresses, 16 bytes apart in memory.
    pub regs: Vec<u32>,
}

impl Lapic {
    /// The number of registers.
    pub const LEN: usize = 64;
    /// Index of the ID register.
    pub const ID: usize = 0x02;
    /// Index of the spurious interrupt vector register.
    pub const SVR: usize = 0x0f;
    /// Index of the timer's local vector table entry.
    pub const LVT_TIMER: usize = 0x32;
    /// Index of the LINT0 entry, the input of the PICs.
    pub const LVT_LINT0: usize = 0x35;
    /// Index of the LINT1 entry, the NMI input.
    pub const LVT_LINT1: usize = 0x36;
}

/// Exceptions and interrupts that were accepted but not yet delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// An exception; CR2 or DR6 has what belongs to it.
    pub exception: Option<Exception>,
    /// A maskable interrupt, or a software interrupt.
    pub interrupt: Option<Interrupt>,
    /// The non-maskable interrupt.
    pub nmi: Nmi,
    /// Interrupts are held off for one instruction by `mov ss` (bit 1) or STI (bit 0).
    pub shadow: u8,
}

/// An exception on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, for vectors that push one.
    pub error_code: Option<u32>,
}

/// An interrupt on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// The vector.
    pub vector: u8,
    /// From an INT instruction.
    pub soft: bool,
}

/// The state of the non-maskable interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nmi {
    /// Being injected.
    pub injected: bool,
    /// How many wait, 0 to 2.
    pub pending: u8,
    /// Held off until IRET.
    pub masked: bool,
}
