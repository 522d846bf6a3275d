//! Loads and stores of guest code.
//!
//! The TLB answers almost all. What it cannot - another page, a border between two, a device, code
//! that is overwritten - goes the slow way, by bytes.

use crate::{
    code::word,
    core::{Core, World},
    exception::{Exception, Vector},
    flags::AC,
    op::{Op, Stop},
    paging::{Access, is_canonical},
    ram::{Entry, Lent, OFFSET, PAGE_SIZE},
    regs::Regs,
    system::CR0_AM,
    word::{Datum, Word},
};

/// What is behind a linear address.
#[derive(Clone, Copy)]
struct Place<'a> {
    physical: u64,
    /// The page, if there is RAM; what it does not take is a device's, if anyone's.
    page: Option<Lent<'a>>,
}

impl<'a> Place<'a> {
    /// The page that loads come from.
    fn source(self) -> Option<Lent<'a>> {
        self.page
    }

    /// The page that stores go to.
    fn target(self) -> Option<Lent<'a>> {
        self.page.filter(|page| page.writable)
    }
}

/// A range of bytes that is in memory and may be used as asked: on one page, or on two.
struct Span<'a> {
    /// The offset of the first byte in its page.
    offset: u64,
    /// How many bytes are on the first page.
    split: usize,
    len: usize,
    places: [Place<'a>; 2],
}

impl Core {
    /// The linear address of an operation's memory operand.
    #[inline(always)]
    pub(crate) fn address(&self, op: &Op) -> u64 {
        address(&self.regs, op)
    }

    /// Loads from a linear address.
    #[inline(always)]
    pub(crate) fn load<D: Datum>(&mut self, linear: u64, world: &World<'_>) -> Result<D, Stop> {
        let entry = self.tlb.entry(linear);
        let unaligned =
            || if self.checks_alignment() { None } else { entry.load_unaligned(linear) };
        match entry.load(linear).or_else(unaligned) {
            Some(value) => Ok(value),
            None => self.load_slow(linear, world),
        }
    }

    /// Loads into a vector register.
    #[inline(always)]
    pub(crate) fn load_vector(
        &mut self,
        field: u8,
        linear: u64,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        let Self { tlb, vectors, .. } = self;
        if tlb.entry(linear).load_vector(linear, &mut vectors[field]) {
            return Ok(());
        }
        self.load_vector_slow(field, linear, world)
    }

    #[cold]
    #[inline(never)]
    fn load_vector_slow(&mut self, field: u8, linear: u64, world: &World<'_>) -> Result<(), Stop> {
        self.vectors[field] = self.load_slow(linear, world)?;
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn load_slow<D: Datum>(&mut self, linear: u64, world: &World<'_>) -> Result<D, Stop> {
        let within = self.within(linear);
        if within != linear {
            return self.load(within, world);
        }
        self.align::<D>(linear)?;
        let span = self.span(linear, D::BYTES as usize, Access::Read, world)?;
        Ok(D::from_bytes(self.read_span(&span, world)))
    }

    /// Stores to a linear address.
    #[inline(always)]
    pub(crate) fn store<D: Datum>(
        &mut self,
        linear: u64,
        value: D,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        let entry = self.tlb.entry(linear);
        if entry.store(linear, value)
            || !self.checks_alignment() && entry.store_unaligned(linear, value)
        {
            return Ok(());
        }
        self.store_slow(linear, value, world)
    }

    #[cold]
    #[inline(never)]
    fn store_slow<D: Datum>(
        &mut self,
        linear: u64,
        value: D,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        let within = self.within(linear);
        if within != linear {
            return self.store(within, value, world);
        }
        self.align::<D>(linear)?;
        let span = self.span(linear, D::BYTES as usize, Access::Write, world)?;
        self.overwriting(&span, world)?;
        self.write_span(&span, value.to_bytes(), world);
        Ok(())
    }

    /// Loads, changes and stores a word, not atomically; returns what it was and what it is.
    #[inline(always)]
    pub(crate) fn update<W: Word>(
        &mut self,
        linear: u64,
        world: &World<'_>,
        change: impl FnOnce(W) -> W,
    ) -> Result<(W, W), Stop> {
        let entry = self.tlb.entry(linear);
        if entry.stores::<W>(linear)
            && let Some(old) = entry.load(linear)
        {
            let new = change(old);
            entry.store(linear, new);
            return Ok((old, new));
        }
        self.update_slow(linear, world, change)
    }

    #[inline(never)]
    fn update_slow<W: Word>(
        &mut self,
        linear: u64,
        world: &World<'_>,
        change: impl FnOnce(W) -> W,
    ) -> Result<(W, W), Stop> {
        let linear = self.within(linear);
        let entry = self.tlb.entry(linear);
        if !self.checks_alignment()
            && entry.stores_unaligned::<W>(linear)
            && let Some(old) = entry.load_unaligned(linear)
        {
            let new = change(old);
            entry.store_unaligned(linear, new);
            return Ok((old, new));
        }
        self.align::<W>(linear)?;
        let span = self.span(linear, W::BYTES as usize, Access::Write, world)?;
        self.overwriting(&span, world)?;
        let old = W::from_bytes(self.read_span(&span, world));
        let new = change(old);
        self.write_span(&span, new.to_bytes(), world);
        Ok((old, new))
    }

    /// As [`update`](Self::update), but no other CPU sees anything in between. `change` may be
    /// called several times.
    #[inline(always)]
    pub(crate) fn update_locked<D: Datum + Eq>(
        &mut self,
        linear: u64,
        world: &World<'_>,
        change: impl Fn(D) -> D,
    ) -> Result<(D, D), Stop> {
        let entry = self.tlb.entry(linear);
        if let Some(mut old) = entry.load(linear) {
            while let Some(swapped) = entry.compare_exchange(linear, old, change(old)) {
                match swapped {
                    Ok(()) => return Ok((old, change(old))),
                    Err(found) => old = found,
                }
            }
        }
        self.update_locked_slow(linear, world, change)
    }

    #[cold]
    #[inline(never)]
    fn update_locked_slow<D: Datum + Eq>(
        &mut self,
        linear: u64,
        world: &World<'_>,
        change: impl Fn(D) -> D,
    ) -> Result<(D, D), Stop> {
        let linear = self.within(linear);
        self.align::<D>(linear)?;
        let span = self.span(linear, D::BYTES as usize, Access::Write, world)?;
        self.overwriting(&span, world)?;
        let [Some(page), Some(_)] = span.places.map(Place::target) else {
            // A device's registers know no lock.
            let old = D::from_bytes(self.read_span(&span, world));
            let new = change(old);
            self.write_span(&span, new.to_bytes(), world);
            return Ok((old, new));
        };
        if !span.offset.is_multiple_of(D::BYTES) {
            return Ok(self.update_split(&span, world, change));
        }
        let mut old = page.load(span.offset);
        while let Err(found) = page.compare_exchange(span.offset, old, change(old)) {
            old = found;
        }
        self.overwrote(page, span.offset, span.len, world);
        Ok((old, change(old)))
    }

    /// A locked access that is not aligned. Some hosts have none that is atomic, and one that crosses
    /// a cache line holds up or ends a process on others: so nobody else executes meanwhile.
    fn update_split<D: Datum>(
        &mut self,
        span: &Span<'_>,
        world: &World<'_>,
        change: impl Fn(D) -> D,
    ) -> (D, D) {
        let mut old = D::from_bytes([0; 16]);
        world.io.exclusive(&mut || {
            old = D::from_bytes(self.read_span(span, world));
            self.write_span(span, change(old).to_bytes(), world);
        });
        self.after_io(world);
        (old, change(old))
    }

    /// #AC(0) if programs asked for it. Then only aligned data go the fast way, so that the slow one
    /// asks; what 16 bytes need is known to their instructions.
    #[inline(always)]
    fn align<D: Datum>(&mut self, linear: u64) -> Result<(), Stop> {
        if linear.is_multiple_of(D::BYTES) || D::BYTES == 16 {
            return Ok(());
        }
        self.check_alignment()
    }

    /// #AC(0) for what is not aligned, if programs asked for it.
    #[inline(always)]
    pub(crate) fn check_alignment(&mut self) -> Result<(), Stop> {
        if !self.checks_alignment() {
            return Ok(());
        }
        Err(self.raise(Exception::with_code(Vector::Alignment, 0)))
    }

    /// Whether the current accesses are those of a program that has them checked (Intel SDM
    /// 3-6.15, "Interrupt 17").
    #[inline(always)]
    fn checks_alignment(&self) -> bool {
        self.other_flags & AC != 0 && self.tlb.is_user() && self.system.cr0 & CR0_AM != 0
    }

    /// Makes sure that a later store of `len` bytes, at most 4096, will not fault; changes nothing.
    pub(crate) fn probe_write(
        &mut self,
        linear: u64,
        len: usize,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        self.span(linear, len, Access::Write, world).map(drop)
    }

    /// As [`probe_write`](Self::probe_write), for loads.
    pub(crate) fn probe_read(
        &mut self,
        linear: u64,
        len: usize,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        self.span(linear, len, Access::Read, world).map(drop)
    }

    /// The TLB's entry that loads from an address go by, if they are easy.
    pub(crate) fn entry_to_read(&mut self, linear: u64, world: &World<'_>) -> Option<Entry> {
        if !self.tlb.entry(linear).loads::<u8>(linear) {
            self.probe_read(linear, 1, world).ok()?;
        }
        Some(*self.tlb.entry(linear))
    }

    /// As [`entry_to_read`](Self::entry_to_read), for stores.
    pub(crate) fn entry_to_write(&mut self, linear: u64, world: &World<'_>) -> Option<Entry> {
        if !self.tlb.entry(linear).stores::<u8>(linear) {
            self.probe_write(linear, 1, world).ok()?;
        }
        Some(*self.tlb.entry(linear))
    }

    /// Translates a range of bytes, the first page before the second.
    fn span<'a>(
        &mut self,
        linear: u64,
        len: usize,
        access: Access,
        world: &World<'a>,
    ) -> Result<Span<'a>, Stop> {
        let linear = self.within(linear);
        let offset = linear & OFFSET;
        let split = len.min((PAGE_SIZE - offset) as usize);
        if split < len && !is_canonical(linear.wrapping_add(len as u64 - 1)) {
            return Err(self.raise(Exception::NOT_CANONICAL));
        }
        let first = self.place(linear, access, world)?;
        let second = if split < len {
            self.place(self.within(linear.wrapping_add(split as u64)), access, world)?
        } else {
            first
        };
        self.watch(linear, len, access);
        Ok(Span { offset, split, len, places: [first, second] })
    }

    fn place<'a>(
        &mut self,
        linear: u64,
        access: Access,
        world: &World<'a>,
    ) -> Result<Place<'a>, Stop> {
        if !is_canonical(linear) {
            return Err(self.raise(Exception::NOT_CANONICAL));
        }
        let physical = self.walk(linear, access, world)?;
        let place = Place { physical, page: Lent::from(world.ram, physical) };
        let writes = access == Access::Write;
        let watched = self.watches_page(linear);
        let Some(page) = (if writes { place.target() } else { place.source() }) else {
            // What a device does cannot be undone or done twice.
            return if self.careful { Ok(place) } else { Err(Stop::Careful) };
        };
        if writes {
            world.ram.dirty(physical / PAGE_SIZE);
        }
        let freely = writes && !world.code_map.has_code(page.identity());
        if !watched {
            self.tlb.entry_mut(linear).learn(linear, page, freely, false);
        }
        Ok(place)
    }

    /// The identity of the page that code at `linear` is fetched from, and the page.
    pub(crate) fn fetch_page<'a>(
        &mut self,
        linear: u64,
        world: &World<'a>,
    ) -> Result<Option<Lent<'a>>, Stop> {
        if !is_canonical(linear) {
            return Err(self.raise(Exception::NOT_CANONICAL));
        }
        let physical = self.walk(linear, Access::Fetch, world)?;
        let page = Lent::from(world.ram, physical);
        if let Some(page) = page {
            self.tlb.entry_mut(linear).learn(linear, page, false, true);
            self.tlb.note_fetch(linear);
        }
        Ok(page)
    }

    fn read_span(&mut self, span: &Span<'_>, world: &World<'_>) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (first, second) = bytes[..span.len].split_at_mut(span.split);
        self.read_place(span.places[0], span.offset, first, world);
        self.read_place(span.places[1], 0, second, world);
        bytes
    }

    fn read_place(&mut self, place: Place<'_>, offset: u64, into: &mut [u8], world: &World<'_>) {
        if let Some(page) = place.source() {
            page.read(offset, into);
            return;
        }
        let mut at = place.physical;
        let mut rest = into;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at_mut(piece(at, rest.len()));
            self.leave |= world.io.read(at, piece).is_break();
            self.after_io(world);
            at += piece.len() as u64;
            rest = more;
        }
    }

    fn write_span(&mut self, span: &Span<'_>, bytes: [u8; 16], world: &World<'_>) {
        let (first, second) = bytes[..span.len].split_at(span.split);
        self.write_place(span.places[0], span.offset, first, world);
        self.write_place(span.places[1], 0, second, world);
    }

    fn write_place(&mut self, place: Place<'_>, offset: u64, bytes: &[u8], world: &World<'_>) {
        if let Some(page) = place.target() {
            // Again: a device that was asked since may have seen to the dirty pages being collected.
            world.ram.dirty(place.physical / PAGE_SIZE);
            page.write(offset, bytes);
            self.overwrote(page, offset, bytes.len(), world);
            return;
        }
        let mut at = place.physical;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(piece(at, rest.len()));
            self.leave |= world.io.write(at, piece).is_break();
            self.after_io(world);
            at += piece.len() as u64;
            rest = more;
        }
    }

    /// Who was asked may have changed where pages are, or collected the dirty ones; or let another CPU
    /// find code where this one's TLB lets stores through.
    pub(crate) fn after_io(&mut self, world: &World<'_>) {
        let generation = Some(world.ram.generation());
        if self.generation != generation || self.epoch != world.code_map.epoch() {
            self.generation = generation;
            self.flush_tlb();
        }
    }

    /// An instruction that overwrites code begins anew, on its own, and none that was decoded before
    /// comes after it.
    fn overwriting(&self, span: &Span<'_>, world: &World<'_>) -> Result<(), Stop> {
        let parts = [(span.offset, span.split), (0, span.len - span.split)];
        let is_code = |(place, (offset, len)): (&Place<'_>, (u64, usize))| {
            let page = place.target();
            page.is_some_and(|page| world.code_map.is_code(page.identity() + offset, len))
        };
        let careful = self.careful || !span.places.iter().zip(parts).any(is_code);
        if careful { Ok(()) } else { Err(Stop::Careful) }
    }

    /// Has all CPUs know of it if what was just stored has overwritten code.
    pub(crate) fn overwrote(&mut self, page: Lent<'_>, offset: u64, len: usize, world: &World<'_>) {
        let host = page.identity() + offset;
        if world.code_map.overwritten(host, len as u64) {
            self.overwrote = Some(word(host));
        }
    }
}

/// Whether loading an operation's memory operand needs no care.
#[inline(always)]
pub(crate) fn loads<D: Datum>(core: &Core, op: &Op) -> bool {
    let at = core.address(op);
    core.tlb.entry(at).loads::<D>(at)
}

/// Whether storing to an operation's memory operand needs no care.
#[inline(always)]
pub(crate) fn stores<D: Datum>(core: &Core, op: &Op) -> bool {
    let at = core.address(op);
    core.tlb.entry(at).stores::<D>(at)
}

/// Whether changing an operation's memory operand needs no care.
#[inline(always)]
pub(crate) fn updates<D: Datum>(core: &Core, op: &Op) -> bool {
    loads::<D>(core, op) && stores::<D>(core, op)
}

/// The sum of an operation's base, scaled index and displacement.
#[inline(always)]
pub(crate) fn address(regs: &Regs, op: &Op) -> u64 {
    regs[op.base].wrapping_add(regs[op.index] << (op.scale & 3)).wrapping_add_signed(op.disp.into())
}

/// How many bytes a device is asked for at once: 8, 4, 2 or 1.
fn piece(at: u64, len: usize) -> usize {
    let fits = 1 << len.ilog2().min(3);
    // Whole if it fits at once, however it lies; in aligned parts otherwise.
    if len == fits { fits } else { fits.min(1 << at.trailing_zeros().min(3)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Exit,
        testing::{HANDLERS, Nobody, machine, program, stack, system},
    };

    #[test]
    fn alignment_is_checked_for_programs_that_ask() {
        // What the TLB knows or not: mov ecx, [DATA]; mov [DATA], ecx, or NOPs as long.
        let warm = [0x8b, 0x0c, 0x25, 0, 0, 3, 0, 0x89, 0x0c, 0x25, 0, 0, 3, 0];
        // mov eax, [DATA + 1]; mov [DATA + 1], eax; add [DATA + 1], eax
        let accesses = [0x8b, 0x89, 0x01];
        let asked =
            [(3, true, true, 17), (3, false, true, 13), (3, true, false, 13), (0, true, true, 0)];
        let cases = accesses.into_iter().flat_map(|opcode| {
            [warm, [0x90; 14]]
                .into_iter()
                .flat_map(move |before| asked.map(|a| (opcode, before, a)))
        });
        for (opcode, before, (cpl, am, ac, vector)) in cases {
            let code = [&before[..], &[opcode, 0x04, 0x25, 1, 0, 3, 0, 0xf4]].concat();
            let (mut cpu, ram) = machine(&code);
            system(&mut cpu, &ram);
            if cpl == 3 {
                program(&mut cpu);
            }
            cpu.core.system.cr0 |= if am { CR0_AM } else { 0 };
            cpu.core.other_flags |= if ac { AC } else { 0 };
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            let rip = cpu.registers().rip;
            if vector == 0 {
                assert_eq!(rip, crate::testing::CODE + 22);
            } else {
                assert_eq!(rip, HANDLERS + vector * 16 + 1);
                assert_eq!(stack::<1>(&cpu, &ram), [0]);
            }
        }
    }
}
