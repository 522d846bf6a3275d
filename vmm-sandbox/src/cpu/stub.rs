//! The three pages between a program and its host: the stub's code, ring 0's tables and stack, and
//! room for edits of page tables.

use rustix::io::Errno;
use vmm_core::arch::{DescriptorTable, Segment, SystemRegs, cr0, cr4, efer};

use crate::space::{Image, PAGE, Protection, Space, SystemPage};

/// `stub/stub.S`.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub.bin"));

/// Where the pages are; CODE also in `stub/stub.ld`.
const CODE: u64 = 0x7fff_ffff_0000;
const DATA: u64 = CODE + PAGE;
const EDITS: u64 = DATA + PAGE;

/// An OUT here calls the host; the same in `stub/stub.S`.
pub(super) const CALL_PORT: u16 = 0x60;
/// An OUT here or to one of the next ports reports an exception.
pub(super) const EXCEPTION_PORT: u16 = 0x40;
pub(super) const EXCEPTIONS: u16 = 32;

/// The data page: GDT, TSS and IDT, and ring 0's stack growing down from the end.
const TASK: u64 = 0x80;
const TASK_SIZE: u64 = 0x68;
const IDT: u64 = 0x100;
const GATE_SIZE: u64 = 16;

/// The selectors Linux has, for programs that look.
const RING0_CODE: u16 = 0x10;
const RING0_DATA: u16 = 0x18;
/// SYSRET takes ring 3's from here: data next, 64-bit code behind it.
const SYSRET_BASE: u64 = 0x23;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const TASK_STATE: u16 = 0x40;

/// The vector of INT3.
pub(super) const BREAKPOINT: u8 = 3;

/// The bytes of an interrupt frame.
const FRAME_SIZE: u64 = 40;

/// Addresses in the code page: the table that `stub.S` starts with, in its order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) enter: u64,
    pub(super) syscall_ring0: u64,
    pub(super) syscall_ring0_done: u64,
    pub(super) syscall_ring3: u64,
    pub(super) syscall_ring3_trap: u64,
    pub(super) syscall_ring3_done: u64,
    pub(super) breakpoint: u64,
    pub(super) breakpoint_done: u64,
    pub(super) edit: u64,
    pub(super) exceptions: u64,
    pub(super) call_with_floats: u64,
    pub(super) call: u64,
    pub(super) call_returned: u64,
}

impl Addresses {
    pub(super) fn of_image() -> Self {
        let (words, _) = IMAGE.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or(0);
        Self {
            enter: next(),
            syscall_ring0: next(),
            syscall_ring0_done: next(),
            syscall_ring3: next(),
            syscall_ring3_trap: next(),
            syscall_ring3_done: next(),
            breakpoint: next(),
            breakpoint_done: next(),
            edit: next(),
            exceptions: next(),
            call_with_floats: next(),
            call: next(),
            call_returned: next(),
        }
    }
}

/// The pages of one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stub {
    pub(super) at: Addresses,
    data: SystemPage,
    edits: SystemPage,
}

/// What the processor pushes when it leaves the program: RIP, CS, RFLAGS, RSP, SS.
pub(super) type Frame = [u64; 5];

impl Stub {
    /// Puts the pages into an address space. INT3 has a handler of its own where it is the way of
    /// system calls.
    pub(super) fn new(space: &mut Space, breakpoint_calls: bool) -> Result<Self, Errno> {
        let code = space.map_system(CODE, Protection::READ_EXECUTE)?;
        let data = space.map_system(DATA, Protection::READ_WRITE)?;
        let edits = space.map_system(EDITS, Protection::READ_WRITE)?;
        let stub = Self { at: Addresses::of_image(), data, edits };
        space.write_system(code, 0, IMAGE);
        space.write_system(data, 0, &bytes(&gdt()));
        // RSP0: where the processor puts the stack when it enters ring 0.
        space.write_system(data, TASK + 4, &(DATA + PAGE).to_le_bytes());
        // No I/O permission map: it would start beyond the end. No port is the program's.
        space.write_system(data, TASK + 0x66, &(TASK_SIZE as u16).to_le_bytes());
        for vector in 0..EXCEPTIONS as u8 {
            let to = match vector {
                BREAKPOINT if breakpoint_calls => stub.at.breakpoint,
                _ => stub.at.exceptions + GATE_SIZE * u64::from(vector),
            };
            let at = IDT + GATE_SIZE * u64::from(vector);
            space.write_system(data, at, &bytes(&gate(vector, to)));
        }
        Ok(stub)
    }

    /// The registers of ring 0 that go with the pages.
    pub(super) fn system_regs(&self, root: u64, apic_base: u64, extra_cr4: u64) -> SystemRegs {
        let data = Segment::data(RING0_DATA, 0);
        let user = Segment::data(USER_DATA, 3);
        SystemRegs {
            cs: Segment::code64(RING0_CODE, 0),
            ds: user,
            es: user,
            fs: user,
            gs: user,
            ss: data,
            tr: Segment::task(TASK_STATE, DATA + TASK, TASK_SIZE as u32 - 1),
            gdt: DescriptorTable { base: DATA, limit: (8 * gdt().len() - 1) as u16 },
            idt: DescriptorTable {
                base: DATA + IDT,
                limit: (GATE_SIZE * u64::from(EXCEPTIONS) - 1) as u16,
            },
            cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG,
            cr3: root,
            cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | extra_cr4,
            efer: efer::SCE | efer::LME | efer::LMA | efer::NXE,
            apic_base,
            ..SystemRegs::real_mode()
        }
    }

    /// The model-specific register STAR: the selectors of SYSCALL and SYSRET.
    pub(super) fn star() -> u64 {
        SYSRET_BASE << 48 | u64::from(RING0_CODE) << 32
    }

    /// The frame at an address, if it lies in the stub's stack.
    pub(super) fn frame(&self, space: &Space, at: u64) -> Option<Frame> {
        frame(at, |offset, bytes| space.read_system(self.data, offset, bytes))
    }

    /// The same in memory as it was at one moment.
    pub(super) fn frame_of(&self, image: &Image, at: u64) -> Option<Frame> {
        frame(at, |offset, bytes| image.read_system(self.data, offset, bytes))
    }

    /// Has the frame at `at`, which is one of the stub's stack, return to `rip`.
    pub(super) fn redirect(&self, space: &Space, at: u64, rip: u64) {
        space.write_system(self.data, at.wrapping_sub(DATA), &rip.to_le_bytes());
    }

    /// One word of the stub's stack.
    pub(super) fn word(&self, space: &Space, at: u64) -> Option<u64> {
        let offset = at.checked_sub(DATA).filter(|offset| *offset <= PAGE - 8)?;
        let mut word = [0; 8];
        space.read_system(self.data, offset, &mut word);
        Some(u64::from_le_bytes(word))
    }

    /// Puts page-table entries where the stub's edit takes them from; gives the address.
    pub(super) fn stage(&self, space: &Space, entries: &[u64]) -> u64 {
        space.write_system(self.edits, 0, &bytes(entries));
        EDITS
    }
}

fn frame(at: u64, read: impl FnOnce(u64, &mut [u8])) -> Option<Frame> {
    let offset = at.checked_sub(DATA).filter(|offset| *offset <= PAGE - FRAME_SIZE)?;
    let mut frame = [0; FRAME_SIZE as usize];
    read(offset, &mut frame);
    let (words, _) = frame.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    Some(std::array::from_fn(|_| words.next().unwrap_or(0)))
}

/// Whether an address is one of the stub's code.
pub(super) fn has_code(address: u64) -> bool {
    (CODE..CODE + PAGE).contains(&address)
}

/// CS and SS of a program.
pub(super) fn ring3() -> (Segment, Segment) {
    (Segment::code64(USER_CODE, 3), Segment::data(USER_DATA, 3))
}

fn gdt() -> [u64; 10] {
    let task = Segment::task(TASK_STATE, DATA + TASK, TASK_SIZE as u32 - 1);
    [
        0,
        0,
        Segment::code64(RING0_CODE, 0).descriptor(),
        Segment::data(RING0_DATA, 0).descriptor(),
        Segment::code32(SYSRET_BASE as u16, 3).descriptor(),
        Segment::data(USER_DATA, 3).descriptor(),
        Segment::code64(USER_CODE, 3).descriptor(),
        0,
        task.descriptor(),
        (DATA + TASK) >> 32,
    ]
}

/// An interrupt gate (Intel SDM volume 3, figure 6-8). INT3 may come from ring 3.
fn gate(vector: u8, to: u64) -> [u64; 2] {
    let ring = if vector == BREAKPOINT { 3 << 45 } else { 0 };
    let low = to & 0xffff | u64::from(RING0_CODE) << 16 | (to >> 16 & 0xffff) << 48;
    [low | 0x8e << 40 | ring, to >> 32]
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_fits_its_page_and_starts_with_its_addresses() {
        assert!(IMAGE.len() as u64 <= PAGE, "{:#x}", IMAGE.len());
        let at = Addresses::of_image();
        let all = [at.enter, at.edit, at.exceptions, at.call, at.call_returned];
        assert!(all.iter().all(|a| (CODE..CODE + IMAGE.len() as u64).contains(a)), "{at:x?}");
        let code = |address: u64| &IMAGE[(address - CODE) as usize..];
        assert_eq!(code(at.enter)[..3], [0x48, 0x0f, 0x07], "SYSRETQ");
        assert_eq!(code(at.syscall_ring0)[..5], [0xe6, CALL_PORT as u8, 0x48, 0x0f, 0x07]);
        assert_eq!(code(at.syscall_ring3)[0], 0xcc, "INT3");
        assert_eq!(code(at.call_returned - 2)[..2], [0x0f, 0x05], "SYSCALL");
        for vector in 0..EXCEPTIONS {
            let port = (EXCEPTION_PORT + vector) as u8;
            let handler = at.exceptions + GATE_SIZE * u64::from(vector);
            assert_eq!(code(handler)[..2], [0xe6, port], "the handler of {vector}");
        }
    }

    #[test]
    fn the_data_page_holds_its_tables_and_leaves_a_stack() {
        assert!(8 * gdt().len() as u64 <= TASK && TASK + TASK_SIZE <= IDT);
        let end = IDT + GATE_SIZE * u64::from(EXCEPTIONS);
        assert!(PAGE - end >= 1024, "a stack of {} bytes", PAGE - end);
    }
}
