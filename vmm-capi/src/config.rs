//! The description of a machine.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{ffi::c_char, fs::File, sync::Arc};

use vmm_core::{
    Error, Machine, Result,
    boot::{Elf64, Flat, Image, Linux, Multiboot},
    host::{self, Choice, Need},
    hv::IrqConfig,
    machine::Builder,
};
use vmm_devices::{DebugExit, I8042, Rtc, Serial};

use crate::{
    device::vmm_device,
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard},
    machine::vmm_machine,
    pass,
};

/// The description of a machine. Memory and something to boot must be given; the rest has defaults:
/// the best back end of this host, one vCPU, a PC's interrupt controllers, no devices.
pub struct vmm_config(Exclusive<Option<Description>>);

/// What was said so far; gone when a machine was made of it.
struct Description {
    builder: Builder,
    backend: Option<String>,
    /// The first thing that was wrong.
    wrong: Option<Error>,
}

impl Description {
    /// Adds to it what `make` gives; remembers why it gives nothing.
    fn add(&mut self, make: impl FnOnce(Builder) -> Result<Builder>) {
        let builder = std::mem::take(&mut self.builder);
        match make(builder) {
            Ok(builder) => self.builder = builder,
            Err(error) => drop(self.wrong.get_or_insert(error)),
        }
    }

    fn choose(&self) -> Result<Choice> {
        match self.backend.as_deref() {
            Some("auto") | None => host::best(Need::Kernel),
            Some(name) => host::named(name),
        }
    }

    fn build(self) -> Result<(Machine, Choice)> {
        if let Some(error) = self.wrong {
            return Err(error);
        }
        let choice = self.choose()?;
        Ok((self.builder.hypervisor(Arc::clone(choice.hypervisor())).build()?, choice))
    }
}

/// Changes the description, if there is one.
///
/// # Safety
/// As for [`pass::object`].
unsafe fn change(config: *mut vmm_config, change: impl FnOnce(&mut Description)) {
    // SAFETY: the caller's promise.
    if let Some(config) = unsafe { config.as_ref() } {
        config.0.change(change);
    }
}

/// A description without anything. Freed with vmm_config_free, also after a machine was made of it.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_config_new() -> *mut vmm_config {
    pass::give(vmm_config(Exclusive::new(
        "config",
        Some(Description { builder: Machine::builder(), backend: None, wrong: None }),
    )))
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
            Err(error) => drop(description.wrong.get_or_insert(error)),
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

/// Boots a Linux kernel, a bzImage or vmlinux, by its path. `initrd`, a path, and `cmdline` may be
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_linux(
    config: *mut vmm_config,
    kernel: *const c_char,
    initrd: *const c_char,
    cmdline: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let mut linux = Linux::kernel(Image::path(pass::path(kernel, "kernel")?));
                if !initrd.is_null() {
                    linux = linux.initrd(Image::path(pass::path(initrd, "initrd")?));
                }
                if let Some(cmdline) = pass::text_or_none(cmdline, "cmdline")? {
                    linux = linux.cmdline(cmdline);
                }
                Ok(builder.boot(linux))
            });
        });
    }
}

/// Boots a kernel by Multiboot 1, by its path. `cmdline` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_multiboot(
    config: *mut vmm_config,
    kernel: *const c_char,
    cmdline: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let mut kernel = Multiboot::kernel(Image::path(pass::path(kernel, "kernel")?));
                if let Some(cmdline) = pass::text_or_none(cmdline, "cmdline")? {
                    kernel = kernel.cmdline(cmdline);
                }
                Ok(builder.boot(kernel))
            });
        });
    }
}

/// Boots a plain 64-bit ELF program without a kernel, by its path: entered in 64-bit mode with
/// memory mapped at its own addresses. `cmdline` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_elf64(
    config: *mut vmm_config,
    program: *const c_char,
    cmdline: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let mut program = Elf64::program(Image::path(pass::path(program, "program")?));
                if let Some(cmdline) = pass::text_or_none(cmdline, "cmdline")? {
                    program = program.cmdline(cmdline);
                }
                Ok(builder.boot(program))
            });
        });
    }
}

/// Boots instructions as they are, in 64-bit mode, at guest address 0x10000.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_long_mode(
    config: *mut vmm_config,
    image: *const u8,
    size: usize,
) {
    // SAFETY: the header's rules.
    unsafe { boot_flat(config, image, size, Flat::long_mode) };
}

/// Boots instructions as they are, in 16-bit real mode, at guest address 0x7c00.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_real_mode(
    config: *mut vmm_config,
    image: *const u8,
    size: usize,
) {
    // SAFETY: the header's rules.
    unsafe { boot_flat(config, image, size, Flat::real_mode) };
}

/// # Safety
/// As for [`pass::object`] and [`pass::bytes`].
unsafe fn boot_flat(
    config: *mut vmm_config,
    image: *const u8,
    size: usize,
    mode: fn(Vec<u8>) -> Flat,
) {
    // SAFETY: the caller's promise.
    unsafe {
        change(config, |description| {
            description
                .add(|builder| Ok(builder.boot(mode(pass::bytes(image, size, "image")?.to_vec()))));
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

/// Makes the machine; its guest has executed nothing yet. A description makes one machine: it is
/// empty afterwards, and still to be freed.
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
            let (built, choice) = config.0.use_up(used, Description::build)?;
            pass::fill(machine, "machine", pass::give(vmm_machine::new(built, &choice)))
        })
    }
}
