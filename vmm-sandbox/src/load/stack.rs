//! What a program finds on its stack when it starts (System V ABI for x86-64, 3.4.1).

use vmm_core::{Error, Result};

use super::Program;
use crate::space::{PAGE, Space};

/// What a program is started with.
pub(crate) struct Start<'a> {
    pub(crate) arguments: &'a [Vec<u8>],
    /// As NAME=VALUE.
    pub(crate) environment: &'a [Vec<u8>],
    /// What the program was called as: the path it finds itself by.
    pub(crate) path: &'a [u8],
    pub(crate) stack_size: u64,
    /// Sixteen random bytes of its own.
    pub(crate) random: [u8; 16],
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// CPUID function 1, EDX.
    pub(crate) hardware: u32,
}

/// Types of the auxiliary vector (Linux' `include/uapi/linux/auxvec.h`).
mod auxiliary {
    pub(super) const END: u64 = 0;
    pub(super) const PROGRAM_HEADERS: u64 = 3;
    pub(super) const PROGRAM_HEADER_SIZE: u64 = 4;
    pub(super) const PROGRAM_HEADER_COUNT: u64 = 5;
    pub(super) const PAGE_SIZE: u64 = 6;
    pub(super) const ENTRY: u64 = 9;
    pub(super) const UID: u64 = 11;
    pub(super) const EUID: u64 = 12;
    pub(super) const GID: u64 = 13;
    pub(super) const EGID: u64 = 14;
    pub(super) const PLATFORM: u64 = 15;
    pub(super) const HARDWARE: u64 = 16;
    pub(super) const CLOCK_TICKS: u64 = 17;
    pub(super) const SECURE: u64 = 23;
    pub(super) const RANDOM: u64 = 25;
    pub(super) const PATH: u64 = 31;
}

/// Of the stack, what arguments and environment may take: a quarter, as on Linux.
const SHARE: u64 = 4;

/// Writes it below `top`; gives RSP.
pub(super) fn write(space: &Space, program: &Program, start: &Start<'_>, top: u64) -> Result<u64> {
    let mut strings = Strings { end: top, bytes: Vec::new() };
    let path = strings.add(start.path)?;
    let platform = strings.add(b"x86_64")?;
    let arguments = strings.add_all(start.arguments)?;
    let environment = strings.add_all(start.environment)?;
    let random = strings.put(&start.random);

    use auxiliary as a;
    let headers = program.headers;
    let (uid, gid) = (u64::from(start.uid), u64::from(start.gid));
    let vector = [
        [a::PROGRAM_HEADERS, headers.at],
        [a::PROGRAM_HEADER_SIZE, headers.size],
        [a::PROGRAM_HEADER_COUNT, headers.count],
        [a::PAGE_SIZE, PAGE],
        [a::ENTRY, program.entry],
        [a::UID, uid],
        [a::EUID, uid],
        [a::GID, gid],
        [a::EGID, gid],
        [a::PLATFORM, platform],
        [a::HARDWARE, u64::from(start.hardware)],
        [a::CLOCK_TICKS, 100],
        [a::SECURE, 0],
        [a::RANDOM, random],
        [a::PATH, path],
        [a::END, 0],
    ];
    let mut words = vec![arguments.len() as u64];
    words.extend(arguments.into_iter().chain([0]));
    words.extend(environment.into_iter().chain([0]));
    words.extend(vector.into_iter().flatten());

    let used = strings.bytes.len() as u64 + 8 * words.len() as u64;
    if used > start.stack_size / SHARE {
        let most = start.stack_size / SHARE;
        return Err(Error::bad_config(format!(
            "arguments and environment of {used} bytes: with this stack at most {most}"
        )));
    }
    let rsp = (top - used) & !0xf;
    let written =
        space.write(strings.end, &strings.bytes).and_then(|()| space.write_words(rsp, &words));
    written.map_err(|errno| Error::internal(format!("writing the stack: {errno}")))?;
    Ok(rsp)
}

/// Bytes that grow down from the top of the stack.
struct Strings {
    end: u64,
    bytes: Vec<u8>,
}

impl Strings {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.end -= bytes.len() as u64;
        self.bytes.splice(0..0, bytes.iter().copied());
        self.end
    }

    fn add(&mut self, text: &[u8]) -> Result<u64> {
        if let Some(at) = text.iter().position(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(text);
            return Err(Error::bad_config(format!("{text:?}: NUL at byte {at}")));
        }
        Ok(self.put(&[text, b"\0"].concat()))
    }

    fn add_all(&mut self, texts: &[Vec<u8>]) -> Result<Vec<u64>> {
        texts.iter().map(|text| self.add(text)).collect()
    }
}
