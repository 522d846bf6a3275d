//! Where an image comes from: a file, or bytes; always under a name for errors.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use vm_memory::Bytes;

use crate::{
    error::{Error, HostResult, Result},
    memory::{ByteValued, GuestAddress, GuestMemory},
};

/// An image to be loaded: the path of a file, or bytes.
#[derive(Clone)]
pub struct Image(Source);

#[derive(Clone)]
enum Source {
    Bytes(Arc<[u8]>),
    Path(PathBuf),
}

impl Image {
    /// Bytes that are there already.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(Source::Bytes(bytes.into()))
    }

    /// A file, opened when it is loaded and copied into the guest.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self(Source::Path(path.into()))
    }

    /// Opens it for reading.
    pub(super) fn open(&self) -> Result<Opened> {
        let name = self.to_string();
        let opened = match &self.0 {
            Source::Bytes(bytes) => {
                Opened { name, len: bytes.len() as u64, data: Data::Bytes(Arc::clone(bytes)) }
            }
            Source::Path(path) => {
                let file = File::open(path).host(|| &name)?;
                let metadata = file.metadata().host(|| &name)?;
                if !metadata.is_file() {
                    return Err(Error::bad_image(format!("{name}: not a regular file")));
                }
                Opened { name, len: metadata.len(), data: Data::File(file) }
            }
        };
        Ok(opened)
    }
}

impl<P: Into<PathBuf>> From<P> for Image {
    fn from(path: P) -> Self {
        Self::path(path)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Bytes(bytes) => write!(f, "image of {} bytes", bytes.len()),
            Source::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({self})")
    }
}

/// An open image.
#[derive(Debug)]
pub(super) struct Opened {
    name: String,
    len: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Bytes(Arc<[u8]>),
    File(File),
}

impl Opened {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A `BadImage` error that names the image.
    pub(super) fn bad(&self, why: impl fmt::Display) -> Error {
        Error::bad_image(format!("{}: {why}", self.name))
    }

    /// The message of such an error without the name.
    pub(super) fn without_name(&self, error: &Error) -> String {
        let message = error.to_string();
        let rest = message.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix(": "));
        rest.unwrap_or(&message).to_owned()
    }

    /// Reads the structure `what` at `offset`.
    pub(super) fn read<T: ByteValued>(&mut self, offset: u64, what: &str) -> Result<T> {
        let mut value = T::zeroed();
        self.fill(offset, value.as_mut_slice(), what)?;
        Ok(value)
    }

    /// Fills `data` with what is at `offset`.
    pub(super) fn fill(&mut self, offset: u64, data: &mut [u8], what: &str) -> Result<()> {
        self.check(offset, data.len() as u64, what)?;
        match &mut self.data {
            Data::Bytes(bytes) => {
                let from = offset as usize;
                data.copy_from_slice(bytes.get(from..from + data.len()).unwrap_or(&[]));
                Ok(())
            }
            Data::File(file) => {
                let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(data));
                read.host(|| format!("{}: {what}", self.name))
            }
        }
    }

    /// Copies `len` bytes at `offset` straight into guest memory at `to`.
    pub(super) fn copy(
        &mut self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        to: GuestAddress,
        what: &str,
    ) -> Result<()> {
        self.check(offset, len, what)?;
        let view = memory.view();
        let size = usize::try_from(len).map_err(|_| self.bad(format!("{what}: too large")))?;
        let copied = match &mut self.data {
            Data::Bytes(bytes) => {
                let from = offset as usize;
                view.write_slice(bytes.get(from..from + size).unwrap_or(&[]), to)
            }
            Data::File(file) => {
                file.seek(SeekFrom::Start(offset)).host(|| format!("{}: {what}", self.name))?;
                view.read_exact_volatile_from(to, file, size)
            }
        };
        copied.map_err(|error| {
            let to = to.0;
            self.bad(format!("{what}: {len:#x} bytes to guest address {to:#x}: {error}"))
        })
    }

    fn check(&self, offset: u64, len: u64, what: &str) -> Result<()> {
        let end = offset.checked_add(len);
        if end.is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        Err(self.bad(format!(
            "{what} is {len:#x} bytes at offset {offset:#x}, but the image ends at {:#x}",
            self.len
        )))
    }
}
