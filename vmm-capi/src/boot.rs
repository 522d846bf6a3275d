//! What a machine boots, and what an image is.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use vmm_core::{
    Error, Result,
    boot::{self, Elf64, Flat, Found, Image, Linux, Multiboot, Protocol, Way},
};

use crate::{
    config::{change, vmm_config},
    error::{self, vmm_error, vmm_status},
    guard::{guard, tell},
    pass,
};

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
            description.add(|builder| Ok(builder.boot(linux(kernel, initrd, cmdline)?)));
        });
    }
}

/// Boots a kernel that can be entered by PVH, as Linux and many unikernels can. `initrd`, a path,
/// and `cmdline` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_boot_pvh(
    config: *mut vmm_config,
    kernel: *const c_char,
    initrd: *const c_char,
    cmdline: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                Ok(builder.boot(linux(kernel, initrd, cmdline)?.protocol(Protocol::Pvh)))
            });
        });
    }
}

/// # Safety
/// As for [`pass::text`].
unsafe fn linux(
    kernel: *const c_char,
    initrd: *const c_char,
    cmdline: *const c_char,
) -> Result<Linux> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut linux = Linux::kernel(Image::path(pass::path(kernel, "kernel")?));
        if !initrd.is_null() {
            linux = linux.initrd(Image::path(pass::path(initrd, "initrd")?));
        }
        if let Some(cmdline) = pass::text_or_none(cmdline, "cmdline")? {
            linux = linux.cmdline(cmdline);
        }
        Ok(linux)
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
            let kernel = pass::path(kernel, "kernel").and_then(|kernel| {
                let cmdline = pass::text_or_none(cmdline, "cmdline")?.unwrap_or_default();
                Ok(Multiboot::kernel(Image::path(kernel)).cmdline(cmdline))
            });
            match kernel {
                Ok(kernel) => description.multiboot = Some(kernel),
                Err(error) => description.refuse(error),
            }
        });
    }
}

/// One more file, by its path, for the kernel of vmm_config_boot_multiboot, with a command line of
/// its own, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_config_add_module(
    config: *mut vmm_config,
    file: *const c_char,
    cmdline: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            let module = pass::path(file, "module").and_then(|file| {
                let cmdline = pass::text_or_none(cmdline, "cmdline")?.unwrap_or_default();
                let none = || Error::bad_config("a module, and no kernel by Multiboot before");
                let kernel = description.multiboot.take().ok_or_else(none)?;
                Ok(kernel.module(Image::path(file), cmdline))
            });
            match module {
                Ok(kernel) => description.multiboot = Some(kernel),
                Err(error) => description.refuse(error),
            }
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

/// A way to boot an image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_boot {
    /// None that this library knows.
    None = 0,
    /// vmm_config_boot_linux.
    Linux = 1,
    /// vmm_config_boot_pvh.
    Pvh = 2,
    /// vmm_config_boot_multiboot.
    Multiboot = 3,
    /// vmm_config_boot_elf64.
    Elf64 = 4,
}

/// What an image's headers say.
pub struct vmm_inspection {
    best: vmm_boot,
    text: CString,
}

impl From<&Found> for vmm_inspection {
    fn from(found: &Found) -> Self {
        let best = match found.best().map(|best| best.way) {
            Some(Way::Linux) => vmm_boot::Linux,
            Some(Way::Pvh) => vmm_boot::Pvh,
            Some(Way::Multiboot) => vmm_boot::Multiboot,
            Some(Way::Elf64) => vmm_boot::Elf64,
            _ => vmm_boot::None,
        };
        let lines = found.evidence.iter().map(|evidence| {
            let not = if evidence.is_there { "" } else { "not " };
            format!("{not}{}: {}\n", evidence.way, evidence.why)
        });
        Self { best, text: error::text(&lines.collect::<String>()) }
    }
}

/// Looks at the headers of the image at this path: how can it be booted? VMM_STATUS_HOST or
/// VMM_STATUS_BAD_IMAGE if it cannot be read at all. Freed with vmm_inspection_free.
///
///     if (vmm_inspect("image", &inspection, NULL) == VMM_STATUS_OK
///         && vmm_inspection_best(inspection) == VMM_BOOT_NONE)
///         puts(vmm_inspection_text(inspection));   // Why it is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_inspect(
    image: *const c_char,
    inspection: *mut *mut vmm_inspection,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(inspection, "inspection", std::ptr::null_mut())?;
            let found = boot::inspect(Image::path(pass::path(image, "image")?))?;
            pass::fill(inspection, "inspection", pass::give(vmm_inspection::from(&found)))
        })
    }
}

/// The best way to boot it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_inspection_best(inspection: *const vmm_inspection) -> vmm_boot {
    // SAFETY: the header's rules.
    unsafe { tell(inspection, vmm_boot::None, |inspection| inspection.best) }
}

/// Each way, and why it is one or is none, in lines.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_inspection_text(inspection: *const vmm_inspection) -> *const c_char {
    // SAFETY: the header's rules.
    unsafe { tell(inspection, c"".as_ptr(), |inspection| inspection.text.as_ptr()) }
}

/// Frees an inspection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_inspection_free(inspection: *mut vmm_inspection) {
    // SAFETY: the header's rules.
    unsafe { pass::free(inspection) };
}
