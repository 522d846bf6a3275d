//! Standard input and output of a program: the caller's buffers, files and writers.

mod channel;

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;
use vmm_core::Result as CoreResult;

use self::channel::Channel;
use crate::files::{About, Copied, Copies, File, Handle, Ready, SavedFile, Saver, Status};

/// Where a program's standard input comes from.
#[derive(Debug, Default)]
pub struct Input(Source);

#[derive(Debug, Default)]
enum Source {
    #[default]
    Empty,
    Bytes(io::Cursor<Arc<[u8]>>),
    File(Arc<Channel>),
}

impl Input {
    /// Nothing: the program finds the end of the file.
    pub fn empty() -> Self {
        Self::default()
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Source::Bytes(io::Cursor::new(bytes.into().into())))
    }
}

impl From<OwnedFd> for Input {
    /// A pipe, a socket, a file, a terminal. A read that waits there is ended by time limits and
    /// [`Canceller`](crate::Canceller)s.
    ///
    /// A terminal is read as by any program: if the process is in the background there when there
    /// is input, `SIGTTIN` stops it; where the thread blocks or ignores that signal, the program is
    /// told `EIO`.
    fn from(fd: OwnedFd) -> Self {
        Self::from(fs::File::from(fd))
    }
}

impl From<fs::File> for Input {
    /// As for a descriptor.
    fn from(file: fs::File) -> Self {
        Self(Source::File(Arc::new(Channel::new(file))))
    }
}

impl From<&str> for Input {
    /// The bytes of the text.
    fn from(text: &str) -> Self {
        Self::bytes(text)
    }
}

/// Where a program's standard output or standard error goes.
pub struct Output {
    sink: Sink,
    /// The descriptor it starts as.
    number: u8,
}

enum Sink {
    /// Kept for the caller to take.
    Captured(Arc<Mutex<Vec<u8>>>),
    File(Arc<Channel>),
    Writer(Arc<Mutex<dyn Write + Send>>),
}

/// What was captured so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The buffer of another sandbox, which starts empty.
    pub(crate) fn copy(&self, copies: &mut Copies) -> CoreResult<Self> {
        copies.once(&self.0, |_| Ok(Arc::default())).map(Self)
    }

    /// Takes it; what comes later is captured anew.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.lock())
    }
}

impl Output {
    /// Kept in memory, up to the limit of all output, until it is taken
    /// ([`Sandbox::take_stdout`](crate::Sandbox::take_stdout)).
    pub fn capture() -> Self {
        Self::to(Sink::Captured(Arc::default()))
    }

    /// To a writer, on the sandbox's thread. One that waits keeps the sandbox waiting.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::to(Sink::Writer(Arc::new(Mutex::new(writer))))
    }

    fn to(sink: Sink) -> Self {
        Self { sink, number: 1 }
    }

    /// The same as standard output (1) or standard error (2).
    pub(crate) fn numbered(self, number: u8) -> Self {
        Self { number, ..self }
    }

    /// What is captured, now and later; stays empty if nothing is.
    pub(crate) fn captured(&self) -> Capture {
        match &self.sink {
            Sink::Captured(bytes) => Capture(Arc::clone(bytes)),
            Sink::File(_) | Sink::Writer(_) => Capture::default(),
        }
    }
}

impl Default for Output {
    /// Captured.
    fn default() -> Self {
        Self::capture()
    }
}

impl From<OwnedFd> for Output {
    /// To a pipe, a socket, a file, a terminal. A write that waits there is ended by time limits and
    /// [`Canceller`](crate::Canceller)s. One to a pipe that nobody reads any more is `EPIPE` for the
    /// program, and no signal for the process.
    fn from(fd: OwnedFd) -> Self {
        Self::from(fs::File::from(fd))
    }
}

impl From<fs::File> for Output {
    /// As for a descriptor.
    fn from(file: fs::File) -> Self {
        Self::to(Sink::File(Arc::new(Channel::new(file))))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.sink {
            Sink::Captured(_) => "Output(captured)",
            Sink::File(_) => "Output(file)",
            Sink::Writer(_) => "Output(writer)",
        })
    }
}

impl File for Input {
    fn read(&mut self, data: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.0 {
            Source::Empty => Ok(0),
            Source::Bytes(bytes) => bytes.read(data).map_err(|error| errno(&error)),
            Source::File(file) => file.read(data),
        }
    }

    fn write(&mut self, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::BADF)
    }

    fn ready(&self) -> Ready<'_> {
        let ask = match &self.0 {
            Source::File(file) => file.ask(),
            Source::Bytes(_) | Source::Empty => None,
        };
        Ready { ask, ..Ready::ALWAYS }
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(Status::PIPE)
    }

    fn about(&self) -> About<'_> {
        About::stream(libc::O_RDONLY)
    }
}

impl Copied for Input {
    /// Bytes are read by each sandbox on its own, a descriptor by all together.
    fn copy(&self, _: &mut Copies) -> CoreResult<Handle> {
        Ok(Handle::new(Self(match &self.0 {
            Source::Empty => Source::Empty,
            Source::Bytes(bytes) => Source::Bytes(bytes.clone()),
            Source::File(file) => Source::File(Arc::clone(file)),
        })))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedFile> {
        Ok(SavedFile::Stream(0))
    }
}

impl File for Output {
    fn read(&mut self, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::BADF)
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        match &mut self.sink {
            Sink::Captured(bytes) => {
                bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
            }
            Sink::File(file) => return file.write(data),
            Sink::Writer(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer
                    .write_all(data)
                    .and_then(|()| writer.flush())
                    .map_err(|error| errno(&error))?;
            }
        }
        Ok(data.len())
    }

    fn ready(&self) -> Ready<'_> {
        let ask = match &self.sink {
            Sink::File(file) => file.ask(),
            Sink::Captured(_) | Sink::Writer(_) => None,
        };
        Ready { ask, ..Ready::ALWAYS }
    }

    fn status(&self) -> Result<Status, Errno> {
        Ok(Status::PIPE)
    }

    fn about(&self) -> About<'_> {
        About { is_output: true, ..About::stream(libc::O_WRONLY) }
    }
}

impl Copied for Output {
    /// Each sandbox has a buffer of its own, a writer is used by all.
    fn copy(&self, copies: &mut Copies) -> CoreResult<Handle> {
        let sink = match &self.sink {
            Sink::Captured(bytes) => Sink::Captured(Capture(Arc::clone(bytes)).copy(copies)?.0),
            Sink::File(file) => Sink::File(Arc::clone(file)),
            Sink::Writer(writer) => Sink::Writer(Arc::clone(writer)),
        };
        Ok(Handle::new(Self { sink, number: self.number }))
    }

    fn save(&self, _: &mut Saver) -> CoreResult<SavedFile> {
        Ok(SavedFile::Stream(self.number))
    }
}

/// The host's reason, as a program may see it.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
