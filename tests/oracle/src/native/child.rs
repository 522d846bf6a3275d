//! The executing process. After the fork it neither allocates nor locks nor panics.
#![expect(
    unsafe_code,
    reason = "maps the arena, catches signals, reads and writes by pipe after a fork"
)]

use std::{mem, ptr};

use super::{
    confine::confine,
    shared::{Input, Place, Shared},
    stub::{CONTEXT, caught, enter, land},
};
use crate::arena::{CODE, CODE_SIZE, DATA, DATA_SIZE, PAGE, PAGES, Rights, blank};

const TF: u64 = 1 << 8;

/// The arena's other mapping, which may be written all over: code, then data.
struct Alias(*mut u8);

/// Executes batches until the pipe of orders is closed.
pub(super) fn serve(shared: &Shared, orders: i32, answers: i32) -> ! {
    let alias = prepare();
    let good = alias.is_ok() && catch() && confine();
    loop {
        let mut order = [0_u8; 4];
        // SAFETY: reads into the array.
        if unsafe { libc::read(orders, order.as_mut_ptr().cast(), 4) } != 4 {
            end();
        }
        let mut answer = 0xffff_0000_u32;
        match &alias {
            Ok(alias) if good => {
                answer = u32::from_ne_bytes(order);
                (0..answer as usize).for_each(|n| execute(shared, n, alias));
            }
            Ok(_) => answer += 0x100,
            Err(step) => answer += step,
        }
        // SAFETY: writes from the array.
        if unsafe { libc::write(answers, answer.to_ne_bytes().as_ptr().cast(), 4) } != 4 {
            end();
        }
    }
}

fn end() -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Maps the arena; if not, says at which step.
fn prepare() -> Result<Alias, u32> {
    let size = (CODE_SIZE + DATA_SIZE) as usize;
    let all = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new mappings: one anywhere, the rest in the first 4 GiB, where `NOREPLACE` makes sure
    // that nothing is.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let file = libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC);
        if file < 0 || libc::ftruncate(file, size as i64) != 0 {
            return Err(1);
        }
        let shared = libc::MAP_SHARED | libc::MAP_POPULATE;
        let alias = libc::mmap(ptr::null_mut(), size, all, shared, file, 0);
        if alias == libc::MAP_FAILED {
            return Err(2);
        }
        let alias = alias.cast::<u8>();
        (0..DATA_SIZE).for_each(|at| *alias.add((CODE_SIZE + at) as usize) = blank(at));
        let fixed = |at: u64, size: u64, rights, offset: u64| {
            let flags = shared | libc::MAP_FIXED_NOREPLACE;
            let to = ptr::with_exposed_provenance_mut(at as usize);
            libc::mmap(to, size as usize, rights, flags, file, offset as i64) == to
        };
        if !fixed(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, 0) {
            return Err(3);
        }
        for (at, rights) in (0..).step_by(PAGE as usize).zip(PAGES) {
            let rights = match rights {
                Rights::Nothing => continue,
                Rights::Read => libc::PROT_READ,
                Rights::Write => all,
            };
            if !fixed(DATA + at, PAGE, rights, CODE_SIZE + at) {
                return Err(4);
            }
        }
        Ok(Alias(alias))
    }
}

/// Sends all that instructions raise to the handler, on a stack of its own.
fn catch() -> bool {
    const STACK: usize = 1 << 16;
    let signals = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
    // SAFETY: a new mapping for the stack; handlers that only `execute` brings about.
    unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let stack = libc::mmap(ptr::null_mut(), STACK, rights, flags, -1, 0);
        let stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = caught as *const () as usize;
        // The handler does not return: the signal must not stay blocked.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0
            && signals
                .iter()
                .all(|signal| libc::sigaction(*signal, &raw const action, ptr::null_mut()) == 0)
    }
}

fn execute(shared: &Shared, n: usize, alias: &Alias) {
    let input = shared.input(n);
    let windows = input.windows.iter().filter(|place| place.len != 0);
    windows
        .clone()
        .for_each(|place| copy(shared.pool(place.at as usize), alias.data(place), place));
    alias.put_code(&input);
    // SAFETY: one thread; the code ends in `land` or traps, and what it may reach the generator has
    // seen to.
    unsafe {
        let context = &raw mut CONTEXT;
        (*context).before = input.before;
        let rflags = input.before.rflags | if input.jumps { TF } else { 0 };
        (*context).frame = [input.before.rip, 0x33, rflags, input.before.general[4], 0x2b];
        enter();
        (*context).output.after.rflags &= !(if input.jumps { TF } else { 0 });
        shared.answer(n, &(*context).output);
    }
    for place in windows {
        copy(alias.data(place), shared.pool(place.at as usize), place);
        // SAFETY: within the data.
        (0..place.len).for_each(|at| unsafe {
            *alias.data(place).add(at as usize) = blank(u64::from(place.offset + at));
        });
    }
}

/// Neither source nor target is anything else's.
fn copy(from: *const u8, to: *mut u8, place: &Place) {
    // SAFETY: the one is within the pool, the other within the data.
    unsafe { ptr::copy_nonoverlapping(from, to, place.len as usize) };
}

impl Alias {
    fn data(&self, place: &Place) -> *mut u8 {
        // SAFETY: windows are within the data.
        unsafe { self.0.add(CODE_SIZE as usize + place.offset as usize) }
    }

    /// Writes the instruction, and behind it a jump to `land`, as far as the pages go.
    fn put_code(&self, input: &Input) {
        let mut bytes = [0; 30];
        let len = usize::from(input.len);
        bytes[..16].copy_from_slice(&input.code);
        // jmp [rip + 0], with the target behind it
        bytes[len..len + 6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        bytes[len + 6..len + 14].copy_from_slice(&(land as *const () as u64).to_le_bytes());
        let at = input.before.rip.wrapping_sub(CODE);
        for (at, byte) in (at..CODE_SIZE).zip(&bytes[..len + 14]) {
            // SAFETY: within the code.
            unsafe { *self.0.add(at as usize) = *byte };
        }
    }
}
