//! From linear to physical addresses: the walk through the page tables (Intel SDM 3-4, AMD APM
//! 2-5.3).

use crate::{
    core::{Core, World},
    exception::{Exception, Vector},
    op::Stop,
    ram::{Lent, PAGE_SIZE},
};

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Fetch,
    Read,
    /// Also what reads first, and writes then.
    Write,
}

/// The physical addresses the CPU has, in bits.
pub(crate) const PHYSICAL_BITS: u32 = 48;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = (1 << PHYSICAL_BITS) - PAGE_SIZE;
/// Between the physical addresses and the bits that software may use.
const TOO_HIGH: u64 = (1 << 52) - (1 << PHYSICAL_BITS);

/// Bits of a page fault's error code (Intel SDM 3-4.7).
mod code {
    pub(super) const PROTECTION: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
}

pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// What four levels of tables say of a page.
struct Leaf {
    physical: u64,
    /// The entries used, from the root on, and where they lie.
    path: [(u64, u64); 4],
    depth: usize,
    /// The AND of the paths' rights, NX as its opposite.
    rights: u64,
}

/// Whether all bits from 47 up are the same.
pub(crate) fn is_canonical(linear: u64) -> bool {
    (linear << 16).cast_signed() >> 16 == linear.cast_signed()
}

impl Core {
    /// The physical address behind a canonical linear one; marks the tables' entries as used.
    pub(crate) fn walk(
        &mut self,
        linear: u64,
        access: Access,
        world: &World<'_>,
    ) -> Result<u64, Stop> {
        loop {
            let leaf = self.look_up(linear, access, world)?;
            if !self.allows(leaf.rights, access) {
                return Err(self.page_fault(linear, access, code::PROTECTION));
            }
            if self.mark(&leaf, access, world) {
                return Ok(leaf.physical);
            }
            // Another CPU changed an entry meanwhile.
        }
    }

    fn look_up(&mut self, linear: u64, access: Access, world: &World<'_>) -> Result<Leaf, Stop> {
        let mut leaf =
            Leaf { physical: 0, path: [(0, 0); 4], depth: 0, rights: WRITABLE | USER | NO_EXECUTE };
        let mut table = self.system.cr3 & ADDRESS;
        for level in (0..4).rev() {
            let shift = 12 + 9 * level;
            let at = table + (linear >> shift & 511) * 8;
            let entry = table_entry(at, world);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, 0));
            }
            let is_leaf = level == 0 || entry & LARGE != 0 && level < 3;
            if entry & self.reserved(level, is_leaf) != 0 {
                return Err(self.page_fault(linear, access, code::PROTECTION | code::RESERVED));
            }
            leaf.path[leaf.depth] = (at, entry);
            leaf.depth += 1;
            leaf.rights &= entry ^ NO_EXECUTE;
            table = entry & ADDRESS;
            if is_leaf {
                let within = (1 << shift) - 1;
                leaf.physical = table & !within | linear & within;
                break;
            }
        }
        Ok(leaf)
    }

    fn reserved(&self, level: u32, is_leaf: bool) -> u64 {
        let mut bits = TOO_HIGH;
        if self.system.efer & EFER_NXE == 0 {
            bits |= NO_EXECUTE;
        }
        match level {
            3 => bits |= LARGE,
            // The lowest bit of a large page's address is its PAT bit.
            1 | 2 if is_leaf => bits |= (1 << (12 + 9 * level)) - (1 << 13),
            _ => {}
        }
        bits
    }

    fn allows(&self, rights: u64, access: Access) -> bool {
        let user_page = rights & USER != 0;
        if self.tlb.is_user() && !user_page {
            return false;
        }
        match access {
            Access::Read => true,
            Access::Write => {
                let overrides = !self.tlb.is_user() && self.system.cr0 & CR0_WP == 0;
                rights & WRITABLE != 0 || overrides
            }
            Access::Fetch => {
                let smep = self.system.cr4 & CR4_SMEP != 0 && !self.tlb.is_user() && user_page;
                rights & NO_EXECUTE != 0 && !smep
            }
        }
    }

    /// Sets the accessed and dirty bits; false if an entry is no longer what it was.
    fn mark(&self, leaf: &Leaf, access: Access, world: &World<'_>) -> bool {
        leaf.path[..leaf.depth].iter().enumerate().all(|(i, &(at, entry))| {
            let dirty = access == Access::Write && i + 1 == leaf.depth;
            let new = entry | ACCESSED | if dirty { DIRTY } else { 0 };
            if new == entry {
                return true;
            }
            let Some(page) = Lent::from(world.ram, at).filter(|page| page.writable) else {
                return true;
            };
            world.ram.dirty(at / PAGE_SIZE);
            page.compare_exchange(at % PAGE_SIZE, entry, new).is_ok()
        })
    }

    fn page_fault(&mut self, linear: u64, access: Access, why: u32) -> Stop {
        let user = if self.tlb.is_user() { code::USER } else { 0 };
        let what = match access {
            Access::Read => 0,
            Access::Write => code::WRITE,
            Access::Fetch if self.knows_fetches() => code::FETCH,
            Access::Fetch => 0,
        };
        self.fault_address = linear;
        self.raise(Exception::with_code(Vector::PageFault, why | user | what))
    }

    fn knows_fetches(&self) -> bool {
        self.system.efer & EFER_NXE != 0 || self.system.cr4 & CR4_SMEP != 0
    }
}

/// A table outside RAM reads as all ones, like everything where nobody answers.
fn table_entry(at: u64, world: &World<'_>) -> u64 {
    Lent::from(world.ram, at).map_or(!0, |page| page.load(at % PAGE_SIZE))
}
