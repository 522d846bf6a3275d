//! The CPU's state, as whoever drives it gives and takes it.

/// State.
#[derive(Clone, Debug, Default)]
pub struct State {}
