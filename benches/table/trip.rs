//! From ring 3 to the host and back with nothing around it: no call of a program can be faster.
//!
//! There are several ways, and which of them work and are cheap differs between hosts.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_segment};
use kvm_ioctls::VcpuExit;
use vmm_core::{
    arch::{Segment, cr0, cr4, efer, msr, paging, rflags},
    boot::Flat,
    memory::GuestAddress,
};

use crate::{
    bare::{Bare, BareVm},
    sample::nanoseconds,
};

/// As much as what is forked has in use.
const RAM: u64 = 32 << 20;
/// Trips in one sample.
const TRIPS: u64 = 1_000;

const PORT: u16 = 0x60;
const TABLES: u64 = 0x1000;
const GDT: u64 = 0x8000;
const TASK: u64 = 0x9000;
const IDT: u64 = 0xa000;
const STACK: u64 = 0xc000;
const CODE: u64 = 0xd000;
/// LSTAR, and the handler of INT3.
const SYSCALL_TARGET: u64 = CODE + 0x10;
const BREAKPOINT: u64 = CODE + 0x30;

/// Writes a word of each of 64 pages and goes on behind.
const WRITES: u64 = CODE + 0x60;
const WRITTEN: u64 = 64;

/// Loops in ring 3 that go to the host in each turn, and the two handlers.
const PROGRAM: [(u64, &[u8]); 6] = [
    (CODE, &[0x0f, 0x05, 0xeb, 0xfc]), // 1: syscall; jmp 1b
    (SYSCALL_TARGET, &[0xe6, PORT as u8, 0x48, 0x0f, 0x07]), // out 0x60, al; sysretq
    (CODE + 0x20, &[0xcc, 0xeb, 0xfd]), // 1: int3; jmp 1b
    (BREAKPOINT, &[0xe6, PORT as u8, 0x48, 0xcf]), // out 0x60, al; iretq
    // 1: mov [0x4000000], al; jmp 1b
    (CODE + 0x40, &[0x88, 0x04, 0x25, 0x00, 0x00, 0x00, 0x04, 0xeb, 0xf7]),
    // mov eax, 0x100000; mov ecx, 64; 1: inc qword [rax]; add rax, 0x1000; dec ecx; jnz 1b
    (
        WRITES,
        &[
            0xb8,
            0x00,
            0x00,
            0x10,
            0x00,
            0xb9,
            WRITTEN as u8,
            0x00,
            0x00,
            0x00,
            0x48,
            0xff,
            0x00,
            0x48,
            0x05,
            0x00,
            0x10,
            0x00,
            0x00,
            0xff,
            0xc9,
            0x75,
            0xf3,
        ],
    ),
];
/// Behind them, where each guest has a jump to its loop.
const BEHIND: u64 = WRITES + 23;

/// The ways by name, and where their loops are.
const WAYS: [(&str, u64); 3] =
    [("SYSCALL and OUT", CODE), ("INT3 and OUT", CODE + 0x20), ("a store", CODE + 0x40)];

/// The cheapest trip of this host: its name, and what measures one in nanoseconds.
pub(crate) fn cheapest() -> (&'static str, impl FnMut() -> f64) {
    let (name, mut vm) = cheapest_vm();
    (name, move || trips(&mut vm).unwrap())
}

/// What no reset and call that writes 64 pages can do without: asking which pages were written,
/// putting these and the registers back, and a guest that writes them in ring 3 and comes back.
pub(crate) fn rewinds() -> impl FnMut() -> f64 {
    let (_, mut vm) = cheapest_vm();
    let mut regs = vm.vcpu.get_regs().unwrap();
    regs.rip = WRITES;
    vm.vcpu.set_regs(&regs).unwrap();
    vm.log();
    let registers = vm.registers();
    let mut pages = vec![0; RAM as usize];
    vm.memory.read(GuestAddress(0), &mut pages).unwrap();
    let pages = pages.as_chunks::<4096>().0.to_vec();
    // What is no page of the program's, page tables for one, stays.
    let own = (1 << 20) / 4096..(1 << 20) / 4096 + WRITTEN;
    move || {
        nanoseconds(|| {
            let written = vm.written().filter(|page| own.contains(page));
            written.for_each(|page| {
                vm.memory.write(GuestAddress(4096 * page), &pages[page as usize]).unwrap();
            });
            vm.set_registers(&registers);
            assert!(is_trip(&mut vm));
        })
    }
}

fn cheapest_vm() -> (&'static str, BareVm) {
    let bare = Bare::new();
    let vms = WAYS.map(|(name, entry)| (name, guest(&bare, entry)));
    let timed = vms.into_iter().filter_map(|(name, mut vm)| {
        trips(&mut vm)?;
        trips(&mut vm).map(|time| (time, name, vm))
    });
    let (_, name, vm) = timed.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    (name, vm)
}

/// What a trip takes, if it leads to the host.
fn trips(vm: &mut BareVm) -> Option<f64> {
    let mut all = true;
    let time = nanoseconds(|| {
        for _ in 0..TRIPS {
            all &= is_trip(vm);
            if !all {
                return;
            }
        }
    });
    all.then_some(time / TRIPS as f64)
}

/// Runs it up to its next exit; whether that is the one that was wanted.
fn is_trip(vm: &mut BareVm) -> bool {
    matches!(vm.vcpu.run(), Ok(VcpuExit::IoOut(PORT, _) | VcpuExit::MmioWrite(..)))
}

/// A VM that is about to execute the loop at `entry` in ring 3.
fn guest(bare: &Bare, entry: u64) -> BareVm {
    let vm = bare.vm(RAM, false, &Flat::real_mode([0xf4]));
    let put = |at, bytes: &[u8]| vm.memory.write(GuestAddress(at), bytes).unwrap();
    let all = paging::PRESENT | paging::WRITABLE | paging::USER;
    put(TABLES, words(&paging::identity_map(TABLES, all)).as_flattened());
    let task = Segment::task(0x30, TASK, 0x67);
    let gdt = [
        0,
        Segment::code64(0x08, 0).descriptor(),
        Segment::data(0x10, 0).descriptor(),
        Segment::code32(0x1b, 3).descriptor(),
        Segment::data(0x23, 3).descriptor(),
        Segment::code64(0x2b, 3).descriptor(),
        task.descriptor(),
        0,
    ];
    put(GDT, words(&gdt).as_flattened());
    put(TASK + 4, &STACK.to_le_bytes());
    // An interrupt gate that ring 3 may use.
    let gate = BREAKPOINT & 0xffff | 0x08 << 16 | 0xee << 40 | (BREAKPOINT >> 16) << 48;
    put(IDT + 3 * 16, &gate.to_le_bytes());
    PROGRAM.iter().for_each(|(at, code)| put(*at, code));
    // jmp entry
    put(BEHIND, &[0xeb, entry.wrapping_sub(BEHIND + 2) as u8]);

    let mut sregs = vm.vcpu.get_sregs().unwrap();
    (sregs.cs, sregs.ss) = (segment(Segment::code64(0x2b, 3)), segment(Segment::data(0x23, 3)));
    (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (sregs.ss, sregs.ss, sregs.ss, sregs.ss);
    sregs.tr = segment(task);
    sregs.gdt = kvm_dtable { base: GDT, limit: 8 * gdt.len() as u16 - 1, padding: [0; 3] };
    sregs.idt = kvm_dtable { base: IDT, limit: 32 * 16 - 1, padding: [0; 3] };
    sregs.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    (sregs.cr3, sregs.cr4) = (TABLES, cr4::PAE);
    sregs.efer = efer::SCE | efer::LME | efer::LMA;
    vm.vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vm.vcpu.get_regs().unwrap();
    (regs.rip, regs.rsp, regs.rflags) = (entry, STACK, rflags::FIXED);
    vm.vcpu.set_regs(&regs).unwrap();
    let star = 0x1b << 48 | 0x08 << 32;
    let msrs = [(msr::STAR, star), (msr::LSTAR, SYSCALL_TARGET), (msr::FMASK, 0)];
    let msrs = msrs.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    assert_eq!(vm.vcpu.set_msrs(&Msrs::from_entries(&msrs).unwrap()).unwrap(), 3);
    vm
}

fn segment(segment: Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.big.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granular.into(),
        ..Default::default()
    }
}

fn words(words: &[u64]) -> Vec<[u8; 8]> {
    words.iter().map(|word| word.to_le_bytes()).collect()
}
