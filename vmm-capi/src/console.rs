//! Consoles over virtio, and who is at their other end.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use vmm_core::{Error, Result};
use vmm_devices::{Console, ConsoleHandle, Peer, Stream};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Exclusive, Shared, guard},
    pass,
    user::User,
};

/// The host's end of one port of a console. It serves one port, and is freed afterwards.
pub struct vmm_peer(Exclusive<Option<Box<dyn Peer>>>);

impl vmm_peer {
    fn new(peer: impl Peer) -> Self {
        Self(Exclusive::new("peer", Some(Box::new(peer))))
    }

    fn take(&self) -> Result<Taken> {
        self.0.use_up("peer: it serves another port", |peer| Ok(Taken(peer)))
    }
}

/// One that a port has.
struct Taken(Box<dyn Peer>);

impl Peer for Taken {
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data)
    }

    fn receive(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.0.receive(data)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.0.readable()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.0.writable()
    }

    fn opened(&mut self, is_open: bool) {
        self.0.opened(is_open);
    }
}

/// What comes from the descriptor `input` goes to the guest, what the guest sends to `output`: a
/// terminal, pipes, sockets, files. -1 for no input. Nobody else should use them. VMM_STATUS_HOST if
/// they are not open. Freed with vmm_peer_free when a console has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_peer_stream(
    input: i32,
    output: i32,
    peer: *mut *mut vmm_peer,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(peer, "peer", std::ptr::null_mut())?;
            let writer = File::from(pass::descriptor(output, "console output")?);
            let made = match input {
                -1 => vmm_peer::new(Stream::output(writer)),
                fd => {
                    let reader = File::from(pass::descriptor(fd, "console input")?);
                    vmm_peer::new(Stream::new(reader, writer))
                }
            };
            pass::fill(peer, "peer", pass::give(made))
        })
    }
}

/// What a peer of the caller's own does: called on a thread of the machine, one call at a time. It
/// must not block.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct vmm_peer_ops {
    /// sizeof(vmm_peer_ops).
    pub struct_size: usize,
    /// Takes some of what the guest sends; gives how many bytes. -EAGAIN if there is no room: the
    /// rest comes again when the descriptor `writable` is ready, and is lost without one. After
    /// another negative errno all output is dropped. Must not be NULL.
    pub send:
        Option<unsafe extern "C" fn(user: *mut c_void, data: *const u8, size: usize) -> isize>,
    /// Gives some of what the guest is to receive: how many bytes, 0 if there will never be more,
    /// -EAGAIN if there is nothing now, until the descriptor `readable` is ready. NULL if there is
    /// never any.
    pub receive:
        Option<unsafe extern "C" fn(user: *mut c_void, data: *mut u8, size: usize) -> isize>,
    /// A program in the guest has opened the port, or closed it; known of named ports only.
    pub opened: Option<unsafe extern "C" fn(user: *mut c_void, is_open: bool)>,
    /// The library is done with `user`.
    pub drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

/// A peer of the caller's own.
struct Own {
    ops: vmm_peer_ops,
    readable: Option<OwnedFd>,
    writable: Option<OwnedFd>,
    user: User,
}

/// A count of at most `most`, or an errno.
fn count(answer: isize, most: usize) -> io::Result<usize> {
    match usize::try_from(answer) {
        Ok(count) if count <= most => Ok(count),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(_) => {
            let errno = i32::try_from(answer.saturating_neg()).unwrap_or(i32::MAX);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

impl Peer for Own {
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        let send = self.ops.send.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: the caller's function with the caller's pointer, and bytes that live as long as
        // the call.
        count(unsafe { send(self.user.pointer, data.as_ptr(), data.len()) }, data.len())
    }

    fn receive(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let Some(receive) = self.ops.receive else { return Ok(0) };
        // SAFETY: as above.
        count(unsafe { receive(self.user.pointer, data.as_mut_ptr(), data.len()) }, data.len())
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.readable.as_ref().map(AsFd::as_fd)
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.writable.as_ref().map(AsFd::as_fd)
    }

    fn opened(&mut self, is_open: bool) {
        if let Some(opened) = self.ops.opened {
            // SAFETY: as above.
            unsafe { opened(self.user.pointer, is_open) };
        }
    }
}

/// Makes a peer of the caller's functions. `readable` is a descriptor that can be read while
/// `receive` has something to give, `writable` one that can be written when `send` has room; -1 for
/// neither: without `readable` nothing is received. If this fails, `user` stays the caller's: `drop` is
/// not called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_peer_new(
    ops: *const vmm_peer_ops,
    readable: i32,
    writable: i32,
    user: *mut c_void,
    peer: *mut *mut vmm_peer,
    error: *mut *mut vmm_error,
) -> vmm_status {
    let descriptor =
        |fd, what| if fd == -1 { Ok(None) } else { pass::descriptor(fd, what).map(Some) };
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(peer, "peer", std::ptr::null_mut())?;
            let ops = pass::ops(ops, size_of::<vmm_peer_ops>())?;
            if ops.send.is_none() {
                return Err(Error::bad_config("ops: send is NULL"));
            }
            let readable = descriptor(readable, "readable")?;
            let writable = descriptor(writable, "writable")?;
            let user = User { pointer: user, drop: ops.drop };
            let made = vmm_peer::new(Own { ops, readable, writable, user });
            pass::fill(peer, "peer", pass::give(made))
        })
    }
}

/// Frees the caller's hold on a peer; a console that has it keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_peer_free(peer: *mut vmm_peer) {
    // SAFETY: the header's rules.
    unsafe { pass::free(peer) };
}

/// A console over virtio, which Linux calls /dev/hvc0, with named ports beside it. It is given to one
/// machine; then it changes what the machine has.
pub struct vmm_console {
    handle: Shared<ConsoleHandle>,
    /// Until a machine has it: the device, or what was wrong.
    console: Exclusive<Option<Result<Console>>>,
}

impl vmm_console {
    /// For a machine; a console is in one at most.
    pub(crate) fn plug(&self) -> Result<Console> {
        self.console.use_up("console: it was given to a machine before", |console| console)
    }
}

/// Makes a console with this peer at its other end. VMM_STATUS_WRONG_STATE if the peer serves another
/// port.
///
///     vmm_peer_stream(0, 1, &peer, NULL);          // The terminal.
///     vmm_console_new(peer, &console, NULL);
///     vmm_peer_free(peer);
///     vmm_config_add_console(config, console);
///     vmm_console_free(console);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_console_new(
    peer: *mut vmm_peer,
    console: *mut *mut vmm_console,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(console, "console", std::ptr::null_mut())?;
            let made = Console::new(pass::object(peer, "peer")?.take()?)?;
            let made = vmm_console {
                handle: Shared::new("console", made.handle()),
                console: Exclusive::new("console", Some(Ok(made))),
            };
            pass::fill(console, "console", pass::give(made))
        })
    }
}

/// Frees the caller's hold on a console; a machine that has it keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_console_free(console: *mut vmm_console) {
    // SAFETY: the header's rules.
    unsafe { pass::free(console) };
}

/// Room for so many named ports, at most 30, before a machine has the console. Without this there is
/// none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_console_set_room(console: *mut vmm_console, ports: u32) {
    // SAFETY: the header's rules.
    if let Some(console) = unsafe { console.as_ref() } {
        console.console.change(|console| {
            let used = Err(Error::internal("console: a setting panicked"));
            *console = std::mem::replace(console, used).and_then(|it| it.room(ports as usize));
        });
    }
}

/// One more port, for which there is room; Linux has it as /dev/virtio-ports/NAME. Also while the
/// guest runs, which is told. VMM_STATUS_BAD_CONFIG if the name is empty or the room is taken,
/// VMM_STATUS_WRONG_STATE if the peer serves another port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_console_add_port(
    console: *mut vmm_console,
    name: *const c_char,
    peer: *mut vmm_peer,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let console = pass::object(console, "console")?;
            let name = pass::text(name, "name")?;
            let peer = pass::object(peer, "peer")?.take()?;
            console.handle.with(|handle| handle.add_port(name, peer))
        })
    }
}

/// How large it is, in characters; the guest is told, also while it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_console_resize(
    console: *mut vmm_console,
    columns: u16,
    rows: u16,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let console = pass::object(console, "console")?;
            console.handle.with(|handle| {
                handle.resize(columns, rows);
                Ok(())
            })
        })
    }
}
