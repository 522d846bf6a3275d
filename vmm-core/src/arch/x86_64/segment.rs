//! Segment registers with their hidden parts, and the descriptors they are loaded from.

use serde::{Deserialize, Serialize};

/// A segment register: the selector and the descriptor cached behind it (Intel SDM volume 3, 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes, granularity already applied.
    pub limit: u32,
    /// The type field, 4 bits.
    pub kind: u8,
    /// Code or data (`true`), or a system segment.
    pub code_or_data: bool,
    /// The descriptor's privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Available for software.
    pub avl: bool,
    /// 64-bit code.
    pub long: bool,
    /// 32-bit default size.
    pub big: bool,
    /// The limit counts 4 KiB units.
    pub granular: bool,
    /// Loaded with a null selector: any use faults.
    pub unusable: bool,
}

/// Type: execute and read, accessed.
const CODE: u8 = 0xb;
/// Type: read and write, accessed.
const DATA: u8 = 0x3;

impl Segment {
    /// A real-mode code segment: base 16 times the selector, limit 64 KiB.
    pub fn real_code(selector: u16) -> Self {
        Self::flat(selector, CODE, 0).with_real_limits()
    }

    /// A real-mode data segment.
    pub fn real_data(selector: u16) -> Self {
        Self::flat(selector, DATA, 0).with_real_limits()
    }

    fn with_real_limits(self) -> Self {
        let base = u64::from(self.selector) << 4;
        Self { base, limit: 0xffff, granular: false, ..self }
    }

    /// 64-bit code at privilege level `dpl`; the selector's RPL is set to it.
    pub fn code64(selector: u16, dpl: u8) -> Self {
        Self { long: true, ..Self::flat(selector, CODE, dpl) }
    }

    /// Flat 32-bit code of 4 GiB at privilege level `dpl`.
    pub fn code32(selector: u16, dpl: u8) -> Self {
        Self { big: true, ..Self::flat(selector, CODE, dpl) }
    }

    /// Flat data of 4 GiB at privilege level `dpl`.
    pub fn data(selector: u16, dpl: u8) -> Self {
        Self { big: true, ..Self::flat(selector, DATA, dpl) }
    }

    /// A busy task-state segment; processors insist on one in TR.
    pub fn task(selector: u16, base: u64, limit: u32) -> Self {
        Self { selector, base, limit, kind: 0xb, present: true, ..Self::default() }
    }

    /// The LDT register with nothing in it.
    pub fn empty_ldt() -> Self {
        Self { kind: 2, present: true, limit: 0xffff, ..Self::default() }
    }

    fn flat(selector: u16, kind: u8, dpl: u8) -> Self {
        Self {
            selector: selector & !3 | u16::from(dpl & 3),
            limit: u32::MAX,
            kind,
            code_or_data: true,
            dpl,
            present: true,
            granular: true,
            ..Self::default()
        }
    }

    /// The 8-byte descriptor that loads this segment from a GDT (Intel SDM volume 3, figure 3-8).
    pub fn descriptor(&self) -> u64 {
        let limit = u64::from(if self.granular { self.limit >> 12 } else { self.limit });
        let flag = |on: bool, bit: u32| u64::from(on) << bit;
        (limit & 0xffff)
            | (limit & 0xf_0000) << 32
            | (self.base & 0xff_ffff) << 16
            | (self.base & 0xff00_0000) << 32
            | u64::from(self.kind & 0xf) << 40
            | flag(self.code_or_data, 44)
            | u64::from(self.dpl & 3) << 45
            | flag(self.present, 47)
            | flag(self.avl, 52)
            | flag(self.long, 53)
            | flag(self.big, 54)
            | flag(self.granular, 55)
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// The linear base address.
    pub base: u64,
    /// The limit: the table's size in bytes, less one.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values every 64-bit kernel has in its boot GDT.
    #[test]
    fn descriptors_are_the_well_known_ones() {
        assert_eq!(Segment::code64(0x10, 0).descriptor(), 0x00af_9b00_0000_ffff);
        assert_eq!(Segment::code32(0x10, 0).descriptor(), 0x00cf_9b00_0000_ffff);
        assert_eq!(Segment::data(0x18, 0).descriptor(), 0x00cf_9300_0000_ffff);
        assert_eq!(Segment::data(0x18, 3).descriptor(), 0x00cf_f300_0000_ffff);
        assert_eq!(Segment::code64(0x18, 3).selector, 0x1b);
    }

    #[test]
    fn real_mode_bases_follow_the_selector() {
        assert_eq!(Segment::real_code(0x1234).base, 0x1_2340);
        assert_eq!(Segment::real_data(0xf000).limit, 0xffff);
    }
}
