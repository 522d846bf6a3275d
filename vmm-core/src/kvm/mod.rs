//! The kernel's hypervisor, `/dev/kvm` (Linux `Documentation/virt/kvm/api.rst`).
//!
//! Every KVM ioctl of this library is in this directory. A [`Kvm`] is one open `/dev/kvm` with what
//! was asked of it once: its capabilities, the processor it offers, the MSRs it saves. Whether it
//! is a good KVM is not decided here but by [`host::probe`](crate::host::probe), which measures.

/// Two conversions between structures whose fields have the same names.
macro_rules! same_fields {
    ($to:ident, $from:ident: $kvm:ident <=> $ours:ident { $($field:ident),* $(,)? }) => {
        pub(in crate::kvm) fn $to(ours: &$ours) -> $kvm {
            $kvm { $($field: ours.$field),* }
        }

        pub(in crate::kvm) fn $from(kvm: &$kvm) -> $ours {
            $ours { $($field: kvm.$field),* }
        }
    };
}

mod alarm;
mod chips;
mod convert;
mod run_page;
mod state;
mod vcpu;
mod vm;

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE};
use kvm_ioctls::Cap;

use self::vm::KvmVm;
use crate::{
    arch::{CpuModel, Feature, msr},
    error::{Error, ErrorKind, HostResult, Result},
    hv::{Caps, Hypervisor, Vm, VmConfig},
};

/// The version of the interface, unchanged since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Without these nothing here works; every kernel since 4.13 has them.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
];

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    caps: Caps,
    shared: Shared,
}

/// What making a VM needs.
#[derive(Debug)]
struct Shared {
    kvm: kvm_ioctls::Kvm,
    can_disable_pmu: bool,
    /// The MSRs of [`msr::STATE`] that this kernel has.
    msrs: Arc<[u32]>,
    max_slots: u32,
}

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// `NoHypervisor` if it is not there, may not be opened or is no KVM, with what to do about it;
    /// `Unsupported` if the kernel is too old.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new("/dev/kvm"))
    }

    /// Opens a KVM at another path, as containers may have it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::bad_config(format!("{path:?}: a path cannot contain NUL")))?;
        let kvm = kvm_ioctls::Kvm::new_with_path(name)
            .map_err(|error| cannot_open(path, error.errno()))?;
        check_version(path, kvm.get_api_version())?;
        let missing = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap));
        if let Some((_, name)) = missing {
            return Err(Error::unsupported(format!("{}: no {name}", path.display())));
        }
        let caps = caps(&kvm)?;
        let (max_slots, can_disable_pmu) = (caps.max_slots, can_disable_pmu(&kvm));
        let shared = Shared { msrs: state_msrs(&kvm)?, kvm, max_slots, can_disable_pmu };
        Ok(Self { caps, shared })
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        let (count, most) = (config.vcpus, self.caps.max_vcpus);
        if !(1..=most).contains(&count) {
            return Err(Error::bad_config(format!("VM with {count} vCPUs: KVM has 1 to {most}")));
        }
        Ok(Arc::new(KvmVm::new(&self.shared, config)?))
    }
}

impl From<Kvm> for Arc<dyn Hypervisor> {
    fn from(kvm: Kvm) -> Self {
        Arc::new(kvm)
    }
}

/// Why a path cannot be opened as a KVM, and what to do about it.
fn cannot_open(path: &Path, errno: i32) -> Error {
    let reason = std::io::Error::from_raw_os_error(errno);
    let advice = match errno {
        libc::EACCES | libc::EPERM => {
            "add yourself to the group that owns it (usually: sudo usermod -aG kvm $USER) and log in \
             again"
        }
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "load the module (modprobe kvm_intel or kvm_amd), switch virtualization on in the \
             firmware, or give the container the device (--device /dev/kvm)"
        }
        libc::EMFILE | libc::ENFILE => "raise the limit of open files (ulimit -n)",
        _ => "see the kernel log",
    };
    let message = format!("{}: {reason}; {advice}", path.display());
    Error::new(ErrorKind::NoHypervisor, message)
}

fn check_version(path: &Path, version: i32) -> Result<()> {
    let path = PathBuf::from(path);
    let path = path.display();
    let message = match version {
        API_VERSION => return Ok(()),
        n if n < 0 => {
            format!("{path} opens, but it is not KVM: KVM_GET_API_VERSION is not answered")
        }
        n => format!("{path} has KVM API version {n}, not {API_VERSION}"),
    };
    Err(Error::new(ErrorKind::NoHypervisor, message))
}

/// The kernel lists the MSRs it saves, but for some that it has always had. To ask for others would
/// fill its log.
fn state_msrs(kvm: &kvm_ioctls::Kvm) -> Result<Arc<[u32]>> {
    let known = kvm.get_msr_index_list().host(|| "asking KVM for its MSRs")?;
    let has = |index: &&u32| msr::is_mtrr(**index) || known.as_slice().contains(index);
    Ok(msr::STATE.iter().filter(has).copied().collect())
}

/// Whether VMs can be made without performance counters. Some of AMD's have no CPUID bit, so a
/// guest would use them and lose them when it is saved.
fn can_disable_pmu(kvm: &kvm_ioctls::Kvm) -> bool {
    let capabilities = kvm.check_extension_raw(u64::from(KVM_CAP_PMU_CAPABILITY));
    u32::try_from(capabilities).is_ok_and(|bits| bits & KVM_PMU_CAP_DISABLE != 0)
}

fn caps(kvm: &kvm_ioctls::Kvm) -> Result<Caps> {
    let irq = kvm.check_extension(Cap::Irqchip);
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).host(|| "asking KVM for its CPUID")?;
    let leaves = supported.as_slice().iter().map(convert::cpuid_from_kvm).collect();
    let mut cpu = CpuModel::from_leaves(leaves).restrict().with(Feature::HYPERVISOR);
    // KVM emulates the deadline timer itself, and many versions leave its bit to whoever asks for
    // the capability.
    if irq && kvm.check_extension(Cap::TscDeadlineTimer) {
        cpu = cpu.with(Feature::TSC_DEADLINE);
    }
    Ok(Caps {
        max_vcpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX),
        max_slots: u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX),
        irq,
        doorbells: kvm.check_extension(Cap::Ioeventfd),
        dirty_log: true,
        read_only: kvm.check_extension(Cap::ReadonlyMem),
        cpu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_kvm_is_told_apart() {
        let error = Kvm::open_at(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHypervisor);
        assert!(error.to_string().contains("it is not KVM"), "{error}");
    }

    #[test]
    fn a_missing_node_comes_with_advice() {
        let error = Kvm::open_at(Path::new("/dev/no-such-kvm")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHypervisor);
        assert!(error.to_string().contains("modprobe"), "{error}");
        assert!(cannot_open(Path::new("/dev/kvm"), libc::EACCES).to_string().contains("usermod"));
    }
}
