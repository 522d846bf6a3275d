//! Why the host did not answer.

use core::fmt;

/// Why a call of the host came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The function takes other arguments (`EINVAL`).
    Arguments,
    /// It was called, and its result is this many bytes long. The buffer has the first of them.
    Cut(usize),
    /// There is no sandbox around the program (`ENOSYS`).
    NoSandbox,
    /// The host has no function of this name (`ENOENT`).
    NotFound,
    /// Another error number.
    Other(i32),
    /// It was called, and its result is of another type.
    Result,
}

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const ENOSYS: i32 = 38;

impl Error {
    /// What RAX says; none if all went well.
    pub(crate) fn of(rax: i64) -> Option<Self> {
        let errno = i32::try_from(rax.checked_neg()?).ok().filter(|errno| *errno > 0)?;
        Some(match errno {
            EINVAL => Self::Arguments,
            ENOENT | ENAMETOOLONG => Self::NotFound,
            ENOSYS => Self::NoSandbox,
            errno => Self::Other(errno),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments => write!(f, "the host's function takes other arguments"),
            Self::Cut(length) => write!(f, "a result of {length} bytes is more than fits"),
            Self::NoSandbox => write!(f, "this program wants to run in a sandbox"),
            Self::NotFound => write!(f, "the host has no function of this name"),
            Self::Other(errno) => write!(f, "the host's answer is error number {errno}"),
            Self::Result => write!(f, "the result of the host's function is of another type"),
        }
    }
}

impl core::error::Error for Error {}
