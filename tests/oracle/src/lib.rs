//! The software CPU against the processor it runs on: the same instruction with the same registers
//! and memory on both, and what became of it compared.
//!
//! Cases are made of `iced-x86`'s instruction codes, never of random bytes: those could be system
//! calls. `oracle --help` says what the program does; `tests/` runs a slice of it.

pub mod anything;
pub mod arena;
pub mod case;
pub mod codes;
pub mod compare;
pub mod disorder;
pub mod features;
pub mod generate;
pub mod native;
pub mod operands;
pub mod ours;
pub mod program;
pub mod random;
pub mod report;
pub mod space;
pub mod survey;
