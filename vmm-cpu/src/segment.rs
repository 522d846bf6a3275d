//! Descriptors: how they are found, checked and loaded into segment registers (Intel SDM 3-3.4,
//! 3-5).

use crate::{
    core::{Core, World},
    exception::{Exception, Vector},
    op::Stop,
    paging::is_canonical,
    state::{Segment, Table, rights},
    system::{CS, SS},
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
        Ok(Segment::described(selector, self.descriptor(selector, world)?))
    }

    /// The first 8 bytes of the descriptor that `selector`, not null, names.
    pub(crate) fn descriptor(&mut self, selector: u16, world: &World<'_>) -> Result<u64, Stop> {
        let at = self.descriptor_at(selector, 8)?;
        self.as_system(|core| core.load(at, world))
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
        if self.system.is_real() {
            self.load_real(number, selector);
            return Ok(());
        }
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

    /// As real mode does: the base is 16 times the selector. The rest stays as it is, a limit of
    /// protected mode too; what cannot be used becomes data of 64 KiB.
    pub(crate) fn load_real(&mut self, number: u8, selector: u16) {
        let before = self.segment(number);
        let base = u64::from(selector) << 4;
        let usable = number == CS || before.is_writable() && !before.is(rights::UNUSABLE);
        let (limit, rights) =
            if usable { (before.limit, before.rights) } else { (0xffff, Segment::REAL) };
        self.set_segment(number, Segment { selector, base, limit, rights });
    }

    /// Loads SS for the current privilege level.
    pub(crate) fn load_stack(&mut self, selector: u16, world: &World<'_>) -> Result<(), Stop> {
        if self.system.is_real() {
            self.load_real(SS, selector);
            return Ok(());
        }
        let long = self.system.is_64_bit();
        let wrong = Vector::GeneralProtection;
        let segment = self.stack_segment(selector, self.system.cpl, (wrong, long), world)?;
        self.set_segment(SS, segment);
        Ok(())
    }

    /// The segment to be loaded into SS, for `cpl`; the vector is that of the fault if it cannot be,
    /// `long`: for 64-bit code, which can do without one.
    pub(crate) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        (wrong, long): (Vector, bool),
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        let rpl = selector as u8 & 3;
        if is_null(selector) {
            if !long || cpl == 3 || rpl != cpl {
                return Err(self.raise(Exception::with_code(wrong, 0)));
            }
            return Ok(Segment { selector, ..Segment::null_stack(cpl) });
        }
        let mut segment = match self.describe(selector, world) {
            Err(Stop::Fault) if wrong == Vector::InvalidTss => {
                return Err(self.fault_as_task(selector));
            }
            found => found?,
        };
        if rpl != cpl || segment.dpl() != cpl || !segment.is_writable() {
            return Err(self.raise(Exception::with_code(wrong, error_code(selector))));
        }
        if !segment.is_present() {
            return Err(self.raise(Exception::with_code(Vector::Stack, error_code(selector))));
        }
        self.mark_accessed(&mut segment, world)?;
        Ok(segment)
    }

    /// The segment to be loaded into SS in a return to `cpl`, where `code` is.
    pub(crate) fn return_stack(
        &mut self,
        selector: u16,
        code: &Segment,
        cpl: u8,
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        let long = self.system.is_long() && code.is_code64();
        self.stack_segment(selector, cpl, (Vector::GeneralProtection, long), world)
    }

    /// A selector of a task-state segment that is beyond its table is that segment's fault.
    fn fault_as_task(&mut self, selector: u16) -> Stop {
        if let Some(fault) = &mut self.fault
            && fault.vector == Vector::GeneralProtection
        {
            *fault = Exception::with_code(Vector::InvalidTss, error_code(selector));
        }
        Stop::Fault
    }

    /// The segment to be loaded into CS.
    pub(crate) fn code_segment(
        &mut self,
        selector: u16,
        into: Into,
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let segment = self.describe(selector, world)?;
        self.as_code(segment, into, world)
    }

    /// A segment that was described, to be loaded into CS.
    pub(crate) fn as_code(
        &mut self,
        mut segment: Segment,
        into: Into,
        world: &World<'_>,
    ) -> Result<Segment, Stop> {
        let selector = segment.selector;
        let (rpl, cpl, dpl) = (selector as u8 & 3, self.system.cpl, segment.dpl());
        let privilege = match into {
            Into::Same if segment.is_conforming() => dpl <= cpl,
            Into::Same => rpl <= cpl && dpl == cpl,
            Into::Back if segment.is_conforming() => rpl >= cpl && dpl <= rpl,
            Into::Back => rpl >= cpl && dpl == rpl,
        };
        if !self.can_be_code(&segment) || !privilege {
            return Err(self.general_protection(error_code(selector)));
        }
        if !segment.is_present() {
            return Err(self.not_present(selector));
        }
        self.mark_accessed(&mut segment, world)?;
        let level = if into == Into::Same { cpl } else { rpl };
        Ok(Segment { selector: selector & !3 | u16::from(level), ..segment })
    }

    /// Whether it is code, and in long mode not of 32 bits and of 64.
    pub(crate) fn can_be_code(&self, segment: &Segment) -> bool {
        let both = segment.is(rights::LONG | rights::BIG);
        segment.is(rights::USER | rights::CODE) && !(both && self.system.is_long())
    }

    /// #GP(0) unless the code segment has this offset.
    pub(crate) fn check_pointer(&mut self, code: &Segment, pointer: u64) -> Result<(), Stop> {
        let good = match self.system.is_long() && code.is_code64() {
            true => is_canonical(pointer),
            false => pointer <= u64::from(code.limit),
        };
        if good { Ok(()) } else { Err(self.general_protection(0)) }
    }

    /// Goes on at an offset of a code segment, at the privilege level `cpl`. What SS has to be is
    /// set by then.
    pub(crate) fn go_to(&mut self, code: Segment, pointer: u64, cpl: u8) {
        self.set_segment(CS, code);
        self.system.cpl = cpl;
        self.refresh_mode();
        self.rip = self.code_address(pointer);
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
