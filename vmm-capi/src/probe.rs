//! What this host can run.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::ffi::{CString, c_char};

use vmm_core::host::{self, KvmKind};

use crate::{
    error::{self, vmm_error, vmm_status},
    guard::{guard, tell},
    pass,
};

/// The kinds of /dev/kvm.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_kvm_kind {
    /// None that can be used: guests run on the CPU in software.
    None = 0,
    /// Programs run natively; kernels are emulated by the host's kernel, slowly and in part.
    UserMode = 1,
    /// All guests run natively.
    Whole = 2,
}

/// What was found out about this host.
pub struct vmm_report {
    kvm: vmm_kvm_kind,
    text: CString,
}

/// Measures what this host can run; takes some 10 to 100 ms the first time, and is remembered. Freed with
/// vmm_report_free.
///
///     if (vmm_probe(&report, NULL) == VMM_STATUS_OK)
///         puts(vmm_report_text(report));
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_probe(
    report: *mut *mut vmm_report,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::check(report, "report")?;
            let found = host::probe();
            let kvm = match found.kvm {
                KvmKind::None => vmm_kvm_kind::None,
                KvmKind::UserMode => vmm_kvm_kind::UserMode,
                KvmKind::Whole => vmm_kvm_kind::Whole,
            };
            let made = vmm_report { kvm, text: error::text(&found.to_string()) };
            pass::fill(report, "report", pass::give(made))
        })
    }
}

/// Which kind of /dev/kvm there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_report_kvm(report: *const vmm_report) -> vmm_kvm_kind {
    // SAFETY: the header's rules.
    unsafe { tell(report, vmm_kvm_kind::None, |report| report.kvm) }
}

/// The whole report in lines, with what could be done about what is missing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_report_text(report: *const vmm_report) -> *const c_char {
    // SAFETY: the header's rules.
    unsafe { tell(report, c"".as_ptr(), |report| report.text.as_ptr()) }
}

/// Frees a report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_report_free(report: *mut vmm_report) {
    // SAFETY: the header's rules.
    unsafe { pass::free(report) };
}
