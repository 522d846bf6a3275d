//! An x86-64 CPU in software: it decodes guest code into operations, keeps what it decoded, and
//! interprets it.
//!
//! A [`Cpu`] knows no virtual machine and no device, and makes no thread. It is lent its memory
//! ([`Ram`]) and whoever answers accesses outside of it ([`Io`]) for each [`Cpu::run`], which comes
//! back when only the caller can decide. What it can do, its CPUID says, and nothing more: every
//! instruction of a feature that is reported is there.
//!
//! Instructions behave as the manuals have them: Intel SDM (volumes 1 to 3) and AMD APM (volumes 1
//! to 5); where they differ, as AMD's.

mod access;
mod address;
mod code;
mod core;
mod cpu;
mod cpuid;
mod debug;
mod decode;
mod exception;
mod flags;
mod fp;
mod io;
mod isa;
#[cfg(test)]
mod modes;
mod msr;
mod op;
mod paging;
mod ram;
mod regs;
mod segment;
mod signal;
mod state;
mod system;
#[cfg(test)]
mod testing;
mod time;
mod tlb;
mod vector;
mod word;
mod x87;

pub use code::CodeMap;
pub use cpu::{Attention, Cpu, Exit};
pub use cpuid::CpuidLeaf;
pub use io::{Io, Nobody};
pub use ram::{Flat, PAGE_SIZE, Page, Ram};
pub use state::{InvalidState, Registers, Segment, State, Table};
pub use time::{TSC_KHZ, Tsc};
