//! Virtio devices of the caller's own.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    os::fd::OwnedFd,
};

use vmm_core::{
    Error, ErrorKind, Result,
    persist::{StateReader, StateWriter},
    virtio::{Cause, Chain, DeviceId, VirtioDevice, VirtioIo},
};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard, silent, tell},
    pass, saved,
    user::User,
    value::vmm_result,
};

/// For `wake`: the driver may have added buffers, to any queue.
pub const VMM_WAKE_QUEUES: i32 = -1;

/// What a virtio device does. Functions may be NULL, but for `wake`.
///
/// They are called one at a time and must not block: `wake` on a thread of the machine, the others
/// on those that run vCPUs. What takes its time is done elsewhere, with the vmm_chain, which any
/// thread may complete.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct vmm_virtio_ops {
    /// sizeof(vmm_virtio_ops).
    pub struct_size: usize,
    /// There is something to do: `source` is VMM_WAKE_QUEUES, or the number of a descriptor of
    /// vmm_virtio_add_source that can be read. Pops chains from `io` until there are no more. Gives
    /// 0, or anything else if the device can never work again: the run ends with
    /// VMM_STATUS_POISONED. A driver's mistake is no such thing: vmm_io_need_reset.
    pub wake: Option<unsafe extern "C" fn(user: *mut c_void, io: *mut vmm_io, source: i32) -> i32>,
    /// Copies configuration space from `offset` on to `data`, which comes filled with zeros.
    pub read_config:
        Option<unsafe extern "C" fn(user: *mut c_void, offset: u64, data: *mut u8, size: usize)>,
    /// The driver writes to configuration space.
    pub write_config:
        Option<unsafe extern "C" fn(user: *mut c_void, offset: u64, data: *const u8, size: usize)>,
    /// The driver, or the machine, resets the device: chains that it keeps are void. It frees them.
    pub reset: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// The machine is about to be paused: the device completes what chains it keeps for something
    /// that may never come.
    pub drain: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// The library is done with `user`.
    pub drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// Saves what a device like this one needs to go on where this one stood: as
    /// vmm_device_ops.save, after `drain`. NULL for one that knows nothing but its queues, which the
    /// library saves.
    pub save: Option<unsafe extern "C" fn(user: *mut c_void, state: *mut vmm_result) -> i32>,
    /// Becomes what was saved: as vmm_device_ops.restore.
    pub restore:
        Option<unsafe extern "C" fn(user: *mut c_void, state: *const u8, size: usize) -> i32>,
}

/// A virtio device of the caller's own.
pub struct vmm_virtio(Exclusive<Option<Model>>);

/// The device, as it was described.
pub(crate) struct Model {
    name: String,
    id: u32,
    queues: Vec<u16>,
    features: u64,
    sources: Vec<OwnedFd>,
    ops: vmm_virtio_ops,
    user: User,
}

impl vmm_virtio {
    /// For a machine; a device is in one at most.
    pub(crate) fn plug(&self) -> Result<Model> {
        self.0.use_up("virtio: the device was given to a machine before", Ok)
    }
}

/// What a device is lent while it is woken; of use to that thread, as long as `wake` lasts.
pub struct vmm_io(*mut VirtioIo<'static>);

/// A chain of buffers that the driver lends the device: first those to be read, then those to be
/// written. Whoever popped it completes it once, on any thread; one thread uses it at a time.
pub struct vmm_chain(Chain);

impl VirtioDevice for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> DeviceId {
        DeviceId(self.id)
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn wake(&mut self, cause: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        let Some(wake) = self.ops.wake else { return Ok(()) };
        let source = match cause {
            Cause::Source(source) => i32::try_from(source).unwrap_or(i32::MAX),
            _ => VMM_WAKE_QUEUES,
        };
        let mut lent = vmm_io(std::ptr::from_mut(io).cast());
        // SAFETY: the caller's function with the caller's pointer, and what lives as long as the
        // call.
        match unsafe { wake(self.user.pointer, &raw mut lent, source) } {
            0 => Ok(()),
            answer => Err(Error::new(ErrorKind::Poisoned, format!("it failed with {answer}"))),
        }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        if let Some(read) = self.ops.read_config {
            // SAFETY: as above.
            unsafe { read(self.user.pointer, offset, data.as_mut_ptr(), data.len()) };
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let Some(write) = self.ops.write_config {
            // SAFETY: as above.
            unsafe { write(self.user.pointer, offset, data.as_ptr(), data.len()) };
        }
    }

    fn sources(&mut self) -> Result<Vec<OwnedFd>> {
        Ok(std::mem::take(&mut self.sources))
    }

    fn reset(&mut self) {
        if let Some(reset) = self.ops.reset {
            // SAFETY: as above.
            unsafe { reset(self.user.pointer) };
        }
    }

    fn drain(&mut self) {
        if let Some(drain) = self.ops.drain {
            // SAFETY: as above.
            unsafe { drain(self.user.pointer) };
        }
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        match self.ops.save {
            // SAFETY: as above.
            Some(save) => saved::save(out, |state| unsafe { save(self.user.pointer, state) }),
            None => Ok(()),
        }
    }

    fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        match self.ops.restore {
            // SAFETY: as above.
            Some(restore) => saved::restore(from, |state| unsafe {
                restore(self.user.pointer, state.as_ptr(), state.len())
            }),
            None => Ok(()),
        }
    }
}

/// Makes a virtio device of the caller's functions; `name` is what errors call it, `id` its kind
/// (Virtual I/O Device 1.2, section 5). If this fails, with VMM_STATUS_BAD_CONFIG, `user` stays the
/// caller's: `drop` is not called.
///
///     static int32_t wake(void *user, vmm_io *io, int32_t source)
///     {
///         vmm_chain *chain;
///         while ((chain = vmm_io_pop(io, 0)) != NULL)
///             vmm_chain_complete(chain, (uint32_t)vmm_chain_write(chain, 0, "hello", 5));
///         return 0;
///     }
///     ...
///     static const vmm_virtio_ops ops = {.struct_size = sizeof ops, .wake = wake};
///     vmm_virtio_new("greeter", 42, &ops, NULL, &virtio, NULL);
///     vmm_virtio_add_queue(virtio, 64);
///     vmm_config_add_virtio(config, virtio);
///     vmm_virtio_free(virtio);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtio_new(
    name: *const c_char,
    id: u32,
    ops: *const vmm_virtio_ops,
    user: *mut c_void,
    virtio: *mut *mut vmm_virtio,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(virtio, "virtio", std::ptr::null_mut())?;
            let name = pass::text(name, "name")?.to_owned();
            let ops: vmm_virtio_ops = pass::ops(ops, offset_of!(vmm_virtio_ops, save))?;
            if ops.wake.is_none() {
                return Err(Error::bad_config("ops: wake is NULL"));
            }
            let user = User { pointer: user, drop: ops.drop };
            let (queues, sources) = (Vec::new(), Vec::new());
            let model = Model { name, id, queues, features: 0, sources, ops, user };
            let made = vmm_virtio(Exclusive::new("virtio", Some(model)));
            pass::fill(virtio, "virtio", pass::give(made))
        })
    }
}

/// Frees the caller's hold on a device; a machine that has it keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtio_free(virtio: *mut vmm_virtio) {
    // SAFETY: the header's rules.
    unsafe { pass::free(virtio) };
}

/// One more queue, which can hold so many chains: a power of 2 up to 32768.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtio_add_queue(virtio: *mut vmm_virtio, size: u16) {
    // SAFETY: the header's rules.
    if let Some(virtio) = unsafe { virtio.as_ref() } {
        virtio.0.change(|model| model.queues.push(size));
    }
}

/// The feature bits of this kind of device that it offers, 0 to 23 and 50 to 63; those of rings and
/// transport are the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtio_set_features(virtio: *mut vmm_virtio, features: u64) {
    // SAFETY: the header's rules.
    if let Some(virtio) = unsafe { virtio.as_ref() } {
        virtio.0.change(|model| model.features = features);
    }
}

/// One more descriptor that wakes the device when it can be read; they are numbered from 0 on.
/// VMM_STATUS_WRONG_STATE if a machine has the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtio_add_source(
    virtio: *mut vmm_virtio,
    fd: i32,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let virtio = pass::object(virtio, "virtio")?;
            let source = pass::descriptor(fd, "source")?;
            virtio.0.with(|model| {
                let plugged = || Error::wrong_state("virtio: the device was given to a machine");
                model.as_mut().ok_or_else(plugged)?.sources.push(source);
                Ok(())
            })
        })
    }
}

/// What the device was lent.
///
/// # Safety
/// `io` is NULL, or what `wake` was called with, on its thread and before it returned.
unsafe fn lent<R: Default>(io: *mut vmm_io, work: impl FnOnce(&mut VirtioIo<'static>) -> R) -> R {
    // SAFETY: the caller's promise: nobody else has it meanwhile.
    silent(|| unsafe { io.as_ref().map(|io| work(&mut *io.0)).unwrap_or_default() })
}

/// Takes the next chain that the driver has added to a queue; NULL if there is none. May only be
/// called by `wake`, as all functions with a vmm_io.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_pop(io: *mut vmm_io, queue: u32) -> *mut vmm_chain {
    // SAFETY: the header's rules.
    let popped = unsafe { lent(io, |io| io.pop(queue as usize)) };
    popped.map_or(std::ptr::null_mut(), |chain| pass::give(vmm_chain(chain)))
}

/// The features that were negotiated; 0 before that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_features(io: *mut vmm_io) -> u64 {
    // SAFETY: the header's rules.
    unsafe { lent(io, |io| io.features()) }
}

/// Tells the driver that configuration space has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_config_changed(io: *mut vmm_io) {
    // SAFETY: the header's rules.
    unsafe { lent(io, |io| io.config_changed()) };
}

/// The driver has done what no driver may: nothing more is done for it until it resets the device.
/// `why` is for the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_need_reset(io: *mut vmm_io, why: *const c_char) {
    // SAFETY: the header's rules.
    unsafe { lent(io, |io| io.need_reset(pass::text(why, "why").unwrap_or("no reason"))) };
}

/// That source does not wake the device any more, until vmm_io_resume.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_hold(io: *mut vmm_io, source: u32) {
    // SAFETY: the header's rules.
    unsafe { lent(io, |io| io.hold(source as usize)) };
}

/// That source wakes the device again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_io_resume(io: *mut vmm_io, source: u32) {
    // SAFETY: the header's rules.
    unsafe { lent(io, |io| io.resume(source as usize)) };
}

/// The queue it was popped from. Functions with a vmm_chain may be called from every callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_queue(chain: *const vmm_chain) -> u32 {
    // SAFETY: the header's rules.
    unsafe { tell(chain, 0, |chain| chain.0.queue() as u32) }
}

/// How many bytes there are to be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_readable(chain: *const vmm_chain) -> u64 {
    // SAFETY: the header's rules.
    unsafe { tell(chain, 0, |chain| chain.0.readable().len()) }
}

/// How many bytes there are to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_writable(chain: *const vmm_chain) -> u64 {
    // SAFETY: the header's rules.
    unsafe { tell(chain, 0, |chain| chain.0.writable().len()) }
}

/// Copies up to `size` of the bytes to be read, from the one numbered `at` on; gives how many. The
/// guest may change them at any moment: what a decision depends on is read once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_read(
    chain: *const vmm_chain,
    at: u64,
    data: *mut c_void,
    size: usize,
) -> usize {
    // SAFETY: the header's rules.
    let data = unsafe { pass::bytes_mut(data.cast(), size, "data") };
    // SAFETY: as above.
    unsafe { tell(chain, 0, |chain| data.map_or(0, |data| chain.0.readable().read(at, data))) }
}

/// Copies `size` bytes to those to be written, from the one numbered `at` on, or as many as there is
/// room for; gives how many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_write(
    chain: *mut vmm_chain,
    at: u64,
    data: *const c_void,
    size: usize,
) -> usize {
    // SAFETY: the header's rules.
    let data = unsafe { pass::bytes(data.cast(), size, "data") };
    // SAFETY: as above.
    unsafe { tell(chain, 0, |chain| data.map_or(0, |data| chain.0.writable().write(at, data))) }
}

/// Whether the driver still waits for it: not after a reset.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_is_current(chain: *const vmm_chain) -> bool {
    // SAFETY: the header's rules.
    unsafe { tell(chain, false, |chain| chain.0.is_current()) }
}

/// Gives it back to the driver and frees it: the first `written` bytes of those to be written were
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_complete(chain: *mut vmm_chain, written: u32) {
    if !chain.is_null() {
        silent(|| {
            // SAFETY: the header's rules.
            unsafe { Box::from_raw(chain) }.0.complete(written);
        });
    }
}

/// As vmm_chain_complete, of a request that the device could not do as it was asked; the driver is
/// told by what was written, as its kind of device says. It counts as an error of the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_fail(chain: *mut vmm_chain, written: u32) {
    if !chain.is_null() {
        silent(|| {
            // SAFETY: the header's rules.
            unsafe { Box::from_raw(chain) }.0.fail(written);
        });
    }
}

/// Gives it back with nothing written, and frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_chain_free(chain: *mut vmm_chain) {
    // SAFETY: the header's rules.
    unsafe { pass::free(chain) };
}
