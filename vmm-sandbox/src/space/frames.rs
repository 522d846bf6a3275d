//! Which frames of a sandbox's RAM are in use.
//!
//! Frames are handed out from the bottom, so that what was ever in use is one range from 0 and the
//! VM needs no slot for the rest. A free frame is all zeros: who gives one back clears it.

use std::collections::BTreeMap;

use super::PAGE;

/// Adjacent frames: a physical address and a length, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// The frames below a limit.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    /// Everything from here to the limit was never in use.
    fresh: u64,
    limit: u64,
    /// What was given back below `fresh`: start to length. Adjacent runs are one.
    free: BTreeMap<u64, u64>,
}

impl Frames {
    pub(crate) fn new(limit: u64) -> Self {
        Self { fresh: 0, limit, free: BTreeMap::new() }
    }

    /// Those of which these runs are in use: in ascending order, below the limit, none overlaps
    /// another.
    pub(crate) fn in_use(limit: u64, runs: &[Run]) -> Self {
        let mut frames = Self::new(limit);
        for run in runs {
            if run.start > frames.fresh {
                frames.free.insert(frames.fresh, run.start - frames.fresh);
            }
            frames.fresh = run.start + run.len;
        }
        frames
    }

    /// The bytes there are.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Where the frames end that were ever in use.
    pub(crate) fn high_water(&self) -> u64 {
        self.fresh
    }

    /// The bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.fresh - self.free.values().sum::<u64>()
    }

    /// Takes one frame.
    pub(crate) fn take_one(&mut self) -> Option<u64> {
        self.take(PAGE)?.first().map(|run| run.start)
    }

    /// Takes `len` bytes, in as few runs as there may be; all or nothing.
    pub(crate) fn take(&mut self, len: u64) -> Option<Vec<Run>> {
        if len > self.limit - self.used() {
            return None;
        }
        let fits = self.free.iter().find(|(_, free)| **free >= len).map(|(start, _)| *start);
        if let Some(start) = fits {
            return Some(vec![self.take_free(start, len)]);
        }
        let mut rest = len;
        let mut runs = Vec::new();
        if self.limit - self.fresh < len {
            // No run is long enough: the pieces first, they are good for little else.
            while let Some((&start, &free)) = self.free.first_key_value()
                && rest > 0
            {
                runs.push(self.take_free(start, free.min(rest)));
                rest -= free.min(rest);
            }
        }
        if rest > 0 {
            runs.push(Run { start: self.fresh, len: rest });
            self.fresh += rest;
        }
        Some(runs)
    }

    /// Takes this frame, if nobody has it.
    pub(crate) fn reserve(&mut self, frame: u64) {
        if frame >= self.fresh {
            let before = Run { start: self.fresh, len: frame - self.fresh };
            self.fresh = frame + PAGE;
            if before.len > 0 {
                self.give(before);
            }
            return;
        }
        let Some((&start, &len)) = self.free.range(..=frame).next_back() else { return };
        if frame < start + len {
            self.free.remove(&start);
            let around = [(start, frame - start), (frame + PAGE, start + len - frame - PAGE)];
            self.free.extend(around.into_iter().filter(|(_, len)| *len > 0));
        }
    }

    fn take_free(&mut self, start: u64, len: u64) -> Run {
        let free = self.free.remove(&start).unwrap_or(len);
        if free > len {
            self.free.insert(start + len, free - len);
        }
        Run { start, len }
    }

    /// Gives back frames, which are all zeros.
    pub(crate) fn give(&mut self, run: Run) {
        let Run { mut start, mut len } = run;
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            self.free.remove(&before);
            (start, len) = (before, len + free);
        }
        if let Some(behind) = self.free.remove(&(start + len)) {
            len += behind;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn free_frames_are_taken_before_fresh_ones_and_runs_are_joined() {
        let mut frames = Frames::new(16 * PAGE);
        let first = frames.take(4 * PAGE).unwrap();
        let second = frames.take(4 * PAGE).unwrap();
        assert_eq!((first.len(), second[0].start), (1, 4 * PAGE));
        frames.give(first[0]);
        assert_eq!(frames.take_one(), Some(0));
        frames.give(Run { start: 0, len: PAGE });
        frames.give(second[0]);
        assert_eq!(frames.take(8 * PAGE).unwrap(), [Run { start: 0, len: 8 * PAGE }]);
        assert!(frames.take(9 * PAGE).is_none());
        assert_eq!((frames.used(), frames.high_water()), (8 * PAGE, 8 * PAGE));
    }

    #[test]
    fn a_reserved_frame_is_not_handed_out() {
        let mut frames = Frames::new(16 * PAGE);
        frames.take(4 * PAGE).unwrap();
        frames.give(Run { start: 0, len: 3 * PAGE });
        [PAGE, 6 * PAGE, 3 * PAGE, 6 * PAGE].into_iter().for_each(|at| frames.reserve(at));
        assert_eq!((frames.used(), frames.high_water()), (3 * PAGE, 7 * PAGE));
        let taken: Vec<_> = std::iter::from_fn(|| frames.take_one()).map(|at| at / PAGE).collect();
        assert_eq!(taken, [0, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn what_lies_between_runs_is_free() {
        let run = |start: u64, len: u64| Run { start: start * PAGE, len: len * PAGE };
        let mut frames = Frames::in_use(8 * PAGE, &[run(1, 2), run(3, 1), run(5, 1)]);
        assert_eq!((frames.used(), frames.high_water()), (4 * PAGE, 6 * PAGE));
        let taken: Vec<_> = std::iter::from_fn(|| frames.take_one()).map(|at| at / PAGE).collect();
        assert_eq!(taken, [0, 4, 6, 7]);
        assert_eq!(Frames::in_use(8 * PAGE, &[]).used(), 0);
    }

    proptest! {
        #[test]
        fn no_frame_is_handed_out_twice(
            steps in prop::collection::vec((1u64..9, any::<bool>()), 1..80),
        ) {
            let mut frames = Frames::new(64 * PAGE);
            let mut taken: Vec<Run> = Vec::new();
            for (pages, give) in steps {
                if give && !taken.is_empty() {
                    frames.give(taken.remove(pages as usize % taken.len()));
                } else if let Some(runs) = frames.take(pages * PAGE) {
                    prop_assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), pages * PAGE);
                    taken.extend(runs);
                }
                let mut sorted = taken.clone();
                sorted.sort_by_key(|run| run.start);
                prop_assert!(sorted.windows(2).all(|w| w[0].start + w[0].len <= w[1].start));
                prop_assert_eq!(sorted.iter().map(|run| run.len).sum::<u64>(), frames.used());
                prop_assert!(frames.high_water() <= 64 * PAGE);
            }
        }
    }
}
