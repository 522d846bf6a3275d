//! The VM-wide chips, between KVM's structures and our records.
#![expect(unsafe_code, reason = "KVM's chip structure is a union")]

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON, kvm_clock_data, kvm_ioapic_state,
    kvm_ioapic_state__bindgen_ty_1, kvm_irqchip, kvm_pic_state, kvm_pit_channel_state,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use crate::{
    arch::irqchip::{Clock, Ioapic, Irqchip, Pic, Pit, PitChannel},
    error::{Error, HostResult, Result},
};

const PICS: [u32; 2] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];

pub(super) fn save_irqchip(vm: &VmFd) -> Result<Irqchip> {
    let mut record = Irqchip::default();
    for (pic, chip_id) in record.pics.iter_mut().zip(PICS) {
        let chip = get(vm, chip_id)?;
        // SAFETY: for this chip ID the kernel fills `pic`; it is plain bytes.
        *pic = pic_from_kvm(unsafe { &chip.chip.pic });
    }
    let chip = get(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: for this chip ID the kernel fills `ioapic`; it is plain integers.
    record.ioapic = ioapic_from_kvm(unsafe { &chip.chip.ioapic });
    Ok(record)
}

pub(super) fn restore_irqchip(vm: &VmFd, record: &Irqchip) -> Result<()> {
    for (pic, chip_id) in record.pics.iter().zip(PICS) {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        chip.chip.pic = pic_to_kvm(pic);
        set(vm, &chip)?;
    }
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    chip.chip.ioapic = ioapic_to_kvm(&record.ioapic)?;
    set(vm, &chip)
}

fn get(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip).host(|| format!("KVM_GET_IRQCHIP of chip {chip_id}"))?;
    Ok(chip)
}

fn set(vm: &VmFd, chip: &kvm_irqchip) -> Result<()> {
    vm.set_irqchip(chip).host(|| format!("KVM_SET_IRQCHIP of chip {}", chip.chip_id))
}

same_fields!(pic_to_kvm, pic_from_kvm: kvm_pic_state <=> Pic {
    last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask,
    init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
});

same_fields!(channel_to_kvm, channel_from_kvm: kvm_pit_channel_state <=> PitChannel {
    count, latched_count, count_latched, status_latched, status, read_state, write_state,
    write_latch, rw_mode, mode, bcd, gate, count_load_time,
});

fn ioapic_from_kvm(kvm: &kvm_ioapic_state) -> Ioapic {
    // SAFETY: both views of an entry are its 64 bits.
    let bits = |entry: &kvm_ioapic_state__bindgen_ty_1| unsafe { entry.bits };
    Ioapic {
        base_address: kvm.base_address,
        ioregsel: kvm.ioregsel,
        id: kvm.id,
        irr: kvm.irr,
        redirections: kvm.redirtbl.iter().map(bits).collect(),
    }
}

fn ioapic_to_kvm(ioapic: &Ioapic) -> Result<kvm_ioapic_state> {
    let entry = |bits: &u64| kvm_ioapic_state__bindgen_ty_1 { bits: *bits };
    let entries: Vec<_> = ioapic.redirections.iter().map(entry).collect();
    let redirtbl = entries.try_into().map_err(|entries: Vec<_>| {
        let (got, want) = (entries.len(), Ioapic::PINS);
        Error::incompatible(format!("an I/O APIC with {got} pins, KVM's has {want}"))
    })?;
    Ok(kvm_ioapic_state {
        base_address: ioapic.base_address,
        ioregsel: ioapic.ioregsel,
        id: ioapic.id,
        irr: ioapic.irr,
        pad: 0,
        redirtbl,
    })
}

pub(super) fn save_pit(vm: &VmFd) -> Result<Pit> {
    let kvm = vm.get_pit2().host(|| "KVM_GET_PIT2")?;
    Ok(Pit {
        channels: kvm.channels.each_ref().map(channel_from_kvm),
        hpet_legacy: kvm.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0,
        speaker_on: kvm.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0,
    })
}

pub(super) fn restore_pit(vm: &VmFd, pit: &Pit) -> Result<()> {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    let kvm = kvm_pit_state2 {
        channels: pit.channels.each_ref().map(channel_to_kvm),
        flags: flag(pit.hpet_legacy, KVM_PIT_FLAGS_HPET_LEGACY)
            | flag(pit.speaker_on, KVM_PIT_FLAGS_SPEAKER_DATA_ON),
        ..Default::default()
    };
    vm.set_pit2(&kvm).host(|| "KVM_SET_PIT2")
}

pub(super) fn save_clock(vm: &VmFd) -> Result<Clock> {
    let kvm = vm.get_clock().host(|| "KVM_GET_CLOCK")?;
    let realtime = (kvm.flags & KVM_CLOCK_REALTIME != 0).then_some(kvm.realtime);
    Ok(Clock { nanoseconds: kvm.clock, realtime })
}

/// The clock goes on from where it was; time that passed meanwhile is the caller's to add.
pub(super) fn restore_clock(vm: &VmFd, clock: &Clock) -> Result<()> {
    let kvm = kvm_clock_data { clock: clock.nanoseconds, ..Default::default() };
    vm.set_clock(&kvm).host(|| "KVM_SET_CLOCK")
}
