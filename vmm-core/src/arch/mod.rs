//! The guest architecture as data: registers, tables, feature models, saved-state records.
//!
//! Nothing here runs anything; back ends translate these types to their own. `arch` re-exports the
//! one architecture there is, so that other modules need not name it.

pub mod x86_64;

pub use x86_64::*;
