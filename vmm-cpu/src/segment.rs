//! Descriptors: how they are found, checked and loaded into segment registers (Intel SDM 3-3.4,
//! 3-5).

use crate::{
    core::{Core, World},
    exception::{Exception, Vector},
    op::Stop,
    state::{Segment, Table, rights},
    system::SS,
};

/// The part of a selector that error codes have: all but the RPL.
pub(crate) fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// A selector that names no descriptor.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Who a code segment is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// A far jump or call, which stays at its privilege level.
    Same,
    /// A return, to the privilege level of the selector.
    Back,
}

impl Core {
    /// The linear address of the descriptor that `selector`, not null, names; #GP(selector) beyond
    /// its table.
    pub(crate) fn descriptor_at(&mut self, selector: u16, len: u64) -> Result<u64, Stop> {
        let ldt = &self.system.ldtr;
        let (table, there) = if selector & 4 == 0 {
            (self.system.gdtr, true)
        } else {
            (Table { base: ldt.base, limit: 0 }, ldt.rights & rights::UNUSABLE == 0)
        };
        let limit = if selector & 4 == 0 { u32::from(table.limit) } else { ldt.limit };
        let offset = u64::from(selector & !7);
        if !there || offset + len - 1 > u64::from(limit) {
            return Err(self.general_protection(error_code(selector)));
        }
        Ok(table.base.wrapping_add(offset))
    }

    /// The segment that `selector`, not null, names, as its descriptor of 8 bytes says.
    pub(crate) fn describe(&mut self, selector: u16, world: &World<'_>) -> Result<Segment, Stop> {
        let at = self.descriptor_at(selector, 8)?;
        let descriptor = self.as_system(|core| core.load::<u64>(at, world))?;
        Ok(Segment::described(selector, descriptor))
    }

    /// Sets the accessed bit in the descriptor of a segment that is about to be loaded.
    pub(crate) fn mark_accessed(
        &mut self,
        segment: &mut Segment,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        if segment.rights & rights::ACCESSED != 0 {
            return Ok(());
        }
        let at = self.descriptor_at(segment.selector, 8)?.wrapping_add(5);
        self.as_system(|core| core.update_locked::<u8>(at, world, |byte| byte | 1))?;
        segment.rights |= rights::ACCESSED;
        Ok(())
    }

    /// Loads ES, DS, FS or GS (Intel SDM 2, MOV).
    pub(crate) fn load_data(
        &mut self,
        number: u8,
        selector: u16,
        world: &World<'_>,
    ) -> Result<(), Stop> {
        if is_null(selector) {
            self.set_segment(number, Segment { selector, ..Segment::null() });
            return Ok(());
        }
        let mut segment = self.describe(selector, world)?;
        let privileged = segment.dpl() < self.system.cpl.max(selector as u8 & 3);
        if !segment.is_readable() || !segment.is_conforming() && privileged {
            return Err(self.general_protection(error_code(selector)));
        }
        if !segment.is_present() {
            return Err(self.not_present(selector));
        }
        self.mark_accessed(&mut segment, world)?;
        self.set_segment(number, segment);
        Ok(())
    }

    /// Loads SS for the current privilege level.
    pub(crate) fn load_stack(&mut self, selector: u16, world: &World<'_>) -> Result<(), Stop> {
        let segment = self.stack_segment(selector, self.system.cpl, true, world)?;
        self.set_segment(SS, segment);
        Ok(())
    }

    /// The segment to be loaded into SS, for `cpl`; `long`: for 64-bit code, which can do without.
    pub(crate) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        long: bool,
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        let rpl = selector as u8 & 3;
        if is_null(selector) {
            if !long || cpl == 3 || rpl != cpl {
                return Err(self.general_protection(0));
            }
            return Ok(Segment { selector, ..Segment::null_stack(cpl) });
        }
        let mut segment = self.describe(selector, world)?;
        if rpl != cpl || segment.dpl() != cpl || !segment.is_writable() {
            return Err(self.general_protection(error_code(selector)));
        }
        if !segment.is_present() {
            return Err(self.raise(Exception::with_code(Vector::Stack, error_code(selector))));
        }
        self.mark_accessed(&mut segment, world)?;
        Ok(segment)
    }

    /// The segment to be loaded into CS. Only 64-bit code is built: other segments are refused as
    /// if they were no code.
    pub(crate) fn code_segment(
        &mut self,
        selector: u16,
        into: Into,
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let mut segment = self.describe(selector, world)?;
        let (rpl, cpl, dpl) = (selector as u8 & 3, self.system.cpl, segment.dpl());
        let privilege = match into {
            Into::Same if segment.is_conforming() => dpl <= cpl,
            Into::Same => rpl <= cpl && dpl == cpl,
            Into::Back if segment.is_conforming() => rpl >= cpl && dpl <= rpl,
            Into::Back => rpl >= cpl && dpl == rpl,
        };
        if !segment.is_code64() || !privilege {
            return Err(self.general_protection(error_code(selector)));
        }
        if !segment.is_present() {
            return Err(self.not_present(selector));
        }
        self.mark_accessed(&mut segment, world)?;
        let level = if into == Into::Same { cpl } else { rpl };
        Ok(Segment { selector: selector & !3 | u16::from(level), ..segment })
    }

    /// Takes away the data segments that the outer level `cpl` must not see (Intel SDM 2, RET).
    pub(crate) fn hide_segments(&mut self, cpl: u8) {
        use crate::system::{DS, ES, FS, GS};
        for number in [ES, DS, FS, GS] {
            let segment = self.segment(number);
            if !segment.is_conforming() && segment.dpl() < cpl && !is_null(segment.selector) {
                // The base stays, as processors leave it: 64-bit code uses that of FS and GS.
                self.set_segment(number, Segment { base: segment.base, ..Segment::null() });
            }
        }
    }

    /// #NP.
    #[cold]
    pub(crate) fn not_present(&mut self, selector: u16) -> Stop {
        self.raise(Exception::with_code(Vector::SegmentNotPresent, error_code(selector)))
    }
}
