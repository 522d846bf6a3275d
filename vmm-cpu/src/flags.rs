//! The status flags, worked out when somebody asks.
//!
//! An arithmetic instruction leaves three words from which each of CF, PF, AF, ZF, SF and OF
//! follows; most are never asked for.

use crate::word::Word;

pub(crate) const CF: u64 = 1 << 0;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const TF: u64 = 1 << 8;
pub(crate) const IF: u64 = 1 << 9;
pub(crate) const DF: u64 = 1 << 10;
pub(crate) const OF: u64 = 1 << 11;
pub(crate) const IOPL: u64 = 3 << 12;
pub(crate) const NT: u64 = 1 << 14;
pub(crate) const RF: u64 = 1 << 16;
pub(crate) const VM: u64 = 1 << 17;
pub(crate) const AC: u64 = 1 << 18;
pub(crate) const VIF: u64 = 1 << 19;
pub(crate) const VIP: u64 = 1 << 20;
pub(crate) const ID: u64 = 1 << 21;

/// All of RFLAGS but VM, which is not built.
pub(crate) const ALL: u64 = STATUS | TF | IF | DF | IOPL | NT | RF | AC | VIF | VIP | ID;

/// Those that [`Flags`] holds; the rest of RFLAGS lies in the CPU as it is.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The status flags.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// The result, sign-extended: ZF if it is 0, SF its sign, PF the parity of its low byte.
    result: u64,
    /// Bit 4: AF. Bit 63: SF is not the sign of the result. Bits 8 to 15: what to add to the low
    /// byte before its parity is taken. The last two serve flags that no result has at once.
    aux: u64,
    /// Bit 63: CF, the carry out of the result. Bit 62: the carry into its top bit, which differs
    /// from CF if OF is set.
    carry: u64,
}

impl Flags {
    /// CF, and nothing of interest else.
    #[inline(always)]
    pub(crate) fn with_carry(cf: bool) -> Self {
        Self { carry: u64::from(cf) << 63, ..Self::default() }
    }

    /// After AND, OR, XOR, TEST.
    #[inline(always)]
    pub(crate) fn logic<W: Word>(&mut self, result: W) {
        *self = Self { result: result.sext(), aux: 0, carry: 0 };
    }

    /// After `a + b` (+ carry) gave `result`.
    #[inline(always)]
    pub(crate) fn add<W: Word>(&mut self, a: W, b: W, result: W) {
        let (a, b, r) = (a.zext(), b.zext(), result.zext());
        let carries = (a & b) | ((a | b) & !r);
        self.arithmetic(result, a ^ b ^ r, carries << (64 - W::BITS));
    }

    /// After `a - b` (- borrow) gave `result`.
    #[inline(always)]
    pub(crate) fn sub<W: Word>(&mut self, a: W, b: W, result: W) {
        let (a, b, r) = (a.zext(), b.zext(), result.zext());
        let borrows = (!a & b) | ((!a | b) & r);
        self.arithmetic(result, a ^ b ^ r, borrows << (64 - W::BITS));
    }

    #[inline(always)]
    fn arithmetic<W: Word>(&mut self, result: W, aux: u64, carry: u64) {
        *self = Self { result: result.sext(), aux: aux & AF, carry };
    }

    /// As for `result`, with AF clear, and CF and OF as given.
    #[inline(always)]
    pub(crate) fn result<W: Word>(&mut self, result: W, cf: bool, of: bool) {
        let carry = u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
        *self = Self { result: result.sext(), aux: 0, carry };
    }

    /// After INC gave `result`: CF stays.
    #[inline(always)]
    pub(crate) fn increment<W: Word>(&mut self, result: W) {
        let of = result.zext() == 1 << (W::BITS - 1);
        self.count(result, result.zext() & 15 == 0, of);
    }

    /// After DEC gave `result`: CF stays.
    #[inline(always)]
    pub(crate) fn decrement<W: Word>(&mut self, result: W) {
        let of = result.zext() == (1 << (W::BITS - 1)) - 1;
        self.count(result, result.zext() & 15 == 15, of);
    }

    #[inline(always)]
    fn count<W: Word>(&mut self, result: W, af: bool, of: bool) {
        let cf = self.carry & 1 << 63;
        let carry = cf | cf >> 1 ^ u64::from(of) << 62;
        *self = Self { result: result.sext(), aux: u64::from(af) << 4, carry };
    }

    /// Sets CF alone.
    #[inline(always)]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        self.set_cf_of(cf, self.of());
    }

    /// Sets OF alone.
    #[inline(always)]
    pub(crate) fn set_of(&mut self, of: bool) {
        self.set_cf_of(self.cf(), of);
    }

    /// Sets CF and OF.
    #[inline(always)]
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.carry = u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// Sets ZF alone.
    pub(crate) fn set_zf(&mut self, zf: bool) {
        self.set(self.image() & !ZF | if zf { ZF } else { 0 });
    }

    /// All six, from an image of RFLAGS.
    pub(crate) fn set(&mut self, image: u64) {
        let (cf, of) = (image & CF, (image & OF) >> 11);
        // 0 has even parity, 1 odd.
        let result = u64::from(image & ZF == 0);
        let odd = u64::from(image & PF == 0);
        self.result = result;
        self.aux = image & AF | (image & SF) << 56 | (result ^ odd) << 8;
        self.carry = cf << 63 | (cf ^ of) << 62;
    }

    /// All six, as RFLAGS has them.
    pub(crate) fn image(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | self.aux & AF
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }

    #[inline(always)]
    pub(crate) fn cf(&self) -> bool {
        self.carry >> 63 != 0
    }

    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        ((self.result as u8) ^ (self.aux >> 8) as u8).count_ones() & 1 == 0
    }

    #[inline(always)]
    pub(crate) fn zf(&self) -> bool {
        self.result == 0
    }

    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        (self.result ^ self.aux) >> 63 != 0
    }

    #[inline(always)]
    pub(crate) fn of(&self) -> bool {
        (self.carry ^ self.carry << 1) >> 63 != 0
    }

    /// Whether a condition holds, by its code of 4 bits (Intel SDM 2, appendix B, "Condition Test
    /// Fields").
    #[inline(always)]
    pub(crate) fn condition<const CC: u8>(&self) -> bool {
        let holds = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        holds != (CC & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_back() {
        for bits in 0..64 {
            let place = |bit: u64, flag: u64| if bits & 1 << bit != 0 { flag } else { 0 };
            let image = place(0, CF)
                | place(1, PF)
                | place(2, AF)
                | place(3, ZF)
                | place(4, SF)
                | place(5, OF);
            let mut flags = Flags::default();
            flags.set(image);
            assert_eq!(flags.image(), image);
        }
    }

    #[test]
    fn bytes_add_and_subtract_as_the_manual_says() {
        for (a, b) in (0..=255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b))) {
            let mut flags = Flags::default();
            flags.add(a, b, a.wrapping_add(b));
            assert_eq!(flags.cf(), a.checked_add(b).is_none());
            assert_eq!(flags.of(), a.cast_signed().checked_add(b.cast_signed()).is_none());
            assert_eq!(flags.image() & AF != 0, (a & 15) + (b & 15) > 15);
            flags.sub(a, b, a.wrapping_sub(b));
            assert_eq!(flags.cf(), a < b);
            assert_eq!(flags.of(), a.cast_signed().checked_sub(b.cast_signed()).is_none());
            assert_eq!(flags.image() & AF != 0, a & 15 < b & 15);
            assert_eq!(flags.sf(), a.wrapping_sub(b) > 127);
            assert_eq!(flags.pf(), a.wrapping_sub(b).count_ones() % 2 == 0);
        }
    }

    #[test]
    fn cf_alone_leaves_of() {
        for image in [0, OF, CF, OF | CF] {
            let mut flags = Flags::default();
            flags.set(image);
            flags.set_cf(true);
            assert_eq!(flags.image() & (CF | OF), image & OF | CF);
        }
    }
}
