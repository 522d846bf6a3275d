//! What this program's threads share: the guest that runs now, and why the program shall end.
//!
//! The main thread runs the machine, whose reactor reads standard input. One thread waits for
//! signals; it is never joined, for it may wait for ever and ends with the process.

use std::{
    error::Error,
    panic, process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use vmm_core::{
    ErrorKind as VmmErrorKind, Machine,
    machine::{Handle, Outcome},
};
use vmm_devices::ConsoleHandle;

use crate::terminal::Terminal;

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
}

#[derive(Debug, Default)]
struct State {
    guest: Option<Handle>,
    /// Its console, if that is as large as the terminal.
    console: Option<ConsoleHandle>,
    end: Option<End>,
}

impl Session {
    /// Starts the threads.
    pub fn start() -> Result<Arc<Self>> {
        let session = Arc::new(Self { terminal: Terminal::stdin()?, state: Mutex::default() });
        session.restore_on_panic();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGWINCH])?;
        spawn("signals", &session, move |session| {
            for signal in signals.forever() {
                match signal {
                    SIGWINCH => session.tell_size(),
                    signal => session.end(End::Signal(signal)),
                }
            }
        })?;
        Ok(session)
    }

    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Tells this console how large the terminal is, now and when that changes.
    pub fn has_console(&self, console: ConsoleHandle) {
        self.state().console = Some(console);
        self.tell_size();
    }

    fn tell_size(&self) {
        let (columns, rows) = self.terminal.size();
        if let Some(console) = &self.state().console {
            console.resize(columns, rows);
        }
    }

    /// Why the program shall end, once it shall.
    pub fn ending(&self) -> Option<End> {
        self.state().end
    }

    /// Runs the guest, with the terminal raw.
    pub fn run(&self, machine: &Machine) -> Result<Outcome> {
        let _raw = self.terminal.raw()?;
        self.state().guest = Some(machine.handle());
        while self.ending().is_none() {
            match machine.run() {
                // Signals come to any thread. What this one means, the loop looks up.
                Err(error) if error.kind() == VmmErrorKind::Interrupted => {}
                outcome => return Ok(outcome?),
            }
        }
        Ok(Outcome::Stopped)
    }

    /// Ends the program on a thread of its own, for a caller that cannot wait.
    pub fn quit(self: &Arc<Self>) {
        if spawn("quit", self, |session| session.end(End::Quit)).is_err() {
            // Not even a second of grace then.
            self.terminal.restore();
            process::exit(0);
        }
    }

    /// Ends the program: the main thread does so once its machine has stopped.
    fn end(&self, why: End) -> ! {
        {
            let mut state = self.state();
            state.end.get_or_insert(why);
            if let Some(guest) = &state.guest {
                // Fails only in a child of fork().
                let _ = guest.stop();
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

    /// Restores the terminal before the message of a panic on whichever thread.
    fn restore_on_panic(self: &Arc<Self>) {
        let (session, report) = (Arc::clone(self), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            session.terminal.restore();
            report(panic);
        }));
    }

    /// Held for a few instructions; a stop takes the library's lock inside it, never the other way
    /// round.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
