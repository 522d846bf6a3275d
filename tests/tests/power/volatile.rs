//! A disk with a cache, which a power cut empties.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex},
    vec::Drain,
};

use vmm_core::Result;
use vmm_devices::{Disk, Operation, Request};

use crate::{LONG, Numbers};

/// What is written is in the cache, and on the medium after a flush; at a cut some of the cache has
/// reached the medium too, write by write or sector by sector, in no order.
#[derive(Clone)]
pub(crate) struct Volatile(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    asked: Condvar,
}

struct State {
    /// What is read.
    now: Vec<u8>,
    /// What is on the medium for sure.
    medium: Vec<u8>,
    cache: VecDeque<(usize, Vec<u8>)>,
    requests: u64,
}

impl Volatile {
    pub(crate) fn new(image: Vec<u8>) -> Self {
        let (medium, cache, requests) = (image.clone(), VecDeque::new(), 0);
        let state = Mutex::new(State { now: image, medium, cache, requests });
        Self(Arc::new(Shared { state, asked: Condvar::new() }))
    }

    /// Waits until it was asked for so much more.
    pub(crate) fn wait(&self, requests: u64) {
        let state = self.0.state.lock().unwrap();
        let end = state.requests + requests;
        let wait = self.0.asked.wait_timeout_while(state, LONG, |state| state.requests < end);
        assert!(!wait.unwrap().1.timed_out(), "no {requests} requests came");
    }

    /// Cuts the power: what is on the medium then.
    pub(crate) fn cut(&self, numbers: &mut Numbers) -> Vec<u8> {
        let state = self.0.state.lock().unwrap();
        let mut medium = state.medium.clone();
        // Of four: how many writes came through, and how many of those but in part.
        let (through, torn) = (numbers.next(5), numbers.next(5));
        for (at, data) in &state.cache {
            if numbers.next(4) >= through {
                continue;
            }
            let is_torn = numbers.next(4) < torn;
            for (n, sector) in data.chunks(512).enumerate() {
                if !is_torn || numbers.next(2) == 0 {
                    medium[at + 512 * n..][..sector.len()].copy_from_slice(sector);
                }
            }
        }
        medium
    }
}

impl Disk for Volatile {
    fn len(&self) -> u64 {
        self.0.state.lock().unwrap().now.len() as u64
    }

    fn submit(&self, requests: Drain<'_, Request>) -> Result<()> {
        let mut state = self.0.state.lock().unwrap();
        let State { now, medium, cache, requests: count } = &mut *state;
        // A flush is about what the driver knew to be done when it asked: no more is promised.
        let mut finished = cache.len();
        for request in requests {
            *count += 1;
            let result = match request.operation() {
                Operation::Read { at, to } => {
                    to.write(0, &now[at as usize..][..to.len() as usize]);
                    Ok(())
                }
                Operation::Write { at, from } => {
                    let mut data = vec![0; from.len() as usize];
                    from.read(0, &mut data);
                    now[at as usize..][..data.len()].copy_from_slice(&data);
                    cache.push_back((at as usize, data));
                    Ok(())
                }
                Operation::Flush => {
                    for (at, data) in cache.drain(..std::mem::take(&mut finished)) {
                        medium[at..][..data.len()].copy_from_slice(&data);
                    }
                    Ok(())
                }
                _ => Err(io::ErrorKind::Unsupported.into()),
            };
            request.finish(result);
        }
        self.0.asked.notify_all();
        Ok(())
    }
}
