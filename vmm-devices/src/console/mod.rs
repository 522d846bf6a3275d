//! A console (virtio 1.2, section 5.3): what Linux calls `/dev/hvc0`, and named ports beside it.
//!
//! [`Console`] is the device. At the host's end of each port is a [`Peer`]: a [`Stream`] of
//! descriptors, such as a terminal, a [`Channel`] within this process, or an embedder's own. Bytes
//! move on the machine's reactor, and only as fast as the slower side takes them: input is not read
//! before the guest has room, output waits in the guest's own buffers. With further ports
//! ([`port`](Console::port), [`room`](Console::room)) the driver is told of each by name, also of
//! those that are [added](ConsoleHandle::add_port) while it runs; Linux has them as
//! `/dev/virtio-ports/NAME`.
//!
//! ```
//! use vmm_core::virtio::testing::Driver;
//! use vmm_devices::Console;
//!
//! # fn main() -> vmm_core::Result<()> {
//! let (console, input, output) = Console::capture()?;
//! let mut driver = Driver::new(console.size(80, 25))?; // columns, rows
//! driver.start(0)?;
//! driver.submit(1, &[b"login: "], &[])?;
//! driver.wait(1)?;
//! assert_eq!(output.text(), "login: ");
//! assert_eq!(input.send(b"root\n"), 5);
//! driver.submit(0, &[], &[64])?;
//! assert_eq!(driver.wait(0)?.written, 5);
//! # Ok(())
//! # }
//! ```

mod channel;
mod control;
mod peer;
mod port;

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
};

use rustix::event::{EventfdFlags, epoll, eventfd};
use serde::{Deserialize, Serialize};
use vmm_core::{
    Error, Result,
    persist::{Kind, StateReader, StateWriter},
    virtio::{Cause, DeviceId, VirtioDevice, VirtioIo},
};

pub use self::{
    channel::{Channel, ConsoleInput},
    peer::{Peer, Stream},
};
use self::{
    control::{Due, Facts, Request, message},
    port::{Port, PortState, Sent},
};
use crate::SerialOutput;

/// How many chains a queue holds.
const QUEUE_SIZE: u16 = 64;
/// As many ports as QEMU has, so as many as drivers have met.
const MOST_PORTS: usize = 31;
/// The queues of the control messages: to the driver, and from it.
const CONTROL: usize = 2;

/// Feature bits (section 5.3.3).
mod feature {
    pub(super) const SIZE: u64 = 1;
    pub(super) const MULTIPORT: u64 = 1 << 1;
    pub(super) const EMERG_WRITE: u64 = 1 << 2;
}

/// Where the emergency write is in configuration space (section 5.3.4).
const EMERGENCY: u64 = 8;

/// A console as a device of a machine, with named ports if it was given any.
///
/// The driver, `virtio_console`, is a module in Debian's kernel; then `console=hvc0` makes it
/// Linux's own.
pub struct Console {
    shared: Arc<Shared>,
    /// Those the device works with; the first is the console.
    ports: Vec<Port>,
    queues: Vec<u16>,
    /// What wakes the device when a peer is ready.
    epoll: OwnedFd,
    /// The driver has asked for ports.
    is_ready: bool,
    /// The driver knows the size that was last set.
    knows_size: bool,
    /// The size as the device works with it.
    size: (u16, u16),
    /// The port that is served first; it changes, so that none is always the last.
    first: usize,
}

/// What a device and its handles share.
struct Shared {
    /// Columns in the lower half, rows in the upper.
    size: AtomicU32,
    /// Ports that the device does not have yet.
    added: Mutex<Vec<Port>>,
    /// How many ports there are, and may be.
    count: AtomicUsize,
    most: AtomicUsize,
    /// Rung when there is something new here.
    changed: OwnedFd,
}

impl Console {
    /// A console of one port.
    ///
    /// # Errors
    /// `Host` if its descriptors cannot be made or copied.
    pub fn new(peer: impl Peer) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let changed = eventfd(0, flags).map_err(|error| host("making an eventfd", error))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let shared = Shared {
            size: AtomicU32::new(0),
            added: Mutex::default(),
            count: AtomicUsize::new(1),
            most: AtomicUsize::new(1),
            changed,
        };
        Ok(Self {
            shared: Arc::new(shared),
            ports: vec![Port::new("", Box::new(peer))?],
            queues: vec![QUEUE_SIZE; 2],
            epoll: epoll.map_err(|error| host("making an epoll", error))?,
            is_ready: false,
            knows_size: true,
            size: (0, 0),
            first: 0,
        })
    }

    /// A console on this process's standard input and output, as [`Stream::stdio`].
    ///
    /// # Errors
    /// As for that and for [`new`](Self::new).
    pub fn stdio() -> Result<Self> {
        Self::new(Stream::stdio()?)
    }

    /// A console whose output is kept, the last 1 MiB of it, and what it is given input by.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn capture() -> Result<(Self, ConsoleInput, SerialOutput)> {
        let channel = Channel::new()?;
        let (input, output) = (channel.input(), channel.output());
        Ok((Self::new(channel)?, input, output))
    }

    /// How large it is, in characters; unless said otherwise the guest does not know.
    #[must_use]
    pub fn size(self, columns: u16, rows: u16) -> Self {
        self.shared.set_size(columns, rows);
        self
    }

    /// One more port, which the guest knows by `name`.
    ///
    /// # Errors
    /// `BadConfig` if the name is empty, or there are 31 ports; `Host` if a descriptor of the peer's
    /// cannot be copied.
    pub fn port(self, name: &str, peer: impl Peer) -> Result<Self> {
        let count = self.shared.count.load(SeqCst);
        let console = self.room(count)?;
        console.shared.add(name, Box::new(peer))?;
        Ok(console)
    }

    /// Makes room for `count` named ports: those it is given before it is plugged, and later ones.
    ///
    /// # Errors
    /// `BadConfig` if that is more than 30.
    pub fn room(mut self, count: usize) -> Result<Self> {
        if count >= MOST_PORTS {
            let most = MOST_PORTS - 1;
            return Err(Error::bad_config(format!("{count} ports: the most is {most}")));
        }
        let most = self.shared.most.fetch_max(count + 1, SeqCst).max(count + 1);
        // Two for the console, two for control messages, two for each other port.
        self.queues = vec![QUEUE_SIZE; if most > 1 { 2 + 2 * most } else { 2 }];
        Ok(self)
    }

    /// What changes it while the machine has it.
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle(Arc::clone(&self.shared))
    }

    /// Takes what handles have left for it.
    fn take_changes(&mut self) {
        let new = std::mem::take(&mut *self.shared.added());
        for mut port in new {
            if self.is_ready {
                port.guest.due.add(Due::ADD);
            }
            self.ports.push(port);
        }
        let size = self.shared.size();
        if self.size != size {
            (self.size, self.knows_size) = (size, false);
        }
    }

    /// Tells a driver of one port how large the console is, by configuration space; one of several
    /// by a message.
    fn tell_size(&mut self, io: &VirtioIo<'_>) {
        if self.knows_size || io.features() & feature::SIZE == 0 {
            return;
        }
        self.knows_size = true;
        match self.ports.first_mut() {
            Some(console) if io.features() & feature::MULTIPORT != 0 => {
                if console.guest.is_ready {
                    console.guest.due.add(Due::SIZE);
                }
            }
            _ => io.config_changed(),
        }
    }

    /// Takes the driver's messages.
    fn listen(&mut self, io: &mut VirtioIo<'_>) {
        while let Some(chain) = io.pop(CONTROL + 1) {
            match chain.readable().read_obj::<[u8; Request::LEN]>(0) {
                Some(bytes) => self.obey(Request::parse(bytes)),
                None => io.need_reset("a control message that is too short"),
            }
            chain.complete(0);
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::DeviceReady(true) => {
                self.is_ready = true;
                self.ports.iter_mut().for_each(|port| port.guest.due.add(Due::ADD));
            }
            Request::PortReady(id, true) => {
                let what = match id {
                    0 if self.size == (0, 0) => [Due::CONSOLE, Due::OPEN].as_slice(),
                    0 => &[Due::CONSOLE, Due::SIZE, Due::OPEN],
                    _ => &[Due::NAME, Due::OPEN],
                };
                if let Some(port) = self.ports.get_mut(id as usize) {
                    port.guest.is_ready = true;
                    what.iter().for_each(|due| port.guest.due.add(*due));
                }
            }
            Request::PortOpen(id, is_open) => {
                if let Some(port) = self.ports.get_mut(id as usize) {
                    port.set_open(is_open);
                }
            }
            // A driver that could not set itself up, or a port, does not use it.
            Request::DeviceReady(false) | Request::PortReady(..) | Request::Unknown => {}
        }
    }

    /// Tells the driver what is due, as far as it has room.
    fn speak(&mut self, io: &mut VirtioIo<'_>) {
        for (id, port) in (0..).zip(&mut self.ports) {
            while let Some(due) = port.guest.due.first() {
                let Some(chain) = io.pop(CONTROL) else { return };
                port.guest.due.remove(due);
                let is_there = id == 0 || !port.has_ended;
                let facts = Facts { port: id, name: &port.name, size: self.size, is_there };
                let written = chain.writable().write(0, &message(due, &facts));
                chain.complete(written as u32);
            }
        }
    }

    /// Moves bytes of all ports.
    fn work(&mut self, io: &mut VirtioIo<'_>) {
        let has_several = io.features() & feature::MULTIPORT != 0;
        let count = if has_several { self.ports.len() } else { 1 };
        self.first = (self.first + 1) % count;
        for id in (self.first..count).chain(0..self.first) {
            let Some(port) = self.ports.get_mut(id) else { continue };
            // What comes before a program listens, Linux throws away.
            let listens = !has_several || port.guest.is_open;
            let had_ended = port.has_ended;
            let sent = port.work(queue(id), listens, io, &self.epoll);
            if sent == Sent::Share {
                self.shared.ring();
            }
            if has_several && id > 0 && port.has_ended && !had_ended {
                port.guest.due.add(Due::OPEN);
            }
        }
    }

    /// Configuration space (section 5.3.4).
    fn config(&self) -> [u8; 12] {
        let (columns, rows) = self.shared.size();
        let most = self.shared.most.load(SeqCst) as u32;
        let mut config = [0; 12];
        let fields = columns.to_le_bytes().into_iter().chain(rows.to_le_bytes());
        let fields = fields.chain(most.to_le_bytes());
        config.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        config
    }
}

/// The queue by which the guest receives from a port; it sends by the next one (section 5.3.2).
fn queue(port: usize) -> usize {
    if port == 0 { 0 } else { CONTROL + 2 * port }
}

impl Shared {
    fn added(&self) -> MutexGuard<'_, Vec<Port>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // Fails only when it has rung 2^64 times unheard.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    fn size(&self) -> (u16, u16) {
        let size = self.size.load(SeqCst);
        (size as u16, (size >> 16) as u16)
    }

    fn set_size(&self, columns: u16, rows: u16) {
        self.size.store(u32::from(rows) << 16 | u32::from(columns), SeqCst);
    }

    fn add(&self, name: &str, peer: Box<dyn Peer>) -> Result<()> {
        if name.is_empty() {
            return Err(Error::bad_config("a port without a name"));
        }
        let port = Port::new(name, peer)?;
        let mut added = self.added();
        let (count, most) = (self.count.load(SeqCst), self.most.load(SeqCst));
        if count >= most {
            let named = most - 1;
            return Err(Error::bad_config(format!("port '{name}': room for {named} is taken")));
        }
        self.count.store(count + 1, SeqCst);
        added.push(port);
        Ok(())
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &str {
        "console"
    }

    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        let several = if self.queues.len() > 2 { feature::MULTIPORT } else { 0 };
        feature::SIZE | feature::EMERG_WRITE | several
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(config.get(from..).unwrap_or_default()) {
            *byte = *value;
        }
    }

    /// An emergency write: a character for the console at once, whatever the driver's state.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, Some(byte), Some(console)) =
            (offset, data.first(), self.ports.first_mut())
        {
            // One that the peer has no room for is lost.
            let _ = console.send(&[*byte]);
        }
    }

    fn wake(&mut self, cause: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
        if cause == Cause::Source(0) {
            let _ = rustix::io::read(&self.shared.changed, &mut [0; 8]);
        }
        self.take_changes();
        if io.features() & feature::MULTIPORT != 0 {
            self.listen(io);
        }
        self.tell_size(io);
        self.work(io);
        self.speak(io);
        Ok(())
    }

    fn sources(&mut self) -> Result<Vec<OwnedFd>> {
        let copy = |fd: &OwnedFd| {
            fd.as_fd().try_clone_to_owned().map_err(|error| {
                let errno = error.raw_os_error().unwrap_or_default();
                Error::host("copying the descriptor of a console", errno)
            })
        };
        Ok(vec![copy(&self.shared.changed)?, copy(&self.epoll)?])
    }

    fn reset(&mut self) {
        self.ports.iter_mut().for_each(Port::reset);
        (self.is_ready, self.knows_size) = (false, self.size == (0, 0));
    }

    fn drain(&mut self) {
        self.ports.iter_mut().for_each(Port::drain);
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        let ports = self.ports.iter().map(Port::state).collect();
        let size = self.shared.size();
        let knows_size = self.knows_size && self.size == size;
        out.put(STATE, &State { size, knows_size, is_ready: self.is_ready, ports })
    }

    /// # Errors
    /// `Incompatible` if its ports are not those that were saved.
    fn restore(&mut self, from: &mut StateReader) -> Result<()> {
        let State { size, knows_size, is_ready, ports } = from.take(STATE)?;
        self.take_changes();
        let (own, saved) = (self.ports.len(), ports.len());
        if own != saved {
            let why = format!("console of {own} ports: the saved one had {saved}");
            return Err(Error::incompatible(why));
        }
        for (port, state) in self.ports.iter_mut().zip(ports) {
            port.restore(state)?;
        }
        self.shared.set_size(size.0, size.1);
        (self.size, self.knows_size, self.is_ready) = (size, knows_size, is_ready);
        Ok(())
    }
}

const STATE: Kind = Kind { name: "console", version: 1 };

#[derive(Serialize, Deserialize)]
struct State {
    size: (u16, u16),
    knows_size: bool,
    is_ready: bool,
    ports: Vec<PortState>,
}

/// What reaches a console while its machine has it. Cheap to clone; any thread may use it.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// Makes the console so large, in characters, and tells the guest.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.0.set_size(columns, rows);
        self.0.ring();
    }

    /// How large it is: columns and rows, 0 if the guest was not told.
    pub fn size(&self) -> (u16, u16) {
        self.0.size()
    }

    /// One more port, which the guest is told of at once.
    ///
    /// # Errors
    /// `BadConfig` if the name is empty or the [room](Console::room) for ports is taken; `Host` if
    /// a descriptor of the peer's cannot be copied.
    pub fn add_port(&self, name: &str, peer: impl Peer) -> Result<()> {
        self.0.add(name, Box::new(peer))?;
        self.0.ring();
        Ok(())
    }
}

fn host(doing: &str, error: rustix::io::Errno) -> Error {
    Error::host(doing, error.raw_os_error())
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Console({} ports)", self.shared.count.load(SeqCst))
    }
}

impl fmt::Debug for ConsoleHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (columns, rows) = self.size();
        write!(f, "ConsoleHandle({columns}x{rows})")
    }
}
