//! The names in a directory.

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::process::Process;

pub(super) const CALLS: Calls = &[(libc::SYS_getdents64, getdents)];

/// What one call gives at most.
const MOST: u64 = 64 << 10;

/// Fills a buffer with `struct linux_dirent64` (`getdents64(2)`).
fn getdents(process: &mut Process, call: &mut Call<'_>) -> Answer {
    /// What comes before the name: inode, offset, length, type.
    const HEAD: usize = 19;
    let [fd, to, size, ..] = call.args;
    let size = u64::from(size as u32).min(MOST) as usize;
    let file = process.files.get(fd)?;
    let mut buffer = Vec::new();
    let mut is_short = false;
    file.lock().list(&mut |listed, next| {
        let len = (HEAD + listed.name.len() + 1).next_multiple_of(8);
        if buffer.len() + len > size {
            is_short = true;
            return false;
        }
        let end = buffer.len() + len;
        buffer.extend(listed.inode.to_le_bytes());
        buffer.extend(next.to_le_bytes());
        buffer.extend((len as u16).to_le_bytes());
        // `DT_DIR` and so on are the bits of the mode.
        buffer.push((listed.kind >> 12) as u8);
        buffer.extend(&listed.name);
        buffer.resize(end, 0);
        true
    })?;
    if buffer.is_empty() && is_short {
        return Err(Errno::INVAL);
    }
    process.space.write(to, &buffer)?;
    Ok(buffer.len() as u64)
}
