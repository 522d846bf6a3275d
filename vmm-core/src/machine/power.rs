//! The board's power management, as ACPI describes it: soft off and reset (ACPI specification
//! 4.8.3, 4.8.4).

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use super::{Device, Slot};
use crate::{
    boot::power::{CONTROL, EVENTS, RESET, RESET_VALUE, SOFT_OFF},
    bus::BusDevice,
    error::Result,
    exit::{CONTINUE, Flow, VcpuExit},
    persist::{Kind, StateReader, StateWriter},
};

/// The ports from the first register to behind the last.
const LEN: u16 = RESET + 1 - EVENTS;
/// Control register: the guest runs in ACPI mode, which it never has to ask for here.
const SCI_ENABLED: u16 = 1;
/// Control register: go to the sleep type in bits 10-12.
const SLEEP_ENABLE: u16 = 1 << 13;

/// The enable and the control register.
const STATE: Kind = Kind { name: "power", version: 1 };

const STATUS: u64 = 0;
const ENABLE: u64 = 2;
const CONTROL_OFFSET: u64 = (CONTROL - EVENTS) as u64;
const RESET_OFFSET: u64 = (RESET - EVENTS) as u64;

/// The registers; no event ever comes, so the status register is always 0.
#[derive(Default)]
pub(super) struct Power {
    enable: AtomicU16,
    control: AtomicU16,
}

impl BusDevice for Power {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        let value = match offset {
            STATUS => 0,
            ENABLE => self.enable.load(Relaxed),
            CONTROL_OFFSET => self.control.load(Relaxed) | SCI_ENABLED,
            _ => return CONTINUE,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
        CONTINUE
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        if offset == RESET_OFFSET {
            return match data {
                [RESET_VALUE, ..] => ControlFlow::Break(VcpuExit::Reset),
                _ => CONTINUE,
            };
        }
        let Some(value) = data.first_chunk().map(|bytes| u16::from_le_bytes(*bytes)) else {
            return CONTINUE;
        };
        match offset {
            ENABLE => self.enable.store(value, Relaxed),
            CONTROL_OFFSET => {
                self.control.store(value & !SLEEP_ENABLE, Relaxed);
                if value & SLEEP_ENABLE != 0 && value >> 10 & 7 == u16::from(SOFT_OFF) {
                    return ControlFlow::Break(VcpuExit::PowerOff(0));
                }
            }
            _ => {}
        }
        CONTINUE
    }

    fn reset(&self) {
        self.enable.store(0, Relaxed);
        self.control.store(0, Relaxed);
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        out.put(STATE, &(self.enable.load(Relaxed), self.control.load(Relaxed)))
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        let (enable, control): (u16, u16) = from.take(STATE)?;
        self.enable.store(enable, Relaxed);
        self.control.store(control & !SLEEP_ENABLE, Relaxed);
        Ok(())
    }
}

impl Device for Power {
    fn name(&self) -> &str {
        "power"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(EVENTS, LEN, Arc::new(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sleep_type_5_with_sleep_enable_powers_off() {
        let power = Power::default();
        let write = |value: u16| power.write(CONTROL_OFFSET, &value.to_le_bytes());
        assert!(write(5 << 10).is_continue());
        assert!(write(3 << 10 | SLEEP_ENABLE).is_continue());
        let ControlFlow::Break(VcpuExit::PowerOff(0)) = write(5 << 10 | SLEEP_ENABLE) else {
            panic!("the machine goes on");
        };
        let mut data = [0; 2];
        assert!(power.read(CONTROL_OFFSET, &mut data).is_continue());
        assert_eq!(u16::from_le_bytes(data), 5 << 10 | SCI_ENABLED);
    }

    #[test]
    fn the_reset_register_resets_on_its_value_only() {
        let power = Power::default();
        assert!(power.write(RESET_OFFSET, &[0]).is_continue());
        assert!(matches!(
            power.write(RESET_OFFSET, &[RESET_VALUE]),
            ControlFlow::Break(VcpuExit::Reset)
        ));
    }
}
