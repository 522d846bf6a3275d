//! Lays a call out in registers, on the stack and in scratch memory (System V ABI for x86-64, 3.2.3).

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_core::{Error, Result};

use super::argument::{Passed, Word};
use crate::{
    cpu::{Floats, FunctionCall},
    space::{PAGE, Protection, Space},
};

const INTEGER_REGISTERS: usize = 6;
const FLOAT_REGISTERS: usize = 8;
/// Copies start at multiples of this, as `malloc`'s do.
const ALIGNMENT: u64 = 16;

/// Memory of the program that calls are laid out in. It grows and stays.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scratch {
    at: u64,
    len: u64,
}

/// A buffer to copy back.
struct Back<'a> {
    at: u64,
    to: &'a mut [u8],
}

/// A call that was laid out.
pub(crate) struct Placed<'a> {
    pub(crate) call: FunctionCall,
    back: Vec<Back<'a>>,
}

impl Scratch {
    /// Lays out a call of `function` with the stack growing down from `stack`. Mappings go below
    /// `top`.
    ///
    /// # Errors
    /// `BadConfig` if the arguments do not fit the program's memory, are too many, or are text with
    /// a NUL in it.
    pub(crate) fn place<'a>(
        &mut self,
        space: &mut Space,
        passed: Passed<'a>,
        function: u64,
        (stack, top): (u64, u64),
    ) -> Result<Placed<'a>> {
        let words = passed.0;
        if words.is_empty() {
            let call = FunctionCall { function, rsp: stack & !0xf, integers: [0; 6], floats: None };
            return Ok(Placed { call, back: Vec::new() });
        }
        let floats = words.iter().filter(|word| matches!(word, Word::Float(_))).count();
        if floats > FLOAT_REGISTERS {
            return Err(Error::bad_config(format!("{floats} floating-point arguments, at most 8")));
        }
        let float_area = if floats > 0 { 8 * FLOAT_REGISTERS as u64 } else { 0 };
        let copies: u64 = words.iter().map(Word::copied).sum();
        self.grow(space, float_area + copies, top)?;

        let (mut integers, mut numbers, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = self.at + float_area;
        for word in words {
            let (place, copied) = (at, word.copied());
            at += copied;
            match word {
                Word::Float(bits) => numbers.push(bits),
                Word::Integer(value) => integers.push(value),
                Word::Slice(bytes) => {
                    copy(space, place, bytes)?;
                    integers.extend([place, bytes.len() as u64]);
                }
                Word::SliceMut(bytes) => {
                    copy(space, place, bytes)?;
                    integers.extend([place, bytes.len() as u64]);
                    back.push(Back { at: place, to: bytes });
                }
                Word::Text(text) => {
                    copy(space, place, &c_string(text)?)?;
                    integers.push(place);
                }
            }
        }
        let (integers, rsp) = distribute(space, stack, &integers)?;
        let floats = match numbers.len() as u64 {
            0 => None,
            count => {
                numbers.resize(FLOAT_REGISTERS, 0);
                space.write_words(self.at, &numbers).map_err(lost)?;
                Some(Floats { at: self.at, count })
            }
        };
        Ok(Placed { call: FunctionCall { function, rsp, integers, floats }, back })
    }

    /// Makes it at least so large.
    fn grow(&mut self, space: &mut Space, len: u64, top: u64) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        let len = len.checked_next_power_of_two().unwrap_or(u64::MAX).max(PAGE);
        let no_room = |_: Errno| {
            Error::bad_config(format!("the memory limit leaves no {len:#x} bytes for arguments"))
        };
        if self.len > 0 {
            space.unmap(self.at, self.len).map_err(lost)?;
            *self = Self::default();
        }
        let at = space.find(len, top).ok_or(Errno::NOMEM).map_err(no_room)?;
        space.map(at, len, Protection::READ_WRITE).map_err(no_room)?;
        *self = Self { at, len };
        Ok(())
    }
}

impl Placed<'_> {
    /// Copies buffers back that the function may have written.
    #[inline]
    pub(crate) fn copy_back(self, space: &Space) -> Result<()> {
        self.back.into_iter().try_for_each(|back| space.read(back.at, back.to).map_err(lost))
    }
}

impl Word<'_> {
    /// The scratch memory it takes.
    fn copied(&self) -> u64 {
        let len = match self {
            Self::Float(_) | Self::Integer(_) => 0,
            Self::Slice(bytes) => bytes.len(),
            Self::SliceMut(bytes) => bytes.len(),
            Self::Text(text) => text.len() + 1,
        };
        (len as u64).next_multiple_of(ALIGNMENT)
    }
}

/// What goes in registers, and RSP with the rest on the stack.
fn distribute(space: &Space, stack: u64, integers: &[u64]) -> Result<([u64; 6], u64)> {
    let (in_registers, on_stack) = integers.split_at(integers.len().min(INTEGER_REGISTERS));
    let rsp = stack.saturating_sub(8 * on_stack.len() as u64) & !0xf;
    space.write_words(rsp, on_stack).map_err(|_| {
        Error::bad_config(format!("the program's stack has no room for arguments at {rsp:#x}"))
    })?;
    let mut next = in_registers.iter().copied();
    Ok((std::array::from_fn(|_| next.next().unwrap_or(0)), rsp))
}

fn c_string(text: &str) -> Result<Vec<u8>> {
    match text.find('\0') {
        Some(at) => Err(Error::bad_config(format!("text argument: NUL at byte {at}"))),
        None => Ok([text.as_bytes(), b"\0"].concat()),
    }
}

fn copy(space: &Space, at: u64, bytes: &[u8]) -> Result<()> {
    space.write(at, bytes).map_err(lost)
}

/// A program may unmap what is lent to it.
fn lost(errno: Errno) -> Error {
    Error::guest_memory(format!("the program's memory for arguments is gone: {errno}"))
}
