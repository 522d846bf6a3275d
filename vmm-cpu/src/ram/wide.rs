//! Vectors: 16 bytes at once.
#![expect(unsafe_code, reason = "moves data between registers and pages that are lent")]

use super::{Entry, OFFSET, PAGE_SIZE, Raw};
use crate::vector::Vector;

impl Entry {
    /// Loads a vector that does not cross the page's end; false if that needs care. Without a value
    /// on the way, which would be kept in memory.
    #[inline(always)]
    pub(crate) fn load_vector(&self, linear: u64, into: &mut Vector) -> bool {
        if self.read != linear & !OFFSET || linear & OFFSET > PAGE_SIZE - 16 {
            return false;
        }
        // SAFETY: the tag says that the page may be loaded from, and the vector is within it as just
        // checked; `Ram` promises that the page is there.
        *into = unsafe { host::load(self.host(linear)) };
        true
    }
}

/// Two halves, each atomic for itself if it is aligned, as processors have it.
impl Raw for Vector {
    #[inline(always)]
    unsafe fn load_aligned(at: *const u8) -> Self {
        // SAFETY: as the caller promises.
        unsafe { host::load(at) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: as the caller promises.
        unsafe { host::load(at) }
    }

    #[inline(always)]
    unsafe fn store_aligned(self, at: *mut u8) {
        // SAFETY: as the caller promises.
        unsafe { host::store(self, at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: as the caller promises.
        unsafe { host::store(self, at) }
    }

    unsafe fn swap_if(at: *mut u8, old: Self, new: Self) -> Result<(), Self> {
        // SAFETY: as the caller promises.
        unsafe { u128::swap_if(at, old.low(), new.low()) }.map_err(Vector::of)
    }
}

/// One instruction of an x86-64 host, as the guest's was. In halves it would have to wait, when it is
/// loaded whole again, until both are in the cache.
#[cfg(target_arch = "x86_64")]
mod host {
    use std::{
        arch::{asm, x86_64::__m128i},
        mem::transmute,
    };

    use super::Vector;

    /// # Safety
    /// 16 bytes are readable at `at`.
    #[inline(always)]
    pub(super) unsafe fn load(at: *const u8) -> Vector {
        let value: __m128i;
        // SAFETY: it reads what the caller promises, and nothing else; both types are 16 bytes.
        unsafe {
            asm!(
                "movups {value}, xmmword ptr [{at}]",
                at = in(reg) at,
                value = out(xmm_reg) value,
                options(nostack, preserves_flags, readonly),
            );
            transmute(value)
        }
    }

    /// # Safety
    /// 16 bytes are writable at `at`.
    #[inline(always)]
    pub(super) unsafe fn store(value: Vector, at: *mut u8) {
        // SAFETY: it writes what the caller promises, and nothing else; both types are 16 bytes.
        unsafe {
            let value: __m128i = transmute(value);
            asm!(
                "movups xmmword ptr [{at}], {value}",
                at = in(reg) at,
                value = in(xmm_reg) value,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// In two halves.
#[cfg(not(target_arch = "x86_64"))]
mod host {
    use super::{Raw, Vector};

    /// # Safety
    /// 16 bytes are readable at `at`.
    pub(super) unsafe fn load(at: *const u8) -> Vector {
        // SAFETY: as the caller promises.
        Vector::of(unsafe { u128::load(at) })
    }

    /// # Safety
    /// 16 bytes are writable at `at`.
    pub(super) unsafe fn store(value: Vector, at: *mut u8) {
        // SAFETY: as the caller promises.
        unsafe { value.low::<u128>().store(at) }
    }
}
