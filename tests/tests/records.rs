//! The records of interrupt controllers are the same on every back end: what one saves, the other
//! goes on from.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::sync::Arc;

use vmm_core::{
    arch::{
        CpuState, Lapic, VcpuId,
        irqchip::{Irqchip, Pit},
    },
    hv::{Hypervisor, IrqConfig, Vcpu, Vm, VmConfig},
    irq::{Gsi, Msi},
    kvm::Kvm,
    persist::{Kind, StateReader, StateWriter},
    soft::Soft,
};

const IRQCHIP: Kind = Kind { name: "irqchip", version: 1 };
const PIT: Kind = Kind { name: "pit", version: 1 };

/// A VM with the interrupt controllers of a PC, and its vCPU.
struct Board {
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
}

impl Board {
    fn new(hypervisor: &dyn Hypervisor) -> Self {
        let vm = hypervisor.create_vm(&VmConfig { vcpus: 1, irq: Some(IrqConfig::default()) });
        let vm = vm.unwrap();
        let vcpu = vm.create_vcpu(VcpuId(0), &hypervisor.caps().cpu).unwrap();
        Self { vm, vcpu }
    }

    /// The records of the VM.
    fn saved(&self) -> Vec<u8> {
        let mut out = StateWriter::new();
        self.vm.save(&mut out).unwrap();
        out.into_bytes().unwrap()
    }

    fn chips(&self) -> (Irqchip, Pit) {
        let mut from = StateReader::from_bytes(&self.saved()).unwrap();
        (from.take(IRQCHIP).unwrap(), from.take(PIT).unwrap())
    }

    /// Goes on from the chips of another one; nothing is left over.
    fn restore(&self, saved: &[u8]) {
        let mut from = StateReader::from_bytes(saved).unwrap();
        self.vm.restore(&mut from).unwrap();
        from.finish().unwrap();
    }

    /// Gives the vCPU the local APIC of another one.
    fn restore_lapic(&mut self, lapic: &Lapic) {
        let own = self.vcpu.state().unwrap();
        let state = CpuState { lapic: Some(lapic.clone()), ..own };
        self.vcpu.set_state(&state).unwrap();
    }

    fn lapic(&self) -> Lapic {
        self.vcpu.state().unwrap().lapic.unwrap()
    }
}

/// Both back ends, where there are both.
fn both(test: &str) -> Option<[Board; 2]> {
    match Kvm::open() {
        Ok(kvm) => Some([Board::new(&kvm), Board::new(&Soft::new().unwrap())]),
        Err(error) => {
            println!("skipped: {test}: {error}");
            None
        }
    }
}

/// A state in which much is set: the PICs are initialized, pins of the I/O APIC are directed.
fn busy(mut chips: Irqchip) -> Irqchip {
    for (pic, base) in chips.pics.iter_mut().zip([0x20, 0x28]) {
        (pic.irq_base, pic.imr, pic.isr, pic.priority_add) = (base, 0xa5, 0x02, 3);
        (pic.elcr, pic.special_mask, pic.read_reg_select, pic.init4) = (0x88, 1, 1, 1);
    }
    chips.ioapic.id = 5;
    chips.ioapic.ioregsel = 0x12;
    for (entry, n) in chips.ioapic.redirections.iter_mut().zip(0..) {
        // All masked, or they would interrupt: one edge-triggered, one level-triggered with its
        // interrupt in service.
        *entry = (n << 56) | 0x1_0000 | (0x40 + n) | if n % 2 == 0 { 0 } else { 0xc000 };
    }
    chips
}

fn with_chips(board: &Board, chips: &Irqchip) -> Vec<u8> {
    let mut from = StateReader::from_bytes(&board.saved()).unwrap();
    let (_, pit): (Irqchip, Pit) = (from.take(IRQCHIP).unwrap(), from.take(PIT).unwrap());
    let clock = Kind { name: "clock", version: 1 };
    let clock_record: vmm_core::arch::irqchip::Clock = from.take(clock).unwrap();
    let mut out = StateWriter::new();
    out.put(IRQCHIP, chips).unwrap();
    out.put(PIT, &pit).unwrap();
    out.put(clock, &clock_record).unwrap();
    out.into_bytes().unwrap()
}

#[test]
fn chips_after_power_on_are_alike() {
    let Some([kvm, soft]) = both("chips_after_power_on_are_alike") else { return };
    let ((kvm_chips, kvm_pit), (soft_chips, soft_pit)) = (kvm.chips(), soft.chips());
    assert_eq!(soft_chips, kvm_chips);
    // When the counts were begun is in each one's own time.
    let timeless = |mut pit: Pit| {
        pit.channels.iter_mut().for_each(|channel| channel.count_load_time = 0);
        pit
    };
    assert_eq!(timeless(soft_pit), timeless(kvm_pit));
    assert_eq!(soft.lapic(), kvm.lapic());
}

#[test]
fn chips_go_from_one_back_end_to_the_other_and_back() {
    let Some([kvm, soft]) = both("chips_go_from_one_back_end_to_the_other") else { return };
    kvm.restore(&with_chips(&kvm, &busy(kvm.chips().0)));
    let saved = kvm.saved();
    soft.restore(&saved);
    assert_eq!(soft.chips().0, kvm.chips().0);
    let [third, fourth] = both("again").expect("as before");
    third.restore(&soft.saved());
    assert_eq!(third.chips().0, kvm.chips().0);
    fourth.restore(&third.saved());
    assert_eq!(fourth.chips().0, soft.chips().0);
}

#[test]
fn a_local_apic_goes_from_one_back_end_to_the_other_and_back() {
    let Some([mut kvm, mut soft]) = both("a_local_apic_goes") else { return };
    let mut lapic = soft.lapic();
    lapic.regs[Lapic::SVR] = 0x1ff;
    lapic.regs[Lapic::LVT_TIMER] = 0x1_0050;
    // What is requested but not more urgent than the task priority.
    (lapic.regs[0x08], lapic.regs[0x22]) = (0xf0, 1 << 5);
    soft.restore_lapic(&lapic);
    soft.vm.irqs().unwrap().send_msi(Msi { address: 0xfee0_0000, data: 0x41 }).unwrap();
    let given = soft.lapic();
    assert_eq!(given.regs[0x22], 1 << 5 | 1 << 1);
    kvm.restore_lapic(&given);
    assert_eq!(kvm.lapic(), given);
    soft.vm.irqs().unwrap().set_line(Gsi(20), true).unwrap();
    soft.restore_lapic(&kvm.lapic());
    assert_eq!(soft.lapic(), given);
}
