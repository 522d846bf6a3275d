//! What this program's threads share: the guest that runs now, and why the program shall end.
//!
//! The main thread runs machines. One thread reads standard input, one waits for signals; neither
//! is ever joined, for each may wait for ever and ends with the process.

use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    panic, process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use vmm_core::{
    ErrorKind as VmmErrorKind, Machine,
    machine::{Handle, Outcome},
};
use vmm_devices::SerialInput;

use crate::{
    keys::{KEYS, Key, Keys},
    terminal::Terminal,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the main thread has to end the program in good order.
const GRACE: Duration = Duration::from_secs(1);

/// Why the program ends, other than by its guest.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Quit,
    Signal(i32),
}

#[derive(Debug)]
pub struct Session {
    terminal: Terminal,
    state: Mutex<State>,
    /// Notified when there is a guest.
    started: Condvar,
}

#[derive(Debug, Default)]
struct State {
    guest: Option<Guest>,
    end: Option<End>,
}

/// What reaches a guest from other threads.
#[derive(Debug)]
struct Guest {
    handle: Handle,
    input: SerialInput,
}

impl Session {
    /// Starts the threads.
    pub fn start() -> Result<Arc<Self>> {
        let session = Arc::new(Self {
            terminal: Terminal::stdin()?,
            state: Mutex::default(),
            started: Condvar::new(),
        });
        session.restore_on_panic();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        spawn("signals", &session, move |session| {
            if let Some(signal) = signals.forever().next() {
                session.end(End::Signal(signal));
            }
        })?;
        spawn("stdin", &session, Self::read_stdin)?;
        Ok(session)
    }

    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Why the program shall end, once it shall.
    pub fn ending(&self) -> Option<End> {
        self.state().end
    }

    /// Runs the guest, with the terminal raw and what comes by standard input sent to it.
    pub fn run(&self, machine: &Machine, input: &SerialInput) -> Result<Outcome> {
        let _raw = self.terminal.raw()?;
        let _attached = self.attach(Guest { handle: machine.handle(), input: input.clone() });
        while self.ending().is_none() {
            match machine.run() {
                // Signals come to any thread. What this one means, the loop looks up.
                Err(error) if error.kind() == VmmErrorKind::Interrupted => {}
                outcome => return Ok(outcome?),
            }
        }
        Ok(Outcome::Stopped)
    }

    fn attach(&self, guest: Guest) -> Attached<'_> {
        self.state().guest = Some(guest);
        self.started.notify_all();
        Attached(self)
    }

    /// Ends the program: the main thread does so once its machine has stopped.
    fn end(&self, why: End) -> ! {
        {
            let mut state = self.state();
            state.end.get_or_insert(why);
            if let Some(guest) = &state.guest {
                // Fails only in a child of fork().
                let _ = guest.handle.stop();
            }
        }
        thread::sleep(GRACE);
        // The main thread is stuck, for instance in a write to a pipe that nobody reads.
        self.terminal.restore();
        match why {
            End::Quit => process::exit(0),
            End::Signal(signal) => die_of(signal),
        }
    }

    fn read_stdin(&self) {
        let mut stdin = io::stdin().lock();
        let mut keys = Keys::default();
        let mut buffer = [0; 4096];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) if self.terminal.is_there() => self.type_keys(&mut keys, &buffer[..len]),
                Ok(len) => self.send(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // As at its end: the guest runs on without input.
                Err(_) => return,
            }
        }
    }

    /// Never waits for the guest, or a guest that hangs could not be quit: keys that it has no room
    /// for are lost.
    fn type_keys(&self, keys: &mut Keys, typed: &[u8]) {
        for key in typed.iter().filter_map(|key| keys.press(*key)) {
            match key {
                Key::Help => show(KEYS),
                Key::Quit => self.end(End::Quit),
                Key::Send(byte) => {
                    if let Some(guest) = &self.state().guest {
                        guest.input.send(&[byte]);
                    }
                }
            }
        }
    }

    /// Sends all of `bytes`, however slowly the guest reads.
    fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // An error means that the machine is gone: the rest is for the next.
            if let Ok(sent) = self.input().write(bytes) {
                bytes = &bytes[sent..];
            }
        }
    }

    /// The running guest's input; waits for a guest.
    fn input(&self) -> SerialInput {
        let mut state = self.state();
        loop {
            if let Some(guest) = &state.guest {
                return guest.input.clone();
            }
            state = self.started.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Restores the terminal before the message of a panic on whichever thread.
    fn restore_on_panic(self: &Arc<Self>) {
        let (session, report) = (Arc::clone(self), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            session.terminal.restore();
            report(panic);
        }));
    }

    /// Held for a few instructions; a stop and a send take the library's locks inside it, never the
    /// other way round.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that others can reach; until it is dropped, which is before the machine is.
struct Attached<'a>(&'a Session);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.state().guest = None;
    }
}

/// Ends the process by a signal that was handled, so that whoever waits for it sees that.
pub fn die_of(signal: i32) -> ! {
    let _ = emulate_default_handler(signal);
    process::abort()
}

fn spawn(
    name: &str,
    session: &Arc<Session>,
    body: impl FnOnce(&Session) + Send + 'static,
) -> Result<()> {
    let session = Arc::clone(session);
    thread::Builder::new().name(name.to_owned()).spawn(move || body(&session))?;
    Ok(())
}

/// Writes to a terminal that is raw: a new line does not start at the left by itself.
fn show(text: &str) {
    let text = format!("\r\n{}", text.replace('\n', "\r\n"));
    // There is nobody to tell that this failed.
    let _ = io::stderr().write_all(text.as_bytes());
}
