//! Calls of the host's functions.

use core::marker::PhantomData;

use crate::{
    error::Error,
    system::{self, NAME},
};

/// What passes between a program and a function of its host: `struct vmm_value`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Value<'a> {
    kind: u64,
    word: u64,
    length: u64,
    bytes: PhantomData<&'a [u8]>,
}

const NOTHING: u64 = 0;
const INTEGER: u64 = 1;
const FLOAT: u64 = 2;
const BYTES: u64 = 3;

impl<'a> Value<'a> {
    const fn new(kind: u64, word: u64, length: usize) -> Self {
        Self { kind, word, length: length as u64, bytes: PhantomData }
    }

    fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(BYTES, bytes.as_ptr() as u64, bytes.len())
    }
}

/// A type of the arguments of host functions: integers, `bool`, `f32` and `f64`, `&str`, `&[u8]`.
pub trait Argument<'a> {
    /// As the host reads it.
    fn value(self) -> Value<'a>;
}

/// A type of the results of host functions: `()`, whatever there is; integers, `bool`, `f64`. Bytes
/// and text come by [`call_into`].
pub trait Answer: Sized {
    /// Takes it; none if it is of another kind or out of range.
    fn from_value(value: &Value<'_>) -> Option<Self>;
}

macro_rules! integers {
    ($($name:ident)*) => {$(
        impl<'a> Argument<'a> for $name {
            fn value(self) -> Value<'a> {
                Value::new(INTEGER, i64::from(self) as u64, 0)
            }
        }

        impl Answer for $name {
            fn from_value(value: &Value<'_>) -> Option<Self> {
                let integer = value.word.cast_signed();
                if value.kind == INTEGER { integer.try_into().ok() } else { None }
            }
        }
    )*};
}

integers! { i8 u8 i16 u16 i32 u32 i64 }

/// As their 64 bits, on both ways.
macro_rules! words {
    ($($name:ident)*) => {$(
        impl<'a> Argument<'a> for $name {
            fn value(self) -> Value<'a> {
                Value::new(INTEGER, self as u64, 0)
            }
        }

        impl Answer for $name {
            fn from_value(value: &Value<'_>) -> Option<Self> {
                (value.kind == INTEGER).then_some(value.word as $name)
            }
        }
    )*};
}

words! { isize u64 usize }

impl<'a> Argument<'a> for bool {
    fn value(self) -> Value<'a> {
        Value::new(INTEGER, u64::from(self), 0)
    }
}

impl Answer for bool {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        (value.kind == INTEGER).then_some(value.word != 0)
    }
}

impl<'a> Argument<'a> for f64 {
    fn value(self) -> Value<'a> {
        Value::new(FLOAT, self.to_bits(), 0)
    }
}

impl<'a> Argument<'a> for f32 {
    fn value(self) -> Value<'a> {
        f64::from(self).value()
    }
}

impl Answer for f64 {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        (value.kind == FLOAT).then_some(Self::from_bits(value.word))
    }
}

impl<'a> Argument<'a> for &'a str {
    fn value(self) -> Value<'a> {
        Value::bytes(self.as_bytes())
    }
}

impl<'a> Argument<'a> for &'a [u8] {
    fn value(self) -> Value<'a> {
        Value::bytes(self)
    }
}

impl Answer for () {
    fn from_value(_: &Value<'_>) -> Option<Self> {
        Some(())
    }
}

/// All arguments of a call: a tuple of up to six, `()` for none.
pub trait Arguments<'a> {
    /// As the host reads them.
    fn values(self) -> impl AsRef<[Value<'a>]>;
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<'a, $($name: Argument<'a>),*> Arguments<'a> for ($($name,)*) {
            #[allow(non_snake_case, reason = "a variable for each type")]
            fn values(self) -> impl AsRef<[Value<'a>]> {
                let ($($name,)*) = self;
                [$($name.value()),*]
            }
        }
    )*};
}

tuples! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) }

/// Calls a function of the host (`host_fn` of `vmm-sandbox`) by its name.
///
/// ```no_run
/// let sum: f64 = vmm_guest::call("sum", (3_i64, 0.5))?;
/// vmm_guest::call::<()>("log", ("the sum is there",))?;
/// # Ok::<(), vmm_guest::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFound`], [`Error::Arguments`], [`Error::Result`]; [`Error::NoSandbox`] outside of
/// one.
pub fn call<'a, R: Answer>(name: &str, arguments: impl Arguments<'a>) -> Result<R, Error> {
    let mut result = Value::new(NOTHING, 0, 0);
    ask(name, arguments.values().as_ref(), &mut result)?;
    R::from_value(&result).ok_or(Error::Result)
}

/// Calls a function of the host whose result is bytes or text, and puts them into a buffer.
///
/// ```no_run
/// let mut buffer = [0; 256];
/// let value = vmm_guest::call_into("lookup", ("key",), &mut buffer)?;
/// let value = core::str::from_utf8(value).unwrap_or_default();
/// # Ok::<(), vmm_guest::Error>(())
/// ```
///
/// # Errors
/// As of [`call`]; [`Error::Cut`] if the buffer is too small.
pub fn call_into<'a, 'b>(
    name: &str,
    arguments: impl Arguments<'a>,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Error> {
    // The host writes there, which a pointer of a shared slice must not be used for.
    let mut result = Value::new(BYTES, buffer.as_mut_ptr() as u64, buffer.len());
    ask(name, arguments.values().as_ref(), &mut result)?;
    if result.kind != BYTES {
        return Err(Error::Result);
    }
    let length = usize::try_from(result.length).unwrap_or(usize::MAX);
    buffer.get(..length).ok_or(Error::Cut(length))
}

/// Makes the call. `result` comes with a buffer of whose whole length the host may write, or none.
fn ask(name: &str, arguments: &[Value<'_>], result: &mut Value<'_>) -> Result<(), Error> {
    let mut text = [0; NAME];
    let room = text.get_mut(..name.len()).filter(|room| room.len() < NAME);
    room.filter(|_| !name.contains('\0')).ok_or(Error::NotFound)?.copy_from_slice(name.as_bytes());
    match Error::of(system::call_host(&text, arguments, result)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
