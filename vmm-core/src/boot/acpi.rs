//! ACPI tables: what the guest is told of processors, interrupt controllers, power and devices
//! (ACPI specification 6.5, chapter 5).
//!
//! The tables lie in the BIOS area, the root pointer first, where a guest that was not told finds
//! it too. The machine is not "hardware-reduced": Linux would then not look for the PICs and the
//! timer.

use acpi_tables::{
    Aml, aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};

use super::{BoardDevice, BoardInfo, map::TABLES_START};
use crate::{
    error::{Context, Error, Result},
    memory::{GuestAddress, GuestMemory},
};

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"VMMBOARD";
const OEM_REVISION: u32 = 1;
const TABLES_END: u64 = 0x10_0000;
const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// The interrupt ACPI events would come by; none come yet.
const SCI: u16 = 9;

/// The ports of the board's power management.
pub mod power {
    /// PM1a event block: status and enable registers, 2 bytes each.
    pub const EVENTS: u16 = 0x600;
    /// PM1a control register, 2 bytes.
    pub const CONTROL: u16 = 0x604;
    /// A write of [`RESET_VALUE`] here resets the machine.
    pub const RESET: u16 = 0x608;
    /// See [`RESET`].
    pub const RESET_VALUE: u8 = 1;
    /// The sleep type of "soft off" (S5) in bits 10-12 of the control register.
    pub const SOFT_OFF: u8 = 5;
}

/// Writes the tables; gives the address of the root pointer.
pub(super) fn write_tables(memory: &GuestMemory, board: &BoardInfo) -> Result<GuestAddress> {
    let root = GuestAddress(TABLES_START);
    let mut writer = Writer { memory, next: TABLES_START + Rsdp::len() as u64 };
    let dsdt = writer.put(&dsdt(board))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(writer.put(&fadt(dsdt))?);
    xsdt.add_entry(writer.put(&madt(board))?);
    let xsdt = writer.put(&xsdt)?;
    let mut writer = Writer { memory, next: root.0 };
    writer.put(&Rsdp::new(OEM, xsdt))?;
    Ok(root)
}

struct Writer<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Writer<'_> {
    /// Writes one table; gives its address.
    fn put(&mut self, table: &dyn Aml) -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let at = self.next.next_multiple_of(16);
        self.next = at + bytes.len() as u64;
        if self.next > TABLES_END {
            let end = self.next;
            return Err(Error::bad_config(format!("ACPI tables up to {end:#x}: too many devices")));
        }
        self.memory.write(GuestAddress(at), &bytes).context(|| "ACPI tables")?;
        Ok(at)
    }
}

fn fadt(dsdt: u64) -> impl Aml {
    let io = |port: u16, width: u8, size| {
        GAS::new(AddressSpace::SystemIo, width, 0, size, u64::from(port))
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = SCI.into();
    fadt.pm1a_evt_blk = u32::from(power::EVENTS).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_evt_blk = io(power::EVENTS, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = io(power::CONTROL, 16, AccessSize::WordAccess);
    fadt.reset_reg = io(power::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

fn madt(board: &BoardInfo) -> MADT {
    let mut madt =
        MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LAPIC));
    // Beyond 255 a processor needs another structure; guests of that size are not offered yet.
    for id in 0..board.vcpus.min(255) as u8 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    madt
}

fn dsdt(board: &BoardInfo) -> impl Aml {
    let mut body = Vec::new();
    let off = aml::Package::new(vec![&power::SOFT_OFF, &0u8]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);
    for (n, device) in board.devices.iter().enumerate() {
        describe(n, device).to_aml_bytes(&mut body);
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&body);
    Table(dsdt)
}

/// The AML of one device.
fn describe(n: usize, device: &BoardDevice) -> impl Aml {
    let mut bytes = Vec::new();
    let ports: Vec<_> =
        device.ports.iter().map(|&(start, len)| aml::IO::new(start, start, 0, len as u8)).collect();
    let mmio = device.mmio.map(|(start, len)| aml::Memory32Fixed::new(true, start, len));
    let irq = device.irq.map(|irq| aml::Interrupt::new(true, true, false, false, irq));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|ports| ports as &dyn Aml).collect();
    resources.extend(mmio.as_ref().map(|mmio| mmio as &dyn Aml));
    resources.extend(irq.as_ref().map(|irq| irq as &dyn Aml));
    let uid = aml::Name::new("_UID".into(), &(n as u32));
    let resources = aml::ResourceTemplate::new(resources);
    let resources = aml::Name::new("_CRS".into(), &resources);
    let path = format!("_SB_.D{n:03}");
    let hid = hardware_id(device.hid);
    aml::Device::new(path.as_str().into(), vec![&hid, &uid, &resources]).to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// Whether it is a vendor's three letters and four hexadecimal digits, or eight characters.
pub(crate) fn is_hardware_id(hid: &str) -> bool {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    let is_plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    match hid.as_bytes() {
        bytes if bytes.len() == 7 => {
            let (vendor, number) = bytes.split_at(3);
            vendor.iter().all(u8::is_ascii_uppercase) && number.iter().all(is_hex)
        }
        bytes => bytes.len() == 8 && bytes.iter().all(is_plain),
    }
}

/// An ID of the old form is a number, one of the new form a string (ACPI specification 6.1.5).
fn hardware_id(hid: &'static str) -> aml::Name {
    match hid.len() {
        7 => aml::Name::new("_HID".into(), &aml::EISAName::new(hid)),
        _ => aml::Name::new("_HID".into(), &hid),
    }
}

/// A table whose bytes are there already.
struct Table(Sdt);

impl Aml for Table {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.0.as_slice());
    }
}

/// AML whose bytes are there already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of one described device.
    fn described(device: &BoardDevice) -> Vec<u8> {
        let mut bytes = Vec::new();
        describe(5, device).to_aml_bytes(&mut bytes);
        bytes
    }

    fn has(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn a_device_on_mmio_is_told_by_its_window_and_an_edge_triggered_interrupt() {
        let mmio = Some((0xd000_1000, 0x200));
        let device = BoardDevice { hid: "LNRO0005", mmio, irq: Some(17), ..Default::default() };
        let bytes = described(&device);
        // As the specification has them: a string (20.2.3), a 32-bit fixed memory range descriptor
        // (6.4.3.4), an extended interrupt descriptor (6.4.3.6).
        assert!(has(&bytes, b"_HID\x0dLNRO0005\0"), "{bytes:x?}");
        let memory = [0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 2, 0, 0];
        let interrupt = [0x89, 6, 0, 0b11, 1, 17, 0, 0, 0];
        assert!(has(&bytes, &[memory.as_slice(), &interrupt].concat()), "{bytes:x?}");
    }

    #[test]
    fn a_device_on_ports_is_told_by_a_number_and_its_ports() {
        let device = BoardDevice { hid: "PNP0501", ports: &[(0x3f8, 8)], ..Default::default() };
        let bytes = described(&device);
        assert!(has(&bytes, b"_HID\x0c\x41\xd0\x05\x01"), "{bytes:x?}");
        assert!(has(&bytes, &[0x47, 1, 0xf8, 3, 0xf8, 3, 0, 8]), "{bytes:x?}");
    }
}
