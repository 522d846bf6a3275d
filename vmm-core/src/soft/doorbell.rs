//! Doorbells: stores that become events before a device is asked.

use std::{
    fs,
    os::fd::AsRawFd,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::{
    error::{Error, HostResult, Result},
    hv::{IoAddress, Match},
    irq::EventFd,
};

/// The doorbells of a VM.
#[derive(Default)]
pub(super) struct Bells {
    /// There are some: without any, a store costs no more than this look.
    any: AtomicBool,
    bells: RwLock<Vec<Bell>>,
}

struct Bell {
    at: IoAddress,
    matching: Match,
    /// What rings, a descriptor of our own.
    event: EventFd,
    /// Tells it from all others, whatever descriptors lead to it.
    identity: Option<u64>,
}

impl Bells {
    pub(super) fn add(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        let mut bells = self.bells.write().unwrap_or_else(PoisonError::into_inner);
        if bells.iter().any(|bell| bell.at == at && overlap(bell.matching, matching)) {
            return Err(Error::bad_config(format!("doorbell {at:?} {matching:?} is taken")));
        }
        let event = event.try_clone().host(|| "a doorbell's eventfd")?;
        let identity = identity(&event);
        bells.push(Bell { at, matching, event, identity });
        self.any.store(true, SeqCst);
        Ok(())
    }

    pub(super) fn remove(&self, at: IoAddress, matching: Match, event: &EventFd) -> Result<()> {
        let mut bells = self.bells.write().unwrap_or_else(PoisonError::into_inner);
        let identity = identity(event);
        let meant =
            |bell: &Bell| bell.at == at && bell.matching == matching && bell.identity == identity;
        let Some(found) = bells.iter().position(meant) else {
            return Err(Error::not_found(format!("there is no doorbell {at:?} {matching:?}")));
        };
        bells.remove(found);
        self.any.store(!bells.is_empty(), SeqCst);
        Ok(())
    }

    /// Rings if a doorbell is for this store; whether there is one.
    pub(super) fn ring(&self, at: IoAddress, data: &[u8]) -> bool {
        if !self.any.load(SeqCst) {
            return false;
        }
        let bells = self.bells.read().unwrap_or_else(PoisonError::into_inner);
        let Some(bell) = bells.iter().find(|bell| bell.at == at && takes(bell.matching, data))
        else {
            return false;
        };
        // The counter of an event that nobody reads is full after 2^64 - 2 stores: there is
        // nothing to be added then, it has rung.
        let _ = bell.event.write(1);
        true
    }
}

/// What Linux tells an event from all others by, as long as a descriptor leads to it: its number
/// alone may be another's by now (Linux, fs/eventfd.c, `eventfd_show_fdinfo`). `None` where it does
/// not say; then the address and the match are enough, for no two doorbells share them.
fn identity(event: &EventFd) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("eventfd-id:")?.trim().parse().ok())
}

/// Whether there is a store that both match.
fn overlap(a: Match, b: Match) -> bool {
    a == b || a == Match::Any || b == Match::Any
}

fn takes(matching: Match, data: &[u8]) -> bool {
    match matching {
        Match::Any => true,
        Match::U8(value) => data == value.to_le_bytes(),
        Match::U16(value) => data == value.to_le_bytes(),
        Match::U32(value) => data == value.to_le_bytes(),
        Match::U64(value) => data == value.to_le_bytes(),
    }
}
