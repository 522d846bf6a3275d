//! Who and where a program is: a process without relatives, on a machine without a name.

use rustix::io::Errno;

use super::{Answer, Call, Calls, thread::PID};
use crate::process::Process;

pub(super) const CALLS: Calls = &[
    (libc::SYS_getegid, group),
    (libc::SYS_geteuid, user),
    (libc::SYS_getgid, group),
    (libc::SYS_getgroups, none),
    (libc::SYS_getpgid, pid),
    (libc::SYS_getpgrp, pid),
    (libc::SYS_getpid, pid),
    (libc::SYS_getppid, none),
    (libc::SYS_getrlimit, getrlimit),
    (libc::SYS_getsid, pid),
    (libc::SYS_gettid, pid),
    (libc::SYS_getuid, user),
    (libc::SYS_prlimit64, prlimit),
    (libc::SYS_setgid, stay_group),
    (libc::SYS_setuid, stay_user),
    (libc::SYS_sysinfo, sysinfo),
    (libc::SYS_uname, uname),
];

fn pid(_: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(PID)
}

fn none(_: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(0)
}

fn user(process: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(u64::from(process.uid))
}

fn group(process: &mut Process, _: &mut Call<'_>) -> Answer {
    Ok(u64::from(process.gid))
}

/// A program may become what it is.
fn stay_user(process: &mut Process, call: &mut Call<'_>) -> Answer {
    if call.args[0] as u32 == process.uid { Ok(0) } else { Err(Errno::PERM) }
}

fn stay_group(process: &mut Process, call: &mut Call<'_>) -> Answer {
    if call.args[0] as u32 == process.gid { Ok(0) } else { Err(Errno::PERM) }
}

fn getrlimit(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [resource, to, ..] = call.args;
    let limit = limit(process, resource)?;
    process.space.write_words(to, &limit)?;
    Ok(0)
}

/// Limits are read; what is set has no effect, because the real ones are the sandbox's.
fn prlimit(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [pid, resource, new, old, ..] = call.args;
    if pid > PID {
        return Err(Errno::SRCH);
    }
    let limit = limit(process, resource)?;
    if new != 0 {
        let _: [u64; 2] = process.space.read_words(new)?;
    }
    if old != 0 {
        process.space.write_words(old, &limit)?;
    }
    Ok(0)
}

/// The soft and the hard limit.
fn limit(process: &Process, resource: u64) -> Result<[u64; 2], Errno> {
    const ALL: u64 = 16;
    let limit = match u32::try_from(resource) {
        Ok(libc::RLIMIT_CORE) => 0,
        Ok(libc::RLIMIT_NOFILE) => process.files.most() as u64,
        Ok(libc::RLIMIT_NPROC) => 1,
        Ok(libc::RLIMIT_STACK) => process.stack_size,
        _ if resource < ALL => u64::MAX,
        _ => return Err(Errno::INVAL),
    };
    Ok([limit; 2])
}

/// The field of a `utsname`.
const FIELD: usize = 65;

fn uname(process: &mut Process, call: &mut Call<'_>) -> Answer {
    // The release is what programs compare with the oldest kernel they run on.
    let fields = ["Linux", "sandbox", "6.1.0", "#1", "x86_64", "(none)"];
    let mut name = Vec::with_capacity(FIELD * fields.len());
    for (n, field) in (1..).zip(fields) {
        name.extend(field.as_bytes());
        name.resize(n * FIELD, 0);
    }
    process.space.write(call.args[0], &name)?;
    Ok(0)
}

/// The `sysinfo` of a machine that has what the sandbox may use.
fn sysinfo(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let (total, used) = (process.memory, process.space.used());
    let up = process.clock.monotonic().as_secs();
    let mut words = [0; 14];
    words[0] = up;
    words[4] = total;
    words[5] = total - used.min(total);
    words[10] = 1; // procs, a 16-bit field
    words[13] = 1; // mem_unit, a 32-bit field
    process.space.write_words(call.args[0], &words)?;
    Ok(0)
}
