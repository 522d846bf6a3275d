//! What the guest says, and cuts at the very end of a line of it: later, another flush may have made
//! good what the one before it did not do.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
};

use crate::{
    LONG, Numbers,
    image::{Versions, acknowledged},
    volatile::Volatile,
};

/// A console that cuts the power of a disk.
#[derive(Clone)]
pub(crate) struct Console {
    disk: Volatile,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    said: String,
    /// After how many lines, and by what chance.
    cut_after: Option<(u64, Numbers)>,
    /// What there was at the cut.
    cut: Option<(String, Vec<u8>)>,
}

impl Console {
    pub(crate) fn new(disk: &Volatile) -> Self {
        Self { disk: disk.clone(), shared: Arc::default() }
    }

    /// Cuts at the end of a line that acknowledges something: what was acknowledged by then, and what
    /// is on the medium.
    pub(crate) fn cut_after_lines(&self, lines: u64, numbers: &mut Numbers) -> (Versions, Vec<u8>) {
        let (state, is_cut) = &*self.shared;
        let mut state = state.lock().unwrap();
        state.cut_after = Some((lines, Numbers(numbers.next(u64::MAX))));
        let wait = is_cut.wait_timeout_while(state, LONG, |state| state.cut.is_none());
        let (mut state, _) = wait.unwrap();
        let Some((said, medium)) = state.cut.take() else { panic!("it only said: {}", state.said) };
        (acknowledged(&said), medium)
    }

    /// Cuts when the disk was asked for so much more.
    pub(crate) fn cut_after_requests(
        &self,
        requests: u64,
        numbers: &mut Numbers,
    ) -> (Versions, Vec<u8>) {
        self.disk.wait(requests);
        let said = self.shared.0.lock().unwrap().said.clone();
        (acknowledged(&said), self.disk.cut(numbers))
    }
}

impl io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (state, is_cut) = &*self.shared;
        let mut state = state.lock().unwrap();
        for byte in bytes {
            state.said.push((*byte).into());
            let State { said, cut_after, cut } = &mut *state;
            let is_line = *byte == b'\n'
                && said.lines().next_back().is_some_and(|line| line.starts_with("synced "));
            let Some((left, numbers)) = cut_after.as_mut().filter(|_| is_line) else { continue };
            *left -= 1;
            if *left == 0 {
                *cut = Some((said.clone(), self.disk.cut(numbers)));
                *cut_after = None;
                is_cut.notify_all();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
