//! Whether this host can run a test, said in one line that the summary counts.

use std::sync::Arc;

use vmm_core::{
    host::{self, KvmKind},
    hv::Hypervisor,
    kvm::Kvm,
};

/// This host's KVM for `test`, or a line that says why it is skipped.
pub(crate) fn kvm_for(test: &str) -> Option<Arc<dyn Hypervisor>> {
    let kind = host::probe().kvm;
    if kind == KvmKind::None {
        println!("skipped: {test}: no /dev/kvm here");
        return None;
    }
    println!("{test}: on {kind}");
    Some(Kvm::open().expect("/dev/kvm opened for the probe").into())
}
