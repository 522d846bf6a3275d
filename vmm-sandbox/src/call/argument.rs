//! What a function of a program takes and gives, as Rust types.

use rustix::io::Errno;
use vmm_core::{Error, Result};

use crate::{cpu::Returned, space::Space};

/// The arguments of one call, as the C function sees them.
#[derive(Debug, Default)]
pub struct Passed<'a>(pub(super) Vec<Word<'a>>);

#[derive(Debug)]
pub(super) enum Word<'a> {
    Float(u64),
    Integer(u64),
    /// A pointer and a length; copied in.
    Slice(&'a [u8]),
    /// A pointer and a length; copied in, and back when the function has returned.
    SliceMut(&'a mut [u8]),
    /// A pointer to a string with a NUL at its end.
    Text(&'a str),
}

/// One argument of a function of a program.
///
/// | Rust | C |
/// |---|---|
/// | integers, `bool` | the integer of that width |
/// | `f64` | `double` |
/// | `f32` | `float` |
/// | `&str` | `const char *`, a copy that ends in NUL |
/// | `&[u8]` | two: `const void *`, `size_t` |
/// | `&mut [u8]` | two: `void *`, `size_t`; copied back after the call |
///
/// Copies are the function's while it runs; it must not keep their addresses.
pub trait Argument<'a> {
    /// Adds it.
    fn pass(self, to: &mut Passed<'a>);
}

macro_rules! integers {
    ($($signed:ident $unsigned:ident)*) => {$(
        impl Argument<'_> for $signed {
            fn pass(self, to: &mut Passed<'_>) {
                to.0.push(Word::Integer(i64::from(self) as u64));
            }
        }

        impl Argument<'_> for $unsigned {
            fn pass(self, to: &mut Passed<'_>) {
                to.0.push(Word::Integer(u64::from(self)));
            }
        }

        impl Return for $signed {
            fn from_returned(returned: &Returning<'_>) -> Result<Self> {
                Ok(returned.registers.integer as $signed)
            }
        }

        impl Return for $unsigned {
            fn from_returned(returned: &Returning<'_>) -> Result<Self> {
                Ok(returned.registers.integer as $unsigned)
            }
        }
    )*};
}

integers! { i8 u8 i16 u16 i32 u32 i64 u64 }

impl Argument<'_> for bool {
    fn pass(self, to: &mut Passed<'_>) {
        to.0.push(Word::Integer(u64::from(self)));
    }
}

impl Argument<'_> for f64 {
    fn pass(self, to: &mut Passed<'_>) {
        to.0.push(Word::Float(self.to_bits()));
    }
}

impl Argument<'_> for f32 {
    fn pass(self, to: &mut Passed<'_>) {
        to.0.push(Word::Float(u64::from(self.to_bits())));
    }
}

impl<'a> Argument<'a> for &'a str {
    fn pass(self, to: &mut Passed<'a>) {
        to.0.push(Word::Text(self));
    }
}

impl<'a> Argument<'a> for &'a [u8] {
    fn pass(self, to: &mut Passed<'a>) {
        to.0.push(Word::Slice(self));
    }
}

impl<'a> Argument<'a> for &'a mut [u8] {
    fn pass(self, to: &mut Passed<'a>) {
        to.0.push(Word::SliceMut(self));
    }
}

/// All arguments of a call: a tuple, `()` for none.
pub trait Arguments<'a> {
    /// Adds them in order.
    fn pass_all(self, to: &mut Passed<'a>);
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<'a, $($name: Argument<'a>),*> Arguments<'a> for ($($name,)*) {
            #[allow(non_snake_case, unused_variables, reason = "a variable for each type")]
            fn pass_all(self, to: &mut Passed<'a>) {
                let ($($name,)*) = self;
                $($name.pass(to);)*
            }
        }
    )*};
}

tuples! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

/// What a function has left: registers, and the memory they may point to.
pub struct Returning<'a> {
    pub(crate) registers: Returned,
    pub(crate) space: &'a Space,
    /// No string can be longer.
    pub(crate) memory: u64,
}

/// What a function of a program gives: `()`, integers, `bool`, `f64`, `f32`, and for a `char *`
/// that ends in NUL `String` or `Vec<u8>`, copied.
pub trait Return: Sized {
    /// Takes it.
    ///
    /// # Errors
    /// `GuestMemory` if it points to no string of the program, or to one that is not UTF-8.
    fn from_returned(returned: &Returning<'_>) -> Result<Self>;
}

impl Return for () {
    fn from_returned(_: &Returning<'_>) -> Result<Self> {
        Ok(())
    }
}

impl Return for bool {
    fn from_returned(returned: &Returning<'_>) -> Result<Self> {
        Ok(returned.registers.integer as u8 != 0)
    }
}

impl Return for f64 {
    fn from_returned(returned: &Returning<'_>) -> Result<Self> {
        Ok(Self::from_bits(returned.registers.float))
    }
}

impl Return for f32 {
    fn from_returned(returned: &Returning<'_>) -> Result<Self> {
        Ok(Self::from_bits(returned.registers.float as u32))
    }
}

impl Return for Vec<u8> {
    fn from_returned(returned: &Returning<'_>) -> Result<Self> {
        let at = returned.registers.integer;
        let text = returned.space.read_string(at, returned.memory as usize);
        text.map_err(|errno: Errno| {
            Error::guest_memory(format!("the string returned at {at:#x}: {errno}"))
        })
    }
}

impl Return for String {
    fn from_returned(returned: &Returning<'_>) -> Result<Self> {
        Self::from_utf8(Vec::from_returned(returned)?)
            .map_err(|error| Error::guest_memory(format!("the string returned: {error}")))
    }
}

impl std::fmt::Debug for Returning<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.registers.fmt(f)
    }
}
