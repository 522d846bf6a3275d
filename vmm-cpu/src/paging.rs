//! From linear to physical addresses: the walk through the page tables (Intel SDM 3-4, AMD APM
//! 2-5.3).

use crate::{
    core::{Core, World},
    exception::{Exception, Vector},
    op::Stop,
    ram::{Lent, PAGE_SIZE},
    system::{CR0_PG, CR4_PAE, CR4_PSE},
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
/// Free for software in long mode, reserved in PAE.
const IGNORED: u64 = (1 << 63) - (1 << 52);

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
pub(crate) const CR4_SMAP: u64 = 1 << 21;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// A way of paging.
struct Paging {
    levels: u32,
    /// How many bits of an address number an entry of a table.
    bits: u32,
    /// Entries have 8 bytes, else 4.
    wide: bool,
    /// The highest level at which an entry can be that of a page; 0 is the lowest.
    largest: u32,
}

const LONG: Paging = Paging { levels: 4, bits: 9, wide: true, largest: 2 };
const PAE: Paging = Paging { levels: 3, bits: 9, wide: true, largest: 1 };
/// Of 32 bits, with or without CR4.PSE.
const NARROW: [Paging; 2] = [
    Paging { levels: 2, bits: 10, wide: false, largest: 0 },
    Paging { levels: 2, bits: 10, wide: false, largest: 1 },
];

/// What the tables say of a page.
struct Leaf {
    physical: u64,
    /// The entries used that have accessed bits, from the root on, and where they lie.
    path: [(u64, u64); 4],
    depth: usize,
    wide: bool,
    /// The level of its entry: above the lowest, 0, it is larger than 4 KiB.
    level: u32,
    /// The AND of the paths' rights, NX as its opposite.
    rights: u64,
}

/// Whether all bits from 47 up are the same.
pub(crate) fn is_canonical(linear: u64) -> bool {
    (linear << 16).cast_signed() >> 16 == linear.cast_signed()
}

impl Core {
    /// The physical address behind a linear one, canonical or short; marks the tables' entries as used.
    pub(crate) fn walk(
        &mut self,
        linear: u64,
        access: Access,
        world: &World<'_>,
    ) -> Result<u64, Stop> {
        if self.system.cr0 & CR0_PG == 0 {
            return Ok(linear);
        }
        loop {
            let leaf = self.look_up(linear, access, world)?;
            if !self.allows(leaf.rights, access) {
                return Err(self.page_fault(linear, access, code::PROTECTION));
            }
            self.care_for_code(&leaf, access, world)?;
            if self.mark(&leaf, access, world) {
                if leaf.level > 0 {
                    self.tlb.holds_large(linear, leaf.level);
                }
                return Ok(leaf.physical);
            }
            // Another CPU changed an entry meanwhile.
        }
    }

    fn paging(&self) -> &'static Paging {
        match (self.system.is_long(), self.system.cr4 & CR4_PAE != 0) {
            (true, _) => &LONG,
            (false, true) => &PAE,
            (false, false) => &NARROW[usize::from(self.system.cr4 & CR4_PSE != 0)],
        }
    }

    fn look_up(&mut self, linear: u64, access: Access, world: &World<'_>) -> Result<Leaf, Stop> {
        let paging = self.paging();
        let mut leaf = Leaf {
            physical: 0,
            path: [(0, 0); 4],
            depth: 0,
            wide: paging.wide,
            level: 0,
            rights: WRITABLE | USER | NO_EXECUTE,
        };
        let mut table = self.root(paging);
        for level in (0..paging.levels).rev() {
            let shift = 12 + paging.bits * level;
            let number = linear >> shift & ((1 << paging.bits) - 1);
            let at = table + number * if paging.wide { 8 } else { 4 };
            let entry = table_entry(at, paging.wide, world);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, 0));
            }
            let is_leaf = level == 0 || entry & LARGE != 0 && level <= paging.largest;
            if entry & self.reserved(paging, level, is_leaf) != 0 {
                return Err(self.page_fault(linear, access, code::PROTECTION | code::RESERVED));
            }
            // The four entries at the top of PAE have neither rights nor an accessed bit.
            if level < 2 || paging.levels == LONG.levels {
                leaf.path[leaf.depth] = (at, entry);
                leaf.depth += 1;
                leaf.rights &= entry ^ NO_EXECUTE;
            }
            table = entry & ADDRESS;
            if is_leaf {
                let within = (1 << shift) - 1;
                leaf.level = level;
                leaf.physical = page_of(entry, paging, level) & !within | linear & within;
                break;
            }
        }
        Ok(leaf)
    }

    /// Where the first table is.
    fn root(&self, paging: &Paging) -> u64 {
        match paging.levels {
            4 => self.system.cr3 & ADDRESS,
            3 => self.system.cr3 & 0xffff_ffe0,
            _ => self.system.cr3 & 0xffff_f000,
        }
    }

    fn reserved(&self, paging: &Paging, level: u32, is_leaf: bool) -> u64 {
        // Of the address of a page of 4 MiB, what bits 13 to 20 do not hold.
        if !paging.wide {
            return if is_leaf && level == 1 { 1 << 21 } else { 0 };
        }
        let mut bits = TOO_HIGH;
        if self.system.efer & EFER_NXE == 0 {
            bits |= NO_EXECUTE;
        }
        match (paging.levels, level) {
            (4, 3) => bits |= LARGE,
            (3, 2) => bits |= NO_EXECUTE | IGNORED | 0x1e6,
            // The lowest bit of a large page's address is its PAT bit.
            (_, 1 | 2) if is_leaf => bits |= (1 << (12 + 9 * level)) - (1 << 13),
            _ => {}
        }
        bits | if paging.levels == 3 { IGNORED } else { 0 }
    }

    fn allows(&self, rights: u64, access: Access) -> bool {
        let user_page = rights & USER != 0;
        let view = self.tlb.view();
        if view.user && !user_page {
            return false;
        }
        let smap = self.system.cr4 & CR4_SMAP != 0 && !view.user && !view.reaches;
        if smap && user_page && access != Access::Fetch {
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
    fn mark(&mut self, leaf: &Leaf, access: Access, world: &World<'_>) -> bool {
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
            let offset = at % PAGE_SIZE;
            let marked = match leaf.wide {
                true => page.compare_exchange(offset, entry, new).is_ok(),
                false => page.compare_exchange(offset, entry as u32, new as u32).is_ok(),
            };
            self.overwrote(page, offset, if leaf.wide { 8 } else { 4 }, world);
            marked
        })
    }

    /// Tables can hold code, too, which changes with an entry that is about to be marked.
    fn care_for_code(&self, leaf: &Leaf, access: Access, world: &World<'_>) -> Result<(), Stop> {
        // A fetch comes before the block that is executed, everything else in the midst of one.
        if access == Access::Fetch || self.careful {
            return Ok(());
        }
        let overwrites = |(i, &(at, entry)): (usize, &(u64, u64))| {
            let dirty = access == Access::Write && i + 1 == leaf.depth;
            let marked = ACCESSED | if dirty { DIRTY } else { 0 };
            let page = Lent::from(world.ram, at).filter(|_| entry & marked != marked);
            page.is_some_and(|page| world.code_map.is_code(page.identity() + at % PAGE_SIZE, 8))
        };
        let any = leaf.path[..leaf.depth].iter().enumerate().any(overwrites);
        if any { Err(Stop::Careful) } else { Ok(()) }
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
        let execution = self.system.efer & EFER_NXE != 0 && self.system.cr4 & CR4_PAE != 0;
        execution || self.system.cr4 & CR4_SMEP != 0
    }
}

/// A table outside RAM reads as all ones, like everything where nobody answers.
fn table_entry(at: u64, wide: bool, world: &World<'_>) -> u64 {
    let Some(page) = Lent::from(world.ram, at) else {
        return if wide { u64::MAX } else { u32::MAX.into() };
    };
    if wide { page.load(at % PAGE_SIZE) } else { page.load::<u32>(at % PAGE_SIZE).into() }
}

/// The physical address in the entry of a page.
fn page_of(entry: u64, paging: &Paging, level: u32) -> u64 {
    match (paging.wide, level) {
        // Bits 32 to 39 of the address are in bits 13 to 20 (Intel SDM 3-4.3).
        (false, 1) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
        _ => entry & ADDRESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CodeMap, Cpu, Flat,
        testing::{DATA, Nobody, machine},
    };

    /// The page-table entry of [`DATA`], and the entry of the page directory above it.
    const ENTRY: u64 = 0x4000 + DATA / PAGE_SIZE * 8;
    const DIRECTORY: u64 = 0x3000;

    struct Case {
        cpu: Cpu,
        ram: Flat,
    }

    /// A machine in which the entry at `at` is `entry`.
    fn with(at: u64, entry: u64) -> Case {
        let (mut cpu, ram) = machine(&[]);
        cpu.core.system.efer |= EFER_NXE;
        ram.write(at, &entry.to_le_bytes());
        Case { cpu, ram }
    }

    impl Case {
        /// The physical address, or the error code.
        fn access(&mut self, user: bool, access: Access) -> Result<u64, u32> {
            let map = CodeMap::new();
            let world = World { ram: &self.ram, io: &Nobody, code_map: &map };
            let core = &mut self.cpu.core;
            core.tlb.set_view(crate::tlb::View { user, ..core.tlb.view() });
            core.walk(DATA + 5, access, &world).map_err(|_| {
                assert_eq!(core.fault_address, DATA + 5);
                core.fault.take().and_then(|fault| fault.code).unwrap()
            })
        }

        fn entry(&self, at: u64) -> u64 {
            let mut bytes = [0; 8];
            self.ram.read(at, &mut bytes);
            u64::from_le_bytes(bytes)
        }
    }

    const USER_VIEW: bool = true;
    const SYSTEM_VIEW: bool = false;
    const GOOD: Result<u64, u32> = Ok(DATA + 5);
    const ALL: u64 = PRESENT | WRITABLE | USER;

    #[test]
    fn rights_are_those_of_all_levels() {
        use Access::{Fetch, Read, Write};
        for at in [ENTRY, DIRECTORY] {
            let target = if at == ENTRY { DATA } else { 0x4000 };
            for (rights, user, access, result) in [
                (ALL, USER_VIEW, Read, GOOD),
                (ALL, USER_VIEW, Write, GOOD),
                (ALL, USER_VIEW, Fetch, GOOD),
                (0, USER_VIEW, Read, Err(4)),
                (0, SYSTEM_VIEW, Write, Err(2)),
                (0, SYSTEM_VIEW, Fetch, Err(0x10)),
                (PRESENT | WRITABLE, USER_VIEW, Read, Err(5)),
                (PRESENT | WRITABLE, USER_VIEW, Write, Err(7)),
                (PRESENT | WRITABLE, SYSTEM_VIEW, Write, GOOD),
                (PRESENT | USER, USER_VIEW, Read, GOOD),
                (PRESENT | USER, USER_VIEW, Write, Err(7)),
                (PRESENT | USER, SYSTEM_VIEW, Write, Err(3)),
                (ALL | NO_EXECUTE, USER_VIEW, Read, GOOD),
                (ALL | NO_EXECUTE, USER_VIEW, Fetch, Err(0x15)),
                (ALL | NO_EXECUTE, SYSTEM_VIEW, Fetch, Err(0x11)),
                (ALL | 1 << 48, SYSTEM_VIEW, Read, Err(9)),
                (ALL | 1 << 51, USER_VIEW, Fetch, Err(0x1d)),
                (ALL | 1 << 52, USER_VIEW, Fetch, GOOD),
            ] {
                let found = with(at, target | rights).access(user, access);
                assert_eq!(found, result, "{rights:#x} at {at:#x}, {access:?}, user: {user}");
            }
        }
    }

    #[test]
    fn switches_change_rights() {
        let mut case = with(ENTRY, DATA | PRESENT | USER);
        case.cpu.core.system.cr0 &= !CR0_WP;
        assert_eq!(case.access(SYSTEM_VIEW, Access::Write), GOOD);
        assert_eq!(case.access(USER_VIEW, Access::Write), Err(7));
        assert_eq!(case.access(SYSTEM_VIEW, Access::Fetch), GOOD);
        case.cpu.core.system.cr4 |= CR4_SMEP;
        assert_eq!(case.access(SYSTEM_VIEW, Access::Fetch), Err(0x11));
        assert_eq!(case.access(USER_VIEW, Access::Fetch), GOOD);
        let mut case = with(ENTRY, DATA | ALL | NO_EXECUTE);
        case.cpu.core.system.efer &= !EFER_NXE;
        // The bit is reserved, and fetches are not told from loads.
        assert_eq!(case.access(USER_VIEW, Access::Read), Err(0xd));
        assert_eq!(case.access(USER_VIEW, Access::Fetch), Err(0xd));
    }

    #[test]
    fn entries_are_marked_as_used_and_written_only_when_they_are() {
        let mut case = with(ENTRY, DATA | PRESENT | USER);
        assert_eq!(case.access(USER_VIEW, Access::Write), Err(7));
        assert_eq!(case.entry(ENTRY) & (ACCESSED | DIRTY), 0);
        assert_eq!(case.access(USER_VIEW, Access::Read), GOOD);
        assert_eq!(case.entry(ENTRY) & (ACCESSED | DIRTY), ACCESSED);
        assert_eq!(case.entry(DIRECTORY) & (ACCESSED | DIRTY), ACCESSED);
        let mut case = with(ENTRY, DATA | ALL);
        assert_eq!(case.access(USER_VIEW, Access::Write), GOOD);
        assert_eq!(case.entry(ENTRY) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
        assert_eq!(case.entry(DIRECTORY) & (ACCESSED | DIRTY), ACCESSED);
    }

    #[test]
    fn large_pages_end_the_walk_and_have_their_own_reserved_bits() {
        let mut case = with(DIRECTORY, ALL | LARGE);
        assert_eq!(case.access(USER_VIEW, Access::Write), GOOD);
        assert_eq!(case.entry(DIRECTORY) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
        for (at, bit, code) in [
            (DIRECTORY, 12, None),
            (DIRECTORY, 13, Some(9)),
            (DIRECTORY, 20, Some(9)),
            (0x2000, 29, Some(9)),
            (0x2000, 12, None),
        ] {
            let found = with(at, ALL | LARGE | 1 << bit).access(SYSTEM_VIEW, Access::Read);
            assert_eq!(found, code.map_or(GOOD, Err), "bit {bit} at {at:#x}");
        }
        assert_eq!(with(0x1000, 0x2000 | ALL | LARGE).access(SYSTEM_VIEW, Access::Read), Err(9));
    }

    #[test]
    fn code_in_a_table_changes_with_its_entries() {
        // Entries of pages behind memory's, and what they are as code: a page that may be read at
        // DATA is add eax, 0x300; add [rax], al, and it goes on in the next entry with hlt.
        let (at, linear) = (0x4000 + 300 * 8, 300 * PAGE_SIZE);
        // mov bl, [rdx]; hlt
        let (mut cpu, ram) = machine(&[0x8a, 0x1a, 0xf4]);
        ram.write(at, &[0x05, 0, 3, 0, 0, 0, 0, 0, 0, 0xf4]);
        let mut run = |rip: u64, rax: u64| {
            cpu.core.rip = rip;
            (cpu.core.regs[0], cpu.core.regs[2]) = (rax, linear);
            assert_eq!(cpu.run(&ram, &Nobody), crate::Exit::Halted);
            cpu.core.regs[0]
        };
        assert_eq!(run(at, 0xff00), 0x1_0200);
        run(crate::testing::CODE, 0);
        // With the accessed bit it is and eax, 0x300.
        assert_eq!(run(at, 0xff00), 0x300);
    }
}
