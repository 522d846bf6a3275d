//! Flat images: bytes that go to one address and are entered at one address.

use super::{BoardInfo, Entry, Loader, mode};
use crate::{
    arch::{Regs, SystemRegs, paging, rflags},
    error::{Context, Error, Result},
    memory::{GuestAddress, GuestMemory},
};

/// What long mode maps, and the least room for a stack below the image.
const MAPPED: u64 = paging::IDENTITY_GIB << 30;
const STACK: u64 = 0x1000;

/// Where an image goes and starts unless it is said otherwise: 64 KiB for long mode.
const LONG_MODE_AT: u64 = 0x1_0000;
/// And right behind the BIOS data area for real mode, where boot sectors go too.
const REAL_MODE_AT: u64 = 0x7c00;

/// A flat binary, as `objcopy -O binary` makes it.
///
/// Whatever the mode, interrupts are off, RSP is right below the image (it may push at once), and
/// the registers are zero except as set with [`arguments`](Self::arguments).
#[derive(Clone, Debug)]
pub struct Flat {
    image: Vec<u8>,
    at: GuestAddress,
    entry: u64,
    mode: Mode,
    arguments: [u64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Long,
}

impl Flat {
    /// For long mode at ring 0: loaded and entered at 0x10000, the first 4 GiB mapped one to one
    /// and writable. The GDT (code 0x08, data 0x10) and the page tables lie from 0x1000 to 0x8000.
    pub fn long_mode(image: impl Into<Vec<u8>>) -> Self {
        Self::new(image.into(), LONG_MODE_AT, Mode::Long)
    }

    /// For real mode: loaded and entered at 0x7C00, all segments 0.
    pub fn real_mode(image: impl Into<Vec<u8>>) -> Self {
        Self::new(image.into(), REAL_MODE_AT, Mode::Real)
    }

    fn new(image: Vec<u8>, at: u64, mode: Mode) -> Self {
        Self { image, at: GuestAddress(at), entry: at, mode, arguments: [0; 3] }
    }

    /// Loads the image at `at` instead, and enters it there.
    #[must_use]
    pub fn at(self, at: GuestAddress) -> Self {
        Self { at, entry: at.0, ..self }
    }

    /// Enters the image at address `entry` instead of its first byte.
    #[must_use]
    pub fn entry(self, entry: GuestAddress) -> Self {
        Self { entry: entry.0, ..self }
    }

    /// Sets RDI, RSI and RDX: the first three integer arguments of a C function.
    #[must_use]
    pub fn arguments(self, arguments: [u64; 3]) -> Self {
        Self { arguments, ..self }
    }

    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::bad_image(format!("flat image: {why}")));
        if self.image.is_empty() {
            return bad("empty".into());
        }
        let Some(end) = self.at.0.checked_add(self.image.len() as u64) else {
            return bad(format!("{} bytes at {:#x} pass 2^64", self.image.len(), self.at.0));
        };
        if !(self.at.0..end).contains(&self.entry) {
            return bad(format!("entry {:#x} is outside {:#x}..{end:#x}", self.entry, self.at.0));
        }
        match self.mode {
            Mode::Real if end > 0x1_0000 => {
                bad(format!("real mode with segments 0 reaches 64 KiB, the image ends at {end:#x}"))
            }
            Mode::Long if self.at.0 < mode::TABLES_END + STACK => bad(format!(
                "at {:#x}, but tables and stack of long mode need what is below {:#x}",
                self.at.0,
                mode::TABLES_END + STACK
            )),
            Mode::Long if end > MAPPED => {
                bad(format!("long mode maps {MAPPED:#x} bytes, the image ends at {end:#x}"))
            }
            _ => Ok(()),
        }
    }

    fn regs(&self) -> Regs {
        let [rdi, rsi, rdx] = self.arguments;
        // As behind the call of a C function: a multiple of 16, and a return address.
        let rsp = self.at.0.saturating_sub(8);
        Regs { rip: self.entry, rsp, rdi, rsi, rdx, rflags: rflags::FIXED, ..Regs::default() }
    }
}

impl Loader for Flat {
    fn load(&self, memory: &GuestMemory, _: &BoardInfo) -> Result<Entry> {
        self.check()?;
        memory.write(self.at, &self.image).context(|| "flat image")?;
        let system = match self.mode {
            Mode::Real => SystemRegs::real_mode(),
            Mode::Long => mode::long(memory)?,
        };
        Ok(Entry { regs: self.regs(), system })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn load(flat: &Flat) -> Result<Entry> {
        flat.load(&GuestMemory::anonymous(1 << 20)?, &BoardInfo::new(1))
    }

    #[test]
    fn an_image_that_fits_is_entered_where_it_says() {
        let flat = Flat::long_mode([0x90; 16]).entry(GuestAddress(0x1_0008)).arguments([1, 2, 3]);
        let entry = load(&flat).unwrap();
        assert_eq!((entry.regs.rip, entry.regs.rsp, entry.regs.rsi), (0x1_0008, 0xfff8, 2));
        assert!(entry.system.cs.long);
        assert!(!load(&Flat::real_mode([0x90])).unwrap().system.cs.long);
    }

    #[test]
    fn images_that_do_not_fit_are_refused() {
        let cases = [
            Flat::long_mode([]),
            Flat::long_mode([0; 16]).at(GuestAddress(0x7000)),
            Flat::long_mode([0; 16]).at(GuestAddress(u64::MAX)),
            Flat::long_mode([0; 16]).entry(GuestAddress(0x1_0010)),
            Flat::real_mode([0; 16]).at(GuestAddress(0xfff8)),
        ];
        for flat in cases {
            assert_eq!(load(&flat).unwrap_err().kind(), ErrorKind::BadImage, "{flat:?}");
        }
        let beyond = Flat::long_mode([0; 16]).at(GuestAddress((1 << 20) - 8));
        assert_eq!(load(&beyond).unwrap_err().kind(), ErrorKind::GuestMemory);
    }
}
