//! Functions of the host that a program may call (`vmm_call` of `vmm_guest.h`).

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rustix::io::Errno;

use super::value::{FromValue, IntoValue, Value};
use crate::{cpu::SystemCall, space::Space};

/// A closure that a program can call: it takes what [`FromValue`] can take and gives what
/// [`IntoValue`] can give. Arguments are copies; it may have up to six.
///
/// The sandbox's forks call the same closure, perhaps on other threads at the same time: what it
/// changes lies behind a lock of its own, or an atomic.
pub trait HostFunction<A>: Send + Sync + 'static {
    /// Calls it; `None` if the arguments are not those it takes.
    fn call(&self, arguments: Vec<Value>) -> Option<Value>;
}

macro_rules! functions {
    ($(($($name:ident)*))*) => {$(
        impl<Function, Result, $($name: FromValue),*> HostFunction<($($name,)*)> for Function
        where
            // The first tells the compiler which types they are, the second how they are passed: a
            // `&str` of one closure is one for any lifetime.
            Function: Fn($($name),*) -> Result,
            Function: for<'a> Fn($($name::Of<'a>),*) -> Result + Send + Sync + 'static,
            Result: IntoValue,
        {
            #[allow(non_snake_case, reason = "a variable for each type")]
            fn call(&self, mut arguments: Vec<Value>) -> Option<Value> {
                let mut arguments = arguments.iter_mut();
                $(let $name = $name::from_value(arguments.next()?)?;)*
                if arguments.next().is_some() {
                    return None;
                }
                Some(self($($name),*).into_value())
            }
        }
    )*};
}

functions! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) }

type Closure = Arc<dyn Fn(Vec<Value>) -> Option<Value> + Send + Sync>;

/// The functions of a sandbox, by name; forks share the closures.
#[derive(Clone, Default)]
pub(crate) struct HostFunctions(BTreeMap<Vec<u8>, Closure>);

/// A host function that panicked: its name, and what it said.
pub(crate) struct Panicked(pub(crate) String, pub(crate) String);

/// The most bytes of a function's name, and the most arguments.
const NAME_MAX: usize = 256;
const ARGUMENTS_MAX: u64 = 16;

/// A `struct vmm_value`: kind, word, length.
const RECORD: u64 = 24;
/// Its kinds.
const NOTHING: u64 = 0;
const INTEGER: u64 = 1;
const FLOAT: u64 = 2;
const BYTES: u64 = 3;

impl HostFunctions {
    pub(crate) fn add<A>(&mut self, name: String, function: impl HostFunction<A>) {
        let closure = move |arguments| function.call(arguments);
        self.0.insert(name.into_bytes(), Arc::new(closure));
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// Makes the call that a system call asks for; gives RAX.
    pub(crate) fn call(
        &self,
        space: &Space,
        call: &SystemCall,
    ) -> Result<Result<u64, Errno>, Panicked> {
        let [name, arguments, count, result, ..] = call.args;
        let mut buffer = [0; NAME_MAX];
        let prepared = space
            .read_name(name, &mut buffer)
            .and_then(|name| Ok((name, read_arguments(space, arguments, count)?)));
        let (name, arguments) = match prepared {
            Ok(prepared) => prepared,
            Err(errno) => return Ok(Err(errno)),
        };
        let Some(function) = self.0.get(name) else { return Ok(Err(Errno::NOENT)) };
        // What a panic leaves half-done is the closure's own; this program does not call it again.
        let value = catch_unwind(AssertUnwindSafe(|| function(arguments)));
        let value = value.map_err(|payload| {
            Panicked(String::from_utf8_lossy(name).into_owned(), said(&*payload))
        })?;
        Ok(value.ok_or(Errno::INVAL).and_then(|value| write_result(space, result, &value)))
    }
}

fn read_arguments(space: &Space, at: u64, count: u64) -> Result<Vec<Value>, Errno> {
    match count {
        0 => return Ok(Vec::new()),
        1..=ARGUMENTS_MAX => {}
        _ => return Err(Errno::TOOBIG),
    }
    // Several may be the same memory: the copies are no more than there is of it.
    let mut room = space.used();
    let record = |n| at.checked_add(RECORD * n).ok_or(Errno::FAULT);
    (0..count).map(|n| read_value(space, record(n)?, &mut room)).collect()
}

/// Reads a value of at most `room` bytes, which become fewer by it.
fn read_value(space: &Space, at: u64, room: &mut u64) -> Result<Value, Errno> {
    let [kind, word, len] = space.read_words(at)?;
    Ok(match kind {
        NOTHING => Value::Nothing,
        INTEGER => Value::Integer(word as i64),
        FLOAT => Value::Float(f64::from_bits(word)),
        BYTES => {
            // Nothing is allocated for what is not there, or only reserved.
            space.check_readable(word, len)?;
            *room = room.checked_sub(len).ok_or(Errno::TOOBIG)?;
            Value::Bytes(space.read_bytes(word, len as usize)?)
        }
        _ => return Err(Errno::INVAL),
    })
}

/// Fills the result in. For bytes it comes with a buffer and its size, and goes with the whole
/// length, of which as much is in the buffer as fits.
fn write_result(space: &Space, at: u64, value: &Value) -> Result<u64, Errno> {
    if at == 0 {
        return Ok(0);
    }
    let [_, buffer, size] = space.read_words(at)?;
    let words = match value {
        Value::Nothing => [NOTHING, 0, 0],
        Value::Integer(value) => [INTEGER, *value as u64, 0],
        Value::Float(value) => [FLOAT, value.to_bits(), 0],
        Value::Bytes(bytes) => {
            let fits = bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
            space.write(buffer, bytes.get(..fits).unwrap_or(&[]))?;
            [BYTES, buffer, bytes.len() as u64]
        }
    };
    space.write_words(at, &words)?;
    Ok(0)
}

/// What a panic said.
fn said(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl fmt::Debug for HostFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.keys().map(|name| String::from_utf8_lossy(name));
        f.debug_list().entries(names).finish()
    }
}
