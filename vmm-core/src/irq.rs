//! Interrupts as a device sees them: one wire, or one message.
//!
//! A device holds an [`IrqLine`] and nothing else; it knows neither its number nor the chip behind
//! it. Lines never call back into devices, so they may be raised with a device's lock held.

use std::{fmt, sync::Arc};

pub use vmm_sys_util::eventfd::EventFd;

use crate::error::Result;

/// A global system interrupt: the number of an input pin, first of the PICs and the IOAPIC (0-23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(pub u32);

impl fmt::Display for Gsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GSI {}", self.0)
    }
}

/// A message-signalled interrupt as the device writes it (Intel SDM volume 3, "Message Signalled
/// Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Msi {
    /// The address, 0xFEEx_xxxx: destination APIC and mode.
    pub address: u64,
    /// The data: vector and delivery mode.
    pub data: u32,
}

/// The interrupt controllers of a VM. Every method may be called from any thread, while vCPUs run.
pub trait IrqController: Send + Sync {
    /// Sets an input pin high (`true`) or low. An edge-triggered pin interrupts as it goes high.
    ///
    /// # Errors
    /// `BadConfig` if there is no such pin.
    fn set_line(&self, gsi: Gsi, level: bool) -> Result<()>;

    /// Delivers a message-signalled interrupt. `false` means that the guest has it blocked.
    ///
    /// # Errors
    /// `Host` if the back end refuses the message.
    fn send_msi(&self, msi: Msi) -> Result<bool>;

    /// An event whose writing pulses an edge-triggered pin, without a call into the back end;
    /// `None` if the back end has no such thing. Dropping every copy of it takes it away again.
    fn line_event(&self, gsi: Gsi) -> Option<Result<EventFd>>;
}

/// One wire from a device to an interrupt controller.
#[derive(Clone)]
pub struct IrqLine {
    controller: Option<Arc<dyn IrqController>>,
    gsi: Gsi,
}

impl IrqLine {
    /// The wire that ends at pin `gsi` of `controller`.
    pub fn new(controller: Arc<dyn IrqController>, gsi: Gsi) -> Self {
        Self { controller: Some(controller), gsi }
    }

    /// A wire that ends nowhere, for machines without interrupts and for tests.
    pub fn unconnected() -> Self {
        Self { controller: None, gsi: Gsi(0) }
    }

    /// Where the wire ends, for the guest's tables.
    pub(crate) fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// Raises (`true`) or lowers the wire.
    ///
    /// A failure is logged, not returned: there is nothing a device could do about it.
    pub fn set(&self, level: bool) {
        if let Some(controller) = &self.controller
            && let Err(error) = controller.set_line(self.gsi, level)
        {
            log::error!("setting {} to {level}: {error}", self.gsi);
        }
    }

    /// Raises and lowers the wire: one interrupt on an edge-triggered pin.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.controller {
            Some(_) => write!(f, "IrqLine({})", self.gsi),
            None => write!(f, "IrqLine(unconnected)"),
        }
    }
}
