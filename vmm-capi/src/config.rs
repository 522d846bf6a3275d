//! The description of a machine.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{ffi::c_char, fs::File};

use vmm_core::{
    Error, Result,
    boot::Multiboot,
    host::Need,
    hv::IrqConfig,
    machine::{Accounting, Builder},
};
use vmm_devices::{DebugExit, I8042, RateLimit, Rng, Rtc, Serial};

use crate::{
    backend,
    console::vmm_console,
    device::vmm_device,
    disk::vmm_disk,
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard, made},
    machine::vmm_machine,
    pass,
    virtio::vmm_virtio,
};

/// The description of a machine. Memory and something to boot must be given; the rest has defaults:
/// the best back end of this host, one vCPU, a PC's interrupt controllers, no devices.
pub struct vmm_config(Exclusive<Option<Description>>);

/// What was said so far; gone when a machine was made of it.
#[derive(Default)]
pub(crate) struct Description {
    builder: Builder,
    backend: Option<String>,
    /// What is booted, if that may still get modules.
    pub(crate) multiboot: Option<Multiboot>,
    /// The first thing that was wrong.
    wrong: Option<Error>,
}

impl Description {
    /// Adds to it what `make` gives; remembers why it gives nothing.
    pub(crate) fn add(&mut self, make: impl FnOnce(Builder) -> Result<Builder>) {
        let builder = std::mem::take(&mut self.builder);
        match make(builder) {
            Ok(builder) => self.builder = builder,
            Err(error) => self.refuse(error),
        }
    }

    /// Remembers what was wrong.
    pub(crate) fn refuse(&mut self, error: Error) {
        self.wrong.get_or_insert(error);
    }

    fn build(mut self) -> Result<vmm_machine> {
        if let Some(error) = self.wrong {
            return Err(error);
        }
        if let Some(kernel) = self.multiboot {
            self.builder = self.builder.boot(kernel);
        }
        let chosen = backend::choose(self.backend.as_deref(), Need::Kernel)?;
        let name = chosen.hypervisor.name();
        let machine = self.builder.hypervisor(chosen.hypervisor).build()?;
        Ok(vmm_machine::new(machine, name, &chosen.reason))
    }
}

/// Changes the description, if there is one.
///
/// # Safety
/// As for [`pass::object`].
pub(crate) unsafe fn change(config: *mut vmm_config, change: impl FnOnce(&mut Description)) {
    // SAFETY: the caller's promise.
    if let Some(config) = unsafe { config.as_ref() } {
        config.0.change(change);
    }
}

/// A description without anything. Freed with vmm_config_free, also after a machine was made of it.
/// NULL only if the library is broken; every other function takes that as an error.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_config_new() -> *mut vmm_config {
    made(|| vmm_config(Exclusive::new("config", Some(Description::default()))))
}

/// Frees a description, with the devices that no machine has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_free(config: *mut vmm_config) {
    // SAFETY: the header's rules.
    unsafe { pass::free(config) };
}

/// What runs the vCPUs: "kvm", "soft" for the CPU in software, or "auto" for the best of this host,
/// which is measured; that is the default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_set_backend(config: *mut vmm_config, name: *const c_char) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| match pass::text(name, "backend") {
            Ok(name) => description.backend = Some(name.to_owned()),
            Err(error) => description.refuse(error),
        });
    }
}

/// RAM of `bytes`, a multiple of 4096, zeroed; what passes 3 GiB continues at 4 GiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_set_memory(config: *mut vmm_config, bytes: u64) {
    // SAFETY: the header's rules.
    unsafe { change(config, |description| description.add(|builder| Ok(builder.memory(bytes)))) };
}

/// The number of vCPUs; 1 unless said otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_set_vcpus(config: *mut vmm_config, count: u32) {
    // SAFETY: the header's rules.
    unsafe { change(config, |description| description.add(|builder| Ok(builder.vcpus(count)))) };
}

/// Whether there are interrupt controllers; true unless said otherwise. Without them HLT ends the
/// run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_set_interrupts(config: *mut vmm_config, there: bool) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.interrupts(there.then(IrqConfig::default))));
        });
    }
}

/// A 16550 serial port (the first is COM1, I/O port 0x3f8): what the guest writes goes to the
/// descriptor `output`, what comes from `input` goes to the guest. -1 for neither.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_serial(config: *mut vmm_config, input: i32, output: i32) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let mut serial = match output {
                    -1 => Serial::new(std::io::sink()),
                    fd => Serial::new(File::from(pass::descriptor(fd, "serial output")?)),
                };
                if input != -1 {
                    serial =
                        serial.with_input(File::from(pass::descriptor(input, "serial input")?));
                }
                Ok(builder.device(serial))
            });
        });
    }
}

/// An MC146818 clock that has the host's time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_rtc(config: *mut vmm_config) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.device(Rtc::now()))));
    };
}

/// The keyboard controller, as far as kernels reset the machine by it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_i8042(config: *mut vmm_config) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.device(I8042::new()))));
    }
}

/// I/O port 0xf4: a byte written there ends the machine, which powers off with that code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_debug_exit(config: *mut vmm_config) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.device(DebugExit::new())));
        });
    }
}

/// A device of the caller's own. The machine holds it too: it can be freed at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_device(config: *mut vmm_config, device: *mut vmm_device) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.device(pass::object(device, "device")?.plug()?)));
        });
    }
}

/// A disk. It stays what tells of it: it is freed when the caller is done with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_disk(config: *mut vmm_config, disk: *mut vmm_disk) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.device(pass::object(disk, "disk")?.plug()?)));
        });
    }
}

/// A console over virtio. It stays what changes it: it is freed when the caller is done with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_console(
    config: *mut vmm_config,
    console: *mut vmm_console,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description
                .add(|builder| Ok(builder.device(pass::object(console, "console")?.plug()?)));
        });
    }
}

/// A source of random numbers, of the host's, by virtio: `per_second` bytes a second and `burst` at
/// once after a rest; 0 and 0 for 1 MiB each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_rng(config: *mut vmm_config, per_second: u64, burst: u64) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                Ok(builder.device(match (per_second, burst) {
                    (0, 0) => Rng::new()?,
                    _ => Rng::with_limit(RateLimit { per_second, burst })?,
                }))
            });
        });
    }
}

/// A virtio device of the caller's own. The machine holds it too: it can be freed at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_virtio(config: *mut vmm_config, virtio: *mut vmm_virtio) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.device(pass::object(virtio, "virtio")?.plug()?)));
        });
    }
}

/// Has exits of the guest counted, for vmm_machine_exits; with `times` it is also measured how long
/// the host worked on them, which reads the clock twice an exit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_set_accounting(config: *mut vmm_config, times: bool) {
    let accounting = if times { Accounting::Times } else { Accounting::Counts };
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.account(accounting))));
    }
}

/// Makes the machine; its guest has executed nothing yet. A description makes one machine: it is
/// empty afterwards, also if this failed, and still to be freed. Fills `*machine` with NULL if it
/// fails.
///
/// VMM_STATUS_BAD_CONFIG with the first setting that was wrong, is missing, or does not fit the others;
/// VMM_STATUS_BAD_IMAGE with what is wrong with the image; VMM_STATUS_HOST with the file that cannot be
/// opened, or if the host gives no VM or memory; VMM_STATUS_NO_HYPERVISOR if the back end that was named
/// cannot be used here; VMM_STATUS_WRONG_STATE if a machine was made of it before, or another one has
/// one of its devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_new(
    config: *mut vmm_config,
    machine: *mut *mut vmm_machine,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(machine, "machine", std::ptr::null_mut())?;
            let config = pass::object(config, "config")?;
            let used = "config: a machine was made of it before";
            let built = config.0.use_up(used, Description::build)?;
            pass::fill(machine, "machine", pass::give(built))
        })
    }
}
