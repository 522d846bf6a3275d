//! Control registers, segments and what else is the system's.

/// The registers that only the system changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct System {
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    /// The current privilege level.
    pub(crate) cpl: u8,
    pub(crate) dr6: u64,
}

impl System {
    /// What code is decoded for, beside its bytes.
    pub(crate) fn mode(&self) -> u16 {
        u16::from(self.cpl == 3)
    }
}
