//! What tests inject: panics where one might come, and guests that are lists of accesses.
//!
//! Only in builds with the feature `testing`, and not in the header: `tests/testing.h` declares it.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    cell::Cell,
    ffi::c_char,
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
};

use vmm_core::{
    Result,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    hv::{
        Hypervisor,
        script::{Access, Script},
    },
    machine::{Device, Slot},
    memory::GuestAddress,
};

use crate::{
    config::{change, vmm_config},
    error::{vmm_error, vmm_status},
    guard::guard,
    pass,
    sandbox::vmm_sandbox,
};

thread_local! {
    /// How many points are passed until one panics; 0 for none.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// A place where a test may want a panic.
pub(crate) fn point() {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 {
        // Without the hook, which would print.
        resume_unwind(Box::new("injected by a test"));
    }
}

/// What the back end `script` plays.
static PLAYED: Mutex<Option<Script>> = Mutex::new(None);

/// A back end that only tests have.
pub(crate) fn hypervisor(name: &str) -> Option<Arc<dyn Hypervisor>> {
    let played = PLAYED.lock().unwrap_or_else(PoisonError::into_inner);
    played.clone().filter(|_| name == "script").map(Arc::from)
}

/// The `count`th place from now on at which this thread could panic does so; 0 for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_testing_panic_at(count: u32) {
    LEFT.set(count);
}

/// How many are left: 0 if there was a panic.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_testing_panic_left() -> u32 {
    LEFT.get()
}

/// What a scripted vCPU does: an access to a port or to memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmm_testing_access {
    /// 0 for an IN, 1 for an OUT, 2 for a load, 3 for a store, 4 for HLT.
    pub what: u32,
    /// Of how many bytes, 1 to 8.
    pub size: u32,
    /// The port, or the address.
    pub at: u64,
    /// What is written.
    pub value: u64,
}

impl From<vmm_testing_access> for Access {
    fn from(access: vmm_testing_access) -> Self {
        let vmm_testing_access { what, size, at, value } = access;
        let (size, bytes) = (size.clamp(1, 8) as usize, value.to_le_bytes());
        let data = || bytes.iter().take(size).copied().collect::<Vec<_>>();
        match what {
            0 => Self::PortIn(at as u16, size),
            1 => Self::PortOut(at as u16, data()),
            2 => Self::Load(GuestAddress(at), size),
            3 => Self::Store(GuestAddress(at), data()),
            _ => Self::Halt,
        }
    }
}

/// From now on there is a back end `script`, whose guests do this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_testing_script(
    accesses: *const vmm_testing_access,
    count: usize,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let accesses = pass::array(accesses, count, "accesses")?;
            let script = accesses.iter().copied().map(Access::from).collect::<Vec<_>>();
            *PLAYED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Script::new(script));
            Ok(())
        })
    }
}

/// A device that does nothing, in Rust: what one in C is measured beside.
struct Idle(u16);

impl BusDevice for Idle {
    fn read(&self, _: u64, _: &mut [u8]) -> Flow {
        CONTINUE
    }

    fn write(&self, _: u64, _: &[u8]) -> Flow {
        CONTINUE
    }
}

impl Device for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let port = self.0;
        slot.ports(port, 1, Arc::new(*self))
    }
}

/// Adds a device in Rust that does nothing at this port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_testing_config_add_idle(config: *mut vmm_config, port: u16) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.device(Idle(port)))));
    }
}

/// Calls `long name(long)` of a sandbox so many times, from Rust.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_testing_calls(
    sandbox: *mut vmm_sandbox,
    name: *const c_char,
    times: u32,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let name = pass::text(name, "name")?;
            pass::object(sandbox, "sandbox")?.with(|sandbox| {
                (0..times).try_for_each(|_| sandbox.call::<i64>(name, (1_i64,)).map(drop))
            })
        })
    }
}
