//! What the executing process may ask of the kernel: to read, to write, to end.
#![expect(unsafe_code, reason = "a system call that takes a pointer")]

use std::mem::offset_of;

const ALLOWED: [i64; 5] =
    [libc::SYS_read, libc::SYS_write, libc::SYS_rt_sigreturn, libc::SYS_exit, libc::SYS_exit_group];

/// From now on any other system call kills the process. False if the kernel would not have it.
pub(super) fn confine() -> bool {
    const LEN: usize = ALLOWED.len() + 3;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [step(load, 0, 0, offset_of!(libc::seccomp_data, nr) as u32); LEN];
    for (n, number) in ALLOWED.into_iter().enumerate() {
        // To the last step, which allows.
        filter[n + 1] = step(equal, (LEN - n - 3) as u8, 0, number as u32);
    }
    filter[LEN - 2] = step(answer, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    filter[LEN - 1] = step(answer, 0, 0, libc::SECCOMP_RET_ALLOW);
    let program = libc::sock_fprog { len: LEN as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid during the call, which copies it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}
