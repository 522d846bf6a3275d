//! Exceptions.

use crate::{core::Core, op::Stop};

/// The vectors of the exceptions that instructions raise (Intel SDM 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Vector {
    Divide = 0,
    Debug = 1,
    Breakpoint = 3,
    Overflow = 4,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    Stack = 12,
    GeneralProtection = 13,
    PageFault = 14,
    FloatingPoint = 16,
    Alignment = 17,
    Simd = 19,
}

/// An exception to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) vector: Vector,
    pub(crate) code: Option<u32>,
}

impl Exception {
    /// An address that is not canonical: #SS(0) if it is the stack's, else #GP(0). Which of them
    /// is seen to where the operation is known.
    pub(crate) const NOT_CANONICAL: Self =
        Self::with_code(Vector::GeneralProtection, NOT_CANONICAL);

    pub(crate) const fn new(vector: Vector) -> Self {
        Self { vector, code: None }
    }

    pub(crate) const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, code: Some(code) }
    }
}

/// No error code has this bit.
const NOT_CANONICAL: u32 = 1 << 31;

impl Core {
    /// Puts an exception up for delivery.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Stop {
        self.fault = Some(exception);
        Stop::Fault
    }

    /// #GP with this code.
    #[cold]
    pub(crate) fn general_protection(&mut self, code: u32) -> Stop {
        self.raise(Exception::with_code(Vector::GeneralProtection, code))
    }

    /// #UD.
    #[cold]
    pub(crate) fn invalid_opcode(&mut self) -> Stop {
        self.raise(Exception::new(Vector::InvalidOpcode))
    }
}

impl Core {
    /// Delivers `fault`. False if that ends in a triple fault.
    pub(crate) fn deliver(&mut self, _stack: bool, _world: &crate::core::World<'_>) -> bool {
        false
    }
}
