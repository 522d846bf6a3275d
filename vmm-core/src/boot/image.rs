//! Where an image comes from: a file, or bytes; always under a name for errors.

use std::{
    fmt,
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use vm_memory::Bytes;

use crate::{
    error::{Error, HostResult, Result},
    memory::{ByteValued, GuestAddress, GuestMemory},
};

/// What is copied, or not, at once: a huge page's part of guest memory.
const BLOCK: u64 = 2 << 20;

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
        self.data.fill(offset, data).host(|| format!("{}: {what}", self.name))
    }

    /// Copies `len` bytes at `offset` straight into guest memory at `to`. What are zeros there is
    /// not copied: kernels bring megabytes of them, which then take no memory before the guest
    /// touches them.
    pub(super) fn copy(
        &mut self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        to: GuestAddress,
        what: &str,
    ) -> Result<()> {
        self.check(offset, len, what)?;
        let refuse = |error: &dyn fmt::Display| {
            let to = to.0;
            self.bad(format!("{what}: {len:#x} bytes to guest address {to:#x}: {error}"))
        };
        if len > 0 && !memory.has(to, len) {
            return Err(refuse(&"not all of it is RAM"));
        }
        let mut done = 0;
        while done < len {
            let at = GuestAddress(to.0 + done);
            let part = (len - done).min(BLOCK - at.0 % BLOCK);
            let offset = offset + done;
            let is_zero = self.data.is_zero(offset, part);
            if is_zero.host(|| format!("{}: {what}", self.name))? {
                memory.zero(at, part)?;
            } else {
                self.data.copy(offset, part, memory, at).map_err(|error| refuse(&error))?;
            }
            done += part;
        }
        Ok(())
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

impl Data {
    fn fill(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => {
                data.copy_from_slice(part(bytes, offset, data.len())?);
                Ok(())
            }
            Self::File(file) => file.read_exact_at(data, offset),
        }
    }

    /// Whether `len` bytes at `offset` are zeros. Reads on only from a page of them.
    fn is_zero(&self, mut offset: u64, len: u64) -> io::Result<bool> {
        const ZEROS: [u8; 0x1000] = [0; 0x1000];
        let end = offset + len;
        let mut buffer = ZEROS;
        while offset < end {
            let size = (end - offset).min(buffer.len() as u64);
            let bytes = &mut buffer[..size as usize];
            self.fill(offset, bytes)?;
            // Compared as a whole, which is many times faster than byte by byte.
            if *bytes != ZEROS[..size as usize] {
                return Ok(false);
            }
            offset += size;
        }
        Ok(true)
    }

    fn copy(
        &self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        to: GuestAddress,
    ) -> io::Result<()> {
        let (view, len) = (memory.view(), len as usize);
        let copied = match self {
            Self::Bytes(bytes) => view.write_slice(part(bytes, offset, len)?, to),
            Self::File(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                view.read_exact_volatile_from(to, &mut file, len)
            }
        };
        copied.map_err(io::Error::other)
    }
}

/// `len` of `bytes` from `offset` on.
fn part(bytes: &[u8], offset: u64, len: usize) -> io::Result<&[u8]> {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    rest.and_then(|rest| rest.get(..len)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
