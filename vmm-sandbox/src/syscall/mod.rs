//! What a program may ask for: Linux' system calls as far as one static process needs them.
//!
//! A family of calls is a module with a table `CALLS` of numbers and functions; [`FAMILIES`] lists
//! them. What is not in any table answers `ENOSYS` and is counted by its name. A call sees the
//! [`Process`], which holds nothing of the host but what was granted, and its six arguments, which
//! it does not trust: an address is looked up ([`Space`](crate::space::Space)), a length is bounded
//! before anything is allocated for it.

mod change;
mod descriptor;
mod directory;
mod identity;
mod io;
mod memory;
mod name;
mod path;
mod poll;
mod random;
mod signal;
mod status;
mod thread;
mod time;

use rustix::io::Errno;

#[cfg(feature = "testing")]
pub(crate) use self::name::name;
pub(crate) use self::{random::fill as fill_random, signal::Signals};
use crate::{
    cpu::{Cpu, SystemCall},
    process::Process,
};

/// A system call while it is answered.
pub(crate) struct Call<'a> {
    pub(crate) args: [u64; 6],
    /// The processor, for the few calls that are about it.
    pub(crate) cpu: &'a mut Cpu,
}

/// What a call answers: RAX, or an error number.
pub(crate) type Answer<T = u64> = Result<T, Errno>;

/// Answers one call.
type Function = fn(&mut Process, &mut Call<'_>) -> Answer;

/// Some calls, by number.
type Calls = &'static [(libc::c_long, Function)];

const FAMILIES: &[Calls] = &[
    change::CALLS,
    descriptor::CALLS,
    directory::CALLS,
    identity::CALLS,
    io::CALLS,
    memory::CALLS,
    path::CALLS,
    poll::CALLS,
    random::CALLS,
    signal::CALLS,
    status::CALLS,
    thread::CALLS,
    time::CALLS,
];

/// Behind the greatest number in use.
const NUMBERS: usize = 512;

static TABLE: [Option<Function>; NUMBERS] = table();

const fn table() -> [Option<Function>; NUMBERS] {
    let mut table: [Option<Function>; NUMBERS] = [None; NUMBERS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut call = 0;
        while call < FAMILIES[family].len() {
            let (number, function) = FAMILIES[family][call];
            assert!(table[number as usize].is_none(), "a call in two tables");
            table[number as usize] = Some(function);
            call += 1;
        }
        family += 1;
    }
    table
}

/// The numbers of the calls that are known.
#[cfg(feature = "testing")]
pub(crate) fn numbers() -> impl Iterator<Item = u64> {
    (0..).zip(&TABLE).filter(|(_, call)| call.is_some()).map(|(number, _)| number)
}

/// Answers a call; gives RAX.
pub(crate) fn answer(process: &mut Process, cpu: &mut Cpu, call: &SystemCall) -> u64 {
    let SystemCall { number, args } = *call;
    let function = usize::try_from(number).ok().and_then(|number| TABLE.get(number).copied());
    let answer = match function.flatten() {
        Some(function) => {
            process.counts.calls += 1;
            function(process, &mut Call { args, cpu })
        }
        None => {
            *process.counts.unknown.entry(name::name(number)).or_default() += 1;
            Err(Errno::NOSYS)
        }
    };
    value(answer)
}

/// An answer as RAX has it.
pub(crate) fn value(answer: Answer) -> u64 {
    answer.unwrap_or_else(|errno| -i64::from(errno.raw_os_error()) as u64)
}
