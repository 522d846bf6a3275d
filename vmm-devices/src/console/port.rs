//! One port: bytes from its peer to the guest and back, as fast as the slower of them likes.

use std::{
    io::{self, ErrorKind},
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use vmm_core::{
    Error, Result,
    virtio::{Chain, VirtioIo},
};

use super::{Peer, control::Due};

/// As much as is read from a peer or given to it at once. Linux's pipes have room for it if they
/// have any.
pub(super) const PIECE: usize = 4096;
/// What a port sends each time it is woken, so that others get their turn.
const SHARE: usize = 256 << 10;
/// The most of a chain that is kept over a pause. Linux sends 32 KiB at once.
const MOST_UNSENT: usize = 64 << 10;

/// A port, whether the guest knows of it or not.
pub(super) struct Port {
    pub(super) name: String,
    peer: Box<dyn Peer>,
    input: Option<Watched>,
    output: Option<Watched>,
    /// What was received and has no place in the guest yet.
    received: Vec<u8>,
    /// What the guest has sent and the peer did not take, as far as it has no chain any more.
    unsent: Vec<u8>,
    /// What the guest is sending, and how much of it the peer has.
    sending: Option<(Chain, u64)>,
    /// The peer failed: output is dropped.
    is_deaf: bool,
    /// There will be no more input.
    pub(super) has_ended: bool,
    pub(super) guest: Guest,
}

/// How far the guest is with a port of several.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Guest {
    /// What it is still to be told.
    pub(super) due: Due,
    pub(super) is_ready: bool,
    pub(super) is_open: bool,
}

/// How it stands with a port's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The peer has it.
    All,
    /// The peer has no room.
    Blocked,
    /// It is time for others.
    Share,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PortState {
    name: String,
    received: Vec<u8>,
    unsent: Vec<u8>,
    guest: Guest,
}

impl Port {
    /// # Errors
    /// `Host` if its descriptors cannot be copied.
    pub(super) fn new(name: &str, peer: Box<dyn Peer>) -> Result<Self> {
        let watched =
            |fd: Option<BorrowedFd<'_>>, flags| fd.map(|fd| Watched::new(fd, flags)).transpose();
        Ok(Self {
            input: watched(peer.readable(), EventFlags::IN)?,
            output: watched(peer.writable(), EventFlags::OUT)?,
            name: name.to_owned(),
            peer,
            received: Vec::new(),
            unsent: Vec::new(),
            sending: None,
            is_deaf: false,
            has_ended: false,
            guest: Guest::default(),
        })
    }

    /// Moves what can be moved, and has `epoll` tell when there is more. `queue` is the one that the
    /// guest receives by, the next one it sends by; input goes to a guest that `listens`.
    pub(super) fn work(
        &mut self,
        queue: usize,
        listens: bool,
        io: &mut VirtioIo<'_>,
        epoll: &OwnedFd,
    ) -> Sent {
        let wants_input = listens && self.deliver(queue, io);
        let sent = self.transmit(queue + 1, io);
        if let Some(input) = &mut self.input {
            input.watch(epoll, wants_input);
        }
        if let Some(output) = &mut self.output {
            output.watch(epoll, sent == Sent::Blocked);
        }
        sent
    }

    /// Input, as far as the guest has room; whether there is room for more.
    fn deliver(&mut self, queue: usize, io: &mut VirtioIo<'_>) -> bool {
        loop {
            if self.received.is_empty() && !self.receive() {
                return !self.has_ended;
            }
            let Some(chain) = io.pop(queue) else { return false };
            let written = chain.writable().write(0, &self.received);
            self.received.drain(..written);
            chain.complete(written as u32);
        }
    }

    /// Reads from the peer; whether that gave anything.
    fn receive(&mut self) -> bool {
        if self.has_ended || self.input.is_none() {
            return false;
        }
        let mut piece = [0; PIECE];
        match self.peer.receive(&mut piece) {
            Ok(0) => self.has_ended = true,
            Ok(len) => self.received.extend(piece.get(..len).unwrap_or(&piece)),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                log::error!("console: port '{}': there is no more input: {error}", self.name);
                self.has_ended = true;
            }
        }
        !self.received.is_empty()
    }

    /// Output, as far as the peer has room.
    fn transmit(&mut self, queue: usize, io: &mut VirtioIo<'_>) -> Sent {
        let mut share = SHARE;
        while !self.unsent.is_empty() {
            let piece = self.unsent.get(..PIECE).unwrap_or(&self.unsent).to_vec();
            let Some(taken) = self.send(&piece) else { return Sent::Blocked };
            self.unsent.drain(..taken);
        }
        while let Some((chain, mut at)) =
            self.sending.take().or_else(|| io.pop(queue).map(|chain| (chain, 0)))
        {
            let mut piece = [0; PIECE];
            while at < chain.readable().len() {
                let len = chain.readable().read(at, &mut piece);
                let taken = if share == 0 {
                    Err(Sent::Share)
                } else {
                    self.send(piece.get(..len).unwrap_or(&piece)).ok_or(Sent::Blocked)
                };
                match taken {
                    Ok(taken) => at += taken as u64,
                    Err(sent) => {
                        self.sending = Some((chain, at));
                        return sent;
                    }
                }
                share = share.saturating_sub(PIECE);
            }
            chain.complete(0);
        }
        Sent::All
    }

    /// Gives the peer some bytes; how many it took, or those who are lost. `None` if it has no room
    /// and will say when it has.
    pub(super) fn send(&mut self, data: &[u8]) -> Option<usize> {
        if self.is_deaf {
            return Some(data.len());
        }
        match self.peer.send(data) {
            Ok(taken @ 1..) => Some(taken.min(data.len())),
            Ok(0) if data.is_empty() => Some(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(0),
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                log::error!(
                    "console: port '{}': output is dropped from now on: {error}",
                    self.name
                );
                self.is_deaf = true;
                Some(data.len())
            }
            Ok(_) | Err(_) if self.output.is_some() => None,
            Ok(_) | Err(_) => Some(data.len()),
        }
    }

    /// A program in the guest has opened or closed it.
    pub(super) fn set_open(&mut self, is_open: bool) {
        if std::mem::replace(&mut self.guest.is_open, is_open) != is_open {
            self.peer.opened(is_open);
        }
    }

    /// Gives back the chain that the peer has no room for; what it has not is kept.
    pub(super) fn drain(&mut self) {
        let Some((chain, at)) = self.sending.take() else { return };
        let left = chain.readable().len().saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(MOST_UNSENT).min(MOST_UNSENT);
        let mut rest = vec![0; len];
        let kept = chain.readable().read(at, &mut rest);
        rest.truncate(kept);
        if left > kept as u64 {
            let lost = left - kept as u64;
            log::warn!("console: port '{}': {lost} bytes are lost by a pause", self.name);
        }
        self.unsent.extend(rest);
        chain.complete(0);
    }

    /// The driver is gone, with the chain that it was sending.
    pub(super) fn reset(&mut self) {
        self.sending = None;
        self.set_open(false);
        self.guest = Guest::default();
    }

    pub(super) fn state(&self) -> PortState {
        let (received, unsent) = (self.received.clone(), self.unsent.clone());
        PortState { name: self.name.clone(), received, unsent, guest: self.guest }
    }

    /// Becomes what was saved of a port of its name.
    pub(super) fn restore(&mut self, saved: PortState) -> Result<()> {
        let PortState { name, received, unsent, guest } = saved;
        if name != self.name {
            let own = &self.name;
            return Err(Error::incompatible(format!("port '{own}': the saved one is '{name}'")));
        }
        if received.len() > PIECE || unsent.len() > MOST_UNSENT || !guest.due.is_known() {
            return Err(Error::snapshot(format!("port '{name}': more than can have been saved")));
        }
        self.set_open(guest.is_open);
        (self.received, self.unsent, self.guest) = (received, unsent, guest);
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// A copy of a peer's descriptor, in the console's epoll while there is something to wait for. Out
/// of it otherwise, and not only without events: a hang-up is always reported.
struct Watched {
    fd: OwnedFd,
    flags: EventFlags,
    is_watched: bool,
}

impl Watched {
    fn new(fd: BorrowedFd<'_>, flags: EventFlags) -> Result<Self> {
        let fd = fd.try_clone_to_owned().map_err(|error| {
            let errno = error.raw_os_error().unwrap_or_default();
            Error::host("copying the descriptor of a console", errno)
        })?;
        Ok(Self { fd, flags, is_watched: false })
    }

    fn watch(&mut self, epoll: &OwnedFd, is_wanted: bool) {
        if is_wanted == self.is_watched {
            return;
        }
        let changed = match is_wanted {
            true => epoll::add(epoll, &self.fd, EventData::new_u64(0), self.flags),
            false => epoll::delete(epoll, &self.fd),
        };
        match changed {
            Ok(()) => self.is_watched = is_wanted,
            // A file, which is always ready: nobody waits for it.
            Err(Errno::PERM) => {}
            Err(error) => log::error!("console: watching a descriptor: {error}"),
        }
    }
}
