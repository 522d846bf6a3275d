//! The back ends of this host, for what holds on each of them.

use std::sync::Arc;

use vmm_core::{hv::Hypervisor, soft::Soft};

use crate::this_host;

/// What `test` is to be done with: this host's KVM, or a line that says why it is skipped there, and
/// the software CPU.
pub(crate) fn back_end(test: &str) -> Vec<Arc<dyn Hypervisor>> {
    let kvm = this_host::kvm_for(test);
    println!("{test}: on the software CPU");
    kvm.into_iter().chain([Soft::new().expect("it is built").into()]).collect()
}
