//! Once it is warm, the CPU allocates nothing.
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use vmm_cpu::{Cpu, Exit, Nobody, State};
use vmm_oracle::{
    arena::{PAGE, Rights},
    space::Space,
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test, for what others allocate meanwhile would count.
#[test]
fn a_million_instructions_allocate_nothing() {
    // Code that is decoded anew makes the room for it as large as it gets.
    let cases = [(calls(), 100_000, 10_000), (faults(), 100, 130_000)];
    for ((mut space, mut cpu, mut state), before, count) in cases {
        rounds(&mut space, &mut cpu, &mut state, before);
        let (instructions, allocated) = rounds(&mut space, &mut cpu, &mut state, count);
        println!("{instructions} instructions, {allocated} allocations");
        assert!(instructions > 1_000_000);
        assert_eq!(allocated, 0);
    }
}

const CODE: u64 = 0x1000_0000;

/// Runs a guest, which counts RCX down, to its HLT; how many instructions and allocations that was.
fn rounds(space: &mut Space, cpu: &mut Cpu, state: &mut State, count: u64) -> (u64, u64) {
    state.registers.general[1] = count;
    cpu.set_state(state).unwrap();
    let (begin, allocations) = (cpu.instructions(), ALLOCATIONS.load(Relaxed));
    let exit = cpu.run(&space.ram, &Nobody);
    let allocated = ALLOCATIONS.load(Relaxed) - allocations;
    assert_eq!(exit, Exit::Halted);
    assert_eq!(cpu.registers().rip & 0xfff0, 0x80d0, "the HLT's #GP");
    (cpu.instructions() - begin, allocated)
}

/// Calls into many pages, a store to a code page that is then decoded anew, a copy.
fn calls() -> (Space, Cpu, State) {
    const PAGES: u64 = 8;
    // l: call rdx; add rdx, 4096; cmp rdx, r8; jb l; mov rdx, r9; mov [rdx + 16], cl; loop l; hlt
    let main = [
        0xff, 0xd2, 0x48, 0x81, 0xc2, 0, 0x10, 0, 0, 0x4c, 0x39, 0xc2, 0x72, 0xf2, 0x4c, 0x89,
        0xca, 0x88, 0x4a, 0x10, 0xe2, 0xea, 0xf4,
    ];
    // push rcx; mov ecx, 8; rep movsb; sub rsi, rcx; nop...; pop rcx; sub rsi, 8; sub rdi, 8; ret.
    // What is at 16 is a byte of the NOP's displacement.
    let leaf = [
        0x51, 0xb9, 8, 0, 0, 0, 0xf3, 0xa4, 0x48, 0x29, 0xce, 0x0f, 0x1f, 0x80, 0, 0, 0, 0, 0x59,
        0x48, 0x83, 0xee, 8, 0x48, 0x83, 0xef, 8, 0xc3,
    ];
    let mut space = Space::new(128);
    for n in 0..PAGES + 2 {
        let page = space.take(1);
        space.map(CODE + n * PAGE, page, Rights::Write, true);
        space.ram.write(page, if n == 0 { &main } else { &leaf });
    }
    let (cpu, mut state) = space.cpu();
    let first = CODE + PAGE;
    let data = CODE + (PAGES + 1) * PAGE;
    let g = &mut state.registers.general;
    (g[2], g[4]) = (first, data + 2048);
    (g[6], g[7], g[8], g[9]) = (data + 3000, data + 3100, first + PAGES * PAGE, first);
    state.registers.rip = CODE;
    (space, cpu, state)
}

/// Invalid opcodes, each with its way into the handler and back, page faults, and a device.
fn faults() -> (Space, Cpu, State) {
    const DEVICE: u64 = 0x2000_0000;
    // l: ud2; mov [rdi], rcx (2 bytes and REX); mov [rbx], cl; add al, [rbx]; loop l; hlt
    let main = [0x0f, 0x0b, 0x48, 0x89, 0x0f, 0x88, 0x0b, 0x02, 0x03, 0xe2, 0xf5, 0xf4];
    let mut space = Space::new(64);
    let page = space.take(1);
    space.map(CODE, page, Rights::Read, true);
    space.ram.write(page, &main);
    space.map(DEVICE, 0x4000_0000, Rights::Write, false);
    // #UD: add qword [rsp], 2; iretq. #PF: add qword [rsp + 8], 3; add rsp, 8; iretq.
    space.ram.write(0x8060, &[0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf]);
    let skip = [0x48, 0x83, 0x44, 0x24, 8, 3, 0x48, 0x83, 0xc4, 8, 0x48, 0xcf];
    space.ram.write(0x80e0, &skip);
    let (cpu, mut state) = space.cpu();
    // A page that is not there, and the device.
    (state.registers.general[7], state.registers.general[3]) = (0x3000_0000, DEVICE);
    state.registers.rip = CODE;
    (space, cpu, state)
}
