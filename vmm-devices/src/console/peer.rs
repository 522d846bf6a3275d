//! The host's end of a port: what takes the guest's output and has its input.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_core::{Error, Result};

/// The host's end of a port. An embedder's own is as good as those that are here.
///
/// Called on the machine's reactor, an emergency write (section 5.3.5) on the thread of a vCPU; one
/// call at a time. Nothing here waits: all other devices of the machine would wait with it.
///
/// ```
/// use std::{io, sync::{Arc, Mutex}};
/// use vmm_devices::{Console, Peer};
///
/// /// Counts the lines that a guest prints.
/// struct Lines(Arc<Mutex<usize>>);
///
/// impl Peer for Lines {
///     fn send(&mut self, data: &[u8]) -> io::Result<usize> {
///         *self.0.lock().unwrap() += data.iter().filter(|byte| **byte == b'\n').count();
///         Ok(data.len())
///     }
/// }
///
/// # fn main() -> vmm_core::Result<()> {
/// # use vmm_core::virtio::testing::Driver;
/// let lines = Arc::default();
/// let mut driver = Driver::new(Console::new(Lines(Arc::clone(&lines)))?)?;
/// driver.start(0)?;
/// driver.submit(1, &[b"one\ntwo\n"], &[])?;
/// driver.wait(1)?;
/// assert_eq!(*lines.lock().unwrap(), 2);
/// # Ok(())
/// # }
/// ```
pub trait Peer: Send + 'static {
    /// Takes some of what the guest sends, at most 4,096 bytes a call; returns how many.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room: what is left comes again when
    /// [`writable`](Self::writable) says so, and is lost if that is `None`. After another error,
    /// `Interrupted` excepted, the guest's output is dropped, with a message to the log.
    fn send(&mut self, data: &[u8]) -> io::Result<usize>;

    /// Gives some of what the guest is to receive; returns how many bytes, and 0 if there will
    /// never be more. Asked for only if there is a [`readable`](Self::readable).
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing now. After another error, `Interrupted` excepted, there is
    /// no more input, with a message to the log.
    fn receive(&mut self, _data: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// What can be read while [`receive`](Self::receive) has something to give; copied, once. `None`
    /// if that is never.
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What can be written when [`send`](Self::send) has room again; copied, once.
    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A program in the guest has opened the port, or closed it; known of named ports only.
    fn opened(&mut self, _is_open: bool) {}
}

/// A reader and a writer with descriptors: terminal, pipes, sockets, files.
///
/// They may be such as block: they are used only when they are ready, a page at a time. Nobody else
/// should read from or write to the same, and nothing may be held back in a buffer of its own.
pub struct Stream<R, W> {
    reader: Option<R>,
    writer: W,
}

impl<R: Read + AsFd + Send + 'static, W: Write + AsFd + Send + 'static> Stream<R, W> {
    /// What `reader` has goes to the guest, what the guest sends to `writer`.
    pub fn new(reader: R, writer: W) -> Self {
        Self { reader: Some(reader), writer }
    }
}

impl<W: Write + AsFd + Send + 'static> Stream<File, W> {
    /// What the guest sends goes to `writer`; there is no input.
    pub fn output(writer: W) -> Self {
        Self { reader: None, writer }
    }
}

impl Stream<File, File> {
    /// This process's standard input and output. A terminal is left in the mode it is in; raw, it
    /// gives the guest each key.
    ///
    /// # Errors
    /// `Host` if they cannot be copied.
    pub fn stdio() -> Result<Self> {
        // Without the buffers of `io::stdin` and `io::stdout`.
        let file = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        let (reader, writer) = (file(io::stdin().as_fd()), file(io::stdout().as_fd()));
        let failed = |error: io::Error| {
            let errno = error.raw_os_error().unwrap_or_default();
            Error::host("copying standard input and output", errno)
        };
        Ok(Self::new(reader.map_err(failed)?, writer.map_err(failed)?))
    }
}

/// Whether the descriptor is ready, or has something to say of its end.
fn is_ready(fd: impl AsFd, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, flags)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? > 0)
}

impl<R, W> Peer for Stream<R, W>
where
    R: Read + AsFd + Send + 'static,
    W: Write + AsFd + Send + 'static,
{
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        // A pipe that is ready has room for a page, and so much at once is all it is given.
        if !is_ready(&self.writer, PollFlags::OUT)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let sent = self.writer.write(data)?;
        self.writer.flush()?;
        Ok(sent)
    }

    fn receive(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        if !is_ready(&*reader, PollFlags::IN)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        reader.read(data)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.reader.as_ref().map(AsFd::as_fd)
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.writer.as_fd())
    }
}

impl<R, W> fmt::Debug for Stream<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("has_input", &self.reader.is_some()).finish_non_exhaustive()
    }
}
