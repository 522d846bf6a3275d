//! What passes between the caller and functions of a sandbox.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    fmt,
};

use vmm_core::{Error, Result};
use vmm_sandbox::{Argument, Arguments, Passed, Sandbox, Value};

use crate::{guard::silent, pass};

/// What a vmm_value is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum vmm_kind {
    /// Nothing: C's void.
    Nothing = 0,
    /// `integer`: integers and pointers of 64 bits.
    Int64 = 1,
    /// `number`: double.
    Double = 2,
    /// `data` and `size`. As an argument two: `const void *` and `size_t`, of a copy.
    Bytes = 3,
    /// `integer`: bool.
    Bool = 4,
    /// `integer`: integers of 32 bits, of either sign.
    Int32 = 5,
    /// `number`: float.
    Float = 6,
    /// `data`, text that ends in NUL. As an argument `const char *`, of a copy.
    Text = 7,
    /// `data` and `size`. Only as an argument: two, `void *` and `size_t`, of a copy that is copied
    /// back to `data` when the function has returned.
    Buffer = 8,
}

/// One argument or result. vmm_int64 and its like make one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmm_value {
    /// One of vmm_kind.
    pub kind: i32,
    /// Of VMM_KIND_INT64, VMM_KIND_INT32, VMM_KIND_BOOL.
    pub integer: i64,
    /// Of VMM_KIND_DOUBLE, VMM_KIND_FLOAT.
    pub number: f64,
    /// Of VMM_KIND_BYTES, VMM_KIND_TEXT, VMM_KIND_BUFFER.
    pub data: *mut c_void,
    /// Bytes at `data`.
    pub size: usize,
}

impl vmm_value {
    pub(crate) const NOTHING: Self = Self {
        kind: vmm_kind::Nothing as i32,
        integer: 0,
        number: 0.0,
        data: std::ptr::null_mut(),
        size: 0,
    };

    fn of(kind: vmm_kind) -> Self {
        Self { kind: kind as i32, ..Self::NOTHING }
    }

    /// What a program passes to a function of the host; the bytes stay where they are.
    pub(crate) fn seen(value: &Value) -> Self {
        match value {
            Value::Integer(integer) => vmm_int64(*integer),
            Value::Float(number) => vmm_double(*number),
            Value::Bytes(bytes) => vmm_bytes(bytes.as_ptr().cast(), bytes.len()),
            _ => Self::NOTHING,
        }
    }
}

/// The kind of that number.
fn kind(number: i32) -> Option<vmm_kind> {
    use vmm_kind::*;
    const KINDS: [vmm_kind; 9] = [Nothing, Int64, Double, Bytes, Bool, Int32, Float, Text, Buffer];
    KINDS.get(usize::try_from(number).ok()?).copied()
}

/// What an argument is called in an error.
struct Nth(usize);

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "argument {}", self.0)
    }
}

/// Arguments, checked.
pub(crate) struct Given<'a> {
    values: &'a [vmm_value],
    /// What is passed for buffers is a copy: nobody but C knows who else uses the place.
    buffers: Vec<Vec<u8>>,
}

enum Word<'a> {
    Buffer(&'a [u8]),
    Bytes(&'a [u8]),
    Double(f64),
    Float(f32),
    Integer(i64),
    Text(&'a str),
}

impl Given<'_> {
    /// Takes `count` arguments.
    ///
    /// # Safety
    /// `arguments` is NULL or has as many, and what they point to lives as long as this does.
    pub(crate) unsafe fn new(arguments: *const vmm_value, count: usize) -> Result<Self> {
        // SAFETY: the caller's promise.
        let values = unsafe { pass::array(arguments, count, "arguments")? };
        let mut buffers = Vec::new();
        for (n, value) in values.iter().enumerate() {
            // SAFETY: as above.
            if let Word::Buffer(bytes) = unsafe { Word::new(value, Nth(n))? } {
                buffers.push(bytes.to_vec());
            }
        }
        Ok(Self { values, buffers })
    }

    /// Copies buffers back.
    ///
    /// # Safety
    /// They can be written to.
    pub(crate) unsafe fn copy_back(&self) {
        let places = self.values.iter().filter(|value| value.kind == vmm_kind::Buffer as i32);
        for (value, bytes) in places.zip(&self.buffers) {
            let len = bytes.len().min(value.size);
            // SAFETY: the caller's promise; the size is the one that was given.
            unsafe { value.data.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), len) };
        }
    }
}

impl Word<'_> {
    /// # Safety
    /// As for [`Given::new`].
    unsafe fn new(value: &vmm_value, what: Nth) -> Result<Self> {
        let data = value.data.cast::<u8>();
        // SAFETY: the caller's promise.
        unsafe {
            Ok(match kind(value.kind) {
                Some(vmm_kind::Int64 | vmm_kind::Int32) => Word::Integer(value.integer),
                Some(vmm_kind::Bool) => Word::Integer((value.integer != 0).into()),
                Some(vmm_kind::Double) => Word::Double(value.number),
                Some(vmm_kind::Float) => Word::Float(value.number as f32),
                Some(vmm_kind::Text) => Word::Text(pass::text(data.cast::<c_char>(), what)?),
                Some(vmm_kind::Bytes) => Word::Bytes(pass::bytes(data, value.size, what)?),
                Some(vmm_kind::Buffer) => Word::Buffer(pass::bytes(data, value.size, what)?),
                Some(vmm_kind::Nothing) | None => {
                    let number = value.kind;
                    return Err(Error::bad_config(format!("{what} is of kind {number}")));
                }
            })
        }
    }
}

impl<'a> Arguments<'a> for &'a mut Given<'_> {
    fn pass_all(self, to: &mut Passed<'a>) {
        let mut buffers = self.buffers.iter_mut();
        for (n, value) in self.values.iter().enumerate() {
            // SAFETY: the promise of `new`, which has looked at all of them.
            match unsafe { Word::new(value, Nth(n)) } {
                Ok(Word::Buffer(_)) => {
                    if let Some(bytes) = buffers.next() {
                        bytes.as_mut_slice().pass(to);
                    }
                }
                Ok(Word::Bytes(bytes)) => bytes.pass(to),
                Ok(Word::Double(number)) => number.pass(to),
                Ok(Word::Float(number)) => number.pass(to),
                Ok(Word::Integer(integer)) => integer.pass(to),
                Ok(Word::Text(text)) => text.pass(to),
                // Nothing was wrong a moment ago: another thread of C's writes to its arguments.
                Err(_) => 0_i64.pass(to),
            }
        }
    }
}

/// Makes the call, and gives the result as it is wanted.
///
/// # Safety
/// As [`pass::bytes_mut`] for the place of text.
pub(crate) unsafe fn call(
    sandbox: &mut Sandbox,
    name: &str,
    given: &mut Given<'_>,
    wanted: vmm_value,
) -> Result<vmm_value> {
    Ok(match kind(wanted.kind) {
        Some(vmm_kind::Nothing) => {
            sandbox.call::<()>(name, given)?;
            wanted
        }
        Some(vmm_kind::Int64) => vmm_value { integer: sandbox.call(name, given)?, ..wanted },
        Some(vmm_kind::Int32) => {
            let integer = sandbox.call::<i32>(name, given)?.into();
            vmm_value { integer, ..wanted }
        }
        Some(vmm_kind::Bool) => {
            let integer = sandbox.call::<bool>(name, given)?.into();
            vmm_value { integer, ..wanted }
        }
        Some(vmm_kind::Double) => vmm_value { number: sandbox.call(name, given)?, ..wanted },
        Some(vmm_kind::Float) => {
            let number = sandbox.call::<f32>(name, given)?.into();
            vmm_value { number, ..wanted }
        }
        Some(vmm_kind::Text) => {
            let text = sandbox.call::<Vec<u8>>(name, given)?;
            // SAFETY: the caller's promise.
            let size = unsafe { pass::give_text(&text, wanted.data.cast(), wanted.size) };
            vmm_value { size, ..wanted }
        }
        Some(vmm_kind::Bytes | vmm_kind::Buffer) | None => {
            return Err(Error::bad_config(format!("a result of kind {}", wanted.kind)));
        }
    })
}

/// A value of VMM_KIND_INT64.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_int64(integer: i64) -> vmm_value {
    vmm_value { integer, ..vmm_value::of(vmm_kind::Int64) }
}

/// A value of VMM_KIND_INT32.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_int32(integer: i32) -> vmm_value {
    vmm_value { integer: integer.into(), ..vmm_value::of(vmm_kind::Int32) }
}

/// A value of VMM_KIND_BOOL.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_bool(is: bool) -> vmm_value {
    vmm_value { integer: is.into(), ..vmm_value::of(vmm_kind::Bool) }
}

/// A value of VMM_KIND_DOUBLE.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_double(number: f64) -> vmm_value {
    vmm_value { number, ..vmm_value::of(vmm_kind::Double) }
}

/// A value of VMM_KIND_FLOAT.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_float(number: f32) -> vmm_value {
    vmm_value { number: number.into(), ..vmm_value::of(vmm_kind::Float) }
}

/// A value of VMM_KIND_TEXT, which stays where it is.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_text(text: *const c_char) -> vmm_value {
    vmm_value { data: text.cast_mut().cast(), ..vmm_value::of(vmm_kind::Text) }
}

/// A value of VMM_KIND_BYTES, which stay where they are.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_bytes(data: *const c_void, size: usize) -> vmm_value {
    vmm_value { data: data.cast_mut(), size, ..vmm_value::of(vmm_kind::Bytes) }
}

/// A value of VMM_KIND_BUFFER.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_buffer(data: *mut c_void, size: usize) -> vmm_value {
    vmm_value { data, size, ..vmm_value::of(vmm_kind::Buffer) }
}

/// What a function of the host gives; nothing unless it is said.
pub struct vmm_result(pub(crate) Value);

/// The function gives this integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_result_int64(result: *mut vmm_result, integer: i64) {
    // SAFETY: the header's rules.
    unsafe { set(result, Value::Integer(integer)) };
}

/// The function gives this number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_result_double(result: *mut vmm_result, number: f64) {
    // SAFETY: the header's rules.
    unsafe { set(result, Value::Float(number)) };
}

/// The function gives a copy of these bytes, or of a text without its NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_result_bytes(
    result: *mut vmm_result,
    data: *const c_void,
    size: usize,
) {
    // SAFETY: the header's rules.
    unsafe {
        if let Ok(bytes) = pass::bytes(data.cast(), size, "result") {
            set(result, Value::Bytes(bytes.to_vec()));
        }
    }
}

/// # Safety
/// `result` is NULL, or the one that the function was called with.
unsafe fn set(result: *mut vmm_result, value: Value) {
    // SAFETY: the caller's promise; it is this thread's alone while the function runs.
    let result = unsafe { result.as_mut() };
    silent(|| {
        if let Some(result) = result {
            result.0 = value;
        }
    });
}
