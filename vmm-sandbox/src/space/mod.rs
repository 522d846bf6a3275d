//! The address space of a program: what is mapped where, and checked copies in and out of it.
//!
//! [`Space`] holds the areas a program has mapped; they alone decide what the host may copy on its
//! behalf, whatever the guest does to its page tables ([`tables`]). Every mapping takes its frames at
//! once: a program that was given memory has it, and the limit is what all mappings together may be.

mod copy;
mod frames;
mod image;
mod ram;
mod tables;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use rustix::io::Errno;
use vmm_core::{Error, hv::Vm};

use self::{
    frames::{Frames, Run},
    ram::Ram,
    tables::{Tables, Target},
};
pub(crate) use self::{
    image::{Image, Remains, SavedArea},
    tables::Edit,
};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// The most areas that are only reserved, which costs the program no memory; as Linux'
/// `vm.max_map_count`.
const MOST_RESERVED: u64 = 65_530;

/// What a program may use. Page 0 and some behind it stay unmapped, so that NULL faults; above lie
/// the self-map and the stub.
pub(crate) const USER: Range<u64> = 0x1_0000..0x7f00_0000_0000;

/// What a program may do with an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protection {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

impl Protection {
    pub(crate) const NONE: Self = Self { read: false, write: false, execute: false };
    pub(crate) const READ: Self = Self { read: true, ..Self::NONE };
    pub(crate) const READ_WRITE: Self = Self { write: true, ..Self::READ };
    pub(crate) const READ_EXECUTE: Self = Self { execute: true, ..Self::READ };

    /// As `mmap` has it.
    fn bits(self) -> u8 {
        u8::from(self.read) | u8::from(self.write) << 1 | u8::from(self.execute) << 2
    }

    fn of_bits(bits: u8) -> Option<Self> {
        let has = |bit| bits & bit != 0;
        (bits < 8).then(|| Self { read: has(1), write: has(2), execute: has(4) })
    }

    /// Whether any access is allowed; on x86 each kind allows to read.
    pub(crate) fn any(self) -> bool {
        self.read || self.write || self.execute
    }
}

/// Adjacent pages with adjacent frames and one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    len: u64,
    /// The physical address; `None` for address space that was only reserved.
    frames: Option<u64>,
    protection: Protection,
}

impl Area {
    /// The part of it from `offset` on.
    fn behind(self, offset: u64) -> Self {
        let frames = self.frames.map(|frames| frames + offset);
        Self { len: self.len - offset, frames, ..self }
    }

    /// Its frames, if it has some.
    fn run(&self) -> Option<Run> {
        self.frames.map(|start| Run { start, len: self.len })
    }

    fn target(self) -> Target {
        self.frames.map_or(Target::Nothing, |frames| Target::Frames(frames, self.protection))
    }
}

/// The address space.
pub(crate) struct Space {
    ram: Ram,
    frames: Frames,
    tables: Tables,
    /// By start; they do not overlap.
    areas: BTreeMap<u64, Area>,
    /// The areas may be others than those of the image that this began as.
    changed: bool,
    /// They were, and were put back; tables that came then are still there.
    remapped: bool,
}

/// A page of the stub, by its physical address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemPage(u64);

impl Space {
    /// An empty one, of at most `limit` bytes with its page tables.
    pub(crate) fn new(vm: Arc<dyn Vm>, limit: u64) -> Result<Self, Error> {
        let mut frames = Frames::new(limit);
        let ram = Ram::new(vm, limit)?;
        let tables = Tables::new(&ram, &mut frames);
        let tables = tables.map_err(|_| Error::bad_config("no room for a page table"))?;
        Ok(Self { ram, frames, tables, areas: BTreeMap::new(), changed: false, remapped: false })
    }

    /// The physical address of the root of the page tables.
    pub(crate) fn root(&self) -> u64 {
        self.tables.root()
    }

    /// Whether [`settle`](Self::settle) has nothing to do.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        !self.tables.has_edits() && self.ram.is_committed(self.frames.high_water())
    }

    /// Makes ready for the program to go on: shows the VM all frames that are in use, and gives the
    /// changes that the guest has to make to its tables.
    ///
    /// # Errors
    /// `Host` if the VM cannot have the memory.
    pub(crate) fn settle(&mut self) -> Result<Vec<Edit>, Error> {
        self.ram.commit(self.frames.high_water())?;
        Ok(self.tables.take_edits())
    }

    /// Bytes of RAM in use, page tables included.
    pub(crate) fn used(&self) -> u64 {
        self.frames.used()
    }

    /// Maps a page of the stub: its code for the program too, the rest for ring 0 only.
    pub(crate) fn map_system(
        &mut self,
        at: u64,
        protection: Protection,
    ) -> Result<SystemPage, Errno> {
        let frame = self.frames.take_one().ok_or(Errno::NOMEM)?;
        let target = match protection.execute {
            true => Target::Frames(frame, protection),
            false => Target::System(frame, protection),
        };
        self.try_set(at, PAGE, target)?;
        Ok(SystemPage(frame))
    }

    /// Reads a page of the stub.
    pub(crate) fn read_system(&self, page: SystemPage, offset: u64, data: &mut [u8]) {
        self.ram.read(page.0 + offset, data);
    }

    /// Writes a page of the stub.
    pub(crate) fn write_system(&self, page: SystemPage, offset: u64, data: &[u8]) {
        self.ram.write(page.0 + offset, data);
    }

    /// Maps zeroed memory at `at`, in place of whatever is there.
    ///
    /// # Errors
    /// `NOMEM` beyond [`USER`] or the limit; `INVAL` if not on page boundaries or empty.
    pub(crate) fn map(&mut self, at: u64, len: u64, protection: Protection) -> Result<(), Errno> {
        self.unmap(at, len)?;
        if !protection.any() {
            if self.areas.len() as u64 >= self.most_areas() {
                return Err(Errno::NOMEM);
            }
            self.areas.insert(at, Area { len, frames: None, protection });
            return Ok(());
        }
        self.give_frames(at, len, protection)
    }

    /// Takes away whatever is mapped in the range.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    pub(crate) fn unmap(&mut self, at: u64, len: u64) -> Result<(), Errno> {
        for (start, area) in self.cut(at, len)? {
            self.areas.remove(&start);
            self.set(start, area.len, Target::Nothing);
            self.free(area);
        }
        Ok(())
    }

    /// Changes the protection of the range.
    ///
    /// # Errors
    /// As for [`map`](Self::map), and `NOMEM` if not all of it is mapped.
    pub(crate) fn protect(
        &mut self,
        at: u64,
        len: u64,
        protection: Protection,
    ) -> Result<(), Errno> {
        let areas = self.cut(at, len)?;
        if areas.iter().map(|(_, area)| area.len).sum::<u64>() != len {
            return Err(Errno::NOMEM);
        }
        for (start, area) in areas {
            if area.frames.is_none() && protection.any() {
                self.give_frames(start, area.len, protection)?;
                continue;
            }
            let area = Area { protection, ..area };
            self.areas.insert(start, area);
            self.set(start, area.len, area.target());
        }
        Ok(())
    }

    /// Moves everything mapped in the range to `to`, in place of whatever is there. The ranges do
    /// not overlap.
    ///
    /// # Errors
    /// As for [`map`](Self::map); what was not moved yet stays.
    pub(crate) fn relocate(&mut self, from: u64, len: u64, to: u64) -> Result<(), Errno> {
        self.unmap(to, len)?;
        for (start, area) in self.cut(from, len)? {
            let place = start - from + to;
            if let Err(errno) = self.try_set(place, area.len, area.target()) {
                self.set(place, area.len, Target::Nothing);
                return Err(errno);
            }
            self.areas.remove(&start);
            self.set(start, area.len, Target::Nothing);
            self.areas.insert(place, area);
        }
        Ok(())
    }

    /// Fills the range, as far as it is mapped, with zeros.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    pub(crate) fn discard(&mut self, at: u64, len: u64) -> Result<(), Errno> {
        for (_, area) in self.cut(at, len)? {
            if let Some(start) = area.frames {
                self.ram.clear(Run { start, len: area.len });
            }
        }
        Ok(())
    }

    /// How many bytes of the range are mapped.
    pub(crate) fn mapped(&self, at: u64, len: u64) -> u64 {
        let end = at.saturating_add(len);
        let areas = self.areas.range(..end).rev();
        let overlaps =
            areas.map(|(start, area)| (start + area.len).min(end).saturating_sub(*start.max(&at)));
        // Areas are in order: the first that ends before the range is the last to look at.
        overlaps.take_while(|overlap| *overlap > 0).sum()
    }

    /// The highest free range of `len` bytes below `top`.
    pub(crate) fn find(&self, len: u64, top: u64) -> Option<u64> {
        let mut end = top;
        for (start, area) in self.areas.range(..top).rev() {
            if end.saturating_sub(start + area.len) >= len {
                break;
            }
            end = end.min(*start);
        }
        end.checked_sub(len).filter(|start| *start >= USER.start)
    }

    /// A number for the content of each frame that was ever in use.
    #[cfg(feature = "testing")]
    pub(crate) fn pages(&self) -> Vec<u64> {
        let mut bytes = [0; PAGE as usize];
        let frames = (0..self.frames.high_water()).step_by(PAGE as usize);
        let content = frames.map(|frame| {
            self.ram.read(frame, &mut bytes);
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            })
        });
        content.collect()
    }

    /// Panics if two areas share an address or a frame, or lie where none may.
    #[cfg(feature = "testing")]
    pub(crate) fn check(&self) {
        let mut end = USER.start;
        let mut frames = Vec::new();
        for (start, area) in &self.areas {
            assert!(*start >= end && area.len > 0, "an area at {start:#x}");
            end = start + area.len;
            frames.extend(area.frames.map(|frame| (frame, frame + area.len)));
        }
        assert!(end <= USER.end, "an area up to {end:#x}");
        frames.sort_unstable();
        assert!(frames.iter().zip(frames.iter().skip(1)).all(|(one, two)| one.1 <= two.0));
        assert!(self.areas.len() as u64 <= self.most_areas(), "{} areas", self.areas.len());
    }

    /// Start, length and protection of all that is mapped, in ascending order.
    pub(crate) fn areas(&self) -> impl Iterator<Item = (u64, u64, Protection)> {
        self.areas.iter().map(|(start, area)| (*start, area.len, area.protection))
    }

    /// The protection that all of the range has.
    pub(crate) fn protection(&self, at: u64, len: u64) -> Option<Protection> {
        let (_, first) = self.area(at)?;
        let mut areas = self.areas.range(at..at.checked_add(len)?);
        let same = areas.all(|(_, area)| area.protection == first.protection);
        (same && self.mapped(at, len) == len).then_some(first.protection)
    }

    /// How many areas there may be: the host keeps each of them. One that has memory has a page.
    fn most_areas(&self) -> u64 {
        MOST_RESERVED + self.frames.limit() / PAGE
    }

    /// The area that `at` lies in, and where in it.
    fn area(&self, at: u64) -> Option<(u64, &Area)> {
        let (start, area) = self.areas.range(..=at).next_back()?;
        (at - start < area.len).then_some((at - start, area))
    }

    /// Splits areas so that none crosses an end of the range; gives those inside.
    fn cut(&mut self, at: u64, len: u64) -> Result<Vec<(u64, Area)>, Errno> {
        if !at.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || len == 0 {
            return Err(Errno::INVAL);
        }
        let end = at.checked_add(len).filter(|end| at >= USER.start && *end <= USER.end);
        let end = end.ok_or(Errno::NOMEM)?;
        self.changed = true;
        for place in [at, end] {
            if let Some((offset, area)) = self.area(place)
                && offset > 0
            {
                if self.areas.len() as u64 >= self.most_areas() {
                    return Err(Errno::NOMEM);
                }
                let (start, area) = (place - offset, *area);
                self.areas.insert(start, Area { len: offset, ..area });
                self.areas.insert(place, area.behind(offset));
            }
        }
        Ok(self.areas.range(at..end).map(|(start, area)| (*start, *area)).collect())
    }

    /// Puts memory where there is none.
    fn give_frames(&mut self, at: u64, len: u64, protection: Protection) -> Result<(), Errno> {
        let runs = self.frames.take(len).ok_or(Errno::NOMEM)?;
        self.areas.remove(&at);
        let mut start = at;
        for run in &runs {
            let area = Area { len: run.len, frames: Some(run.start), protection };
            self.areas.insert(start, area);
            start += run.len;
        }
        let mut start = at;
        for run in runs {
            let target = Target::Frames(run.start, protection);
            if let Err(errno) = self.try_set(start, run.len, target) {
                self.unmap(at, len)?;
                return Err(errno);
            }
            start += run.len;
        }
        Ok(())
    }

    /// Maps pages.
    fn try_set(&mut self, at: u64, len: u64, target: Target) -> Result<(), Errno> {
        let set = self.tables.set(&self.ram, &mut self.frames, at, len / PAGE, target);
        set.map_err(|_| Errno::NOMEM)
    }

    /// Changes pages whose tables exist, which cannot fail.
    fn set(&mut self, at: u64, len: u64, target: Target) {
        let set = self.try_set(at, len, target);
        debug_assert!(set.is_ok(), "no new table was needed");
    }

    fn free(&mut self, area: Area) {
        if let Some(start) = area.frames {
            let run = Run { start, len: area.len };
            self.ram.clear(run);
            self.frames.give(run);
        }
    }
}
