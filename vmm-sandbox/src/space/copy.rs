//! Checked copies between the host and a program.
//!
//! Everything a program hands over by address goes through here: an address that is not its own, or
//! not writable where it must be, is `EFAULT`, as from a kernel.

use std::{fs::File, ops::Range};

use rustix::io::Errno;
use vmm_core::Error;

use super::Space;

/// What the program itself may do where the host copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Mapped,
    Read,
    Write,
}

impl Space {
    /// Fills `data` from the program's memory.
    pub(crate) fn read(&self, at: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.pieces(at, data.len(), Need::Read, |place, range| {
            if let Some(part) = data.get_mut(range) {
                self.ram.read(place, part);
            }
        })
    }

    /// Whether the program has all of the range to read, before anything is allocated for it.
    pub(crate) fn check_readable(&self, at: u64, len: u64) -> Result<(), Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::FAULT)?;
        self.pieces(at, len, Need::Read, |_, _| {})
    }

    /// Copies `data` to the program's memory.
    pub(crate) fn write(&self, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.put(at, data, Need::Write)
    }

    /// Copies `data` to memory that the program itself may not be allowed to write: how it is
    /// loaded.
    pub(crate) fn load(&self, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.put(at, data, Need::Mapped)
    }

    /// The same with `len` bytes from `from` on of a regular file.
    ///
    /// # Errors
    /// `Host` if the file cannot be read; `GuestMemory` if not all of the range is mapped.
    pub(crate) fn load_file(&self, at: u64, len: u64, file: &File, from: u64) -> Result<(), Error> {
        let mut copied = Ok(());
        let mapped = self.pieces(at, len as usize, Need::Mapped, |place, range| {
            if copied.is_ok() {
                let (offset, len) = (from + range.start as u64, range.len() as u64);
                copied = self.ram.copy_file(place, len, file, offset);
            }
        });
        copied?;
        mapped.map_err(|errno| Error::guest_memory(format!("loading to {at:#x}: {errno}")))
    }

    fn put(&self, at: u64, data: &[u8], need: Need) -> Result<(), Errno> {
        self.pieces(at, data.len(), need, |place, range| {
            if let Some(part) = data.get(range) {
                self.ram.write(place, part);
            }
        })
    }

    /// Reads words.
    pub(crate) fn read_words<const N: usize>(&self, at: u64) -> Result<[u64; N], Errno> {
        let mut words = [[0; 8]; N];
        self.read(at, words.as_flattened_mut())?;
        Ok(words.map(u64::from_le_bytes))
    }

    /// Writes words.
    pub(crate) fn write_words(&self, at: u64, words: &[u64]) -> Result<(), Errno> {
        const AT_ONCE: usize = 8;
        for (n, words) in (0..).zip(words.chunks(AT_ONCE)) {
            let mut bytes = [[0; 8]; AT_ONCE];
            bytes.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
            let at = at.checked_add(8 * AT_ONCE as u64 * n).ok_or(Errno::FAULT)?;
            self.write(at, bytes.get(..words.len()).unwrap_or_default().as_flattened())?;
        }
        Ok(())
    }

    /// Reads `len` bytes. Who takes `len` from the program bounds it first.
    pub(crate) fn read_bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; len];
        self.read(at, &mut data)?;
        Ok(data)
    }

    /// Reads up to the NUL, which is not part of the result; `NAMETOOLONG` if there is none within
    /// `most` bytes.
    pub(crate) fn read_string(&self, at: u64, most: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut buffer = [0; 256];
        while text.len() < most {
            let at = at.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            let len = buffer.len().min(most - text.len());
            let buffer = buffer.get_mut(..len).unwrap_or_default();
            match self.read_name(at, buffer) {
                Ok(last) => {
                    text.extend_from_slice(last);
                    return Ok(text);
                }
                Err(Errno::NAMETOOLONG) => text.extend_from_slice(buffer),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    /// As [`read_string`](Self::read_string), of at most as many bytes as the buffer has, which is
    /// full if it is too long.
    pub(crate) fn read_name<'a>(&self, at: u64, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        // Most names are short.
        const CHUNK: u64 = 64;
        let mut done = 0;
        while done < buffer.len() {
            // Not across a page: the string may end right before one that is not there.
            let at = at.checked_add(done as u64).ok_or(Errno::FAULT)?;
            let len = (CHUNK - at % CHUNK).min((buffer.len() - done) as u64) as usize;
            let chunk = buffer.get_mut(done..done + len).unwrap_or_default();
            self.read(at, chunk)?;
            if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
                return Ok(buffer.get(..done + end).unwrap_or_default());
            }
            done += len;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Calls `each` with the physical pieces of the range and where they are in it.
    fn pieces(
        &self,
        at: u64,
        len: usize,
        need: Need,
        mut each: impl FnMut(u64, Range<usize>),
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < len {
            let at = at.checked_add(done as u64).ok_or(Errno::FAULT)?;
            let (offset, area) = self.area(at).ok_or(Errno::FAULT)?;
            let allowed = match need {
                Need::Mapped => true,
                Need::Read => area.protection.any(),
                Need::Write => area.protection.write,
            };
            let frames = area.frames.filter(|_| allowed).ok_or(Errno::FAULT)?;
            let part = usize::try_from(area.len - offset).unwrap_or(usize::MAX).min(len - done);
            each(frames + offset, done..done + part);
            done += part;
        }
        Ok(())
    }
}
