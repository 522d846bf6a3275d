//! An address space as it was at one moment, and the way back to it.
//!
//! Its pages are a template, which every space made of it shares. Page tables are the exception: a
//! hypervisor with shadow page tables does not see that the host puts them back, so they are not put
//! back but changed, entry by entry, like any other change of the mappings ([`super::tables`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use vmm_core::{Error, Result, hv::Vm, memory::Template};

use super::{
    Area, Space,
    frames::Frames,
    ram::Ram,
    tables::{Tables, Target},
};

/// An address space as it was at one moment.
pub(crate) struct Image {
    template: Template,
    frames: Frames,
    tables: Tables,
    areas: BTreeMap<u64, Area>,
    limit: u64,
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
        self.changed = false;
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
        Ok(Self { ram, frames, tables, areas: image.areas.clone(), changed: false })
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
        self.changed = false;
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

/// What is mapped at an address.
fn target(areas: &BTreeMap<u64, Area>, at: u64) -> Target {
    let area = areas.range(..=at).next_back();
    let area = area.filter(|(start, area)| at - **start < area.len);
    area.map_or(Target::Nothing, |(start, area)| area.behind(at - start).target())
}
