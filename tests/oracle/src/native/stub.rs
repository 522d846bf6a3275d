//! The few instructions around each case: load all registers, jump; save all registers, come back.
//!
//! There is no register left to point at anything, so that everything lies at a distance from RIP.
#![expect(unsafe_code, reason = "loads and saves all registers around one instruction")]

use std::{arch::naked_asm, mem::offset_of, ptr};

use super::shared::Output;
use crate::case::Registers;

/// What the instructions here work on. The process that uses it has one thread.
#[repr(C)]
pub(super) struct Context {
    pub(super) before: Registers,
    pub(super) output: Output,
    /// What IRETQ takes: RIP, CS, RFLAGS, RSP, SS.
    pub(super) frame: [u64; 5],
    host_rsp: u64,
    host_fs: u64,
    host_gs: u64,
    /// A stack for PUSHFQ.
    scratch: [u64; 2],
    mxcsr: u32,
}

pub(super) static mut CONTEXT: Context = Context {
    before: EMPTY,
    output: Output { after: EMPTY, trap: 0, error: 0, address: 0 },
    frame: [0, 0x33, 0, 0, 0x2b],
    host_rsp: 0,
    host_fs: 0,
    host_gs: 0,
    scratch: [0; 2],
    mxcsr: 0x1f80,
};

const EMPTY: Registers =
    Registers { general: [0; 16], rip: 0, rflags: 0, fs: 0, gs: 0, pad: [0; 4], fx: [0; 512] };

const BEFORE: usize = offset_of!(Context, before);
const AFTER: usize = offset_of!(Context, output) + offset_of!(Output, after);
const FX: usize = offset_of!(Registers, fx);
const FS: usize = offset_of!(Registers, fs);
const GS: usize = offset_of!(Registers, gs);

/// Loads what `CONTEXT` says and goes there; comes back when the instruction is done or caught.
///
/// # Safety
/// `frame` leads to code that [`land`]s or traps, and does no harm before.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rip + {c} + {rsp}], rsp",
        "rdfsbase rax", "mov [rip + {c} + {host_fs}], rax",
        "rdgsbase rax", "mov [rip + {c} + {host_gs}], rax",
        "fxrstor64 [rip + {c} + {before} + {fx}]",
        "mov rax, [rip + {c} + {before} + {fs}]", "wrfsbase rax",
        "mov rax, [rip + {c} + {before} + {gs}]", "wrgsbase rax",
        "mov rax, [rip + {c} + {before}]",
        "mov rcx, [rip + {c} + {before} + 8]",
        "mov rdx, [rip + {c} + {before} + 16]",
        "mov rbx, [rip + {c} + {before} + 24]",
        "mov rbp, [rip + {c} + {before} + 40]",
        "mov rsi, [rip + {c} + {before} + 48]",
        "mov rdi, [rip + {c} + {before} + 56]",
        "mov r8, [rip + {c} + {before} + 64]",
        "mov r9, [rip + {c} + {before} + 72]",
        "mov r10, [rip + {c} + {before} + 80]",
        "mov r11, [rip + {c} + {before} + 88]",
        "mov r12, [rip + {c} + {before} + 96]",
        "mov r13, [rip + {c} + {before} + 104]",
        "mov r14, [rip + {c} + {before} + 112]",
        "mov r15, [rip + {c} + {before} + 120]",
        "lea rsp, [rip + {c} + {frame}]",
        // Serializes too, so that code just written is what is executed; and TF, if it is set,
        // traps after one instruction.
        "iretq",
        c = sym CONTEXT, before = const BEFORE, fx = const FX, fs = const FS, gs = const GS,
        frame = const offset_of!(Context, frame), rsp = const offset_of!(Context, host_rsp),
        host_fs = const offset_of!(Context, host_fs), host_gs = const offset_of!(Context, host_gs),
    )
}

/// Where a case jumps to when its instruction is done.
///
/// # Safety
/// Only to be jumped to by what [`enter`] went to.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn land() {
    naked_asm!(
        "mov [rip + {c} + {after}], rax",
        "mov [rip + {c} + {after} + 8], rcx",
        "mov [rip + {c} + {after} + 16], rdx",
        "mov [rip + {c} + {after} + 24], rbx",
        "mov [rip + {c} + {after} + 32], rsp",
        "mov [rip + {c} + {after} + 40], rbp",
        "mov [rip + {c} + {after} + 48], rsi",
        "mov [rip + {c} + {after} + 56], rdi",
        "mov [rip + {c} + {after} + 64], r8",
        "mov [rip + {c} + {after} + 72], r9",
        "mov [rip + {c} + {after} + 80], r10",
        "mov [rip + {c} + {after} + 88], r11",
        "mov [rip + {c} + {after} + 96], r12",
        "mov [rip + {c} + {after} + 104], r13",
        "mov [rip + {c} + {after} + 112], r14",
        "mov [rip + {c} + {after} + 120], r15",
        "lea rsp, [rip + {c} + {scratch} + 16]",
        "pushfq",
        "pop [rip + {c} + {after} + {rflags}]",
        // AC and DF must not stay.
        "push 2", "popfq",
        "fxsave64 [rip + {c} + {after} + {fx}]",
        "rdfsbase rax", "mov [rip + {c} + {after} + {fs}], rax",
        "rdgsbase rax", "mov [rip + {c} + {after} + {gs}], rax",
        "mov dword ptr [rip + {c} + {trap}], -1",
        "jmp {leave}",
        c = sym CONTEXT, after = const AFTER, fx = const FX, fs = const FS, gs = const GS,
        rflags = const offset_of!(Registers, rflags),
        scratch = const offset_of!(Context, scratch),
        trap = const offset_of!(Context, output) + offset_of!(Output, trap),
        leave = sym leave,
    )
}

/// Returns from [`enter`].
///
/// # Safety
/// `enter` has been left, by a jump or by a signal whose handler this ends.
#[unsafe(naked)]
unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        "mov rax, [rip + {c} + {host_fs}]", "wrfsbase rax",
        "mov rax, [rip + {c} + {host_gs}]", "wrgsbase rax",
        "mov rsp, [rip + {c} + {rsp}]",
        "fninit",
        "ldmxcsr [rip + {c} + {mxcsr}]",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        c = sym CONTEXT, rsp = const offset_of!(Context, host_rsp),
        host_fs = const offset_of!(Context, host_fs), host_gs = const offset_of!(Context, host_gs),
        mxcsr = const offset_of!(Context, mxcsr),
    )
}

/// The handler of every signal that an instruction can bring about, on the alternate stack.
///
/// # Safety
/// Only the kernel calls it, while `enter` has not returned.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn caught(
    _signal: i32,
    _info: *const libc::siginfo_t,
    _context: *const libc::ucontext_t,
) {
    naked_asm!(
        "push 2", "popfq",
        "rdfsbase rax", "mov [rip + {c} + {after} + {fs}], rax",
        "rdgsbase rax", "mov [rip + {c} + {after} + {gs}], rax",
        "mov rax, [rip + {c} + {host_fs}]", "wrfsbase rax",
        "mov rdi, rdx",
        "jmp {keep}",
        c = sym CONTEXT, after = const AFTER, fs = const FS, gs = const GS,
        host_fs = const offset_of!(Context, host_fs),
        keep = sym keep,
    )
}

/// Keeps what the kernel has saved, and ends the handler without going back there.
///
/// # Safety
/// `context` is what the kernel gave a handler.
unsafe extern "C" fn keep(context: *const libc::ucontext_t) -> ! {
    const ORDER: [i32; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    // SAFETY: the kernel's frame is valid during the handler; CONTEXT is this one thread's.
    unsafe {
        let machine = &raw const (*context).uc_mcontext;
        let register = |n: i32| (*machine).gregs[n as usize] as u64;
        let output = &raw mut CONTEXT.output;
        for (n, which) in ORDER.into_iter().enumerate() {
            (*output).after.general[n] = register(which);
        }
        (*output).after.rip = register(libc::REG_RIP);
        (*output).after.rflags = register(libc::REG_EFL);
        (*output).trap = register(libc::REG_TRAPNO) as u32;
        (*output).error = register(libc::REG_ERR) as u32;
        (*output).address = register(libc::REG_CR2);
        ptr::copy_nonoverlapping(
            (*machine).fpregs.cast::<u8>(),
            (&raw mut (*output).after.fx).cast::<u8>(),
            512,
        );
        leave()
    }
}
