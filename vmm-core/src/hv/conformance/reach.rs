//! Every access outside RAM reaches `io`, wherever it goes.

use super::{
    Failure, Setup,
    guest::{Access, Guest, Kind, Recorder, patterns, write_words},
    random::Random,
};
use crate::{
    arch::Regs,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::IrqConfig,
    memory::GuestAddress,
};

/// A store here ends the program.
const END: u64 = 0xd000_0000;
const PORTS: u64 = 0x1_0000;
/// Where the program finds addresses and puts what it has loaded from them.
const ADDRESSES: u64 = 0x10_0000;
const LOADED: u64 = 0x11_0000;
const COUNT: usize = 1_000;

/// Every port can be read and written, and random addresses in the holes of the address space.
pub(super) fn every_port_and_any_address_outside_ram_reach_io(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, None, program!("reach"))?;
    let addresses = addresses();
    write_words(&guest.memory, ADDRESSES, &addresses)?;
    let regs = guest.vcpu.regs()?;
    let (rsi, rdi, rcx) = (ADDRESSES, LOADED, COUNT as u64);
    guest.vcpu.set_regs(&Regs { rsi, rdi, rcx, ..regs })?;

    let io = recorder();
    guest.run_to_power_off(&io)?;
    let log = io.take();
    let (ports, mmio) = log.split_at(log.len().min(2 * PORTS as usize));
    for (port, pair) in (0..).zip(ports.chunks(2)) {
        let (read, written) = (patterns(port, 1), [port as u8 ^ 0x5a]);
        let expected = [(Kind::PortIn, &read[..]), (Kind::PortOut, &written)];
        let expected = expected.map(|(kind, data)| Access::new(kind, port, data));
        ensure_eq!(*pair, expected, "port {port:#x}");
    }
    check_mmio(mmio, &addresses)?;
    let mut loaded = vec![0; 4 * COUNT];
    guest.memory.read(GuestAddress(LOADED), &mut loaded)?;
    let expected: Vec<u8> = addresses.iter().flat_map(|at| patterns(*at, 4)).collect();
    ensure_eq!(loaded, expected, "what was loaded");
    Ok(())
}

fn check_mmio(log: &[Access], addresses: &[u64]) -> Result<(), Failure> {
    ensure_eq!(log.len(), 2 * COUNT + 1, "MMIO accesses");
    for ((&at, pair), n) in addresses.iter().zip(log.chunks(2)).zip(0u32..) {
        let written = (COUNT as u32 - n).to_le_bytes();
        let expected = [(Kind::MmioRead, &patterns(at, 4)[..]), (Kind::MmioWrite, &written)];
        let expected = expected.map(|(kind, data)| Access::new(kind, at, data));
        ensure_eq!(*pair, expected, "MMIO number {n}");
    }
    Ok(())
}

/// The same with interrupt controllers, which answer some of the ports themselves: whatever is
/// written to them, the guest goes on.
pub(super) fn every_port_can_be_touched_with_interrupt_controllers(
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let mut guest = Guest::long(setup, Some(IrqConfig::default()), program!("reach"))?;
    guest.run_to_power_off(&recorder())
}

/// Answers with patterns until the store that ends the program.
fn recorder() -> Recorder<'static> {
    Recorder::answering(|kind, address, data| {
        if kind.is_read() {
            data.copy_from_slice(&patterns(address, data.len()));
        }
        match (kind, address) {
            (Kind::MmioWrite, END) => Flow::Break(VcpuExit::PowerOff(0)),
            _ => CONTINUE,
        }
    })
    .without_exit_port()
}

/// Multiples of 4 between the end of RAM and the chips below 4 GiB.
fn addresses() -> Vec<u64> {
    const START: u64 = 2 << 20;
    const CHIPS: u64 = 0xfec0_0000;
    let mut random = Random::new(0x5ca1_ab1e);
    let any = || START + (random.below(CHIPS - START) & !3);
    std::iter::repeat_with(any).filter(|at| *at != END).take(COUNT).collect()
}
