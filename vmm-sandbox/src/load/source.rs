//! Where a program's bytes come from.

use std::{borrow::Cow, fs::File, io, os::unix::fs::FileExt, path::Path};

/// A program before it is loaded.
#[derive(Debug)]
pub(crate) enum Source {
    Bytes(Cow<'static, [u8]>),
    /// A regular file, and its length.
    File(File, u64),
}

impl Source {
    /// Opens a file; what is no regular one, such as a pipe, is read.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.len() > 0 {
            return Ok(Self::File(file, metadata.len()));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(Self::Bytes(bytes.into()))
    }

    /// A copy of a part.
    ///
    /// # Errors
    /// `UnexpectedEof` if it is not all there.
    pub(super) fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let ended = io::ErrorKind::UnexpectedEof;
        let end = at.checked_add(len).ok_or(ended)?;
        match self {
            Self::Bytes(bytes) => {
                let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
                let part = range.and_then(|(at, end)| bytes.get(at..end));
                Ok(part.ok_or(ended)?.to_vec())
            }
            Self::File(_, whole) if end > *whole => Err(ended.into()),
            Self::File(file, _) => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(len as usize)?;
                bytes.resize(len as usize, 0);
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
        }
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}
