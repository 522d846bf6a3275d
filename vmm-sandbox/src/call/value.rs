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

/// A type that an argument of a host function can be taken as.
pub trait FromValue: Sized {
    /// Takes it; `None` if it is of another kind or out of range.
    fn from_value(value: Value) -> Option<Self>;
}

/// A type that a host function can give.
pub trait IntoValue {
    /// Gives it.
    fn into_value(self) -> Value;
}

macro_rules! integers {
    ($($name:ident)*) => {$(
        impl FromValue for $name {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Integer(value) => value.try_into().ok(),
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
    fn from_value(value: Value) -> Option<Self> {
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
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).map(|value| value as Self)
    }
}

impl IntoValue for u64 {
    fn into_value(self) -> Value {
        Value::Integer(self as i64)
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Float(value) => Some(value),
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
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl IntoValue for Vec<u8> {
    fn into_value(self) -> Value {
        Value::Bytes(self)
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
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
    fn from_value(value: Value) -> Option<Self> {
        Some(value)
    }
}

impl IntoValue for Value {
    fn into_value(self) -> Value {
        self
    }
}
