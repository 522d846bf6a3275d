//! Static Linux programs in user mode on the software CPU, with as much of a kernel as they need:
//! memory, output, an end. A sandbox runs them too, but does not count their instructions, which
//! `benches/` needs.

use vmm_cpu::{Cpu, Exit, Nobody, State};

use crate::{
    arena::{PAGE, Rights},
    space::{SYSCALL_ENTRY, Space},
};

/// A program that is loaded.
#[derive(Debug)]
pub struct Program {
    cpu: Cpu,
    space: Space,
    output: Vec<u8>,
    /// The end of the heap.
    heap: u64,
    /// Where the next mapping goes.
    next: u64,
}

/// What a program came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It called exit.
    Exited(i32),
    /// Something that it cannot go on after.
    Failed(String),
}

const STACK_TOP: u64 = 0x7fff_0000_0000;
const STACK_PAGES: u64 = 256;
const MAPPINGS: u64 = 0x7f00_0000_0000;

impl Program {
    /// Loads an ELF file for memory of so many pages.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(file: &[u8], arguments: &[&str], pages: usize) -> Result<Self, String> {
        let mut space = Space::new(pages);
        let elf = Elf { file };
        if file.get(..6) != Some(b"\x7fELF\x02\x01") || elf.half(16)? != 2 {
            return Err("not a static 64-bit ELF program".into());
        }
        let (headers, count) = (elf.word(32)?, u64::from(elf.half(56)?));
        let mut heap = 0;
        for header in (0..count).map(|n| headers + n * 56) {
            if elf.half(header)? == 1 && elf.half(header + 2)? == 0 {
                heap = heap.max(elf.segment(header, &mut space)?);
            }
        }
        let (mut cpu, mut state) = space.cpu();
        for at in (1..=STACK_PAGES).map(|n| STACK_TOP - n * PAGE) {
            let page = space.take(1);
            space.map(at, page, Rights::Write, false);
        }
        state.registers.rip = elf.word(24)?;
        let first = elf.word(headers + 16)? - elf.word(headers + 8)?;
        let phdr = first + headers;
        state.registers.general[4] = stack(&space, arguments, &[(3, phdr), (4, 56), (5, count)]);
        cpu.set_state(&state).map_err(|why| why.to_string())?;
        let heap = heap.next_multiple_of(PAGE);
        Ok(Self { cpu, space, output: Vec::new(), heap, next: MAPPINGS })
    }

    /// Runs it to its end.
    pub fn run(&mut self) -> End {
        loop {
            let exit = self.cpu.run(&self.space.ram, &Nobody);
            let mut state = self.cpu.state();
            if exit != Exit::Halted {
                return End::Failed(format!("{exit:?} at {:x}", state.registers.rip));
            }
            if let Some(fault) = self.space.caught(&mut state) {
                let unknown: Vec<_> = self.cpu.unknown().collect();
                let rip = state.registers.rip;
                return End::Failed(format!("{fault:?} at {rip:x}, not built: {unknown:?}"));
            }
            debug_assert_eq!(state.registers.rip, SYSCALL_ENTRY + 1);
            match self.call(&mut state) {
                Some(status) => return End::Exited(status),
                None => self.resume(state),
            }
        }
    }

    /// What it has written.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// How many instructions it has executed.
    pub fn instructions(&self) -> u64 {
        self.cpu.instructions()
    }

    /// Back to user mode, as SYSRET does it.
    fn resume(&mut self, mut state: State) {
        let user = self.space.user_state();
        state.segments[1] = user.segments[1];
        state.segments[2] = user.segments[2];
        state.registers.rip = state.registers.general[1];
        state.registers.rflags = state.registers.general[11];
        state.msrs.clear();
        let refused = self.cpu.set_state(&state).err();
        assert!(refused.is_none(), "{refused:?}");
    }

    /// A system call (Linux, arch/x86/entry/syscalls/syscall_64.tbl): its status, if it is exit.
    fn call(&mut self, state: &mut State) -> Option<i32> {
        const EINVAL: u64 = 22_u64.wrapping_neg();
        const ENOSYS: u64 = 38_u64.wrapping_neg();
        const ENOTTY: u64 = 25_u64.wrapping_neg();
        let g = state.registers.general;
        let (number, a, b, c) = (g[0], g[7], g[6], g[2]);
        let result = match number {
            1 => self.write(b, c),
            // fstat of a terminal, so that output comes by the line: not one is as good.
            5 | 262 => EINVAL,
            9 => self.map(a, b, c),
            10 => self.protect(a, b, c),
            11 | 13 | 14 | 28 => 0,
            12 => self.brk(a),
            16 => ENOTTY,
            20 => self.write_vector(b, c),
            158 if a == 0x1002 => {
                state.segments[4].base = b;
                0
            }
            158 => EINVAL,
            // Thread id, robust list.
            218 => 1,
            273 => 0,
            // getrandom: the same each time.
            318 => {
                self.put(a, &vec![7; b as usize]);
                b
            }
            60 | 231 => return Some(a as i32),
            _ => ENOSYS,
        };
        state.registers.general[0] = result;
        None
    }

    fn write(&mut self, from: u64, len: u64) -> u64 {
        for at in from..from + len {
            if let Some(physical) = self.space.physical(at) {
                let mut byte = [0];
                self.space.ram.read(physical, &mut byte);
                self.output.push(byte[0]);
            }
        }
        len
    }

    fn write_vector(&mut self, at: u64, count: u64) -> u64 {
        (0..count).map(|n| self.write(self.get(at + n * 16), self.get(at + n * 16 + 8))).sum()
    }

    fn brk(&mut self, to: u64) -> u64 {
        while self.heap < to {
            let page = self.space.take(1);
            self.space.map(self.heap, page, Rights::Write, false);
            self.heap += PAGE;
        }
        self.heap
    }

    fn map(&mut self, wish: u64, len: u64, rights: u64) -> u64 {
        let at = if wish == 0 { self.next } else { wish };
        let end = at + len.next_multiple_of(PAGE);
        for page in (at..end).step_by(PAGE as usize) {
            let physical = self.space.take(1);
            self.space.map(page, physical, allowed(rights), rights & 4 != 0);
        }
        self.next = self.next.max(end) + PAGE;
        at
    }

    fn protect(&mut self, at: u64, len: u64, rights: u64) -> u64 {
        for page in (at..at + len).step_by(PAGE as usize) {
            if let Some(physical) = self.space.physical(page) {
                self.space.map(page, physical, allowed(rights), rights & 4 != 0);
            }
        }
        0
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            if let Some(physical) = self.space.physical(at) {
                self.space.ram.write(physical, &[*byte]);
            }
        }
    }

    fn get(&self, at: u64) -> u64 {
        self.space.physical(at).map_or(0, |physical| self.space.word(physical))
    }
}

/// PROT_READ and PROT_WRITE.
fn allowed(rights: u64) -> Rights {
    match rights & 3 {
        0 if rights & 4 == 0 => Rights::Nothing,
        0 | 1 => Rights::Read,
        _ => Rights::Write,
    }
}

/// The stack as a program finds it (System V ABI for x86-64, 3.4.1); its top.
fn stack(space: &Space, arguments: &[&str], auxiliary: &[(u64, u64)]) -> u64 {
    let mut top = STACK_TOP - 64;
    let random = top;
    let put = |at: u64, bytes: &[u8]| {
        // Within a page: the strings are few.
        if let Some(physical) = space.physical(at) {
            space.ram.write(physical, bytes);
        }
    };
    let mut words = vec![arguments.len() as u64];
    for argument in arguments {
        top -= argument.len() as u64 + 1;
        put(top, argument.as_bytes());
        words.push(top);
    }
    words.extend([0, 0]);
    // AT_PAGESZ, AT_SECURE, AT_RANDOM.
    let more = [(6, PAGE), (23, 0), (25, random), (0, 0)];
    words.extend(auxiliary.iter().chain(&more).flat_map(|(name, value)| [*name, *value]));
    top = (top - words.len() as u64 * 8) & !15;
    (top..).step_by(8).zip(&words).for_each(|(at, word)| put(at, &word.to_le_bytes()));
    top
}

/// An ELF file, as far as programs need it.
struct Elf<'a> {
    file: &'a [u8],
}

impl Elf<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], String> {
        let end = at.saturating_add(N as u64) as usize;
        let bytes = self.file.get(at as usize..end).ok_or("the file is too short")?;
        Ok(std::array::from_fn(|n| bytes[n]))
    }

    fn half(&self, at: u64) -> Result<u16, String> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn word(&self, at: u64) -> Result<u64, String> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// Puts a segment into memory; its end.
    fn segment(&self, header: u64, space: &mut Space) -> Result<u64, String> {
        let flags = self.half(header + 4)?;
        let [offset, address] = [self.word(header + 8)?, self.word(header + 16)?];
        let [in_file, in_memory] = [self.word(header + 32)?, self.word(header + 40)?];
        let rights = if flags & 2 != 0 { Rights::Write } else { Rights::Read };
        let end = address + in_memory;
        for page in (address & !(PAGE - 1)..end).step_by(PAGE as usize) {
            let physical = space.take(1);
            space.map(page, physical, rights, flags & 1 != 0);
            let from = page.max(address);
            let to = (page + PAGE).min(address + in_file).max(from);
            // The rest is zeros.
            if from < to {
                let at = (offset + (from - address)) as usize;
                let bytes = self.file.get(at..at + (to - from) as usize);
                space.ram.write(physical + from % PAGE, bytes.ok_or("a segment beyond the file")?);
            }
        }
        Ok(end)
    }
}
