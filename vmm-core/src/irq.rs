//! Interrupts as a device sees them: one wire, or one message.
//!
//! A device holds an [`IrqLine`] and nothing else; it knows neither its number nor the chip behind
//! it. Lines never call back into devices, so they may be raised with a device's lock held.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

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

/// One wire from a device to an interrupt controller. A clone is the same wire; any thread may use it.
#[derive(Clone)]
pub struct IrqLine(Option<Arc<Wire>>);

struct Wire {
    controller: Arc<dyn IrqController>,
    gsi: Gsi,
    /// Held by a pulse from rise to fall: another one meanwhile would find the wire high, and be no
    /// edge, after the guest has perhaps answered the first.
    pulsing: Mutex<()>,
}

impl IrqLine {
    /// The wire that ends at pin `gsi` of `controller`.
    pub fn new(controller: Arc<dyn IrqController>, gsi: Gsi) -> Self {
        Self(Some(Arc::new(Wire { controller, gsi, pulsing: Mutex::default() })))
    }

    /// A wire that ends nowhere, for machines without interrupts and for tests.
    pub fn unconnected() -> Self {
        Self(None)
    }

    /// Where the wire ends, for the guest's tables.
    pub(crate) fn gsi(&self) -> Gsi {
        self.0.as_ref().map_or(Gsi(0), |wire| wire.gsi)
    }

    /// Raises (`true`) or lowers the wire.
    ///
    /// A failure is logged, not returned: there is nothing a device could do about it.
    pub fn set(&self, level: bool) {
        if let Some(wire) = &self.0 {
            wire.set(level);
        }
    }

    /// Raises and lowers the wire: one interrupt on an edge-triggered pin, which begins after this is
    /// called, also if other threads do the same.
    pub fn pulse(&self) {
        if let Some(wire) = &self.0 {
            let _alone = wire.pulsing.lock().unwrap_or_else(PoisonError::into_inner);
            wire.set(true);
            wire.set(false);
        }
    }
}

impl Wire {
    fn set(&self, level: bool) {
        if let Err(error) = self.controller.set_line(self.gsi, level) {
            log::error!("setting {} to {level}: {error}", self.gsi);
        }
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(wire) => write!(f, "IrqLine({})", wire.gsi),
            None => write!(f, "IrqLine(unconnected)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    /// Counts edges, and tells of a high level until it is answered.
    struct Pin {
        state: Mutex<(bool, u32)>,
        high: mpsc::SyncSender<()>,
    }

    impl IrqController for Pin {
        fn set_line(&self, _: Gsi, level: bool) -> Result<()> {
            let mut state = self.state.lock().unwrap();
            let (was_high, edges) = *state;
            *state = (level, edges + u32::from(level && !was_high));
            drop(state);
            if level {
                let _ = self.high.send(());
            }
            Ok(())
        }

        fn send_msi(&self, _: Msi) -> Result<bool> {
            Ok(true)
        }

        fn line_event(&self, _: Gsi) -> Option<Result<EventFd>> {
            None
        }
    }

    #[test]
    fn a_pulse_that_begins_while_the_wire_is_high_is_an_edge_of_its_own() {
        let (high, risen) = mpsc::sync_channel(0);
        let pin = Arc::new(Pin { state: Mutex::default(), high });
        let line = IrqLine::new(Arc::clone(&pin) as Arc<dyn IrqController>, Gsi(16));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| line.pulse());
            }
            // Both have time to find the wire high, as the first waits with it.
            thread::sleep(Duration::from_millis(20));
            (0..2).for_each(|_| risen.recv().unwrap());
        });
        assert_eq!(*pin.state.lock().unwrap(), (false, 2));
    }
}
