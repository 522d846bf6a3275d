//! Randomness.

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::process::Process;

pub(super) const CALLS: Calls = &[(libc::SYS_getrandom, getrandom)];

/// One call gives at most this much, as if a signal had come: programs ask again.
const MOST: u64 = 64 << 10;

fn getrandom(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [to, len, flags, ..] = call.args;
    let known = libc::GRND_NONBLOCK | libc::GRND_RANDOM | libc::GRND_INSECURE;
    if flags & !u64::from(known) != 0 {
        return Err(Errno::INVAL);
    }
    let mut data = vec![0; len.min(MOST) as usize];
    fill(&mut data)?;
    process.space.write(to, &data)?;
    Ok(data.len() as u64)
}

/// Fills `data` from the host's generator.
pub(crate) fn fill(data: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
        done += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}
