//! Devices of the caller's own.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use vmm_core::{
    Error, ErrorKind, Result,
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    irq::{Gsi, IrqLine},
    machine::{Device, Place, Slot},
    memory::GuestAddress,
    persist::{StateReader, StateWriter},
};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard},
    pass, saved,
    user::User,
    value::vmm_result,
};

/// For a place that the board chooses.
pub const VMM_ANYWHERE: u64 = u64::MAX;

/// A device's answer: the guest goes on.
pub const VMM_FLOW_CONTINUE: i32 = 0;
/// A device's answer: the machine resets.
pub const VMM_FLOW_RESET: i32 = 1;
/// A device's answer: it has failed; the run ends with VMM_STATUS_POISONED and its name.
pub const VMM_FLOW_FAIL: i32 = 2;
/// A device's answer: the machine powers off. The code is added, 0 to 255.
pub const VMM_FLOW_POWER_OFF: i32 = 256;

/// What a device does. Functions may be NULL: reads then give all ones, writes do nothing.
///
/// They are called on the threads that run vCPUs, several at once if the machine has several vCPUs.
/// They must not block. `window` counts the device's windows in the order they were asked for;
/// `offset` is from its start; 1 to 8 bytes, little-endian, never beyond its end.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct vmm_device_ops {
    /// sizeof(vmm_device_ops).
    pub struct_size: usize,
    /// The guest reads: fills `data`, which comes with all ones. Gives a VMM_FLOW_ value.
    pub read: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            window: u32,
            offset: u64,
            data: *mut u8,
            size: usize,
        ) -> i32,
    >,
    /// The guest writes. Gives a VMM_FLOW_ value.
    pub write: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            window: u32,
            offset: u64,
            data: *const u8,
            size: usize,
        ) -> i32,
    >,
    /// The machine resets: back to power-on. Not called during accesses.
    pub reset: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// The library is done with `user`.
    pub drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// For vmm_machine_save: tells by vmm_result_bytes what a device like this one needs to go on
    /// where this one stands; nothing if it needs nothing. Gives 0, or anything else if it cannot be
    /// saved now. Not called during accesses. NULL for a device that cannot be saved.
    pub save: Option<unsafe extern "C" fn(user: *mut c_void, state: *mut vmm_result) -> i32>,
    /// For vmm_machine_restore, after `reset`: becomes what was saved, which may come from elsewhere
    /// and is not to be trusted. Gives 0, or anything else for what it does not take. Not called
    /// during accesses.
    pub restore:
        Option<unsafe extern "C" fn(user: *mut c_void, state: *const u8, size: usize) -> i32>,
}

/// A device of the caller's own.
pub struct vmm_device(Arc<Shared>);

struct Shared {
    name: String,
    model: Model,
    wanted: Exclusive<Vec<Window>>,
    wants_line: AtomicBool,
    plugged: AtomicBool,
    line: OnceLock<IrqLine>,
}

/// A window that was asked for.
#[derive(Clone, Copy)]
enum Window {
    Mmio(Place<GuestAddress>, u64),
    Ports(u16, u16),
}

/// The caller's functions.
struct Model {
    ops: vmm_device_ops,
    user: User,
}

/// Ends the run; the board adds which device it was.
fn failed(why: String) -> VcpuExit {
    VcpuExit::Failed(Error::new(ErrorKind::Poisoned, why))
}

/// One window of a device, as a bus sees it.
struct Access {
    device: Arc<Shared>,
    window: u32,
}

impl Access {
    fn flow(answer: i32) -> Flow {
        ControlFlow::Break(match answer {
            VMM_FLOW_CONTINUE => return CONTINUE,
            VMM_FLOW_RESET => VcpuExit::Reset,
            VMM_FLOW_POWER_OFF..=511 => VcpuExit::PowerOff(answer - VMM_FLOW_POWER_OFF),
            VMM_FLOW_FAIL => failed("it failed".into()),
            other => failed(format!("it answered an access with {other}")),
        })
    }
}

impl BusDevice for Access {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        let Model { ops, user } = &self.device.model;
        let Some(read) = ops.read else { return CONTINUE };
        // SAFETY: the caller's function with the caller's pointer, and bytes that live as long as
        // the call.
        Self::flow(unsafe {
            read(user.pointer, self.window, offset, data.as_mut_ptr(), data.len())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        let Model { ops, user } = &self.device.model;
        let Some(write) = ops.write else { return CONTINUE };
        // SAFETY: as for reads.
        Self::flow(unsafe { write(user.pointer, self.window, offset, data.as_ptr(), data.len()) })
    }

    fn reset(&self) {
        // Once, however many windows there are.
        if let Some(reset) = self.device.model.ops.reset.filter(|_| self.window == 0) {
            // SAFETY: the caller's function with the caller's pointer.
            unsafe { reset(self.device.model.user.pointer) };
        }
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        let Model { ops, user } = &self.device.model;
        let save = ops.save.ok_or_else(|| Error::unsupported("it cannot be saved"))?;
        // Once, as `reset`.
        if self.window > 0 {
            return Ok(());
        }
        // SAFETY: as above.
        saved::save(out, |state| unsafe { save(user.pointer, state) })
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        let Model { ops, user } = &self.device.model;
        let restore = ops.restore.ok_or_else(|| Error::unsupported("it cannot be restored"))?;
        if self.window > 0 {
            return Ok(());
        }
        saved::restore(from, |state| {
            // SAFETY: as above; the bytes live as long as the call.
            unsafe { restore(user.pointer, state.as_ptr(), state.len()) }
        })
    }
}

/// The device while it is being plugged.
pub(crate) struct Plug(Arc<Shared>);

impl Device for Plug {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let windows = self.0.wanted.with(|wanted| Ok(wanted.clone()))?;
        for (window, place) in (0..).zip(windows) {
            let access = Arc::new(Access { device: Arc::clone(&self.0), window });
            match place {
                Window::Ports(start, len) => slot.ports(start, len, access)?,
                Window::Mmio(place, len) => drop(slot.mmio(place, len, access)?),
            }
        }
        if self.0.wants_line.load(SeqCst) {
            let _ = self.0.line.set(slot.irq(Place::<Gsi>::Any)?);
        }
        Ok(())
    }
}

impl vmm_device {
    /// For a machine; a device is in one at most.
    pub(crate) fn plug(&self) -> Result<Plug> {
        if self.0.plugged.swap(true, SeqCst) {
            let name = &self.0.name;
            return Err(Error::wrong_state(format!(
                "device '{name}' was given to a machine before"
            )));
        }
        Ok(Plug(Arc::clone(&self.0)))
    }

    fn want(&self, window: Window) -> Result<()> {
        if self.0.plugged.load(SeqCst) {
            let name = &self.0.name;
            return Err(Error::wrong_state(format!("device '{name}' was given to a machine")));
        }
        self.0.wanted.with(|wanted| {
            wanted.push(window);
            Ok(())
        })
    }

    fn line(&self) -> Result<&IrqLine> {
        let missing = || format!("device '{}' has no interrupt line", self.0.name);
        self.0.line.get().ok_or_else(|| Error::wrong_state(missing()))
    }
}

/// Makes a device of the caller's functions; `name` is what errors and statistics call it. If this
/// fails, with VMM_STATUS_BAD_CONFIG, `user` stays the caller's: `drop` is not called.
///
///     static int32_t count(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
///     {
///         data[0] = (uint8_t)++*(int *)user;
///         return VMM_FLOW_CONTINUE;
///     }
///     ...
///     static const vmm_device_ops ops = {.struct_size = sizeof ops, .read = count};
///     vmm_device_new("counter", &ops, &counter, &device, NULL);
///     vmm_device_add_ports(device, 0x50, 1, NULL);
///     vmm_config_add_device(config, device);
///     vmm_device_free(device);                     // The description has it now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_new(
    name: *const c_char,
    ops: *const vmm_device_ops,
    user: *mut c_void,
    device: *mut *mut vmm_device,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(device, "device", std::ptr::null_mut())?;
            let name = pass::text(name, "name")?.to_owned();
            let ops: vmm_device_ops = pass::ops(ops, offset_of!(vmm_device_ops, save))?;
            let shared = Shared {
                name,
                model: Model { ops, user: User { pointer: user, drop: ops.drop } },
                wanted: Exclusive::new("device", Vec::new()),
                wants_line: AtomicBool::new(false),
                plugged: AtomicBool::new(false),
                line: OnceLock::new(),
            };
            pass::fill(device, "device", pass::give(vmm_device(Arc::new(shared))))
        })
    }
}

/// Frees the caller's hold on a device; a machine that has it keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_free(device: *mut vmm_device) {
    // SAFETY: the header's rules.
    unsafe { pass::free(device) };
}

/// The device answers `count` I/O ports from `start` on: one window of it. VMM_STATUS_WRONG_STATE if a
/// machine has it; that ports are taken vmm_machine_new says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_add_ports(
    device: *mut vmm_device,
    start: u16,
    count: u16,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(device, "device")?.want(Window::Ports(start, count))) }
}

/// The device answers `size` bytes of physical addresses from `start` on: one window of it;
/// VMM_ANYWHERE for where there is room. Fails as vmm_device_add_ports.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_add_mmio(
    device: *mut vmm_device,
    start: u64,
    size: u64,
    error: *mut *mut vmm_error,
) -> vmm_status {
    let place = if start == VMM_ANYWHERE { Place::Any } else { Place::At(GuestAddress(start)) };
    // SAFETY: the header's rules.
    unsafe { guard(error, || pass::object(device, "device")?.want(Window::Mmio(place, size))) }
}

/// The device gets an interrupt line of its own, before a machine has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_add_irq(
    device: *mut vmm_device,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::object(device, "device")?.0.wants_line.store(true, SeqCst);
            Ok(())
        })
    }
}

/// Interrupts the guest once, by the line of the device; may be called from a callback.
/// VMM_STATUS_WRONG_STATE if it has none, or is in no machine yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_device_interrupt(
    device: *const vmm_device,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::object(device, "device")?.line()?.pulse();
            Ok(())
        })
    }
}
