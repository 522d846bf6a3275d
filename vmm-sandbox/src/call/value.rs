//! What passes between a program and functions of the host.

/// One argument or result of a host function.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Bytes or text, copied.
    Bytes(Vec<u8>),
    /// A number with a fraction.
    Float(f64),
    /// An integer.
    Integer(i64),
    /// Nothing.
    Nothing,
}

/// A type that an argument of a host function can be taken as: integers, `bool`, `f64`, `&str`,
/// `String`, `&[u8]`, `Vec<u8>`, or [`Value`] for whatever comes.
pub trait FromValue: Sized {
    /// The type itself; one that borrows does so for as long as the function runs.
    type Of<'a>;

    /// Takes it; `None` if it is of another kind, out of range, or text that is not UTF-8. The
    /// program's call is answered `EINVAL` then.
    fn from_value(value: &mut Value) -> Option<Self::Of<'_>>;
}

/// A type that a host function can give.
pub trait IntoValue {
    /// Gives it.
    fn into_value(self) -> Value;
}

macro_rules! integers {
    ($($name:ident)*) => {$(
        impl FromValue for $name {
            type Of<'a> = Self;

            fn from_value(value: &mut Value) -> Option<Self> {
                match value {
                    Value::Integer(value) => (*value).try_into().ok(),
                    _ => None,
                }
            }
        }

        impl IntoValue for $name {
            fn into_value(self) -> Value {
                Value::Integer(self.into())
            }
        }
    )*};
}

integers! { i8 u8 i16 u16 i32 u32 i64 }

impl FromValue for bool {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        i64::from_value(value).map(|value| value != 0)
    }
}

impl IntoValue for bool {
    fn into_value(self) -> Value {
        Value::Integer(self.into())
    }
}

/// As its 64 bits: C has no other way to say it either.
impl FromValue for u64 {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        i64::from_value(value).map(|value| value as Self)
    }
}

impl IntoValue for u64 {
    fn into_value(self) -> Value {
        Value::Integer(self as i64)
    }
}

impl FromValue for f64 {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        match value {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }
}

impl IntoValue for f64 {
    fn into_value(self) -> Value {
        Value::Float(self)
    }
}

impl FromValue for Vec<u8> {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        }
    }
}

impl FromValue for &[u8] {
    type Of<'a> = &'a [u8];

    fn from_value(value: &mut Value) -> Option<&[u8]> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl FromValue for &str {
    type Of<'a> = &'a str;

    fn from_value(value: &mut Value) -> Option<&str> {
        std::str::from_utf8(<&[u8]>::from_value(value)?).ok()
    }
}

impl IntoValue for Vec<u8> {
    fn into_value(self) -> Value {
        Value::Bytes(self)
    }
}

impl FromValue for String {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        Self::from_utf8(Vec::from_value(value)?).ok()
    }
}

impl IntoValue for String {
    fn into_value(self) -> Value {
        Value::Bytes(self.into_bytes())
    }
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value::Bytes(self.as_bytes().to_vec())
    }
}

impl IntoValue for () {
    fn into_value(self) -> Value {
        Value::Nothing
    }
}

impl FromValue for Value {
    type Of<'a> = Self;

    fn from_value(value: &mut Value) -> Option<Self> {
        Some(std::mem::replace(value, Self::Nothing))
    }
}

impl IntoValue for Value {
    fn into_value(self) -> Value {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_value_of_a_type_is_refused() {
        let text = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        assert_eq!(u8::from_value(&mut Value::Integer(255)), Some(255));
        assert_eq!(u8::from_value(&mut Value::Integer(256)), None);
        assert_eq!(u32::from_value(&mut Value::Integer(-1)), None);
        assert_eq!(u64::from_value(&mut Value::Integer(-1)), Some(u64::MAX));
        assert_eq!(<&str>::from_value(&mut text(b"\xc3\xa9")), Some("\u{e9}"));
        assert_eq!(<&str>::from_value(&mut text(b"a\xff")), None);
        assert_eq!(String::from_value(&mut text(b"a\xff")), None);
        assert_eq!(<&[u8]>::from_value(&mut text(b"a\xff")), Some(b"a\xff".as_slice()));
        assert_eq!(<&str>::from_value(&mut Value::Integer(1)), None);
        assert_eq!(f64::from_value(&mut Value::Integer(1)), None);
    }
}
