//! The choice of a back end.

use std::sync::Arc;

use vmm_core::{
    Result,
    host::{self, Need},
    hv::Hypervisor,
};

use crate::testing;

/// A back end, and why it is that one.
pub(crate) struct Chosen {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) reason: String,
}

/// The back end of that name; for none and `auto` the best for the need.
pub(crate) fn choose(name: Option<&str>, need: Need) -> Result<Chosen> {
    if let Some(hypervisor) = name.and_then(testing::hypervisor) {
        return Ok(Chosen { hypervisor, reason: "for a test".to_owned() });
    }
    let choice = match name {
        Some("auto") | None => host::best(need)?,
        Some(name) => host::named(name)?,
    };
    Ok(Chosen { hypervisor: Arc::clone(choice.hypervisor()), reason: choice.reason().to_owned() })
}
