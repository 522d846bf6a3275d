//! Linux, by its 64-bit boot protocol or by PVH.
//!
//! A bzImage or an uncompressed `vmlinux`, an initrd, a command line
//! (Documentation/arch/x86/boot.rst). What the kernel reads lies in low memory and in the BIOS
//! area; the initrd goes as high as the kernel allows, above all it needs to unpack itself.

use std::fmt;

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use super::{
    BoardInfo, Entry, Loader, acpi, c_string,
    elf::{self, Class, Elf},
    image::{Image, Opened},
    map, mode, pvh,
};
use crate::{
    arch::{Regs, rflags},
    error::{Context, Error, Result},
    memory::{ByteValued, GuestAddress, GuestMemory},
};

/// Where the boot parameters lie ("zero page").
pub(super) const PARAMETERS: u64 = 0x8000;
/// Where the command line lies, and how much room there is.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_ROOM: usize = 0x1_0000;
/// What kernels that do not say accept of it, in bytes.
const COMMAND_LINE_DEFAULT: usize = 2047;

/// The setup header of a bzImage, and its magic number at offset 0x202.
const HEADER: u64 = 0x1f1;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const MAGIC_OFFSET: u64 = 0x202;
/// Protocol 2.12, Linux 3.8: the first that says whether there is a 64-bit entry.
const OLDEST: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry, 0x200 behind the load address.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// `loadflags`: the kernel goes to 1 MiB.
const LOADED_HIGH: u8 = 1;
/// What the 64-bit entry reaches without page tables of its own.
const HIGHEST_LOAD: u64 = mode::MAPPED - 1;
/// `type_of_loader`: one without a number of its own.
const LOADER_TYPE: u8 = 0xff;

/// Which protocol an uncompressed kernel is entered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit Linux boot protocol.
    #[default]
    Linux64,
    /// PVH: 32-bit protected mode without paging.
    Pvh,
}

/// A Linux kernel to boot.
///
/// ```no_run
/// # use vmm_core::boot::Linux;
/// let linux = Linux::kernel("vmlinuz").initrd("initrd.img").cmdline("console=ttyS0");
/// ```
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: Image,
    initrd: Option<Image>,
    cmdline: String,
    protocol: Protocol,
}

/// What the kernel of either form says of itself.
struct Kernel {
    header: setup_header,
    /// None if it is 32-bit code.
    entry: Option<u64>,
    pvh_entry: Option<u32>,
    /// The address behind what it needs to start.
    end: u64,
}

impl Linux {
    /// A kernel: a bzImage (as distributions have it) or an uncompressed ELF `vmlinux`, told apart
    /// by their headers.
    pub fn kernel(kernel: impl Into<Image>) -> Self {
        let (kernel, cmdline) = (kernel.into(), String::new());
        Self { kernel, initrd: None, cmdline, protocol: Protocol::default() }
    }

    /// An initial RAM disk.
    #[must_use]
    pub fn initrd(self, initrd: impl Into<Image>) -> Self {
        Self { initrd: Some(initrd.into()), ..self }
    }

    /// The command line.
    #[must_use]
    pub fn cmdline(self, cmdline: impl Into<String>) -> Self {
        Self { cmdline: cmdline.into(), ..self }
    }

    /// Enters an uncompressed kernel by this protocol; a bzImage has only the first.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Puts the initrd where this kernel wants it; gives address and size.
    fn load_initrd(&self, memory: &GuestMemory, kernel: &Kernel) -> Result<Option<(u64, u64)>> {
        let Some(initrd) = &self.initrd else { return Ok(None) };
        let mut image = initrd.open()?;
        let size = image.len();
        let limit = match kernel.header.initrd_addr_max {
            0 => 0x3800_0000,
            max => u64::from(max) + 1,
        };
        let what = format!("initrd {initrd}");
        let at = map::highest_place(memory, &what, size, kernel.end, limit)?;
        image.copy(0, size, memory, at, "the initrd")?;
        Ok(Some((at.0, size)))
    }

    fn load_cmdline(&self, memory: &GuestMemory, kernel: &Kernel) -> Result<()> {
        let most = match kernel.header.cmdline_size as usize {
            0 => COMMAND_LINE_DEFAULT,
            size => size.min(COMMAND_LINE_ROOM - 1),
        };
        let len = self.cmdline.len();
        if len > most {
            let why = format!("command line of {len} bytes: this kernel takes {most}");
            return Err(Error::bad_config(why));
        }
        let bytes = c_string("command line", &self.cmdline)?;
        memory.write(GuestAddress(COMMAND_LINE), &bytes).context(|| "command line")
    }
}

impl Loader for Linux {
    fn load(&self, memory: &GuestMemory, board: &BoardInfo) -> Result<Entry> {
        let mut image = self.kernel.open()?;
        let kernel = load_kernel(&mut image, memory)?;
        self.load_cmdline(memory, &kernel)?;
        let initrd = self.load_initrd(memory, &kernel)?;
        let rsdp = acpi::write_tables(memory, board)?;
        match self.protocol {
            Protocol::Linux64 => {
                let entry = kernel.entry.ok_or_else(|| {
                    image.bad("no 64-bit entry: EI_CLASS is 1 (32-bit), which PVH may have")
                })?;
                enter_linux64(memory, &kernel, entry, initrd, rsdp)
            }
            Protocol::Pvh => {
                let entry = kernel.pvh_entry.ok_or_else(|| {
                    image.bad("no PVH entry: no ELF, or no XEN_ELFNOTE_PHYS32_ENTRY in its notes")
                })?;
                if !memory.has(GuestAddress(entry.into()), 1) {
                    let why = format!("XEN_ELFNOTE_PHYS32_ENTRY {entry:#x} is no RAM");
                    return Err(image.bad(why));
                }
                pvh::enter(memory, entry, initrd, rsdp)
            }
        }
    }
}

fn load_kernel(image: &mut Opened, memory: &GuestMemory) -> Result<Kernel> {
    let magic: [u8; 4] = image.read(0, "a kernel")?;
    if magic == elf::MAGIC {
        return load_elf(image, memory);
    }
    let magic: u32 = image.read(MAGIC_OFFSET, "a kernel's setup header")?;
    if magic == HEADER_MAGIC {
        return load_bzimage(image, memory);
    }
    Err(image.bad(format!("no kernel: neither ELF nor 'HdrS' at {MAGIC_OFFSET:#x}")))
}

fn load_elf(image: &mut Opened, memory: &GuestMemory) -> Result<Kernel> {
    let elf = parse_elf(image)?;
    elf.load(image, memory)?;
    let header = setup_header {
        boot_flag: 0xaa55,
        header: HEADER_MAGIC,
        version: 0x020f,
        kernel_alignment: 0x20_0000,
        cmdline_size: COMMAND_LINE_DEFAULT as u32,
        initrd_addr_max: 0x7fff_ffff,
        ..Default::default()
    };
    let entry = (elf.class == Class::Bits64).then_some(elf.entry);
    Ok(Kernel { header, entry, pvh_entry: elf.pvh_entry, end: elf.end() })
}

/// The headers of an uncompressed kernel, or of another that is entered by PVH.
pub(super) fn parse_elf(image: &mut Opened) -> Result<Elf> {
    let elf = Elf::parse(image)?;
    if elf.start() < map::HIGH_START {
        let start = elf.start();
        return Err(image.bad(format!("a segment at {start:#x}: kernels go to 1 MiB and above")));
    }
    Ok(elf)
}

/// The setup header of a bzImage that has a 64-bit entry.
pub(super) fn parse_bzimage(image: &mut Opened) -> Result<setup_header> {
    let header: setup_header = image.read(HEADER, "a kernel's setup header")?;
    if header.header != HEADER_MAGIC {
        return Err(image.bad(format!("no bzImage: no 'HdrS' at {MAGIC_OFFSET:#x}")));
    }
    let (version, xloadflags, loadflags) = (header.version, header.xloadflags, header.loadflags);
    if version < OLDEST {
        let why = format!("boot protocol {version:#06x} is older than {OLDEST:#06x} (Linux 3.8)");
        return Err(image.bad(why));
    }
    if xloadflags & XLF_KERNEL_64 == 0 || loadflags & LOADED_HIGH == 0 {
        return Err(image.bad(format!(
            "no 64-bit entry (xloadflags {xloadflags:#x}, loadflags {loadflags:#x})"
        )));
    }
    Ok(header)
}

fn load_bzimage(image: &mut Opened, memory: &GuestMemory) -> Result<Kernel> {
    let header = parse_bzimage(image)?;
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let setup_size = (sectors + 1) * 512;
    let Some(size) = image.len().checked_sub(setup_size) else {
        let (setup_sects, len) = (header.setup_sects, image.len());
        return Err(image.bad(format!("setup_sects {setup_sects}, but only {len:#x} bytes")));
    };
    if size <= ENTRY_64 {
        let len = image.len();
        return Err(image.bad(format!("ends at {len:#x}, before its 64-bit entry")));
    }
    let at = load_address(image, &header)?;
    // It unpacks itself there, in `init_size` bytes; or at its preferred address, if that is higher.
    let unpacked = at.max(header.pref_address).checked_add(u64::from(header.init_size));
    let end = unpacked.unwrap_or(u64::MAX).max(at.saturating_add(size));
    let ram = memory.size();
    if !memory.has(GuestAddress(end - 1), 1) {
        let (code32_start, pref_address) = (header.code32_start, header.pref_address);
        let init_size = header.init_size;
        return Err(image.bad(format!(
            "needs RAM up to {end:#x} to unpack itself (code32_start {code32_start:#x}, \
             pref_address {pref_address:#x}, init_size {init_size:#x}), there are {ram:#x} bytes"
        )));
    }
    image.copy(setup_size, size, memory, GuestAddress(at), "the kernel")?;
    Ok(Kernel { header, entry: Some(at + ENTRY_64), pvh_entry: None, end })
}

/// Where the kernel is put: where it prefers, if it can run anywhere. There it unpacks itself in
/// place, and touches no other memory.
fn load_address(image: &Opened, header: &setup_header) -> Result<u64> {
    let (anywhere, preferred) = (header.relocatable_kernel != 0, header.pref_address);
    if anywhere && (map::HIGH_START..=HIGHEST_LOAD).contains(&preferred) {
        return Ok(preferred);
    }
    let at = u64::from(header.code32_start);
    if at < map::HIGH_START {
        return Err(image.bad(format!("code32_start {at:#x} is below 1 MiB")));
    }
    Ok(at)
}

/// The 64-bit protocol: RSI points to the boot parameters.
fn enter_linux64(
    memory: &GuestMemory,
    kernel: &Kernel,
    rip: u64,
    initrd: Option<(u64, u64)>,
    rsdp: GuestAddress,
) -> Result<Entry> {
    let mut parameters = boot_params { hdr: kernel.header, ..Default::default() };
    parameters.acpi_rsdp_addr = rsdp.0;
    parameters.hdr.type_of_loader = LOADER_TYPE;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((at, size)) = initrd {
        parameters.hdr.ramdisk_image = at as u32;
        parameters.ext_ramdisk_image = (at >> 32) as u32;
        parameters.hdr.ramdisk_size = size as u32;
        parameters.ext_ramdisk_size = (size >> 32) as u32;
    }
    let ranges = map::ranges(memory);
    let mut table = parameters.e820_table;
    for (entry, range) in table.iter_mut().zip(&ranges) {
        let map::Range { start, len, kind } = *range;
        *entry = boot_e820_entry { addr: start, size: len, r#type: kind as u32 };
    }
    parameters.e820_table = table;
    parameters.e820_entries = ranges.len().min(table.len()) as u8;
    memory.write(GuestAddress(PARAMETERS), parameters.as_slice()).context(|| "boot parameters")?;
    let regs = Regs { rip, rsi: PARAMETERS, rflags: rflags::FIXED, ..Regs::default() };
    Ok(Entry { regs, system: mode::long(memory)? })
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "the 64-bit Linux boot protocol",
            Self::Pvh => "PVH",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const RAM: u64 = 64 << 20;

    /// A bzImage with nothing in it but a header that is right.
    fn bzimage() -> Vec<u8> {
        let header = setup_header {
            setup_sects: 1,
            boot_flag: 0xaa55,
            header: HEADER_MAGIC,
            version: 0x020f,
            loadflags: LOADED_HIGH,
            code32_start: 0x10_0000,
            xloadflags: XLF_KERNEL_64,
            cmdline_size: 20,
            initrd_addr_max: 0x7fff_ffff,
            pref_address: 0x100_0000,
            init_size: 0x20_0000,
            ..Default::default()
        };
        let mut image = vec![0; 1024 + 0x1000];
        let at = HEADER as usize;
        image[at..at + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        image[1024..].fill(0x90);
        image
    }

    fn load(linux: &Linux) -> Result<(Entry, GuestMemory)> {
        let memory = GuestMemory::anonymous(RAM)?;
        linux.load(&memory, &BoardInfo::new(2)).map(|entry| (entry, memory))
    }

    fn refusal(linux: &Linux) -> String {
        load(linux).map(|_| ()).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_bzimage_gets_its_parameters() {
        let initrd = Image::bytes(vec![7; 5000]);
        let linux = Linux::kernel(Image::bytes(bzimage())).initrd(initrd).cmdline("quiet");
        let (entry, memory) = load(&linux).unwrap();
        assert_eq!((entry.regs.rip, entry.regs.rsi), (0x10_0200, PARAMETERS));
        let read = |at| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 0x90);
        // cmd_line_ptr, ramdisk_image, ramdisk_size; e820_entries.
        assert_eq!(read(PARAMETERS + 0x228), COMMAND_LINE as u32);
        let initrd = read(PARAMETERS + 0x218);
        assert_eq!((u64::from(initrd), read(PARAMETERS + 0x21c)), (RAM - 0x2000, 5000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(initrd) + 4999)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(PARAMETERS + 0x1e8)).unwrap(), 3);
        let rsdp = memory.read_obj::<[u8; 8]>(GuestAddress(u64::from(read(PARAMETERS + 0x70))));
        assert_eq!(&rsdp.unwrap(), b"RSD PTR ");
    }

    #[test]
    fn a_bzimage_goes_where_it_prefers_if_it_can_run_there() {
        let at = |relocatable, preferred: u64| {
            let mut image = bzimage();
            image[0x234] = relocatable;
            image[0x258..0x260].copy_from_slice(&preferred.to_le_bytes());
            let (entry, memory) = load(&Linux::kernel(Image::bytes(image))).unwrap();
            let at = entry.regs.rip - ENTRY_64;
            assert_eq!(memory.read_obj::<u8>(GuestAddress(at + 0xfff)).unwrap(), 0x90);
            at
        };
        assert_eq!(at(0, 0x100_0000), 0x10_0000);
        assert_eq!(at(1, 0x100_0000), 0x100_0000);
        assert_eq!(at(1, 0), 0x10_0000);
    }

    #[test]
    fn each_refusal_names_the_field_and_the_value() {
        let with = |at: usize, bytes: &[u8]| {
            let mut image = bzimage();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            Linux::kernel(Image::bytes(image))
        };
        let cases = [
            (with(0x202, b"none"), "'HdrS'"),
            (with(0x206, &[0, 2]), "0x0200"),
            (with(0x236, &[0, 0]), "xloadflags 0x0"),
            (with(0x1f1, &[200]), "setup_sects 200"),
            (with(0x214, &[0, 0, 0, 0]), "code32_start 0x0"),
            (with(0x260, &[0xff; 4]), "init_size 0xffffffff"),
            (with(0x214, &[0, 0, 0, 0xff]), "0xff000000"),
            (Linux::kernel(Image::bytes(vec![0; 3])), "ends at 0x3"),
            (Linux::kernel(Image::bytes(&bzimage()[..0x600])), "ends at 0x600, before its 64-bit"),
            (Linux::kernel("no/such/kernel"), "no/such/kernel: No such file"),
            (Linux::kernel("src"), "not a regular file"),
            (with(0, &[]).initrd("no/such/initrd"), "no/such/initrd"),
            (with(0, &[]).initrd(Image::bytes(vec![0; RAM as usize])), "does not fit"),
            (with(0, &[]).cmdline("x".repeat(21)), "21 bytes: this kernel takes 20"),
            (with(0, &[]).cmdline("a\0b"), "NUL at byte 1"),
            (with(0, &[]).protocol(Protocol::Pvh), "no PVH entry"),
        ];
        for (linux, says) in cases {
            let refusal = refusal(&linux);
            assert!(refusal.contains(says), "'{refusal}' does not say '{says}'");
        }
        let small = GuestMemory::anonymous(1 << 20).unwrap();
        let linux = Linux::kernel(Image::bytes(bzimage()));
        let error = linux.load(&small, &BoardInfo::new(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    }
}
