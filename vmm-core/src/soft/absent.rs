//! The software CPU's place in a build without it.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    hv::{Caps, Hypervisor, Vm, VmConfig},
};

/// The software CPU, which this build does not have: there is no value of this type.
#[derive(Debug)]
pub enum Soft {}

impl Soft {
    /// Says that there is none.
    ///
    /// # Errors
    /// `Unsupported`, always.
    pub fn new() -> Result<Self> {
        Err(Error::unsupported("built without the software CPU (feature `soft` of vmm-core)"))
    }
}

impl Hypervisor for Soft {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn caps(&self) -> &Caps {
        match *self {}
    }

    fn create_vm(&self, _: &VmConfig) -> Result<Arc<dyn Vm>> {
        match *self {}
    }
}

impl From<Soft> for Arc<dyn Hypervisor> {
    fn from(soft: Soft) -> Self {
        match soft {}
    }
}
