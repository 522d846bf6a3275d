//! From an image to bytes in guest memory and the state a vCPU starts in.
//!
//! A loader sees memory and what the board looks like; never a hypervisor or a device. What it
//! loads may come from anywhere: each length and address is checked, and a bad image is an error
//! that names what is wrong.

mod acpi;
mod elf;
mod elf64;
mod flat;
mod image;
mod inspect;
mod linux;
mod map;
mod mode;
mod multiboot;
mod pvh;

pub(crate) use acpi::is_hardware_id;
pub use acpi::power;
pub use elf64::Elf64;
pub use flat::Flat;
pub use image::Image;
pub use inspect::{Evidence, Found, Way, inspect};
pub use linux::{Linux, Protocol};
pub use multiboot::Multiboot;

use crate::{
    arch::{Regs, SystemRegs},
    error::{Error, Result},
    memory::GuestMemory,
};

/// What a loader is told about the machine beside its memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BoardInfo {
    /// The number of vCPUs.
    pub vcpus: u32,
    /// Devices for the tables a guest finds them by.
    pub devices: Vec<BoardDevice>,
}

/// A device as ACPI describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoardDevice {
    /// Its hardware ID: of 7 characters for one of a PC's, such as `PNP0501` for a 16550, or of 8,
    /// such as `LNRO0005` for virtio over MMIO.
    pub hid: &'static str,
    /// Its windows on the port bus: first port and number of ports.
    pub ports: &'static [(u16, u16)],
    /// Its window on the MMIO bus: first address and length.
    pub mmio: Option<(u32, u32)>,
    /// Its interrupt, edge-triggered.
    pub irq: Option<u32>,
}

impl BoardInfo {
    /// A board with that many vCPUs and no devices.
    pub fn new(vcpus: u32) -> Self {
        Self { vcpus, devices: Vec::new() }
    }
}

/// Where and how the first vCPU starts.
#[derive(Clone, Debug)]
pub struct Entry {
    /// General-purpose registers; `rip` is the entry point.
    pub regs: Regs,
    /// The mode: segments, control registers, tables. CR8 and the APIC base are left as the back
    /// end made them.
    pub system: SystemRegs,
}

/// Turns an image into bytes in memory and an entry state.
pub trait Loader: Send {
    /// Puts the image into `memory`.
    ///
    /// # Errors
    /// `BadImage` if the image is malformed or does not fit.
    fn load(&self, memory: &GuestMemory, board: &BoardInfo) -> Result<Entry>;
}

/// The bytes of `text` with a NUL behind them, which is the only one.
fn c_string(what: &str, text: &str) -> Result<Vec<u8>> {
    if let Some(at) = text.bytes().position(|byte| byte == 0) {
        return Err(Error::bad_config(format!("{what}: NUL at byte {at}")));
    }
    let mut bytes = Vec::from(text);
    bytes.push(0);
    Ok(bytes)
}
