//! Once it is warm, the CPU allocates nothing.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use vmm_cpu::{Exit, Nobody};
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

/// Calls into many pages, a store to a code page that is then decoded anew, a copy, a division.
#[test]
fn a_million_instructions_allocate_nothing() {
    const CODE: u64 = 0x1000_0000;
    const PAGES: u64 = 8;
    // l: call rdx; add rdx, 4096; cmp rdx, r8; jb l; mov rdx, r9; mov [rdx + 16], cl; loop l; hlt
    let main = [
        0xff, 0xd2, 0x48, 0x81, 0xc2, 0, 0x10, 0, 0, 0x4c, 0x39, 0xc2, 0x72, 0xf2, 0x4c, 0x89,
        0xca, 0x88, 0x4a, 0x10, 0xe2, 0xea, 0xf4,
    ];
    // push rcx; mov ecx, 8; rep movsb; xor eax, eax; mov al, 1; nop...; pop rcx; ret. What is at 16
    // is a byte of a NOP's displacement.
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
    let (mut cpu, mut state) = space.cpu();
    let first = CODE + PAGE;
    let data = CODE + (PAGES + 1) * PAGE;
    let mut rounds = |count: u64| {
        let g = &mut state.registers.general;
        (g[1], g[2], g[4]) = (count, first, data + 2048);
        (g[6], g[7], g[8], g[9]) = (data + 3000, data + 3100, first + PAGES * PAGE, first);
        state.registers.rip = CODE;
        cpu.set_state(&state).unwrap();
        let (begin, allocations) = (cpu.instructions(), ALLOCATIONS.load(Relaxed));
        let exit = cpu.run(&space.ram, &Nobody);
        let allocated = ALLOCATIONS.load(Relaxed) - allocations;
        assert_eq!(exit, Exit::Halted);
        assert_eq!(cpu.registers().rip & 0xfff0, 0x80d0, "the HLT's #GP");
        (cpu.instructions() - begin, allocated)
    };
    rounds(100);
    let (instructions, allocated) = rounds(10_000);
    println!("{instructions} instructions, {allocated} allocations");
    assert!(instructions > 1_000_000);
    assert_eq!(allocated, 0);
}
