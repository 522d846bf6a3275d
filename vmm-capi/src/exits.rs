//! How often a machine left its guest.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use vmm_core::{
    Error,
    machine::{Count, ExitReport},
    virtio::Traffic,
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

/// What has passed between a virtio device and its driver.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmm_traffic {
    /// The device's name.
    pub name: *const c_char,
    /// How often the driver rang.
    pub notifications: u64,
    /// How often the device interrupted.
    pub interrupts: u64,
    /// Chains of buffers that the device took.
    pub requests: u64,
    /// Bytes in those of their buffers that the device reads.
    pub read_bytes: u64,
    /// Bytes that the device told the driver it has written.
    pub written_bytes: u64,
    /// Chains that failed (vmm_chain_fail), and mistakes of the driver's that stopped the device.
    pub errors: u64,
}

/// The exits of a machine since it was made, by reason and by device, and what its virtio devices
/// did.
pub struct vmm_exits {
    counts: Vec<vmm_exit_count>,
    traffic: Vec<vmm_traffic>,
    /// What they point to.
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
        let counts = reasons.chain(devices).map(count).collect();
        let traffic = |(name, of): (String, Traffic)| {
            let name = error::text(&name);
            let traffic = vmm_traffic {
                name: name.as_ptr(),
                notifications: of.notifications,
                interrupts: of.interrupts,
                requests: of.requests,
                read_bytes: of.read_bytes,
                written_bytes: of.written_bytes,
                errors: of.errors,
            };
            names.push(name);
            traffic
        };
        Self { counts, traffic: report.virtio.into_iter().map(traffic).collect(), _names: names }
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

/// How many virtio devices there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_traffic_size(exits: *const vmm_exits) -> usize {
    // SAFETY: the header's rules.
    unsafe { tell(exits, 0, |exits| exits.traffic.len()) }
}

/// What passed by virtio device `n`, in the order they were added; it lives as long as `exits`. NULL
/// if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_traffic_at(
    exits: *const vmm_exits,
    n: usize,
) -> *const vmm_traffic {
    let none = std::ptr::null();
    // SAFETY: the header's rules.
    unsafe { tell(exits, none, |exits| exits.traffic.get(n).map_or(none, std::ptr::from_ref)) }
}

/// Frees them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_exits_free(exits: *mut vmm_exits) {
    // SAFETY: the header's rules.
    unsafe { pass::free(exits) };
}
