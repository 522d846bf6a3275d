//! Code that changes under the CPU that has decoded it: by itself, by the host, through another
//! address, a byte at a time; and code that goes on where nothing is.
#![expect(clippy::unwrap_used, reason = "a test")]

use vmm_cpu::{Cpu, Exit, Nobody, State};
use vmm_oracle::{
    arena::{PAGE, Rights},
    case::Fault,
    space::Space,
};

const CODE: u64 = 0x1000_0000;
/// The same page as `CODE`, writable.
const ALIAS: u64 = 0x2000_0000;

struct Machine {
    cpu: Cpu,
    space: Space,
    state: State,
    page: u64,
}

/// A page of code that user code may also write to; nothing behind it.
fn machine(code: &[u8], at: u64) -> Machine {
    let mut space = Space::new(64);
    let page = space.take(1);
    space.map(CODE, page, Rights::Write, true);
    space.map(ALIAS, page, Rights::Write, false);
    space.ram.write(page + at % PAGE, code);
    let (cpu, mut state) = space.cpu();
    state.registers.rip = at;
    Machine { cpu, space, state, page }
}

impl Machine {
    /// Runs from `rip` with these registers to an exception; the registers then, and which it was.
    fn run(&mut self, rip: u64, general: &[(usize, u64)]) -> ([u64; 16], u64, Fault) {
        self.state.registers.rip = rip;
        general.iter().for_each(|(n, value)| self.state.registers.general[*n] = *value);
        self.cpu.set_state(&self.state).unwrap();
        assert_eq!(self.cpu.run(&self.space.ram, &Nobody), Exit::Halted);
        let mut state = self.cpu.state();
        let fault = self.space.caught(&mut state).unwrap();
        (state.registers.general, state.registers.rip, fault)
    }
}

const RAX: usize = 0;
const RCX: usize = 1;
const RDI: usize = 7;

#[test]
fn an_instruction_overwrites_the_next() {
    // mov byte [rip + 1], 7 (the immediate of the next); mov eax, 1; hlt
    let code = [0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb8, 1, 0, 0, 0, 0xf4];
    let mut machine = machine(&code, CODE);
    let (registers, ..) = machine.run(CODE, &[]);
    assert_eq!(registers[RAX], 7);
}

#[test]
fn a_loop_changes_its_own_immediate() {
    // l: add eax, 1; inc byte [rip - 7] (that 1); dec ecx; jnz l; hlt
    let code = [0x83, 0xc0, 1, 0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf3, 0xf4];
    let mut machine = machine(&code, CODE);
    let (registers, ..) = machine.run(CODE, &[(RAX, 0), (RCX, 100)]);
    assert_eq!(registers[RAX], (1..=100).sum::<u64>());
}

#[test]
fn a_string_instruction_overwrites_what_follows_it() {
    // rep stosb; mov eax, 1; hlt: the stores turn `mov eax, 1` into nops.
    let code = [0xf3, 0xaa, 0xb8, 1, 0, 0, 0, 0xf4];
    let mut machine = machine(&code, CODE);
    let (registers, rip, _) = machine.run(CODE, &[(RAX, 0x90), (RCX, 5), (RDI, CODE + 2)]);
    assert_eq!((registers[RAX], rip), (0x90, CODE + 7));
}

#[test]
fn a_page_changes_through_its_other_address() {
    // mov [rdi], cl; mov eax, 1; hlt, where RDI is the immediate by the other address.
    let code = [0x88, 0x0f, 0xb8, 1, 0, 0, 0, 0xf4];
    let mut machine = machine(&code, CODE);
    for value in 0..50 {
        let (registers, ..) = machine.run(CODE, &[(RCX, value), (RDI, ALIAS + 3)]);
        assert_eq!(registers[RAX], value);
    }
}

#[test]
fn code_runs_at_both_of_its_addresses() {
    let mut machine = machine(&[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xf4], CODE);
    machine.space.map(ALIAS, machine.page, Rights::Write, true);
    // lea rax, [rip]; hlt: shared blocks must not remember where they were decoded.
    for at in [CODE, ALIAS, CODE] {
        assert_eq!(machine.run(at, &[]).0[RAX], at + 7);
    }
}

#[test]
fn the_host_writes_code() {
    let mut machine = machine(&[0xb8, 1, 0, 0, 0, 0xf4], CODE);
    let map = machine.cpu.code_map().clone();
    for value in 0..100 {
        machine.space.host_writes(machine.page + 1, &[value], &map);
        assert_eq!(machine.run(CODE, &[]).0[RAX], u64::from(value));
    }
}

#[test]
fn one_byte_at_a_time_is_patched_under_a_running_loop() {
    // l: xor byte [rip + 1], 8; inc eax or dec eax; dec ecx; jnz l; hlt
    // ff c0: inc eax; ff c8: dec eax. Each round flips the byte c0 ^ 8 before it is executed.
    let code = [0x80, 0x35, 0x01, 0, 0, 0, 8, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xf3, 0xf4];
    let mut machine = machine(&code, CODE);
    let (registers, ..) = machine.run(CODE, &[(RAX, 1000), (RCX, 1001)]);
    assert_eq!(registers[RAX], 999);
}

#[test]
fn data_beside_code_is_only_data() {
    // l: mov [rdi], rcx; add rax, [rdi]; dec rcx; jnz l; hlt, with RDI in the same 128 bytes.
    let code = [0x48, 0x89, 0x0f, 0x48, 0x03, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xf4];
    let mut machine = machine(&code, CODE);
    let (registers, ..) = machine.run(CODE, &[(RAX, 0), (RCX, 1000), (RDI, CODE + 64)]);
    assert_eq!(registers[RAX], 500_500);
}

#[test]
fn code_ends_where_the_next_page_is_not() {
    // nop; mov eax, imm32 with its last two bytes on a page that is not there.
    let at = CODE + PAGE - 4;
    let mut machine = machine(&[0x90, 0xb8, 1, 0], at);
    let (registers, rip, fault) = machine.run(at, &[(RAX, 5)]);
    // Present: no; user, fetch.
    assert_eq!(fault, Fault { vector: 14, code: 0x14, address: CODE + PAGE });
    assert_eq!((registers[RAX], rip), (5, at + 1));
    // And when it is there, it goes on.
    let next = machine.space.take(1);
    machine.space.map(CODE + PAGE, next, Rights::Read, true);
    machine.space.ram.write(next, &[2, 0, 0xf4]);
    let (registers, rip, _) = machine.run(at, &[]);
    assert_eq!((registers[RAX], rip), (0x20001, CODE + PAGE + 2));
}

#[test]
fn an_instruction_over_two_pages_follows_changes_of_both() {
    let at = CODE + PAGE - 3;
    let mut machine = machine(&[0xb8, 1, 2], at);
    let next = machine.space.take(1);
    machine.space.map(CODE + PAGE, next, Rights::Write, true);
    machine.space.ram.write(next, &[3, 4, 0xf4]);
    assert_eq!(machine.run(at, &[]).0[RAX], 0x0403_0201);
    let map = machine.cpu.code_map().clone();
    machine.space.host_writes(next, &[9], &map);
    assert_eq!(machine.run(at, &[]).0[RAX], 0x0409_0201);
    machine.space.host_writes(machine.page + PAGE - 1, &[8], &map);
    assert_eq!(machine.run(at, &[]).0[RAX], 0x0409_0801);
}

#[test]
fn a_page_table_that_is_code_is_marked() {
    const TABLE: u64 = 0x3000_0000;
    const TARGET: u64 = TABLE + 16 * PAGE;
    // mov al, [rdi]; hlt, and mov [rdi], al; hlt
    let mut machine = machine(&[0x8a, 0x07, 0xf4, 0x88, 0x07, 0xf4], CODE);
    let target = machine.space.take(1);
    machine.space.map(TARGET, target, Rights::Write, false);
    let entry = machine.space.entry(TARGET).unwrap();
    machine.space.map(TABLE, entry & !(PAGE - 1), Rights::Read, true);
    // mov rax, imm64, where the number is the entry; hlt
    machine.space.ram.write(entry - 2, &[0x48, 0xb8]);
    machine.space.ram.write(entry + 8, &[0xf4]);
    let code = TABLE + (entry - 2) % PAGE;
    let clear = machine.run(code, &[]).0[RAX];
    assert_eq!(clear & (1 << 5 | 1 << 6), 0);
    // Accessed, then dirty.
    for (access, bits) in [(CODE, 1 << 5), (CODE + 3, 1 << 5 | 1 << 6)] {
        machine.run(access, &[(RDI, TARGET)]);
        assert_eq!(machine.run(code, &[]).0[RAX], clear | bits);
    }
}
