//! The processor's side: a process of its own that executes one instruction at a time.
//!
//! It is a fork of the caller that may do nothing but read and write its two pipes (`confine`).
//! Cases come to it in batches through shared memory. Nothing of it but the arena lies in the first
//! 4 GiB, and the generator keeps every address that an instruction uses either there or where an
//! access is sure to fault ([`crate::arena::is_safe`]).
#![expect(unsafe_code, reason = "executes instructions as they are, and catches what they raise")]

mod child;
mod confine;
mod guarded;
mod shared;
mod stub;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd},
};

use crate::case::{Case, Fault, Outcome, Window};
pub use guarded::Guarded;
use shared::{Output, Shared};

/// What the trap number is when an instruction came to its end.
const LANDED: u32 = u32::MAX;
/// The trap after an instruction that was executed with TF set.
const DEBUG: u32 = 1;

/// The process that executes cases.
#[derive(Debug)]
pub struct Native {
    child: libc::pid_t,
    shared: Shared,
    orders: File,
    answers: File,
}

impl Native {
    /// The most cases of a batch.
    pub const MOST: usize = shared::CASES;

    /// Starts it.
    ///
    /// # Errors
    /// The host refused memory, pipes or a process.
    pub fn start() -> io::Result<Self> {
        let shared = Shared::new()?;
        let (order_out, order_in) = pipe()?;
        let (answer_out, answer_in) = pipe()?;
        // SAFETY: the child only calls what may be called after a fork among threads: it neither
        // allocates nor locks, and never returns from `serve`.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(io::Error::last_os_error()),
            0 => child::serve(&shared, order_out.as_raw_fd(), answer_in.as_raw_fd()),
            _ => Ok(Self { child, shared, orders: order_in, answers: answer_out }),
        }
    }

    /// Executes cases, at most [`MOST`](Self::MOST); an outcome for each.
    ///
    /// # Errors
    /// The process died or did not answer in time: which no case should be able to bring about.
    pub fn execute(&mut self, cases: &[Case]) -> io::Result<Vec<Outcome>> {
        let count = cases.len().min(Self::MOST);
        self.shared.put(&cases[..count]);
        self.orders.write_all(&(count as u32).to_ne_bytes())?;
        let mut poll =
            libc::pollfd { fd: self.answers.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which is open.
        if unsafe { libc::poll(&raw mut poll, 1, 20_000) } != 1 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the processor's side hangs"));
        }
        let mut answer = [0; 4];
        self.answers.read_exact(&mut answer)?;
        let done = u32::from_ne_bytes(answer) as usize;
        if done != count {
            let what = format!("the processor's side could not begin: step {done:#x}");
            return Err(io::Error::other(what));
        }
        Ok(cases.iter().enumerate().map(|(n, case)| self.outcome(n, case)).collect())
    }

    fn outcome(&self, n: usize, case: &Case) -> Outcome {
        let output: Output = self.shared.output(n);
        let windows = case.windows.iter().enumerate().map(|(w, window)| Window {
            offset: window.offset,
            bytes: self.shared.window(n, w, window.bytes.len()),
        });
        let through = output.trap == LANDED || case.jumps && output.trap == DEBUG;
        let fault = (!through).then_some(Fault {
            vector: output.trap as u8,
            code: output.error,
            address: if output.trap == 14 { output.address } else { 0 },
        });
        let mut after = output.after;
        if output.trap == LANDED {
            after.rip = case.before.rip + case.code.len() as u64;
        }
        Outcome { after, fault, windows: windows.collect() }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not yet waited for.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}
