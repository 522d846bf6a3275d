//! How often a machine left its guest.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use vmm_core::{
    Error,
    machine::{Count, ExitReport},
};

use crate::{
    error::{self, vmm_error, vmm_status},
    guard::{guard, tell},
    machine::vmm_machine,
    pass,
};

/// One line of a vmm_exits.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmm_exit_count {
    /// A device's name, or a reason: "mmio read", "mmio write", "port in", "port out", "return".
    pub name: *const c_char,
    /// Whether it is a device's.
    pub is_device: bool,
    /// How many exits.
    pub exits: u64,
    /// Nanoseconds of the host's time, if they are measured.
    pub ns: u64,
}

/// The exits of a machine since it was made, by reason and by device.
pub struct vmm_exits {
    counts: Vec<vmm_exit_count>,
    /// What the counts point to.
    _names: Vec<CString>,
}

impl From<ExitReport> for vmm_exits {
    fn from(report: ExitReport) -> Self {
        let reasons = report.reasons.into_iter().map(|(what, of)| (what.to_string(), false, of));
        let devices = report.devices.into_iter().map(|(what, of)| (what, true, of));
        let mut names = Vec::new();
        let count = |(name, is_device, Count { exits, nanoseconds }): (String, _, _)| {
            let name = error::text(&name);
            let count = vmm_exit_count { name: name.as_ptr(), is_device, exits, ns: nanoseconds };
            names.push(name);
            count
        };
        Self { counts: reasons.chain(devices).map(count).collect(), _names: names }
    }
}

/// What the exits of a machine were until now. VMM_STATUS_WRONG_STATE unless
/// vmm_config_set_accounting was called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_exits(
    machine: *const vmm_machine,
    exits: *mut *mut vmm_exits,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(exits, "exits", std::ptr::null_mut())?;
            let report = pass::object(machine, "machine")?.with(|machine| Ok(machine.exits()))?;
            let none = || Error::wrong_state("machine: its exits are not counted");
            pass::fill(exits, "exits", pass::give(vmm_exits::from(report.ok_or_else(none)?)))
        })
    }
}

/// How many lines there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_size(exits: *const vmm_exits) -> usize {
    // SAFETY: the header's rules.
    unsafe { tell(exits, 0, |exits| exits.counts.len()) }
}

/// Line `n`, which lives as long as `exits`; NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_at(exits: *const vmm_exits, n: usize) -> *const vmm_exit_count {
    let none = std::ptr::null();
    // SAFETY: the header's rules.
    unsafe { tell(exits, none, |exits| exits.counts.get(n).map_or(none, std::ptr::from_ref)) }
}

/// Frees them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_free(exits: *mut vmm_exits) {
    // SAFETY: the header's rules.
    unsafe { pass::free(exits) };
}
