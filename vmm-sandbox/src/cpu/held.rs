//! A vCPU that can be taken from its owner when that is dropped.

use std::ops::{Deref, DerefMut};

use vmm_core::hv::Vcpu;

pub(super) struct Held(Option<Box<dyn Vcpu>>);

impl Held {
    pub(super) fn new(vcpu: Box<dyn Vcpu>) -> Self {
        Self(Some(vcpu))
    }

    /// Takes it, for ever.
    pub(super) fn take(&mut self) -> Option<Box<dyn Vcpu>> {
        self.0.take()
    }
}

impl Deref for Held {
    type Target = dyn Vcpu + 'static;

    #[inline]
    #[expect(clippy::expect_used, reason = "only drop takes it out")]
    fn deref(&self) -> &(dyn Vcpu + 'static) {
        self.0.as_deref().expect("a sandbox that is not dropped has its vCPU")
    }
}

impl DerefMut for Held {
    #[inline]
    #[expect(clippy::expect_used, reason = "only drop takes it out")]
    fn deref_mut(&mut self) -> &mut (dyn Vcpu + 'static) {
        self.0.as_deref_mut().expect("a sandbox that is not dropped has its vCPU")
    }
}
