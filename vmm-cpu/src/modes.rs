//! Tests of modes other than 64-bit mode, and of the ways between them.

use std::sync::Arc;

use crate::{
    CodeMap, Cpu, Exit, Flat, Nobody, Segment, State, Table,
    flags::{CF, IF, NT},
    regs::{RAX, RBX, RCX, RDX, RSP},
    system::{CR0_PE, CS, DS, ES, FS, GS, SS},
    testing::{
        self, CODE, CODE_3, DATA, DATA_3, GDT, HANDLERS, IDT, STACK, SYSTEM_STACK, TASK, TSS,
    },
};

const CODE_0: u16 = 0x08;
const DATA_0: u16 = 0x10;
/// 4 KiB at DATA.
const SMALL: u16 = 0x30;
const CODE_16: u16 = 0x38;
const READ_ONLY: u16 = 0x40;
const ABSENT: u16 = 0x48;
const GATE: u16 = 0x50;
/// What is above the first 4 KiB of 64 KiB at DATA.
const DOWN: u16 = 0x58;

/// Where the call gate leads.
const CALLED: u64 = 0x9000;

fn put(ram: &Flat, at: u64, words: &[u64]) {
    for (word, n) in words.iter().zip(0..) {
        ram.write(at + n * 8, &word.to_le_bytes());
    }
}

fn words<const N: usize>(ram: &Flat, at: u64) -> [u32; N] {
    std::array::from_fn(|n| {
        let mut bytes = [0; 4];
        ram.read(at + 4 * n as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    })
}

/// A machine in flat protected mode of 32 bits without paging, about to execute `code` at `cpl`; its
/// gates are of this type, those of vectors 3 and 0x20 open to programs.
fn protected_with(code: &[u8], cpl: u8, kind: u64) -> (Cpu, Flat) {
    let ram = Flat::new(256);
    let (flat, small) = (0x00cf_9300_0000_ffff, 0x0040_9300_0000_0fff | DATA << 16);
    let (dpl, code_bit) = (3 << 45, 8 << 40);
    let gate = 0x0000_ec02_0000_0000 | u64::from(CODE_0) << 16 | CALLED;
    let task = 0x0000_8900_0000_0067 | TSS << 16;
    put(&ram, GDT, &[0, flat | code_bit, flat, flat | dpl, flat | code_bit | dpl, task]);
    let (wide, writable, present) = (1 << 54, 2 << 40, 1 << 47);
    let down = 4 << 40;
    let rest = [small, small & !wide | code_bit | 0xffff, small & !writable, small & !present];
    put(&ram, GDT + 0x30, &rest);
    put(&ram, GDT + 0x50, &[gate, small & !wide | down]);
    put(&ram, TSS + 4, &[SYSTEM_STACK | u64::from(DATA_0) << 32]);
    for vector in 0..0x30u64 {
        let open = if matches!(vector, 3 | 0x20) { 3 } else { 0 };
        let at = HANDLERS + vector * 16;
        put(
            &ram,
            IDT + vector * 8,
            &[at | u64::from(CODE_0) << 16 | (0x80 | open << 5 | kind) << 40],
        );
        ram.write(at, &[0xf4]);
    }
    ram.write(CALLED, &[0xf4]);
    ram.write(CODE, code);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    let (code, data) = if cpl == 3 { (CODE_3, DATA_3) } else { (CODE_0, DATA_0) };
    let mut state = State {
        cr0: CR0_PE,
        segments: [Segment::data(data, cpl); 6],
        gdtr: Table { base: GDT, limit: 0x5f },
        idtr: Table { base: IDT, limit: 0x30 * 8 - 1 },
        tr: Segment::task(TASK, TSS, 0x67),
        ..State::reset()
    };
    state.segments[usize::from(CS)] = Segment::code32(code, cpl);
    state.registers.rip = CODE;
    state.registers.rflags = IF;
    state.registers.general[usize::from(RSP)] = STACK;
    cpu.set_state(&state).unwrap();
    (cpu, ram)
}

const INTERRUPT_32: u64 = 14;
const TRAP_32: u64 = 15;

fn protected(code: &[u8], cpl: u8) -> (Cpu, Flat) {
    protected_with(code, cpl, INTERRUPT_32)
}

/// Runs until a handler halts; its vector.
fn vector(cpu: &mut Cpu, ram: &Flat) -> u64 {
    assert_eq!(cpu.run(ram, &Nobody), Exit::Halted);
    let rip = cpu.registers().rip;
    assert!((HANDLERS..HANDLERS + 0x300).contains(&rip), "{rip:x}");
    (rip - 1 - HANDLERS) / 16
}

/// A machine in real mode with vectors that lead to HLTs, about to execute `code` at 0100:0000.
fn real(code: &[u8]) -> (Cpu, Flat) {
    let ram = Flat::new(256);
    for vector in 0..32u16 {
        let at = 0x600 + vector * 16;
        ram.write(u64::from(vector) * 4, &[at as u8, (at >> 8) as u8, 0, 0]);
        ram.write(at.into(), &[0xf4]);
    }
    ram.write(0x1000, code);
    let mut cpu = Cpu::new(Arc::new(CodeMap::new()));
    let mut state = State::reset();
    let code = &mut state.segments[usize::from(CS)];
    (code.selector, code.base) = (0x100, 0x1000);
    state.registers.rip = 0;
    state.registers.general[usize::from(RSP)] = 0x8000;
    cpu.set_state(&state).unwrap();
    (cpu, ram)
}

#[test]
fn real_mode_adds_segments_and_knows_their_ends() {
    // mov ax, 0x3000; mov ds, ax; mov byte [0x10], 7; mov bx, 0xffff; mov ax, [bx]
    let code = [0xb8, 0, 0x30, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0, 7, 0xbb, 0xff, 0xff, 0x8b, 0x07];
    let (mut cpu, ram) = real(&code);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!(cpu.registers().rip, 0x600 + 13 * 16 + 1);
    assert_eq!(words::<1>(&ram, 0x3_0010)[0] & 0xff, 7);
    // IP, CS, FLAGS; and no error code.
    assert_eq!(cpu.registers().general[usize::from(RSP)], 0x7ffa);
    assert_eq!(words::<2>(&ram, 0x7ffa), [0x0100_000d, 2]);
}

#[test]
fn interrupts_of_real_mode_come_back() {
    // sti; int 0x10; mov cx, sp; hlt, and at the handler: mov ax, 5; iret
    let (mut cpu, ram) = real(&[0xfb, 0xcd, 0x10, 0x89, 0xe1, 0xf4]);
    ram.write(0x600 + 0x100, &[0xb8, 5, 0, 0xcf]);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RCX]), (5, 0x8000));
    assert_eq!((cpu.registers().rip, cpu.registers().rflags), (6, IF | 2));
}

#[test]
fn instruction_pointers_of_16_bits_wrap_and_segments_end() {
    // jmp short -4: to fffe, where two bytes are a NOP and the last one a jump's first.
    let (mut cpu, ram) = real(&[0xeb, 0xfc]);
    ram.write(0x1_0ffe, &[0x90, 0xeb]);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!(cpu.registers().rip, 0x600 + 13 * 16 + 1);
    assert_eq!(words::<1>(&ram, 0x7ffa)[0], 0x0100_ffff);
    // call +1; hlt; pop ax; push cs; pop es; hlt
    let (mut cpu, ram) = real(&[0xe8, 1, 0, 0xf4, 0x58, 0x0e, 0x07, 0xf4]);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!((cpu.core.regs[RAX], cpu.state().segments[usize::from(ES)].base), (3, 0x1000));
}

/// The way that boot loaders take.
#[test]
fn a_far_jump_leads_from_real_to_protected_mode_and_back() {
    // mov eax, cr0; or al, 1; mov cr0, eax; jmp 0x38:0x2000
    let (mut cpu, ram) =
        real(&[0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0xea, 0, 0x20, CODE_16 as u8, 0]);
    let (_, tables) = protected(&[], 0);
    let mut gdt = [0; 0x60];
    tables.read(GDT, &mut gdt);
    ram.write(GDT, &gdt);
    let mut state = cpu.state();
    state.gdtr = Table { base: GDT, limit: 0x5f };
    cpu.set_state(&state).unwrap();
    // mov ax, 0x10; mov ds, ax; a32 mov dword [0x31000], 9; and al, 0xfe; mov cr0, eax with 0;
    // jmp 0x100:0x20
    let code = [
        0xb8, 0x10, 0, 0x8e, 0xd8, 0x67, 0x66, 0xc7, 0x05, 0, 0x10, 3, 0, 9, 0, 0, 0, 0x66, 0x31,
        0xc0, 0x0f, 0x22, 0xc0, 0xea, 0x20, 0, 0, 1,
    ];
    ram.write(DATA + 0x2000, &code);
    // Where the limit of 4 GiB is still there: a32 mov byte [0x31004], 8; hlt
    ram.write(0x1020, &[0x67, 0xc6, 0x05, 4, 0x10, 3, 0, 8, 0xf4]);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!((cpu.registers().rip, cpu.state().cr0 & 1), (0x29, 0));
    assert_eq!(words::<2>(&ram, 0x3_1000), [9, 8]);
}

#[test]
fn segments_refuse_what_they_do_not_hold() {
    let load = |selector: u16, to: u8, then: &[u8]| {
        // mov eax, selector; mov SEGMENT, ax; ...; hlt
        let mut code = vec![0xb8, selector as u8, 0, 0, 0, 0x8e, 0xc0 | to << 3];
        code.extend_from_slice(then);
        code.push(0xf4);
        code
    };
    // mov ebx, [imm]; mov [imm], ebx, by DS; by SS: mov ebx, ss:[imm]
    let from = |at: u32| [&[0x8b, 0x1d], &at.to_le_bytes()[..]].concat();
    let to = |at: u32| [&[0x89, 0x1d], &at.to_le_bytes()[..]].concat();
    let by_ss = |at: u32| [&[0x36, 0x8b, 0x1d], &at.to_le_bytes()[..]].concat();
    let (gp, np, ss) = (13, 11, 12);
    for (code, fault) in [
        (load(SMALL, DS, &from(0xffc)), None),
        (load(SMALL, DS, &from(0xffd)), Some((gp, 0))),
        (load(SMALL, DS, &to(0xffc)), None),
        (load(READ_ONLY, DS, &from(0)), None),
        (load(READ_ONLY, DS, &to(0)), Some((gp, 0))),
        (load(DOWN, DS, &from(0xfff)), Some((gp, 0))),
        (load(DOWN, DS, &from(0x1000)), None),
        (load(0, DS, &from(0)), Some((gp, 0))),
        (load(ABSENT, DS, &[]), Some((np, u32::from(ABSENT)))),
        (load(ABSENT, SS, &[]), Some((ss, u32::from(ABSENT)))),
        (load(READ_ONLY, SS, &[]), Some((gp, u32::from(READ_ONLY)))),
        (load(0, SS, &[]), Some((gp, 0))),
        (load(0x60, DS, &[]), Some((gp, 0x60))),
        (load(TASK, DS, &[]), Some((gp, u32::from(TASK)))),
    ] {
        let (mut cpu, ram) = protected(&code, 0);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        let rip = cpu.registers().rip;
        match fault {
            None => assert_eq!(rip, CODE + code.len() as u64, "{code:x?}"),
            Some((vector, error)) => {
                assert_eq!(rip, HANDLERS + vector * 16 + 1, "{code:x?}");
                assert_eq!(words::<1>(&ram, cpu.core.regs[RSP]), [error], "{code:x?}");
            }
        }
    }
    // Of the stack it is #SS, whose frame finds no room in that segment either: #DF, and the end.
    let (mut cpu, ram) = protected(&load(SMALL, SS, &by_ss(0x1000)), 0);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::TripleFault);
}

#[test]
fn gates_push_what_their_size_and_level_ask() {
    const INTERRUPT_16: u64 = 6;
    const TRAP_16: u64 = 7;
    for kind in [INTERRUPT_16, TRAP_16, INTERRUPT_32, TRAP_32] {
        for cpl in [0, 3] {
            let (mut cpu, ram) = protected_with(&[0xcd, 0x20], cpl, kind);
            assert_eq!(vector(&mut cpu, &ram), 0x20);
            let (code, data) = if cpl == 3 { (CODE_3, DATA_3) } else { (CODE_0, DATA_0) };
            let frame = [CODE as u32 + 2, code.into(), 0x202, STACK as u32, data.into()];
            let len = if cpl == 3 { 5 } else { 3 };
            let stack = if cpl == 3 { SYSTEM_STACK } else { STACK };
            let wide = kind >= INTERRUPT_32;
            let size = if wide { 4 } else { 2 };
            assert_eq!(cpu.core.regs[RSP], stack - len * size, "{kind} from {cpl}");
            for (word, n) in frame.into_iter().take(len as usize).zip(0..) {
                let [found] = words(&ram, stack - (len - n) * size);
                let mask = if wide { u32::MAX } else { 0xffff };
                assert_eq!(found & mask, word & mask, "{n} of {kind} from {cpl}");
            }
            let masks = kind & 1 == 0;
            assert_eq!(cpu.registers().rflags & IF != 0, !masks);
            let segments = cpu.state().segments.map(|segment| segment.selector);
            assert_eq!((segments[1], segments[2]), (CODE_0, DATA_0));
        }
    }
}

#[test]
fn errors_on_the_way_to_a_handler_say_what_is_wrong() {
    // int 0x21, which is not open; then a stack of the TSS that cannot be.
    let (mut cpu, ram) = protected(&[0xcd, 0x21], 3);
    assert_eq!(vector(&mut cpu, &ram), 13);
    assert_eq!(words::<2>(&ram, cpu.core.regs[RSP]), [0x21 << 3 | 2, CODE as u32]);
    let (mut cpu, ram) = protected(&[0xcd, 0x20], 3);
    ram.write(TSS + 8, &[CODE_0 as u8, 0]);
    // #TS needs the same stack: #DF, and then a triple fault.
    assert_eq!(cpu.run(&ram, &Nobody), Exit::TripleFault);
}

#[test]
fn iret_leads_to_programs_and_hides_segments() {
    // push 0x1b; push 0x18000; push 0x202; push 0x23; push CODE + 0x100; iret
    let mut code = vec![0x6a, DATA_3 as u8, 0x68, 0, 0x80, 1, 0, 0x68, 2, 2, 0, 0];
    code.extend([0x6a, CODE_3 as u8, 0x68, 0, 1, 1, 0, 0xcf]);
    let (mut cpu, ram) = protected(&code, 0);
    ram.write(CODE + 0x100, &[0xcc]);
    assert_eq!(vector(&mut cpu, &ram), 3);
    let frame = [CODE as u32 + 0x101, CODE_3.into(), 0x202, 0x1_8000, DATA_3.into()];
    assert_eq!(words::<5>(&ram, cpu.core.regs[RSP]), frame);
    let state = cpu.state();
    let hidden = [DS, ES, FS, GS].map(|n| state.segments[usize::from(n)].selector);
    assert_eq!(hidden, [0; 4]);
}

#[test]
fn call_gates_copy_parameters_and_far_returns_take_them_off() {
    // push 1; push 2; call 0x53:0; int3, and there: mov eax, [esp+8]; retf 8
    let code = [0x6a, 1, 0x6a, 2, 0x9a, 0, 0, 0, 0, GATE as u8 | 3, 0, 0xcc];
    let (mut cpu, ram) = protected(&code, 3);
    ram.write(CALLED, &[0x8b, 0x44, 0x24, 8, 0xca, 8, 0]);
    (0..3).for_each(|_| {
        cpu.step(&ram, &Nobody);
    });
    assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CALLED, 0));
    let frame = [CODE as u32 + 11, CODE_3.into(), 2, 1, STACK as u32 - 8, DATA_3.into()];
    assert_eq!(words::<6>(&ram, SYSTEM_STACK - 24), frame);
    assert_eq!(cpu.core.regs[RSP], SYSTEM_STACK - 24);
    (0..2).for_each(|_| {
        cpu.step(&ram, &Nobody);
    });
    assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RSP]), (2, STACK));
    assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CODE + 11, 3));
}

#[test]
fn what_is_not_built_ends_the_run_and_is_named() {
    // A task gate for vector 0x20; IRET with NT.
    let (mut cpu, ram) = protected_with(&[0x90, 0xcd, 0x20], 0, 5);
    assert!(matches!(cpu.run(&ram, &Nobody), Exit::Unsupported(_)));
    assert_eq!(cpu.registers().rip, CODE + 1);
    let (mut cpu, ram) = protected(&[0x90, 0xcf], 0);
    let registers = cpu.registers();
    cpu.set_registers(&crate::Registers { rflags: NT, ..registers });
    assert!(matches!(cpu.run(&ram, &Nobody), Exit::Unsupported(_)));
    assert_eq!(cpu.registers().rip, CODE + 1);
}

/// Sums of 32 bits, whatever of them is above: sign extensions, carries, high displacements.
#[test]
fn flat_addresses_have_32_bits() {
    let [a, b] = [DATA as u32, DATA as u32 + 4];
    let minus = |n: u32| n.wrapping_neg();
    for (code, eax, ecx) in [
        // mov ebx, [eax+ecx]
        (vec![0x8b, 0x1c, 0x08], a.wrapping_add(100), minus(100)),
        // mov ebx, [eax+ecx*4]
        (vec![0x8b, 0x1c, 0x88], a + 400, minus(100)),
        // mov ebx, [eax-4]
        (vec![0x8b, 0x58, 0xfc], b, 0),
        // mov ebx, [eax+0xc0000000]
        (vec![0x8b, 0x98, 0, 0, 0, 0xc0], a.wrapping_add(0x4000_0000), 0),
        // mov ebx, [ecx*4+0xc0000000]
        (vec![0x8b, 0x1c, 0x8d, 0, 0, 0, 0xc0], 0, a.wrapping_add(0x4000_0000) / 4),
        // mov ebx, [eax+ecx+0xc0000000]
        (vec![0x8b, 0x9c, 0x08, 0, 0, 0, 0xc0], a, 0x4000_0000),
    ] {
        let (mut cpu, ram) = protected(&[&code[..], &[0xf4]].concat(), 0);
        ram.write(DATA, &[0x78, 0x56, 0x34, 0x12]);
        (cpu.core.regs[RAX], cpu.core.regs[RCX]) = (eax.into(), ecx.into());
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.core.regs[RBX], 0x1234_5678, "{code:x?}");
    }
}

#[test]
fn decimals_are_adjusted() {
    for (code, eax, flags, result, carry) in [
        (&[0x27][..], 0x9a, 0, 0x00, true),
        (&[0x27], 0x1c, 0, 0x22, false),
        (&[0x2f], 0x9a, CF, 0x34, true),
        (&[0x37], 0x0b, 0, 0x101, true),
        (&[0x3f], 0x20b, 0, 0x105, true),
        (&[0xd4, 10], 0x4f, 0, 0x709, false),
        (&[0xd5, 10], 0x709, 0, 0x4f, false),
        (&[0xd6], 0, CF, 0xff, true),
    ] {
        let (mut cpu, ram) = protected(code, 0);
        let mut registers = cpu.registers();
        registers.general[usize::from(RAX)] = eax;
        registers.rflags |= flags;
        cpu.set_registers(&registers);
        cpu.step(&ram, &Nobody);
        assert_eq!(cpu.core.regs[RAX], result, "{code:x?}");
        assert_eq!(cpu.registers().rflags & CF != 0, carry, "{code:x?}");
    }
}

#[test]
fn all_registers_go_over_the_stack_but_its_pointer() {
    // pusha; popa of 32 and of 16 bits, with everything else changed between.
    let (mut cpu, ram) = protected(&[0x60, 0x31, 0xc0, 0x31, 0xd2, 0x61, 0x66, 0x60], 0);
    (cpu.core.regs[RAX], cpu.core.regs[RDX]) = (0x1111_2222, 0x3333_4444);
    (0..4).for_each(|_| {
        cpu.step(&ram, &Nobody);
    });
    assert_eq!(words::<8>(&ram, STACK - 32)[3], STACK as u32);
    assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RDX]), (0x1111_2222, 0x3333_4444));
    assert_eq!(cpu.core.regs[RSP], STACK);
    cpu.step(&ram, &Nobody);
    assert_eq!(words::<1>(&ram, STACK - 4), [0x2222_0000]);
}

#[test]
fn sysenter_and_sysexit_change_levels_by_their_registers() {
    // sysenter, and there: mov edx, CODE + 2; mov ecx, STACK; sysexit
    let (mut cpu, ram) = protected(&[0x0f, 0x34, 0xcc], 3);
    let mut state = cpu.state();
    state.msrs = vec![(0x174, CODE_0.into()), (0x175, SYSTEM_STACK), (0x176, CALLED)];
    cpu.set_state(&state).unwrap();
    ram.write(CALLED, &[0xba, 2, 0, 1, 0, 0xb9, 0, 0, 2, 0, 0x0f, 0x35]);
    cpu.step(&ram, &Nobody);
    assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CALLED, 0));
    assert_eq!((cpu.core.regs[RSP], cpu.registers().rflags & IF), (SYSTEM_STACK, 0));
    (0..3).for_each(|_| {
        cpu.step(&ram, &Nobody);
    });
    assert_eq!((cpu.registers().rip, cpu.core.system.cpl), (CODE + 2, 3));
    let segments = cpu.state().segments.map(|segment| segment.selector);
    assert_eq!((segments[1], segments[2]), (DATA_3, CODE_3), "16 and 24 above");
}

/// Compatibility mode: code of 32 bits under a system of 64.
#[test]
fn compatibility_mode_is_entered_and_left_by_the_code_segment() {
    // push rax; push CODE + 0x100; retfq
    let (mut cpu, ram) = testing::machine(&[0x50, 0x68, 0, 1, 1, 0, 0x48, 0xcb]);
    testing::system(&mut cpu, &ram);
    // A code segment of 32 bits in the place of the last one, which is null.
    put(&ram, GDT + 0x30, &[0x00cf_9b00_0000_ffff]);
    cpu.core.regs[RAX] = 0x30;
    cpu.core.regs[RCX] = 0xffff_ffff_0000_0000 | (DATA + 8);
    // inc eax (a REX prefix elsewhere); mov ebx, [ecx-8]; int3
    ram.write(CODE + 0x100, &[0x40, 0x8b, 0x59, 0xf8, 0xcc]);
    ram.write(DATA, &[0x78, 0x56, 0x34, 0x12]);
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!(cpu.registers().rip, HANDLERS + 3 * 16 + 1);
    assert_eq!((cpu.core.regs[RAX], cpu.core.regs[RBX]), (0x31, 0x1234_5678));
    let [rip, cs, ..] = testing::stack::<5>(&cpu, &ram);
    assert_eq!((rip, cs), (CODE + 0x105, 0x30));
    assert!(cpu.core.system.is_64_bit());
}

#[test]
fn the_system_reaches_users_pages_only_if_smap_and_ac_let_it() {
    // stac; mov ebx, [DATA]; clac; mov ecx, [DATA]
    let load = |register: u8| [0x8b, 4 | register << 3, 0x25, 0, 0, 3, 0];
    let code = [&[0x0f, 0x01, 0xcb][..], &load(3), &[0x0f, 0x01, 0xca], &load(1), &[0xf4]].concat();
    let (mut cpu, ram) = testing::machine(&code);
    testing::system(&mut cpu, &ram);
    ram.write(DATA, &[7]);
    // Only that page is the users'.
    for page in 0..256u64 {
        let user = if page == DATA / 4096 { 4 } else { 0 };
        put(&ram, 0x4000 + page * 8, &[(page * 4096) | 3 | user]);
    }
    let mut state = cpu.state();
    state.cr4 |= 1 << 21;
    cpu.set_state(&state).unwrap();
    assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
    assert_eq!(cpu.registers().rip, HANDLERS + 14 * 16 + 1);
    assert_eq!((cpu.core.regs[RBX], cpu.state().cr2), (7, DATA));
    assert_eq!(testing::stack::<2>(&cpu, &ram), [1, CODE + 13]);
}
