//! The terminal's keys, less those that are for this program.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use crate::{
    keys::{KEYS, Key, Keys},
    session::Session,
};

/// Standard input as the guest shall see it. Read on the machine's reactor.
#[derive(Debug)]
pub struct Keyboard {
    stdin: File,
    keys: Keys,
    session: Arc<Session>,
}

impl Keyboard {
    pub fn stdin(session: &Arc<Session>) -> io::Result<Self> {
        // Without the buffer of io::stdin(): what it held, nobody would be woken for.
        let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { stdin, keys: Keys::default(), session: Arc::clone(session) })
    }

    /// What the guest gets of a key.
    fn press(&mut self, key: u8) -> Option<u8> {
        match self.keys.press(key)? {
            Key::Send(key) => return Some(key),
            Key::Help => show(KEYS),
            Key::Quit => self.session.quit(),
        }
        None
    }
}

impl Read for Keyboard {
    /// # Errors
    /// `WouldBlock` if none of the keys is for the guest.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut typed = vec![0; buffer.len()];
        let len = self.stdin.read(&mut typed)?;
        let mut sent = 0;
        for key in typed.into_iter().take(len) {
            if let (Some(key), Some(place)) = (self.press(key), buffer.get_mut(sent)) {
                *place = key;
                sent += 1;
            }
        }
        match sent {
            0 if len > 0 => Err(io::ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

/// Writes to a terminal that is raw: a new line does not start at the left by itself.
fn show(text: &str) {
    let text = format!("\r\n{}", text.replace('\n', "\r\n"));
    // There is nobody to tell that this failed.
    let _ = io::stderr().write_all(text.as_bytes());
}
