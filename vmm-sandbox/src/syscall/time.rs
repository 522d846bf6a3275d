//! Time, of the clock the sandbox was given.

use std::time::Duration;

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::process::Process;

pub(super) const CALLS: Calls = &[
    (libc::SYS_clock_getres, clock_getres),
    (libc::SYS_clock_gettime, clock_gettime),
    (libc::SYS_gettimeofday, gettimeofday),
    (libc::SYS_time, time),
];

fn clock_gettime(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [clock, to, ..] = call.args;
    let now = now(process, clock)?;
    process.space.write_words(to, &[now.as_secs(), u64::from(now.subsec_nanos())])?;
    Ok(0)
}

fn clock_getres(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [clock, to, ..] = call.args;
    now(process, clock)?;
    if to != 0 {
        process.space.write_words(to, &[0, 1])?;
    }
    Ok(0)
}

fn gettimeofday(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [to, zone, ..] = call.args;
    let now = process.clock.real();
    if to != 0 {
        process.space.write_words(to, &[now.as_secs(), u64::from(now.subsec_micros())])?;
    }
    if zone != 0 {
        process.space.write_words(zone, &[0])?;
    }
    Ok(0)
}

fn time(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let seconds = process.clock.real().as_secs();
    if call.args[0] != 0 {
        process.space.write_words(call.args[0], &[seconds])?;
    }
    Ok(seconds)
}

fn now(process: &mut Process, clock: u64) -> Result<Duration, Errno> {
    match clock as libc::clockid_t {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => {
            Ok(process.clock.real())
        }
        libc::CLOCK_BOOTTIME
        | libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW => Ok(process.clock.monotonic()),
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => Ok(process.watch.time()),
        _ => Err(Errno::INVAL),
    }
}
