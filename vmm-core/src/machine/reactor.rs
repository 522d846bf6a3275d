//! The one thread that wakes devices when a descriptor of the host is ready.
//!
//! A device asks its slot for a [`Reactor`] and registers descriptors with it; only then is there
//! one. Its thread is part of each run, as vCPUs are: it starts and ends with it, and stands still
//! while the machine is paused. What is ready meanwhile is found afterwards.
//!
//! The loop is `event-manager`'s with a single subscriber. That crate panics on an event of a
//! descriptor it does not know, so what is registered are copies of ours, taken out before they are
//! closed, by the reactor's thread alone: everyone else leaves it a command and rings. It tells
//! events apart by descriptor, whose numbers are used again; so each carries the index and the
//! generation of its registration, and what is stale is passed over.

use std::{
    collections::VecDeque,
    fmt,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{
    board::panic_message,
    control::{Control, eventfd, lower, raise},
};
use crate::{
    error::{Error, ErrorKind, HostResult, Result},
    irq::EventFd,
    process::Owner,
};

/// What a device gives the reactor to be woken by.
///
/// Called on the reactor's thread, one at a time. It does a bounded amount of work without waiting
/// for anything, as every other device of the machine waits for it. One that fails or panics ends
/// the run with its device's name.
///
/// ```
/// use std::{io::{PipeReader, Read}, sync::{Arc, Mutex}};
/// use vmm_core::{Result, irq::IrqLine, machine::{Interest, Next, Slot, Wake, Watch}};
///
/// /// What came by a pipe, for a device to show its guest.
/// struct Receiver {
///     pipe: PipeReader,
///     received: Arc<Mutex<Vec<u8>>>,
///     line: IrqLine,
/// }
///
/// impl Wake for Receiver {
///     fn wake(&mut self) -> Result<Next> {
///         let mut data = [0; 512];
///         match self.pipe.read(&mut data) {
///             Ok(0) | Err(_) => return Ok(Next::Never),
///             Ok(len) => self.received.lock().unwrap().extend(&data[..len]),
///         }
///         self.line.pulse();
///         // Until the guest has taken it, who then calls `resume`.
///         Ok(Next::Wait)
///     }
/// }
///
/// /// In the device's `plug`:
/// fn connect(slot: &mut Slot<'_>, receiver: Receiver) -> Result<Watch> {
///     let fd = receiver.pipe.try_clone().unwrap();
///     slot.reactor()?.watch(fd, Interest::Readable, receiver)
/// }
/// ```
pub trait Wake: Send {
    /// The descriptor is ready, or hung up, or was a moment ago.
    ///
    /// # Errors
    /// What keeps the device from ever working again.
    fn wake(&mut self) -> Result<Next>;

    /// The machine is about to be paused: returns when no back end works on what the device has
    /// begun, or `give_up` says that there will be no pause. The pause waits for it.
    fn drain(&mut self, _give_up: &dyn Fn() -> bool) {}
}

/// What a [`Wake`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To be woken again as soon as the descriptor is ready, or still is.
    Again,
    /// Nothing more, ever.
    Never,
    /// Nothing before [`Watch::resume`] is called.
    Wait,
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or will never be.
    Readable,
    /// Something can be written.
    Writable,
}

/// A device's access to the reactor of its machine, from any thread. Cheap to clone; it does not
/// keep the machine.
#[derive(Clone)]
pub struct Reactor {
    shared: Weak<Shared>,
    /// The device's name.
    name: Arc<str>,
}

/// A descriptor being watched, until this is dropped; what it wakes is dropped then, on this thread,
/// or soon after on the reactor's.
#[must_use = "the descriptor is watched until this is dropped"]
pub struct Watch {
    shared: Weak<Shared>,
    tag: Tag,
}

impl Reactor {
    /// Wakes `wake` whenever `fd` is ready while the machine runs. The reactor watches a copy of
    /// the descriptor; what is always ready, such as a file, is so here too.
    ///
    /// # Errors
    /// `Host` if the descriptor cannot be copied, `BadConfig` if 65,535 are watched, `WrongState`
    /// if the machine is gone, `WrongProcess` after `fork()`.
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        wake: impl Wake + 'static,
    ) -> Result<Watch> {
        let shared = self.shared()?;
        // Not below 3: event-manager takes 0 for none.
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).host(|| "copying a descriptor")?;
        self.insert(&shared, Watched::Any(fd), interest, Box::new(wake))
    }

    /// Like [`watch`](Self::watch), for an event that can be read.
    ///
    /// # Errors
    /// As for that.
    pub fn watch_event(&self, event: &EventFd, wake: impl Wake + 'static) -> Result<Watch> {
        let shared = self.shared()?;
        let event = event.try_clone().host(|| "copying an event")?;
        self.insert(&shared, Watched::Event(event), Interest::Readable, Box::new(wake))
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let shared = self.shared.upgrade();
        let shared = shared.ok_or_else(|| Error::wrong_state("the machine is gone"))?;
        shared.owner.check()?;
        Ok(shared)
    }

    fn insert(
        &self,
        shared: &Shared,
        fd: Watched,
        interest: Interest,
        wake: Box<dyn Wake>,
    ) -> Result<Watch> {
        let (name, wake) = (Arc::clone(&self.name), Some(wake));
        let entry = Entry { name, fd, interest, is_watched: false, is_wanted: true, wake };
        let mut state = shared.state();
        let inserted = state.slab.insert(entry);
        if let Ok(tag) = inserted {
            state.commands.push_back(Command::Watch(tag));
        }
        drop(state);
        // An entry that found no place goes only now: what it wakes may have watches of its own.
        let tag = inserted.map_err(|_| {
            Error::bad_config(format!("{}: {} descriptors are watched", self.name, u16::MAX))
        })?;
        raise(&shared.bell);
        Ok(Watch { shared: Weak::clone(&self.shared), tag })
    }
}

impl Watch {
    /// Ends [`Next::Wait`]: the device is woken once the descriptor is ready, also if the wait is only
    /// about to begin. May be called with the device's own locks held.
    pub fn resume(&self) {
        self.change(|state| {
            // One that waits is enough: a guest may be able to ask for this often.
            let entry = state.slab.find(self.tag).filter(|entry| !entry.is_wanted)?;
            entry.is_wanted = true;
            state.commands.push_back(Command::Watch(self.tag));
            Some(())
        });
    }

    /// Changes the state, unless the machine is gone; and rings.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Option<T>) -> Option<T> {
        let shared = self.shared.upgrade()?;
        // A child of fork() shares the event loop with its parent, and perhaps a lock that was held
        // then.
        if !shared.owner.is_current() {
            return None;
        }
        let changed = change(&mut shared.state());
        raise(&shared.bell);
        changed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let gone = self.change(|state| {
            if state.slab.find(self.tag).is_some_and(|entry| entry.is_watched) {
                state.commands.push_back(Command::Forget(self.tag));
                return None;
            }
            // The event loop does not know it, so nobody has to wait for its thread, which may
            // stand still.
            let is_its =
                |command: &Command| matches!(command, Command::Watch(tag) if *tag == self.tag);
            state.commands.retain(|command| !is_its(command));
            state.slab.release(self.tag)
        });
        drop(gone);
    }
}

/// The event loop, as the machine has it.
pub(super) struct EventLoop {
    /// Dropped first: closing it takes out what is registered.
    manager: Mutex<EventManager<Dispatcher>>,
    shared: Arc<Shared>,
}

/// What the loop and its handles share. The lock is held for a few instructions and system calls on
/// descriptors, and is the last of all: no device is called with it.
struct Shared {
    state: Mutex<State>,
    /// Readable while commands wait, or the reactor is to look at what its run is doing.
    bell: Arc<OwnedFd>,
    owner: Owner,
}

#[derive(Default)]
struct State {
    slab: Slab,
    commands: VecDeque<Command>,
}

/// What only the reactor's thread does.
#[derive(Clone, Copy)]
enum Command {
    /// Start to watch, if that is not so.
    Watch(Tag),
    /// Stop for good.
    Forget(Tag),
}

/// One registration.
struct Entry {
    name: Arc<str>,
    fd: Watched,
    interest: Interest,
    /// Registered with the event loop.
    is_watched: bool,
    /// A command to register it waits.
    is_wanted: bool,
    /// `None` while it is being woken.
    wake: Option<Box<dyn Wake>>,
}

/// A copy of the descriptor that is watched.
enum Watched {
    Any(OwnedFd),
    Event(EventFd),
}

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Any(fd) => fd.as_raw_fd(),
            Self::Event(event) => event.as_raw_fd(),
        }
    }
}

impl Entry {
    fn events(&self, tag: Tag) -> Events {
        let set = match self.interest {
            Interest::Readable => EventSet::IN,
            Interest::Writable => EventSet::OUT,
        };
        Events::with_data(&self.fd, tag.to_bits(), set)
    }
}

impl EventLoop {
    pub(super) fn new(control: &Arc<Control>) -> Result<Self> {
        const EVENTS: usize = 32;
        let bell = Arc::new(eventfd(0).host(|| "making an eventfd")?);
        let state = Mutex::default();
        let shared = Arc::new(Shared { state, bell: Arc::clone(&bell), owner: Owner::current() });
        let mut manager = EventManager::new_with_capacity(EVENTS)
            .map_err(|error| loop_error("making an event loop", error))?;
        let (control_of, shared_of) = (Arc::clone(control), Arc::clone(&shared));
        let id = manager.add_subscriber(Dispatcher { control: control_of, shared: shared_of });
        manager
            .event_ops(id)
            .and_then(|mut ops| ops.add(Events::with_data(&*bell, BELL, EventSet::IN)))
            .map_err(|error| loop_error("watching an eventfd", error))?;
        control.set_bell(bell);
        Ok(Self { manager: Mutex::new(manager), shared })
    }

    /// What the device `name` is given.
    pub(super) fn handle(&self, name: &Arc<str>) -> Reactor {
        Reactor { shared: Arc::downgrade(&self.shared), name: Arc::clone(name) }
    }

    /// Wakes devices until the reactor is called.
    pub(super) fn work(&self, control: &Control) {
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        // A call before this look is seen; a later one rings, and stays to be heard.
        while !control.is_called() {
            if let Err(error) = manager.run() {
                control.end(Err(loop_error("waiting for events", error)));
            }
        }
        if control.is_pausing() {
            self.drain(control);
        }
    }

    /// Has every device finish what it has begun.
    fn drain(&self, control: &Control) {
        let give_up = || !control.is_pausing();
        let mut index = 0;
        loop {
            let mut state = self.shared.state();
            let Some((tag, entry)) = state.slab.find_from(index) else { return };
            index = tag.index + 1;
            let (name, Some(mut wake)) = (Arc::clone(&entry.name), entry.wake.take()) else {
                continue;
            };
            drop(state);
            let drained = catch_unwind(AssertUnwindSafe(|| wake.drain(&give_up)));
            if let Err(payload) = drained {
                let why = panic_message(&*payload);
                let message = format!("device '{name}' panicked: {why}");
                control.end(Err(Error::new(ErrorKind::Poisoned, message)));
            }
            // A watch that was dropped meanwhile left a command for this thread, if its entry was
            // watched; else the entry is gone.
            let mut state = self.shared.state();
            match state.slab.find(tag) {
                Some(entry) => entry.wake = Some(wake),
                None => {
                    drop(state);
                    drop(wake);
                }
            }
        }
    }
}

fn loop_error(doing: &str, error: event_manager::Error) -> Error {
    match error {
        event_manager::Error::Epoll(errno) => Error::host(doing, errno.errno()),
        error => Error::internal(format!("{doing}: {error}")),
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscriber: all that runs on the reactor's thread.
struct Dispatcher {
    control: Arc<Control>,
    shared: Arc<Shared>,
}

impl MutEventSubscriber for Dispatcher {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.data() == BELL {
            lower(&self.shared.bell);
            self.obey(ops);
        } else if !self.control.is_called() {
            // Else it is found again, as it stays ready.
            self.dispatch(Tag::from_bits(events.data()), ops);
        }
    }

    fn init(&mut self, _: &mut EventOps<'_>) {}
}

impl Dispatcher {
    fn obey(&self, ops: &mut EventOps<'_>) {
        loop {
            let Some(command) = self.shared.state().commands.pop_front() else { return };
            match command {
                Command::Watch(tag) => self.watch(tag, ops),
                Command::Forget(tag) => self.forget(tag, ops),
            }
        }
    }

    fn watch(&self, tag: Tag, ops: &mut EventOps<'_>) {
        let mut state = self.shared.state();
        let Some(entry) = state.slab.find(tag) else { return };
        entry.is_wanted = false;
        if entry.is_watched {
            return;
        }
        let watched = match ops.add(entry.events(tag)) {
            Err(event_manager::Error::Epoll(errno)) if errno.errno() == libc::EPERM => {
                // A file or the like, which never makes anyone wait. What stands for it is as
                // ready.
                eventfd(1).host(|| "making an eventfd").and_then(|always| {
                    entry.fd = Watched::Any(always);
                    ops.add(entry.events(tag)).map_err(|error| loop_error("watching a file", error))
                })
            }
            watched => watched.map_err(|error| loop_error("watching a descriptor", error)),
        };
        match watched {
            Ok(()) => entry.is_watched = true,
            Err(error) => {
                let error = error.context(format!("device '{}'", entry.name));
                drop(state);
                self.control.end(Err(error));
            }
        }
    }

    fn forget(&self, tag: Tag, ops: &mut EventOps<'_>) {
        let mut state = self.shared.state();
        if let Some(entry) = state.slab.find(tag) {
            unwatch(entry, tag, ops);
        }
        let gone = state.slab.release(tag);
        drop(state);
        drop(gone);
    }

    fn dispatch(&self, tag: Tag, ops: &mut EventOps<'_>) {
        let mut state = self.shared.state();
        let Some(entry) = state.slab.find(tag).filter(|entry| entry.is_watched) else { return };
        let (name, Some(mut wake)) = (Arc::clone(&entry.name), entry.wake.take()) else { return };
        drop(state);
        let next = catch_unwind(AssertUnwindSafe(|| wake.wake()));
        let next = match next {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => self.poison(format!("device '{name}': {error}")),
            Err(payload) => {
                self.poison(format!("device '{name}' panicked: {}", panic_message(&*payload)))
            }
        };
        // Only this thread removes entries, so it is still there.
        let mut state = self.shared.state();
        let Some(entry) = state.slab.find(tag) else { return };
        entry.wake = Some(wake);
        if next != Next::Again {
            unwatch(entry, tag, ops);
        }
        let gone = (next == Next::Never).then(|| state.slab.take(tag));
        drop(state);
        drop(gone);
    }

    /// Ends the run with the device's name.
    fn poison(&self, message: String) -> Next {
        self.control.end(Err(Error::new(ErrorKind::Poisoned, message)));
        Next::Never
    }
}

/// Takes a descriptor out of the event loop: not only what it is watched for, since a hang-up is
/// always reported.
fn unwatch(entry: &mut Entry, tag: Tag, ops: &mut EventOps<'_>) {
    if entry.is_watched {
        entry.is_watched = false;
        if let Err(error) = ops.remove(entry.events(tag)) {
            log::error!("device '{}': leaving the event loop: {error}", entry.name);
        }
    }
}

/// Where an entry is, and which one it is of those that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    index: u16,
    generation: u16,
}

/// The tag of the bell, which no entry has.
const BELL: u32 = u32::MAX;

impl Tag {
    fn to_bits(self) -> u32 {
        u32::from(self.generation) << 16 | u32::from(self.index)
    }

    fn from_bits(bits: u32) -> Self {
        Self { index: bits as u16, generation: (bits >> 16) as u16 }
    }
}

/// Entries by tag. A place is used again only once the [`Watch`] of its last entry is gone, so that
/// no tag that someone holds comes to mean another entry, however often generations wrap.
struct Slab<T = Entry> {
    places: Vec<(u16, Option<T>)>,
    free: Vec<u16>,
}

impl<T> Slab<T> {
    /// Gives the entry back if there is no place left.
    fn insert(&mut self, entry: T) -> Result<Tag, T> {
        if let Some(index) = self.free.pop()
            && let Some((generation, place)) = self.places.get_mut(usize::from(index))
        {
            *place = Some(entry);
            return Ok(Tag { index, generation: *generation });
        }
        // The last index is the bell's.
        let index = u16::try_from(self.places.len()).ok().filter(|index| *index < u16::MAX);
        let Some(index) = index else { return Err(entry) };
        self.places.push((0, Some(entry)));
        Ok(Tag { index, generation: 0 })
    }

    fn find(&mut self, tag: Tag) -> Option<&mut T> {
        self.place(tag)?.1.as_mut()
    }

    /// The first entry from place `index` on.
    fn find_from(&mut self, index: u16) -> Option<(Tag, &mut T)> {
        let mut places = self.places.iter_mut().zip(0..).skip(index.into());
        places.find_map(|((generation, entry), index)| {
            Some((Tag { index, generation: *generation }, entry.as_mut()?))
        })
    }

    /// Takes an entry out; its place stays its own.
    fn take(&mut self, tag: Tag) -> Option<T> {
        self.place(tag)?.1.take()
    }

    /// Gives a place back, with its entry if that is still there.
    fn release(&mut self, tag: Tag) -> Option<T> {
        let (generation, entry) = self.place(tag)?;
        *generation = generation.wrapping_add(1);
        let entry = entry.take();
        self.free.push(tag.index);
        entry
    }

    fn place(&mut self, tag: Tag) -> Option<&mut (u16, Option<T>)> {
        let place = self.places.get_mut(usize::from(tag.index));
        place.filter(|(generation, _)| *generation == tag.generation)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reactor(for '{}')", self.name)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_tag_finds_nothing() {
        let mut slab = Slab::default();
        let old = slab.insert('a').unwrap();
        assert_eq!(slab.release(old), Some('a'));
        let new = slab.insert('b').unwrap();
        assert_eq!((new.index, old.index), (0, 0));
        assert_eq!(slab.find(old), None);
        assert_eq!((slab.take(old), slab.release(old)), (None, None));
        assert_eq!(slab.find(new), Some(&mut 'b'));
        assert_eq!(Tag::from_bits(new.to_bits()), new);
        assert_eq!(slab.find(Tag { index: 7, generation: 0 }), None);
    }

    #[test]
    fn a_place_is_not_used_again_while_its_tag_is_held() {
        let mut slab = Slab::default();
        let held = slab.insert('a').unwrap();
        assert_eq!(slab.take(held), Some('a'));
        for _ in 0..=u16::MAX {
            let tag = slab.insert('b').unwrap();
            assert_ne!(tag.index, held.index);
            slab.release(tag).unwrap();
        }
        assert_eq!(slab.release(held), None);
        assert_eq!((slab.places.len(), slab.free.len()), (2, 2));
    }

    #[test]
    fn no_entry_has_the_tag_of_the_bell() {
        let mut slab = Slab::default();
        let last = (0..u16::MAX).map(|n| slab.insert(n).unwrap()).last().unwrap();
        assert_eq!(last.index, u16::MAX - 1);
        assert_eq!(slab.insert(7), Err(7));
        let top = Tag { index: last.index, generation: u16::MAX };
        assert_ne!(top.to_bits(), BELL);
    }
}
