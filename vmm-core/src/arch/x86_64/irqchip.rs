//! Records of the VM-wide interrupt and time chips, the same for every back end.

use serde::{Deserialize, Serialize};

/// One 8259A interrupt controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    /// Input levels at the last look, for edge detection.
    pub last_irr: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The input with the highest priority.
    pub priority_add: u8,
    /// The vector of input 0 (ICW2).
    pub irq_base: u8,
    /// OCW3: the next read gives the ISR (1) or the IRR (0).
    pub read_reg_select: u8,
    /// OCW3: poll command given.
    pub poll: u8,
    /// OCW3: special mask mode.
    pub special_mask: u8,
    /// Which initialization command word is expected next.
    pub init_state: u8,
    /// ICW4: automatic end of interrupt.
    pub auto_eoi: u8,
    /// OCW2: rotate in automatic EOI mode.
    pub rotate_on_auto_eoi: u8,
    /// ICW4: special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// ICW4 is expected.
    pub init4: u8,
    /// Edge/level control register: a set bit is a level-triggered input.
    pub elcr: u8,
    /// The bits of `elcr` that can be changed.
    pub elcr_mask: u8,
}

/// The I/O APIC (82093AA).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioapic {
    /// Where it is mapped.
    pub base_address: u64,
    /// The register that IOREGSEL selects.
    pub ioregsel: u32,
    /// The ID register.
    pub id: u32,
    /// Interrupt request bits.
    pub irr: u32,
    /// The redirection table, one entry a pin.
    pub redirections: Vec<u64>,
}

impl Ioapic {
    /// The number of pins.
    pub const PINS: usize = 24;
}

/// One counter of the 8254 interval timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitChannel {
    /// The reload value, 1 to 65,536.
    pub count: u32,
    /// The value latched for reading.
    pub latched_count: u16,
    /// How the latched value is being read.
    pub count_latched: u8,
    /// A status byte is latched.
    pub status_latched: u8,
    /// The latched status byte.
    pub status: u8,
    /// Which byte is read next.
    pub read_state: u8,
    /// Which byte is written next.
    pub write_state: u8,
    /// The low byte of a two-byte write.
    pub write_latch: u8,
    /// Access mode.
    pub rw_mode: u8,
    /// Operating mode, 0 to 5.
    pub mode: u8,
    /// Counts in BCD.
    pub bcd: u8,
    /// The gate input.
    pub gate: u8,
    /// When the count was loaded, in nanoseconds of the back end's clock.
    pub count_load_time: i64,
}

/// The 8254 interval timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit {
    /// Counters 0 (timer), 1 (unused) and 2 (speaker).
    pub channels: [PitChannel; 3],
    /// The HPET has taken over the timer's interrupt.
    pub hpet_legacy: bool,
    /// The speaker's data bit (port 0x61, bit 1).
    pub speaker_on: bool,
}

/// The paravirtual clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds the guest's clock has counted.
    pub nanoseconds: u64,
    /// The host's wall-clock time at that moment in nanoseconds since 1970, if the host can tell
    /// both at once.
    pub realtime: Option<u64>,
}

/// The chips of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irqchip {
    /// The first and the second PIC.
    pub pics: [Pic; 2],
    /// The I/O APIC.
    pub ioapic: Ioapic,
}
