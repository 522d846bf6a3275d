//! Everything a vCPU carries, in one table and in the order that KVM needs.
//!
//! The order is the same both ways. The run state is read first, because reading it makes KVM act
//! on a pending INIT or SIPI, which changes the rest. Restoring: the local APIC needs the APIC base
//! of the system registers, the vector state needs XCR0, the TSC deadline (last of the MSRs) needs
//! the local APIC, and setting registers drops pending events, so these come last.
#![expect(
    unsafe_code,
    reason = "KVM_GET_XSAVE2 and KVM_SET_XSAVE take buffers of a size KVM names"
)]

use std::ffi::c_char;

use kvm_bindings::{
    KVMIO, Msrs, Xsave, kvm_lapic_state, kvm_msr_entry, kvm_xcr, kvm_xcrs, kvm_xsave, kvm_xsave2,
};
use kvm_ioctls::Cap;
use vmm_sys_util::{errno, ioctl::ioctl_with_ptr, ioctl_iow_nr};

use super::{convert, vcpu::KvmVcpu};
use crate::{
    arch::{
        CpuState, Lapic, RunState,
        msr::{self, MsrValue},
    },
    error::{Error, ErrorKind, HostResult, Result},
    hv::Vcpu,
};

/// One kind of state.
struct Row {
    name: &'static str,
    save: fn(&KvmVcpu, &mut CpuState) -> Result<()>,
    restore: fn(&mut KvmVcpu, &CpuState) -> Result<()>,
}

const TABLE: &[Row] = &[
    Row { name: "run state", save: save_run_state, restore: restore_run_state },
    Row { name: "general registers", save: save_regs, restore: restore_regs },
    Row { name: "system registers", save: save_system, restore: restore_system },
    Row { name: "XCR0", save: save_xcr0, restore: restore_xcr0 },
    Row { name: "vector registers", save: save_xsave, restore: restore_xsave },
    Row { name: "debug registers", save: save_debug, restore: restore_debug },
    Row { name: "local APIC", save: save_lapic, restore: restore_lapic },
    Row { name: "TSC frequency", save: save_tsc_khz, restore: restore_tsc_khz },
    Row { name: "MSRs", save: save_msrs, restore: restore_msrs },
    Row { name: "events", save: save_events, restore: restore_events },
];

pub(super) fn save(vcpu: &KvmVcpu) -> Result<CpuState> {
    let mut state = CpuState::default();
    for row in TABLE {
        (row.save)(vcpu, &mut state).map_err(|error| error.context(row.name))?;
    }
    Ok(state)
}

pub(super) fn restore(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    restore_rows(vcpu, state, TABLE)
}

/// What code in ring 3 can have changed.
const PROGRAM: &[Row] = &[
    Row { name: "general registers", save: save_regs, restore: restore_regs },
    Row { name: "system registers", save: save_system, restore: restore_system },
    Row { name: "vector registers", save: save_xsave, restore: restore_xsave },
    Row { name: "events", save: save_events, restore: restore_events },
];

pub(super) fn restore_program(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    restore_rows(vcpu, state, PROGRAM)
}

fn restore_rows(vcpu: &mut KvmVcpu, state: &CpuState, rows: &[Row]) -> Result<()> {
    for row in rows {
        (row.restore)(vcpu, state).map_err(|error| {
            Error::new(ErrorKind::Incompatible, format!("{}: {error}", row.name))
        })?;
    }
    Ok(())
}

fn save_run_state(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    if always_runs(vcpu) {
        return Ok(());
    }
    let mp_state = vcpu.fd.get_mp_state().host(|| "KVM_GET_MP_STATE")?;
    state.run_state = convert::run_state_from_kvm(mp_state)?;
    Ok(())
}

fn restore_run_state(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    if always_runs(vcpu) {
        return match state.run_state {
            RunState::Running => Ok(()),
            other => Err(Error::incompatible(format!("{other:?}, this VM has no local APIC"))),
        };
    }
    // Reading it makes KVM act on an INIT or SIPI that is pending now, or it would strike later.
    vcpu.fd.get_mp_state().host(|| "KVM_GET_MP_STATE")?;
    let mp_state = convert::run_state_to_kvm(state.run_state);
    vcpu.fd.set_mp_state(mp_state).host(|| "KVM_SET_MP_STATE")
}

/// Without a local APIC of the kernel's there is no INIT and no SIPI, and HLT is an exit.
fn always_runs(vcpu: &KvmVcpu) -> bool {
    vcpu.vm.config.irq.is_none()
}

fn save_regs(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    state.regs = vcpu.regs()?;
    Ok(())
}

fn restore_regs(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    // Not through the run page: what comes there is set at the next KVM_RUN, which would drop the
    // events restored meanwhile.
    let regs = convert::regs_to_kvm(&state.regs);
    vcpu.page.note_regs(&regs);
    vcpu.fd.set_regs(&regs).host(|| "KVM_SET_REGS")
}

fn save_system(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    state.system = convert::system_from_kvm(&vcpu.fd.get_sregs().host(|| "KVM_GET_SREGS")?);
    Ok(())
}

fn restore_system(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    vcpu.page.set_cr8(state.system.cr8);
    vcpu.fd.set_sregs(&convert::system_to_kvm(&state.system)).host(|| "KVM_SET_SREGS")
}

fn save_xcr0(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    let xcrs = vcpu.fd.get_xcrs().host(|| "KVM_GET_XCRS")?;
    let known = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    state.xcr0 = known.filter(|xcr| xcr.xcr == 0).map(|xcr| xcr.value).next();
    Ok(())
}

fn restore_xcr0(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    let Some(value) = state.xcr0 else { return Ok(()) };
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value, ..Default::default() };
    vcpu.fd.set_xcrs(&xcrs).host(|| format!("value {value:#x}: KVM_SET_XCRS"))
}

/// The bytes of `kvm_xsave` before its flexible end.
const XSAVE_BASE: usize = 4096;
/// x87 and SSE, and the header that says what else there is (Intel SDM 1-13.4).
const XSAVE_LEAST: usize = 512 + 64;

/// The bytes of KVM_GET_XSAVE2, or `None` where only the 4 KiB of KVM_GET_XSAVE can be had. Asked
/// of the VM once the vCPU has its CPUID: both decide.
fn xsave_size(vcpu: &KvmVcpu) -> Option<usize> {
    let ask = || usize::try_from(vcpu.vm.fd.check_extension_int(Cap::Xsave2)).unwrap_or(0);
    let size = *vcpu.xsave_size.get_or_init(ask);
    (size > 0).then_some(size)
}

fn save_xsave(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    let bytes =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let Some(size) = xsave_size(vcpu) else {
        let xsave = vcpu.fd.get_xsave().host(|| "KVM_GET_XSAVE")?;
        state.xsave = bytes(&xsave.region);
        return Ok(());
    };
    let mut xsave = xsave_buffer(size)?;
    // SAFETY: the buffer has the bytes KVM_CAP_XSAVE2 asked for.
    unsafe { vcpu.fd.get_xsave2(&mut xsave) }.host(|| "KVM_GET_XSAVE2")?;
    state.xsave = bytes(&xsave.as_fam_struct_ref().xsave.region);
    state.xsave.extend(bytes(xsave.as_slice()));
    Ok(())
}

fn restore_xsave(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    let size = xsave_size(vcpu).unwrap_or(XSAVE_BASE).max(XSAVE_BASE);
    let given = state.xsave.len();
    // A host with fewer components has a smaller area; it fits if what it lacks was never used.
    let beyond = state.xsave.get(size..).unwrap_or(&[]);
    if given < XSAVE_LEAST || !given.is_multiple_of(4) || beyond.iter().any(|byte| *byte != 0) {
        return Err(Error::incompatible(format!("{given} bytes, this host has {size}")));
    }
    if given >= size {
        return set_xsave(vcpu, &state.xsave);
    }
    let mut whole = vec![0; size];
    whole.iter_mut().zip(&state.xsave).for_each(|(to, from)| *to = *from);
    set_xsave(vcpu, &whole)
}

ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);

/// KVM_SET_XSAVE, for which `kvm-ioctls` would want a copy with the alignment of its type.
fn set_xsave(vcpu: &KvmVcpu, area: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads the bytes KVM_CAP_XSAVE2 names, or those of `kvm_xsave` on a kernel
    // without it; callers have at least so many.
    let set = unsafe { ioctl_with_ptr(&vcpu.fd, KVM_SET_XSAVE(), area.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(errno::Error::last()).host(|| "KVM_SET_XSAVE") }
}

fn xsave_buffer(size: usize) -> Result<Xsave> {
    debug_assert_eq!(size_of::<kvm_xsave>(), XSAVE_BASE);
    debug_assert!(size_of::<kvm_xsave2>() >= XSAVE_BASE);
    let extra = size.saturating_sub(XSAVE_BASE).div_ceil(4);
    Xsave::new(extra).map_err(|_| Error::internal(format!("an XSAVE area of {size} bytes")))
}

fn save_debug(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    let regs = vcpu.fd.get_debug_regs().host(|| "KVM_GET_DEBUGREGS")?;
    state.debug = convert::debug_from_kvm(&regs);
    Ok(())
}

fn restore_debug(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    vcpu.fd.set_debug_regs(&convert::debug_to_kvm(&state.debug)).host(|| "KVM_SET_DEBUGREGS")
}

/// The distance of two local APIC registers in bytes.
const LAPIC_STRIDE: usize = 16;

fn save_lapic(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    if vcpu.vm.config.irq.is_none() {
        return Ok(());
    }
    let page = vcpu.fd.get_lapic().host(|| "KVM_GET_LAPIC")?;
    let register = |bytes: &[c_char; LAPIC_STRIDE]| {
        u32::from_le_bytes([bytes[0] as u8, bytes[1] as u8, bytes[2] as u8, bytes[3] as u8])
    };
    let regs = page.regs.as_chunks().0.iter().map(register).collect();
    state.lapic = Some(Lapic { regs });
    Ok(())
}

fn restore_lapic(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    let (lapic, wanted) = match (&state.lapic, vcpu.vm.config.irq.is_some()) {
        (None, false) => return Ok(()),
        (lapic, wanted) => (lapic.as_ref(), wanted),
    };
    let Some(lapic) = lapic.filter(|lapic| wanted && lapic.regs.len() == Lapic::LEN) else {
        let got = lapic.map_or(0, |lapic| lapic.regs.len());
        let want = if wanted { Lapic::LEN } else { 0 };
        return Err(Error::incompatible(format!("{got} registers, this VM has {want}")));
    };
    let mut page = kvm_lapic_state::default();
    for (bytes, value) in page.regs.as_chunks_mut::<LAPIC_STRIDE>().0.iter_mut().zip(&lapic.regs) {
        bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from as c_char);
    }
    vcpu.fd.set_lapic(&page).host(|| "KVM_SET_LAPIC")
}

/// Two measurements of one frequency differ by less than this part of it.
const TSC_TOLERANCE: u32 = 4_000;

fn save_tsc_khz(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    state.tsc_khz = vcpu.fd.get_tsc_khz().ok().filter(|khz| *khz > 0);
    Ok(())
}

/// A guest has measured its clock, so it goes on at the same rate or not at all.
fn restore_tsc_khz(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    let Some(saved) = state.tsc_khz else { return Ok(()) };
    let Ok(now) = vcpu.fd.get_tsc_khz() else { return Ok(()) };
    if saved.abs_diff(now) <= now / TSC_TOLERANCE {
        return Ok(());
    }
    vcpu.fd.set_tsc_khz(saved).host(|| format!("{saved} kHz, this host has {now}"))
}

fn entries(indices: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs> {
    let entry = |(index, data)| kvm_msr_entry { index, data, ..Default::default() };
    let entries: Vec<_> = indices.into_iter().map(entry).collect();
    Msrs::from_entries(&entries)
        .map_err(|_| Error::incompatible(format!("{} MSRs are more than KVM takes", entries.len())))
}

/// Reads all that can be read: KVM stops at the first one it does not have for this guest, which is
/// passed over.
fn save_msrs(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    let mut rest = &*vcpu.vm.msrs;
    while !rest.is_empty() {
        let mut msrs = entries(rest.iter().map(|index| (*index, 0)))?;
        let read = vcpu.fd.get_msrs(&mut msrs).host(|| "KVM_GET_MSRS")?;
        let values = msrs.as_slice().iter().take(read);
        state.msrs.extend(values.map(|msr| MsrValue { index: msr.index, value: msr.data }));
        rest = rest.get(read + 1..).unwrap_or(&[]);
    }
    Ok(())
}

/// Writes all; where KVM stops, that one is named, unless it has the value anyway.
fn restore_msrs(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    // What is no vCPU's state is not for a snapshot to set.
    if let Some(foreign) = state.msrs.iter().find(|msr| !is_state(msr.index)) {
        return Err(Error::incompatible(format!("{:#x} is not one that is saved", foreign.index)));
    }
    let mut rest = state.msrs.as_slice();
    while !rest.is_empty() {
        let msrs = entries(rest.iter().map(|msr| (msr.index, msr.value)))?;
        let written = vcpu.fd.set_msrs(&msrs).host(|| "KVM_SET_MSRS")?;
        if let Some(refused) = rest.get(written)
            && !has_value(vcpu, refused)
        {
            let MsrValue { index, value } = refused;
            return Err(Error::incompatible(format!("{index:#x} cannot be set to {value:#x}")));
        }
        rest = rest.get(written + 1..).unwrap_or(&[]);
    }
    Ok(())
}

fn is_state(index: u32) -> bool {
    msr::STATE.contains(&index)
}

/// Whether the guest would read this value already; KVM refuses to write some that it allows to
/// read.
fn has_value(vcpu: &KvmVcpu, msr: &MsrValue) -> bool {
    let Ok(mut msrs) = entries([(msr.index, 0)]) else { return false };
    let read = vcpu.fd.get_msrs(&mut msrs);
    read == Ok(1) && msrs.as_slice().first().is_some_and(|read| read.data == msr.value)
}

fn save_events(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<()> {
    let events = vcpu.fd.get_vcpu_events().host(|| "KVM_GET_VCPU_EVENTS")?;
    state.events = convert::events_from_kvm(&events);
    Ok(())
}

fn restore_events(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<()> {
    vcpu.fd.set_vcpu_events(&convert::events_to_kvm(&state.events)).host(|| "KVM_SET_VCPU_EVENTS")
}
