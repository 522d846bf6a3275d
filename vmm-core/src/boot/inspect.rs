//! Which loader an image is for, by its headers, and why.

use std::fmt;

use super::{
    elf64,
    image::{Image, Opened},
    linux, multiboot,
};
use crate::error::Result;

/// A way to start an image, in order of preference if several are possible.
///
/// The first three are declared by a header made for them. [`Pvh`](Self::Pvh) comes before
/// [`Multiboot`](Self::Multiboot) because it tells where the ACPI tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// The 64-bit Linux boot protocol of a bzImage: [`Linux`](super::Linux).
    Linux,
    /// PVH: [`Linux`](super::Linux) with [`Protocol::Pvh`](super::Protocol::Pvh), whatever the
    /// kernel.
    Pvh,
    /// Multiboot 1: [`Multiboot`](super::Multiboot).
    Multiboot,
    /// None but the ELF entry: [`Elf64`](super::Elf64).
    Elf64,
}

/// What an image's headers say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// One for each [`Way`], in that order.
    pub evidence: Vec<Evidence>,
}

/// Whether an image can be started in one way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Evidence {
    /// The way.
    pub way: Way,
    /// Whether the headers are all there and right. Loading can still fail, for want of memory.
    pub is_there: bool,
    /// What was found, and where; or what is missing or wrong.
    pub why: String,
}

impl Found {
    /// The best way, if there is any.
    pub fn best(&self) -> Option<&Evidence> {
        self.evidence.iter().find(|evidence| evidence.is_there)
    }
}

/// Looks at an image's headers: how can it be started?
///
/// ```no_run
/// # fn main() -> vmm_core::Result<()> {
/// let found = vmm_core::boot::inspect("kernel.elf")?;
/// match found.best() {
///     Some(evidence) => println!("{}: {}", evidence.way, evidence.why),
///     None => found.evidence.iter().for_each(|no| println!("not {}: {}", no.way, no.why)),
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Host` or `BadImage` if it cannot be read at all.
pub fn inspect(image: impl Into<Image>) -> Result<Found> {
    let mut image = image.into().open()?;
    let ways = [Way::Linux, Way::Pvh, Way::Multiboot, Way::Elf64];
    let evidence = ways.map(|way| match way.look(&mut image) {
        Ok(why) => Evidence { way, is_there: true, why },
        Err(error) => Evidence { way, is_there: false, why: image.without_name(&error) },
    });
    Ok(Found { evidence: evidence.into() })
}

impl Way {
    fn look(self, image: &mut Opened) -> Result<String> {
        match self {
            Self::Linux => linux(image),
            Self::Pvh => pvh(image),
            Self::Multiboot => multiboot(image),
            Self::Elf64 => elf64(image),
        }
    }
}

fn linux(image: &mut Opened) -> Result<String> {
    let version = linux::parse_bzimage(image)?.version;
    let (major, minor) = (version >> 8, version & 0xff);
    Ok(format!("'HdrS' at 0x202, boot protocol {major}.{minor}, a 64-bit entry in xloadflags"))
}

fn pvh(image: &mut Opened) -> Result<String> {
    let elf = linux::parse_elf(image)?;
    let entry =
        elf.pvh_entry.ok_or_else(|| image.bad("no XEN_ELFNOTE_PHYS32_ENTRY in its notes"))?;
    let class = elf.class;
    Ok(format!("XEN_ELFNOTE_PHYS32_ENTRY {entry:#x} in the notes of a {class} ELF"))
}

fn multiboot(image: &mut Opened) -> Result<String> {
    let kernel = multiboot::Kernel::parse(image)?;
    let (at, flags, entry) = (kernel.header_at, kernel.flags, kernel.entry);
    let by = match kernel.has_address_fields() {
        true => "its address fields",
        false => "ELF headers",
    };
    Ok(format!("header at {at:#x} of the file, flags {flags:#x}; entry {entry:#x} by {by}"))
}

fn elf64(image: &mut Opened) -> Result<String> {
    let elf = elf64::parse(image)?;
    let (entry, start, end) = (elf.entry, elf.start(), elf.end());
    Ok(format!("x86-64 executable linked to {start:#x}..{end:#x}, e_entry {entry:#x}"))
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "the Linux boot protocol",
            Self::Pvh => "PVH",
            Self::Multiboot => "Multiboot 1",
            Self::Elf64 => "plain 64-bit ELF",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(image: &mut [u8], at: usize, words: &[u32]) {
        for (n, word) in words.iter().enumerate() {
            image[at + n * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// A 32-bit ELF with a PVH entry and a Multiboot header.
    fn both() -> Vec<u8> {
        let (mut image, magic) = (vec![0; 0x400], u32::from_le_bytes(*b"\x7fELF"));
        let (at, kind) = (0x10_0000, 3 << 16 | 2);
        put(&mut image, 0, &[magic, 0x0001_0101, 0, 0, kind, 1, at, 52, 0, 0, 32 << 16, 2, 0]);
        put(&mut image, 52, &[1, 0, at, at, 0x400, 0x400, 7, 0x1000]);
        put(&mut image, 52 + 32, &[4, 0x200, 0, 0, 20, 20, 4, 4]);
        put(&mut image, 0x200, &[4, 4, 18, u32::from_le_bytes(*b"Xen\0"), at + 0x20]);
        put(&mut image, 0x300, &[0x1bad_b002, 3, 0xe452_4ffb]);
        image
    }

    fn bzimage() -> Vec<u8> {
        let mut image = vec![0; 0x400];
        put(&mut image, 0x202, &[u32::from_le_bytes(*b"HdrS"), 0x020f]);
        (image[0x211], image[0x236]) = (1, 1);
        image
    }

    fn ways(image: &[u8]) -> (Found, Vec<Way>) {
        let found = inspect(Image::bytes(image)).unwrap();
        let there = found.evidence.iter().filter(|evidence| evidence.is_there);
        let there = there.map(|evidence| evidence.way).collect();
        (found, there)
    }

    #[test]
    fn what_headers_declare_is_told_with_its_place() {
        let (found, there) = ways(&both());
        assert_eq!(there, [Way::Pvh, Way::Multiboot]);
        let whys: Vec<_> = found.evidence.iter().map(|evidence| evidence.why.as_str()).collect();
        let pvh = "XEN_ELFNOTE_PHYS32_ENTRY 0x100020 in the notes of a 32-bit ELF";
        let multiboot = "header at 0x300 of the file, flags 0x3; entry 0x100000 by ELF headers";
        assert!(whys[0].starts_with("no bzImage: no 'HdrS' at 0x202"), "{whys:?}");
        assert_eq!(whys[1..], [pvh, multiboot, "EI_CLASS is 1 (32-bit), not 2 (64-bit)"]);

        let (found, there) = ways(&bzimage());
        assert_eq!(there, [Way::Linux]);
        let best = found.best().unwrap();
        let linux = "'HdrS' at 0x202, boot protocol 2.15, a 64-bit entry in xloadflags";
        assert_eq!((best.way, best.why.as_str()), (Way::Linux, linux));
    }

    #[test]
    fn what_is_nothing_is_told_why_for_each_way() {
        for image in [vec![], vec![0; 100], vec![0; 0x3000]] {
            let (found, there) = ways(&image);
            assert_eq!((there.len(), found.evidence.len()), (0, 4));
            assert!(found.evidence.iter().all(|evidence| !evidence.why.contains("image of")));
            assert!(found.best().is_none());
        }
        assert!(inspect("no/such/image").unwrap_err().to_string().contains("no/such/image"));
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..8),
            len in 0usize..0x400,
        ) {
            for mut image in [both(), bzimage()] {
                for (at, to) in &changes {
                    image[*at] = *to;
                }
                let _ = ways(&image);
                image.truncate(len);
                let _ = ways(&image);
            }
        }
    }
}
