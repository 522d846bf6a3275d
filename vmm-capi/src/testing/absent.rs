//! What tests inject, in a build without it: nothing.

use std::sync::Arc;

use vmm_core::hv::Hypervisor;

/// A place where a test may want a panic.
#[inline(always)]
pub(crate) fn point() {}

/// A back end that only tests have.
pub(crate) fn hypervisor(_name: &str) -> Option<Arc<dyn Hypervisor>> {
    None
}
