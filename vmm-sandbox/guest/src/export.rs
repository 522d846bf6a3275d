//! Functions that the host can call.
#![expect(unsafe_code, reason = "what the host passes to them are addresses")]

use core::ffi::{CStr, c_char};

/// Makes functions ones that the host can call by their names (`call` of `vmm-sandbox`). The
/// program can call them too.
///
/// ```no_run
/// vmm_guest::export! {
///     fn add(a: i64, b: i64) -> i64 {
///         a + b
///     }
///
///     /// Reverses bytes in place: the host passes a `&mut [u8]` and finds it reversed.
///     pub fn reverse(bytes: &mut [u8]) {
///         bytes.reverse();
///     }
/// }
/// ```
///
/// | parameter | what the host passes |
/// |---|---|
/// | integers, `bool`, `f32`, `f64` | the same |
/// | `&str`, `&CStr` | `&str`; as a `&str` it has to be UTF-8, or the program panics |
/// | `&[u8]` | `&[u8]` |
/// | `&mut [u8]` | `&mut [u8]`, and gets back what is in it then |
///
/// The result is `()`, an integer, `bool`, `f32` or `f64`; `&'static CStr`, or with an allocator
/// `String`, which the host takes as a `String`. A panic ends the program: the host's call is
/// answered with an error, and the sandbox can only be dropped or reset.
///
/// The names are symbols of the program, as C's functions are: not those of its C library.
#[macro_export]
macro_rules! export {
    ($($(#[$attribute:meta])* $vis:vis fn $name:ident($($parameters:tt)*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$attribute])*
        $vis fn $name($($parameters)*) $(-> $result)? $body

        $crate::__export! { ($name, ($($result)?)) [] [] $($parameters)*, }
    )*};
}

/// Takes the parameters one by one: what they are in C, and how they are made of that.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($function:tt [$($words:tt)*] [$($values:tt)*] $name:ident: &[u8], $($rest:tt)*) => {
        $crate::__export! {
            $function
            [$($words)* $name: *const u8, length: usize,]
            [$($values)* $crate::Kept::slice($name, length),]
            $($rest)*
        }
    };
    ($function:tt [$($words:tt)*] [$($values:tt)*] $name:ident: &mut [u8], $($rest:tt)*) => {
        $crate::__export! {
            $function
            [$($words)* $name: *mut u8, length: usize,]
            [$($values)* $crate::Kept::slice_mut($name, length),]
            $($rest)*
        }
    };
    ($function:tt [$($words:tt)*] [$($values:tt)*] $name:ident: $type:ty, $($rest:tt)*) => {
        $crate::__export! {
            $function
            [$($words)* $name: <$type as $crate::Parameter>::Word,]
            [$($values)* <$type as $crate::Parameter>::from_word($name),]
            $($rest)*
        }
    };
    // A comma behind the last one makes two.
    (($name:ident, ()) $words:tt $values:tt $(,)?) => {
        $crate::__export! { ($name, (())) $words $values }
    };
    (($name:ident, ($result:ty)) [$($word:ident: $type:ty,)*] [$($value:expr,)*] $(,)?) => {
        const _: () = {
            // SAFETY: whoever exports it has chosen the name.
            #[unsafe(export_name = stringify!($name))]
            unsafe extern "C" fn exported($($word: $type),*) -> <$result as $crate::Return>::Word {
                // SAFETY: the host passes what the parameters say, for the time of the call.
                $crate::Return::into_word($name($(unsafe { $value }),*))
            }

            // Nothing in the program calls it; without this the linker would leave it out.
            #[used]
            static KEPT: $crate::Kept = $crate::Kept::new(exported as *const ());
        };
    };
}

/// A function that the linker must not leave out.
#[doc(hidden)]
#[derive(Debug)]
#[repr(transparent)]
pub struct Kept(*const ());

// SAFETY: nobody uses the pointer.
unsafe impl Sync for Kept {}

impl Kept {
    pub const fn new(function: *const ()) -> Self {
        Self(function)
    }

    /// # Safety
    /// Bytes of the caller's, for `'a`; of none the address may be anything.
    pub const unsafe fn slice<'a>(at: *const u8, length: usize) -> &'a [u8] {
        if length == 0 {
            return &[];
        }
        // SAFETY: as the caller promises.
        unsafe { core::slice::from_raw_parts(at, length) }
    }

    /// # Safety
    /// Bytes of the caller's, for `'a`, that nobody else uses; of none the address may be anything.
    pub const unsafe fn slice_mut<'a>(at: *mut u8, length: usize) -> &'a mut [u8] {
        if length == 0 {
            return &mut [];
        }
        // SAFETY: as the caller promises.
        unsafe { core::slice::from_raw_parts_mut(at, length) }
    }
}

/// A type of the parameters of exported functions that is one word in C.
pub trait Parameter {
    /// What it is in C.
    type Word;

    /// Takes it.
    ///
    /// # Safety
    /// An address is that of a text with a NUL at its end, which stays for the lifetime of `Self`.
    unsafe fn from_word(word: Self::Word) -> Self;
}

/// A type of the results of exported functions.
pub trait Return {
    /// What it is in C.
    type Word;

    /// Gives it.
    fn into_word(self) -> Self::Word;
}

macro_rules! numbers {
    ($($name:ident)*) => {$(
        impl Parameter for $name {
            type Word = Self;

            unsafe fn from_word(word: Self) -> Self {
                word
            }
        }

        impl Return for $name {
            type Word = Self;

            fn into_word(self) -> Self {
                self
            }
        }
    )*};
}

numbers! { i8 u8 i16 u16 i32 u32 i64 u64 isize usize bool f32 f64 }

impl Parameter for &CStr {
    type Word = *const c_char;

    unsafe fn from_word(word: *const c_char) -> Self {
        // SAFETY: as the caller promises.
        unsafe { CStr::from_ptr(word) }
    }
}

impl Parameter for &str {
    type Word = *const c_char;

    #[expect(clippy::panic, reason = "a program that was passed nonsense cannot go on")]
    unsafe fn from_word(word: *const c_char) -> Self {
        // SAFETY: as the caller promises.
        let text = unsafe { CStr::from_ptr(word) };
        match text.to_str() {
            Ok(text) => text,
            Err(error) => panic!("a text of the host's: {error}"),
        }
    }
}

impl Return for () {
    type Word = ();

    fn into_word(self) {}
}

impl Return for &'static CStr {
    type Word = *const c_char;

    fn into_word(self) -> *const c_char {
        self.as_ptr()
    }
}
