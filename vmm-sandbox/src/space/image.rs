//! An address space as it was at one moment, and the way back to it.
//!
//! Its pages are a template, which every space made of it shares. Page tables are the exception: a
//! hypervisor with shadow page tables does not see that the host puts them back, so they are not put
//! back but changed, entry by entry, like any other change of the mappings ([`super::tables`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use vmm_core::{
    Error, Result,
    hv::Vm,
    memory::{PageSet, Template},
    snapshot::Saved,
};

use super::{
    Area, PAGE, Protection, Space, SystemPage, USER,
    frames::{Frames, Run},
    ram::Ram,
    tables::{NOTED, Tables, Target},
};

/// An address space as it was at one moment.
pub(crate) struct Image {
    template: Template,
    frames: Frames,
    tables: Tables,
    areas: BTreeMap<u64, Area>,
    limit: u64,
}

/// What is left of an address space: memory, in a VM.
pub(crate) struct Remains {
    ram: Ram,
    /// Areas or page tables may be others than those of the image that it began as.
    moved: bool,
}

/// How many tables a space may have kept from what was undone, at most. They take from its limit,
/// and it must not matter to a program what was there before it.
const SPARE_TABLES: usize = 16;

impl Space {
    /// What it is now; it goes on as a space made of that. The guest has made all changes to its
    /// tables.
    ///
    /// # Errors
    /// `Host` if the host does not make a template of its memory.
    pub(crate) fn image(&mut self) -> Result<Image> {
        let template = self.ram.freeze(self.frames.high_water())?;
        (self.changed, self.remapped) = (false, false);
        Ok(Image {
            template,
            frames: self.frames.clone(),
            tables: self.tables.clone(),
            areas: self.areas.clone(),
            limit: self.ram.limit(),
        })
    }

    /// One that begins as an image.
    ///
    /// # Errors
    /// `Host` if there is no memory for it.
    pub(crate) fn of_image(vm: Arc<dyn Vm>, image: &Image) -> Result<Self> {
        let ram = Ram::view(vm, &image.template, image.limit)?;
        let (frames, tables) = (image.frames.clone(), image.tables.clone());
        let areas = image.areas.clone();
        Ok(Self { ram, frames, tables, areas, changed: false, remapped: false })
    }

    /// The same in a VM that another had.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_image_in(remains: Remains, image: &Image) -> Result<Self> {
        let restorable = remains.are_of(image);
        let mut ram = remains.ram;
        if !(restorable && image.is_restored(&mut ram)?) {
            ram.become_view(&image.template, image.limit)?;
        }
        let (frames, tables) = (image.frames.clone(), image.tables.clone());
        let areas = image.areas.clone();
        Ok(Self { ram, frames, tables, areas, changed: false, remapped: false })
    }

    /// What is left of one that is dropped.
    pub(crate) fn leave(&mut self) -> Remains {
        Remains { ram: self.ram.leave(), moved: self.changed || self.remapped }
    }

    /// Goes back to the image that it began as, or became last. The next [`settle`](Self::settle)
    /// has what the guest has to change for it.
    ///
    /// # Errors
    /// `Host` if the host refuses; the space is then in no defined state.
    pub(crate) fn restore(&mut self, image: &Image) -> Result<()> {
        let spare = self.tables.count() - image.tables.count();
        if spare > SPARE_TABLES {
            return self.become_image(image);
        }
        self.ram.restore(self.tables.frames())?;
        if !self.changed {
            return Ok(());
        }
        self.remapped = true;
        self.remap(image)?;
        self.frames = image.frames.clone();
        self.tables.frames().for_each(|table| self.frames.reserve(table));
        self.changed = false;
        Ok(())
    }

    /// Becomes another image, in the same VM; slower than [`restore`](Self::restore).
    ///
    /// # Errors
    /// As there.
    pub(crate) fn become_image(&mut self, image: &Image) -> Result<()> {
        self.ram.become_view(&image.template, image.limit)?;
        self.frames = image.frames.clone();
        self.tables = image.tables.clone();
        self.areas = image.areas.clone();
        (self.changed, self.remapped) = (false, false);
        Ok(())
    }

    /// Maps what the image maps, where something else is.
    fn remap(&mut self, image: &Image) -> Result<()> {
        let old = std::mem::replace(&mut self.areas, image.areas.clone());
        let borders = [&old, &image.areas].into_iter().flatten();
        let borders = borders.flat_map(|(start, area)| [*start, start + area.len]);
        let borders: BTreeSet<_> = borders.collect();
        // What is between two borders was one mapping, or nothing, and is to be one.
        for (start, end) in borders.iter().zip(borders.iter().skip(1)) {
            let (was, wanted) = (target(&old, *start), target(&image.areas, *start));
            if was != wanted {
                let set = self.try_set(*start, end - start, wanted);
                set.map_err(|errno| Error::internal(format!("mapping {start:#x}: {errno}")))?;
            }
        }
        Ok(())
    }
}

impl Remains {
    /// Whether its memory is that image's but for what was written to it.
    pub(crate) fn are_of(&self, image: &Image) -> bool {
        !self.moved && self.ram.is_view_of(&image.template, image.limit)
    }
}

impl Image {
    /// Puts back what was written to a view of it. False if page tables are not as they were: what
    /// changes them but the host is no program that kept to ring 3.
    fn is_restored(&self, ram: &mut Ram) -> Result<bool> {
        ram.restore(self.tables.frames())?;
        let mut written = self.tables.frames().filter(|table| ram.is_left(*table));
        if !written.all(|table| self.has_table(ram, table)) {
            return Ok(false);
        }
        // No hypervisor has to see this: the entries map what they mapped.
        ram.restore_left()?;
        Ok(true)
    }

    /// Whether a page table has the image's entries, but for what the processor notes in them.
    fn has_table(&self, ram: &Ram, table: u64) -> bool {
        const PIECE: u64 = 512;
        let [mut now, mut then] = [[0; PIECE as usize]; 2];
        (table..table + PAGE).step_by(PIECE as usize).all(|at| {
            ram.read(at, &mut now);
            let read = self.template.read(at, &mut then);
            let entries = now.as_chunks::<8>().0.iter().zip(then.as_chunks::<8>().0);
            let differences =
                entries.map(|(now, then)| u64::from_le_bytes(*now) ^ u64::from_le_bytes(*then));
            read.is_ok() && differences.fold(0, |all, difference| all | difference) & !NOTED == 0
        })
    }
}

/// An area of a saved address space: where it starts, its length, its first frame, and its
/// protection as the bits of `mmap`.
pub(crate) type SavedArea = (u64, u64, Option<u64>, u8);

impl Image {
    /// What a program has of it, for a file. Page tables and the stub are not its own.
    pub(crate) fn areas(&self) -> Vec<SavedArea> {
        let saved =
            |(start, area): (&u64, &Area)| (*start, area.len, area.frames, area.protection.bits());
        self.areas.iter().map(saved).collect()
    }

    /// Its memory, and the pages of it that are a program's.
    pub(crate) fn pages(&self) -> (&Template, PageSet) {
        let mut pages = PageSet::new();
        let (held, runs) = (self.template.pages(), self.areas.values().filter_map(Area::run));
        for run in runs {
            let run = run.start / PAGE..(run.start + run.len) / PAGE;
            run.filter(|page| held.contains(*page)).for_each(|page| pages.insert(page));
        }
        (&self.template, pages)
    }

    /// Reads a page of the stub.
    pub(crate) fn read_system(&self, page: SystemPage, offset: u64, data: &mut [u8]) {
        let read = self.template.read(page.0 + offset, data);
        debug_assert!(read.is_ok(), "the stub is part of every space");
    }
}

impl Space {
    /// The address space that a file has, in a VM that has none; its page tables are new.
    ///
    /// # Errors
    /// `Snapshot` if the areas contradict each other or the pages; `BadConfig` if they are more than
    /// `limit`; what [`Saved::load`] says.
    pub(crate) fn of_saved(
        vm: Arc<dyn Vm>,
        limit: u64,
        areas: &[SavedArea],
        saved: &Saved,
    ) -> Result<Self> {
        let areas = checked(areas)?;
        let runs = runs_of(&areas, limit)?;
        if let Some(page) = stray_page(&runs, saved) {
            return Err(bad(&format!("page {page:#x} is in no area")));
        }
        let mut frames = Frames::in_use(limit, &runs);
        let ram = Ram::new(vm, limit)?;
        saved.load(ram.region())?;
        let no_room = |_| Error::bad_config(format!("{limit:#x} bytes of memory are not enough"));
        let tables = Tables::new(&ram, &mut frames).map_err(no_room)?;
        let mut space =
            Self { ram, frames, tables, areas: BTreeMap::new(), changed: false, remapped: false };
        for (start, area) in &areas {
            let set = space.try_set(*start, area.len, area.target());
            set.map_err(|_| {
                Error::bad_config(format!("{limit:#x} bytes of memory are not enough"))
            })?;
        }
        space.areas = areas;
        match space.areas.len() as u64 > space.most_areas() {
            true => Err(bad(&format!("{} areas are too many", space.areas.len()))),
            false => Ok(space),
        }
    }
}

fn bad(what: &str) -> Error {
    Error::snapshot(format!("address space: {what}"))
}

/// The areas, if they lie where a program's may and none overlaps another.
fn checked(saved: &[SavedArea]) -> Result<BTreeMap<u64, Area>> {
    let mut areas = BTreeMap::new();
    let mut end = USER.start;
    for (start, len, frames, protection) in saved {
        let next = start.checked_add(*len).filter(|next| *next <= USER.end);
        let whole = [start, len, &frames.unwrap_or(0)].iter().all(|n| n.is_multiple_of(PAGE));
        let protection = Protection::of_bits(*protection);
        let (Some(next), Some(protection)) = (next, protection.filter(|_| whole)) else {
            return Err(bad(&format!("an area of {len:#x} bytes at {start:#x}")));
        };
        if *start < end || *len == 0 || (frames.is_none() && protection.any()) {
            return Err(bad(&format!("an area of {len:#x} bytes at {start:#x}")));
        }
        end = next;
        areas.insert(*start, Area { len: *len, frames: *frames, protection });
    }
    Ok(areas)
}

/// The frames of all areas, in ascending order, if no two areas share one.
fn runs_of(areas: &BTreeMap<u64, Area>, limit: u64) -> Result<Vec<Run>> {
    let mut runs: Vec<_> = areas.values().filter_map(Area::run).collect();
    runs.sort_unstable_by_key(|run| run.start);
    let mut end = 0;
    for run in &runs {
        let next = run.start.checked_add(run.len).filter(|_| run.start >= end);
        end = next.ok_or_else(|| bad(&format!("two areas have frame {:#x}", run.start)))?;
    }
    if end > limit {
        let message = format!("{end:#x} bytes of memory are in use, and the limit is {limit:#x}");
        return Err(Error::bad_config(message));
    }
    Ok(runs)
}

/// A page that is kept and belongs to nobody.
fn stray_page(runs: &[Run], saved: &Saved) -> Option<u64> {
    let mut runs = runs.iter().peekable();
    for pages in saved.pages() {
        let (mut at, end) = (pages.start * PAGE, pages.end * PAGE);
        while at < end {
            let Some(run) = runs.peek().filter(|run| run.start <= at) else {
                return Some(at / PAGE);
            };
            at = at.max(run.start + run.len);
            if at < end {
                runs.next();
            }
        }
    }
    None
}

/// What is mapped at an address.
fn target(areas: &BTreeMap<u64, Area>, at: u64) -> Target {
    let area = areas.range(..=at).next_back();
    let area = area.filter(|(start, area)| at - **start < area.len);
    area.map_or(Target::Nothing, |(start, area)| area.behind(at - start).target())
}
