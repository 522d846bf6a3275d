//! x86-64 as data. Names and bit positions are those of the Intel SDM and the AMD APM.

pub mod cpuid;
pub mod irqchip;
pub mod msr;
pub mod paging;
mod regs;
mod segment;
mod state;

pub use cpuid::{CpuModel, CpuidLeaf, Feature};
pub use regs::{DebugRegs, Regs, SystemRegs, cr0, cr4, efer, rflags};
pub use segment::{DescriptorTable, Segment};
pub use state::{CpuState, Events, Exception, Interrupt, Lapic, Nmi, RunState};

/// The number of a vCPU, counted from 0; also its APIC ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

impl std::fmt::Display for VcpuId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vCPU {}", self.0)
    }
}
