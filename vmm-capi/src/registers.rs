//! Registers of a vCPU.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use vmm_core::arch::{Regs, VcpuId};

use crate::{
    error::{vmm_error, vmm_status},
    guard::guard,
    machine::vmm_machine,
    pass,
};

/// The general-purpose registers of x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "they have the names of the manuals")]
pub struct vmm_regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

macro_rules! same_fields {
    ($($name:ident)*) => {
        impl From<Regs> for vmm_regs {
            fn from(regs: Regs) -> Self {
                Self { $($name: regs.$name),* }
            }
        }

        impl From<vmm_regs> for Regs {
            fn from(regs: vmm_regs) -> Self {
                Self { $($name: regs.$name),* }
            }
        }
    };
}

same_fields! { rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags }

/// Fills `*regs` with the registers of vCPU number `vcpu`, of a machine that is paused or not being
/// run; else VMM_STATUS_WRONG_STATE. VMM_STATUS_NOT_FOUND if there is no such vCPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_get_regs(
    machine: *const vmm_machine,
    vcpu: u32,
    regs: *mut vmm_regs,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let machine = pass::object(machine, "machine")?;
            pass::check(regs, "regs")?;
            let found = machine.with(|machine| machine.regs(VcpuId(vcpu)))?;
            pass::fill(regs, "regs", found.into())
        })
    }
}

/// Sets them; as vmm_machine_get_regs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_set_regs(
    machine: *mut vmm_machine,
    vcpu: u32,
    regs: *const vmm_regs,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let machine = pass::object(machine, "machine")?;
            let regs = *pass::object(regs, "regs")?;
            machine.with(|machine| machine.set_regs(VcpuId(vcpu), &regs.into()))
        })
    }
}
