//! Standard input, if it is a terminal: raw while a guest runs.

use std::io::{self, IsTerminal};

use rustix::termios::{self, OptionalActions, Termios};

/// The terminal on standard input, or that there is none.
#[derive(Debug)]
pub struct Terminal {
    /// How it was found.
    found: Option<Termios>,
}

/// The terminal is raw until this is dropped.
#[derive(Debug)]
pub struct Raw<'a>(&'a Terminal);

impl Terminal {
    pub fn stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        let found = stdin.is_terminal().then(|| termios::tcgetattr(&stdin)).transpose()?;
        Ok(Self { found })
    }

    pub fn is_there(&self) -> bool {
        self.found.is_some()
    }

    /// How large its window is, in characters: columns and rows, 0 if that is not known.
    pub fn size(&self) -> (u16, u16) {
        let size = self.found.as_ref().and_then(|_| termios::tcgetwinsize(io::stdin()).ok());
        size.map_or((0, 0), |size| (size.ws_col, size.ws_row))
    }

    /// Lets each key through as it is: the guest's own terminal does echo, lines and signals.
    pub fn raw(&self) -> io::Result<Raw<'_>> {
        if let Some(found) = &self.found {
            let mut raw = found.clone();
            raw.make_raw();
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        }
        Ok(Raw(self))
    }

    /// Puts the terminal back as it was found; more than once does no harm.
    pub fn restore(&self) {
        if let Some(found) = &self.found {
            // `Now`, for the other actions wait until somebody has read what was written. What
            // fails here is a terminal that is gone.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, found);
        }
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}
