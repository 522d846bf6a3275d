//! Signals, as far as libraries touch them when they start and when they give up.
//!
//! Nobody but the program itself can send it one, and what it sends has the default effect: no
//! handler of it ever runs.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Answer, Call, Calls, thread::PID};
use crate::process::{Ended, Process};

pub(super) const CALLS: Calls = &[
    (libc::SYS_kill, kill),
    (libc::SYS_rt_sigaction, rt_sigaction),
    (libc::SYS_rt_sigprocmask, rt_sigprocmask),
    (libc::SYS_sigaltstack, sigaltstack),
    (libc::SYS_tgkill, tgkill),
    (libc::SYS_tkill, kill),
];

/// Signals are numbered from 1.
pub(crate) const SIGNALS: usize = 64;
/// The bytes of a signal set.
const SET_SIZE: u64 = 8;

/// What a program has said about a signal: the kernel's `sigaction`.
pub(crate) type Action = [u64; 4];

/// What a program has set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Signals {
    actions: Vec<Action>,
    blocked: u64,
    /// The alternate stack: address, flags, size.
    stack: [u64; 3],
}

impl Signals {
    /// Whether there is an action for each signal: a record may say anything.
    pub(crate) fn is_whole(&self) -> bool {
        self.actions.len() == SIGNALS
    }
}

impl Default for Signals {
    fn default() -> Self {
        let stack = [0, libc::SS_DISABLE as u64, 0];
        Self { actions: vec![[0; 4]; SIGNALS], blocked: 0, stack }
    }
}

fn rt_sigaction(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [signal, new, old, size, ..] = call.args;
    let fixed = [libc::SIGKILL as u64, libc::SIGSTOP as u64].contains(&signal);
    if size != SET_SIZE || (fixed && new != 0) {
        return Err(Errno::INVAL);
    }
    let index = usize::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    let actions = &mut process.signals.actions;
    let action = index.and_then(|index| actions.get_mut(index)).ok_or(Errno::INVAL)?;
    let wanted = if new == 0 { *action } else { process.space.read_words(new)? };
    if old != 0 {
        process.space.write_words(old, &*action)?;
    }
    *action = wanted;
    Ok(0)
}

fn rt_sigprocmask(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [how, new, old, size, ..] = call.args;
    if size != SET_SIZE {
        return Err(Errno::INVAL);
    }
    let before = process.signals.blocked;
    if new != 0 {
        let [set] = process.space.read_words(new)?;
        process.signals.blocked = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL),
        };
    }
    if old != 0 {
        process.space.write_words(old, &[before])?;
    }
    Ok(0)
}

fn sigaltstack(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [new, old, ..] = call.args;
    let before = process.signals.stack;
    if new != 0 {
        process.signals.stack = process.space.read_words(new)?;
    }
    if old != 0 {
        process.space.write_words(old, &before)?;
    }
    Ok(0)
}

fn tgkill(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [group, thread, signal, ..] = call.args;
    if group != PID {
        return Err(Errno::SRCH);
    }
    send(process, thread, signal)
}

fn kill(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [to, signal, ..] = call.args;
    send(process, to, signal)
}

/// Its own signals end a program, unless it ignores them or their default is to do nothing.
fn send(process: &mut Process, to: u64, signal: u64) -> Answer {
    const IGNORE: u64 = libc::SIG_IGN as u64;
    if ![0, PID].contains(&to) {
        return Err(Errno::SRCH);
    }
    let Some(index) = signal.checked_sub(1) else { return Ok(0) };
    let index = usize::try_from(index).map_err(|_| Errno::INVAL)?;
    let action = process.signals.actions.get(index).ok_or(Errno::INVAL)?;
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    if action[0] == IGNORE || harmless.contains(&(signal as i32)) {
        return Ok(0);
    }
    process.ended = Some(Ended::Signalled(signal as i32));
    Ok(0)
}
