//! What stands in the way of a snapshot that is to go on somewhere.

use std::fmt;

/// A reason why a snapshot would not run as it did where it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The program was granted a directory of the host at this path, and is not now, or may only
    /// read it now, or finds one where its own files were.
    Directory(String),
    /// It may have seen this feature of the processor, which is not to be had here.
    Feature(String),
    /// It could call this function of the host, which was not given.
    Function(String),
    /// It has something in these state components of XSAVE (bits of XCR0), which are not to be had
    /// here, or lie at another place.
    Registers(u64),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "no directory is granted at {path} as there was"),
            Self::Feature(name) => write!(f, "the processor has no {name}"),
            Self::Function(name) => write!(f, "no host function {name:?} was given"),
            Self::Registers(bits) => {
                write!(f, "registers of state components {bits:#x} are in use")
            }
        }
    }
}
