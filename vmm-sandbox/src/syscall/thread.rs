//! The one thread: its end, its thread-local storage, what libraries register when they start.

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::{
    process::{Ended, Process},
    space::USER,
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_arch_prctl, arch_prctl),
    (libc::SYS_exit, exit),
    (libc::SYS_exit_group, exit),
    (libc::SYS_futex, futex),
    (libc::SYS_prctl, prctl),
    (libc::SYS_sched_getaffinity, sched_getaffinity),
    (libc::SYS_sched_yield, sched_yield),
    (libc::SYS_set_robust_list, set_robust_list),
    (libc::SYS_set_tid_address, set_tid_address),
];

/// The process, and its one thread.
pub(super) const PID: u64 = 1;

fn exit(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [code, ..] = call.args;
    process.ended = Some(Ended::Exited((code & 0xff) as i32));
    Ok(0)
}

fn arch_prctl(process: &mut Process, call: &mut Call<'_>) -> Answer {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let [code, value, ..] = call.args;
    if matches!(code, SET_FS | SET_GS) && value >= USER.end {
        return Err(Errno::PERM);
    }
    let host = |error| {
        log::error!("a program's segment base: {error}");
        Errno::IO
    };
    match code {
        SET_FS => call.cpu.set_fs_base(value).map_err(host)?,
        SET_GS => call.cpu.set_gs_base(value).map_err(host)?,
        GET_FS => process.space.write_words(value, &[call.cpu.fs_base().map_err(host)?])?,
        GET_GS => process.space.write_words(value, &[call.cpu.gs_base().map_err(host)?])?,
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

/// A wait would be for ever: there is nobody to wake the one thread.
fn futex(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, operation, value, ..] = call.args;
    match operation as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let mut word = [0; 4];
            process.space.read(at, &mut word)?;
            match u32::from_le_bytes(word) == value as u32 {
                true => Err(Errno::DEADLK),
                false => Err(Errno::AGAIN),
            }
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => Ok(0),
        _ => Err(Errno::NOSYS),
    }
}

fn prctl(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [option, value, ..] = call.args;
    match option as i32 {
        libc::PR_SET_NAME => {
            process.space.read(value, &mut [0])?;
            Ok(0)
        }
        // Names for anonymous mappings are for who looks from outside.
        _ => Err(Errno::INVAL),
    }
}

fn sched_getaffinity(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [_, size, mask, ..] = call.args;
    if size < 8 {
        return Err(Errno::INVAL);
    }
    process.space.write_words(mask, &[1])?;
    Ok(8)
}

fn sched_yield(_: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(0)
}

fn set_robust_list(_: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(0)
}

fn set_tid_address(_: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(PID)
}
