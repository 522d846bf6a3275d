//! Which process an object belongs to.
//!
//! KVM ties a VM to the address space that made it and guest RAM is `MADV_DONTFORK`, so after a
//! host `fork()` the child holds objects it must not use. Each such object carries an [`Owner`] and
//! asks it first, at every call; so asking is a load and a comparison. A process has a number, in a
//! page that the kernel wipes in children (`MADV_WIPEONFORK`): its process ID would take a system
//! call, and a child in a PID namespace of its own may have the same.
#![expect(unsafe_code, reason = "a page that the kernel wipes in children")]

use std::{
    ptr::{self, null_mut},
    sync::atomic::{
        AtomicPtr, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::{Error, ErrorKind, Result};

/// The process that made an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// The calling process. Async-signal-safe.
    #[inline]
    pub(crate) fn current() -> Self {
        // SAFETY: null, or a word that stays: `WORD` is only set to such.
        let word = unsafe { WORD.load(SeqCst).as_ref() };
        match word.map_or(0, |word| word.load(Relaxed)) {
            0 => Self(number(word.unwrap_or_else(set_up))),
            number => Self(number),
        }
    }

    /// Whether the calling process is the owner.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// `WrongProcess` in a child after `fork()`.
    #[inline]
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() { Ok(()) } else { Err(wrong_process()) }
    }
}

#[cold]
fn wrong_process() -> Error {
    let message = format!(
        "used in process {}, which is a child of the one that made it: after fork() only the \
         parent may use it",
        std::process::id()
    );
    Error::new(ErrorKind::WrongProcess, message)
}

/// Where this process's number is, 0 as long as it has none; null until somebody asks.
static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

/// The word of a process whose kernel wipes nothing: it stays 0.
static NOT_WIPED: AtomicU64 = AtomicU64::new(0);

/// The last number that this process or one it descends from has given itself.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The number of a process whose word is 0.
#[cold]
fn number(word: &AtomicU64) -> u64 {
    if ptr::eq(word, &NOT_WIPED) {
        return std::process::id().into();
    }
    let number = LAST.fetch_add(1, SeqCst) + 1;
    word.compare_exchange(0, number, SeqCst, SeqCst).err().unwrap_or(number)
}

/// Sets `WORD`. Without a lock: `fork()` would copy one that another thread holds.
#[cold]
fn set_up() -> &'static AtomicU64 {
    let ours = wiped_word();
    let word =
        ours.map_or((&raw const NOT_WIPED).cast_mut(), |word| ptr::from_ref(word).cast_mut());
    match WORD.compare_exchange(null_mut(), word, SeqCst, SeqCst) {
        Ok(_) => ours.unwrap_or(&NOT_WIPED),
        Err(other) => {
            if ours.is_some() {
                // SAFETY: the page of `wiped_word`, which nobody else has seen.
                let _ = unsafe { munmap(word.cast(), PAGE) };
            }
            // SAFETY: what `WORD` is set to stays.
            unsafe { &*other }
        }
    }
}

const PAGE: usize = 4096;

/// A word that is 0 in each child; `None` where the kernel has no such thing.
fn wiped_word() -> Option<&'static AtomicU64> {
    let rw = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe { mmap_anonymous(null_mut(), PAGE, rw, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: the new page; the advice changes only what children see.
    if unsafe { madvise(page, PAGE, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: the new page, which nobody has seen.
        let _ = unsafe { munmap(page, PAGE) };
        return None;
    }
    // SAFETY: aligned, zeroed, never unmapped once it is handed out, and only used as an atomic.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_number() {
        let owner = Owner::current();
        std::thread::scope(|scope| {
            (0..4).for_each(|_| assert!(scope.spawn(move || owner.is_current()).join().unwrap()));
        });
        assert!(owner.check().is_ok());
    }

    #[test]
    fn a_wiped_word_gets_a_number_that_nobody_had() {
        let word = AtomicU64::new(0);
        let first = number(&word);
        assert_eq!(number(&word), first, "one thread is first, the others take its number");
        word.store(0, SeqCst);
        assert!(number(&word) > first);
    }

    #[test]
    fn where_the_kernel_wipes_nothing_it_is_the_process_id() {
        assert_eq!(number(&NOT_WIPED), u64::from(std::process::id()));
    }
}
